// The images: filtered, sorted, grouped, enlarged.

const FEW = 48;

/** Everything that is known of an image at the present threshold. */
function told(i) {
  const image = current().run.images[i];
  const { score, predicted, second } = current().gallery;
  const { classes } = current().run;
  const nearest = predicted[i];
  const value = state.values.length > 1 ? state.values[nearest] : state.values[0];
  const unknown = rejects(score, predicted, state.values)(i);
  const truth = image.label === null || image.label < 0 ? null : classes[image.label];
  const known = image.set === 0;
  return {
    i, image, nearest, unknown, truth, value,
    score: score[i],
    runnerUp: second[i] >= 0 ? classes[second[i]] : null,
    answer: unknown ? "unknown" : classes[nearest],
    wrong: data.truth && (known ? unknown || nearest !== image.label : !unknown),
    p: current().held ? pValue(current().held, score[i], nearest) : null,
    distance: Math.abs(score[i] - value),
  };
}

const FILTERS = {
  answer: [
    ["all answers", () => true],
    ["answered unknown", (it) => it.unknown],
    ["accepted", (it) => !it.unknown],
    ["answered wrongly", (it) => it.wrong],
  ],
  order: [
    ["nearest to the threshold", (a, b) => a.distance - b.distance],
    ["most unknown first", (a, b) => b.score - a.score],
    ["most known first", (a, b) => a.score - b.score],
  ],
  group: [
    ["no groups", () => ""],
    ["by answer", (it) => it.answer],
    ["by nearest class", (it) => current().run.classes[it.nearest]],
    ["by folder", (it) => it.image.path.replace(/[^/\\]*$/, "") || "no folder"],
  ],
};

function drawGallery() {
  const form = byId("filters");
  const select = (name, label, options) =>
    node("label", {}, label, node("select", { name }, ...options.map((text, value) => node("option", { value }, text))));
  let all = false;
  const build = () => {
    const { sets, classes } = current().run;
    const before = Object.fromEntries(new FormData(form));
    form.replaceChildren(
      select("set", "Set", ["all sets", ...sets.map((set) => set.name)]),
      select("class", "Nearest class", ["all classes", ...classes]),
      ...Object.entries(FILTERS).map(([name, options]) =>
        select(name, { answer: "Answer", order: "Order", group: "Groups" }[name], options.map(([text]) => text))));
    for (const [name, value] of Object.entries(before)) form.elements[name].value = value;
    for (const each of form.elements) if (each.selectedIndex < 0) each.selectedIndex = 0;
    form.elements.set.closest("label").hidden = !data.truth;
    if (!data.truth && !before.answer) Object.entries({ answer: 1, order: 1, group: 2 }).forEach(([name, value]) => (form.elements[name].value = value));
  };
  const draw = () => {
    const [set, nearest, answer, order, group] =
      ["set", "class", "answer", "order", "group"].map((name) => +form.elements[name].value);
    const found = current().run.images.map((_, i) => told(i))
      .filter((it) => (!set || it.image.set === set - 1) && (!nearest || it.nearest === nearest - 1))
      .filter(FILTERS.answer[answer][1])
      .sort(FILTERS.order[order][1]);
    const shown = all ? found : found.slice(0, FEW);
    byId("more").hidden = shown.length === found.length;
    byId("more").textContent = `Show all ${found.length}`;
    byId("gallery-note").textContent =
      `${count(found.length)} of ${count(current().run.images.length)} images shown on this page. ` +
      (!data.truth ? "" : "Outlined: answered wrongly.");
    const groups = Map.groupBy ? Map.groupBy(shown, FILTERS.group[group][1]) : grouped(shown, FILTERS.group[group][1]);
    const ordered = [...groups].sort((a, b) => b[1].length - a[1].length);
    byId("cards").replaceChildren(...ordered.flatMap(([name, its]) => [
      ...(name ? [node("h3", {}, name, node("span", {}, ` ${its.length}`))] : []),
      node("ul", { className: "cards" }, ...its.map((it) => node("li", {}, card(it, found)))),
    ]));
  };
  form.addEventListener("change", () => {
    all = false;
    draw();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => {
    all = true;
    draw();
  });
  onChange((whole) => {
    if (whole) build();
    draw();
  });
}

function grouped(items, key) {
  const groups = new Map();
  for (const item of items) {
    if (!groups.has(key(item))) groups.set(key(item), []);
    groups.get(key(item)).push(item);
  }
  return groups;
}

const setName = (it) => current().run.sets[it.image.set].name;
const pText = (p) => (p === null ? "" : `p ${p < 0.001 ? p.toExponential(0) : +p.toPrecision(2)}`);

/** The same picture node at every threshold, so that nothing flickers while the slider moves. */
const thumbnails = new WeakMap();
function thumbnail(image, alt) {
  if (!thumbnails.has(image)) thumbnails.set(image, node("img", { src: image.src }));
  return Object.assign(thumbnails.get(image), { alt });
}

function card(it, among) {
  const truth = it.truth ?? (data.truth ? "unknown" : "");
  const alt = `Image ${it.image.index} of ${setName(it)}: ${truth ? `${truth}, ` : ""}answered ${it.answer}`;
  return node("button", {
    type: "button",
    className: `card${it.wrong ? " wrong" : ""}${it.unknown ? " rejected" : ""}`,
    data: { index: it.i },
    onclick: () => enlarge(it.i, among.map((each) => each.i)),
  },
  thumbnail(it.image, alt),
  node("b", {}, it.answer),
  it.truth && it.truth !== it.answer ? node("small", {}, `is ${it.truth}`) : null,
  node("small", {}, pText(it.p)));
}

/** One image with all that is known of it; the arrow keys go on to the next. */
function enlarge(i, among) {
  const dialog = byId("detail");
  const it = told(i);
  const go = (step) => {
    const at = among.indexOf(i) + step;
    if (at >= 0 && at < among.length) enlarge(among[at], among);
  };
  const rows = [
    ["File", it.image.path || `image ${it.image.index}`],
    ["Set", setName(it)],
    ["Truth", it.truth ?? (data.truth ? "unknown" : null)],
    ["Nearest class", current().run.classes[it.nearest]],
    ["Runner-up", it.runnerUp],
    ["Score", `${short(it.score)}; the threshold is ${short(it.value)}`],
    ["p-value", it.p === null ? null : `${+it.p.toPrecision(3)} of known images look at least so strange`],
  ].filter(([, text]) => text !== null);
  dialog.replaceChildren(
    node("form", { method: "dialog" },
      node("button", { type: "button", className: "quiet", onclick: () => go(-1) }, "← before"),
      node("button", { type: "button", className: "quiet", onclick: () => go(1) }, "next →"),
      node("button", { className: "quiet", autofocus: true }, "Close")),
    node("h3", { id: "detail-title" }, `Answered ${it.answer}`, it.wrong ? node("span", { className: "warning" }, " wrongly") : ""),
    node("div", { className: "detail" },
      node("img", { src: it.image.src, alt: `Image ${it.image.index} of ${setName(it)}, enlarged` }),
      node("dl", { className: "facts" }, ...rows.map(([name, text]) => node("div", {}, node("dt", {}, name), node("dd", {}, text))))),
    ...nearTraining(it), ...saidBy(it));
  dialog.onkeydown = (event) => {
    if (event.key === "ArrowRight") go(1);
    if (event.key === "ArrowLeft") go(-1);
  };
  if (!dialog.open) dialog.showModal();
}

function nearTraining(it) {
  if (!it.image.near.length) return [];
  return [
    node("h4", {}, "Nearest training images"),
    node("ul", { className: "cards" }, ...it.image.near.map(([index, distance]) => {
      const image = current().run.training[index];
      return node("li", { title: image.path ?? "" },
        node("img", { src: image.src, alt: `Training image of class ${image.label}` }),
        node("b", {}, image.label), node("small", {}, `distance ${+distance.toPrecision(2)}`));
    })),
  ];
}

/** What every detector says of an image: who made it unknown? */
function saidBy(it) {
  const others = cases.filter((each) => each.run === current().run);
  if (others.length < 2 && !others[0].gallery.parts[it.i]) return [];
  const part = ([name, p]) => node("tr", { className: "part" },
    node("th", { scope: "row" }, `its ${name}`), node("td"), node("td"), node("td", {}, String(+p.toPrecision(2))));
  const line = (each) => {
    const { score, predicted } = each.gallery;
    const position = state.position === null ? home(each) : positionOf(each, current().accept[state.position]);
    const values = each === current() ? state.values : valuesAt(each, position);
    const unknown = rejects(score, predicted, values)(it.i);
    const p = each.held ? pValue(each.held, score[it.i], predicted[it.i]) : null;
    return node("tr", { className: each === current() ? "chosen" : "" },
      node("th", { scope: "row" }, each.name),
      node("td", {}, unknown ? "unknown" : each.run.classes[predicted[it.i]]),
      node("td", {}, short(score[it.i])), node("td", {}, p === null ? "–" : String(+p.toPrecision(2))));
  };
  const heads = ["detector", "answer", "score", "p-value"].map((text) => node("th", { scope: "col" }, text));
  return [
    node("h4", {}, "Why: what each detector says, and its parts"),
    node("div", { className: "scroll" }, node("table", {}, node("thead", {}, node("tr", {}, ...heads)), node("tbody", {}, ...others.flatMap((each) => [line(each), ...(each.gallery.parts[it.i] ?? []).map(part)])))),
  ];
}
