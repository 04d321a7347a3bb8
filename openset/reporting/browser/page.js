// The sentence, the figures and the controls; then all is drawn.

const units = () => (data.unit);
const bold = (...inside) => node("b", {}, ...inside);
const STRAYED =
  "The test images are accepted more or less often than the held-out images promise, and chance alone does not " +
  "explain it: the two are not drawn alike, or the network was trained on some.";

/** "GeMOS at accept 95 % takes 95.2 % of known images (promised …), rejects 97 % of noise; …" */
function drawSentence() {
  const each = current();
  const { known, accepted, unknown, rejected, f1 } = state.figures;
  const promised = state.position === null || each.doubt ? null : each.intervals[state.position];
  const at = state.position === null
    ? ` at the threshold ${short(state.values[0])} takes `
    : ` at accept ${asked(each.accept[state.position])} takes `;
  byId("sentence").replaceChildren(
    bold(each.name), at, bold(share(accepted, known)), ` of known ${data.unit}`,
    ...(promised ? [` (promised ${range(promised)})`] : []),
    ", rejects ", bold(share(rejected, unknown)), ` of ${each.sets[state.set].name}; macro\u2011F1 `,
    bold(figure(f1, f1.toFixed(3))), ".");
}

/** Without truth: how many images were called unknown, beside how many known ones would be. */
function sayAnswers() {
  const each = current();
  const { known, accepted, unknown, rejected } = state.figures;
  const at = state.position === null ? "at the threshold" : `at accept ${asked(each.accept[state.position])}`;
  const called = data.unit === "pixels"
    ? [bold(share(rejected, unknown)), " of the pixels unknown"]
    : [bold(figure(rejected, count(rejected))), ` of ${count(unknown)} images unknown (`, share(rejected, unknown), ")"];
  byId("sentence").replaceChildren(
    bold(each.name), ` ${at} calls `, ...called,
    ...(known ? ["; of known ones it calls ", share(known - accepted, known), " so."] : ["."]));
}

function countAnswers() {
  const { known, accepted, unknown, rejected } = state.figures;
  byId("figures").replaceChildren(
    tile("unknown", "Called unknown", share(rejected, unknown), `${count(rejected)} of ${count(unknown)}`),
    tile("", "Given a class", share(unknown - rejected, unknown), `${count(unknown - rejected)} of ${count(unknown)}`),
    ...(known ? [tile("known", "Held-out known accepted", share(accepted, known), `${count(accepted)} of ${count(known)}`)] : []));
}

const tile = (kind, name, value, text) =>
  node("div", { className: kind }, node("dt", {}, name), node("dd", {}, value, node("small", {}, text)));

const range = ([low, high]) =>
  `${(Math.floor(1000 * low + 1e-9) / 10).toFixed(1)}–${(Math.ceil(1000 * high - 1e-9) / 10).toFixed(1)} %`;

/** Whether the promise held, in a word, a colour and a reason. */
function promise() {
  const each = current();
  const { accepted, known } = state.figures;
  if (state.position === null) {
    const shareHeld = each.held && state.values.length === 1 ? heldAccepted(each.held, state.values[0]) : null;
    return ["open", "No promise", "The threshold was set by hand" +
      (shareHeld === null ? "; nothing is promised of it." : ` and accepts ${percent(shareHeld)} of the held-out known ${data.unit}; nothing else is promised of it.`)];
  }
  const interval = each.intervals[state.position];
  if (each.doubt && interval) {
    return ["warning", "No guarantee holds", `${each.doubt[0].toUpperCase()}${each.doubt.slice(1)}. The threshold accepts ` +
      `${asked(each.accept[state.position])} of ${each.n ? `the ${count(each.n)} ` : ""}held-out known ${data.unit}, and may accept fewer of future ones.`];
  }
  if (!interval) {
    return ["open", "No promise", each.own === null || each.held
      ? "This threshold carries no promise."
      : `This position is set from the known test ${data.unit} themselves, so nothing is promised of it; the model’s own threshold was set from others.`];
  }
  if (!data.truth) return ["open", "What is promised", each.guarantee && state.position === each.own ? each.guarantee
    : `On average ${asked(each.accept[state.position])} of future known ${data.unit} are accepted, and with 95 % confidence ${range(interval)} are, if they are drawn as the held-out ones were.`];
  if (each.strays[state.position]) return ["warning", "The promise did not hold", STRAYED];
  const inside = accepted / known >= interval[0] && accepted / known <= interval[1];
  const from = each.n ? `${count(each.n)} held-out known ${data.unit}, no unknown ones` : `held-out known ${data.unit} alone`;
  return ["held", "The promise held", `The threshold was set from ${from}; the share of known test ${data.unit} accepted lies ` +
    (inside ? "inside the promised interval." : "outside the promised interval by no more than chance.")];
}

/** The share of all held-out samples at or below a threshold. */
function heldAccepted({ knots, atLeast, above, sizes }, value) {
  let total = 0;
  let below = 0;
  sizes.reduce((start, size) => {
    const place = atMost(knots.subarray(start, start + size), value);
    total += atLeast[start];
    below += place ? atLeast[start] - above[start + place - 1] : 0;
    return start + size;
  }, 0);
  return below / total;
}

function drawPromise() {
  const [kind, word, reason] = promise();
  byId("promise").className = `promise ${kind}`;
  byId("promise").replaceChildren(bold(`${{ held: "✓", warning: "⚠", open: "○" }[kind]} ${word}. `), reason);
}

function drawRule() {
  const each = current();
  const first = data.first.case === state.case && data.first.set === state.set;
  const many = cases.length > 1 || each.sets.length > 2;
  const parts = [];
  if (first && many) {
    parts.push("Shown first: the detector with the highest AUROC, averaged over the unknown sets, and the set of which it rejects the least. That choice looked at the unknown images, so it flatters the detector a little.");
  }
  if (each.tuned_on) parts.push(`Its settings were chosen on ${each.tuned_on}.`);
  if (data.unit === "pixels") parts.push("Figures here are those of pixels drawn evenly from the images; the table has those of all.");
  const sampled = [each.sets[0], each.sets[state.set]].filter((set) => set.kept < set.total);
  if (sampled.length) {
    parts.push(`Figures here are those of a seeded sample: ${sampled.map((set) => `${count(set.kept)} of ${count(set.total)} of ${set.name}`).join(", ")}. The table has those of all.`);
  }
  byId("rule").textContent = parts.join(" ");
}

function drawFigures() {
  const { known, unknown, accepted, rejected, right, answered, f1 } = state.figures;
  byId("figures").replaceChildren(
    tile("known", "Known accepted", share(accepted, known), `${count(accepted)} of ${count(known)}`),
    tile("unknown", "Unknown rejected", share(rejected, unknown), `${count(rejected)} of ${count(unknown)}`),
    tile("", "Right of what is answered", answered ? share(right, answered) : "–", `${count(right)} of ${count(answered)}`),
    tile("", "Macro-F1", figure(f1, f1.toFixed(3)), "known classes and the unknown"));
}

function drawControls(whole) {
  const each = current();
  if (whole) {
    byId("detector").value = state.case;
    byId("set").replaceChildren(...each.sets.slice(1).map((set, i) => node("option", { value: i + 1 }, set.name)));
    byId("set").value = state.set;
    byId("accept").max = each.accept.length - 1;
    byId("known-name").textContent = each.sets[0].name + (data.truth ? " (known)" : "");
    byId("unknown-name").textContent = each.sets[state.set].name;
  }
  const accepted = state.position === null ? null : asked(each.accept[state.position]);
  byId("share").textContent = accepted ?? percent(state.figures.accepted / state.figures.known);
  byId("accept").value = state.position ?? positionOf(each, state.figures.accepted / state.figures.known);
  byId("accept").setAttribute("aria-valuetext", accepted ?? "set on the score");
  document.querySelector("[data-axis=p]").disabled = !each.held;
  const own = valuesAt(each, home(each));
  byId("scores").dataset.threshold = Array.from(state.values).join(" ");
  byId("reset").disabled = own.length === state.values.length && own.every((x, c) => x === state.values[c]);
  drawExact();
}

/** The threshold on the score itself, by slider and by number. */
function drawExact() {
  const single = state.values.length === 1;
  const { edges } = current().sets[state.set];
  byId("threshold").disabled = byId("value").disabled = !single;
  byId("threshold").closest("label").hidden = state.axis === "p";
  if (single) {
    byId("threshold").value = placeOf(state.values[0], edges);
    byId("threshold").setAttribute("aria-valuetext", short(state.values[0]));
    if (document.activeElement !== byId("value")) byId("value").value = +state.values[0].toPrecision(7);
  }
  byId("axis-note").textContent = state.axis === "p"
    ? `p: the share of held-out known ${data.unit} that look at least so strange.`
    : single ? "" : "Each class has a threshold of its own; the band spans them all.";
}

function connect() {
  byId("detector").append(...cases.map((each, i) => node("option", { value: i }, each.name)));
  byId("detector").addEventListener("change", (event) => choose(+event.target.value, state.set));
  byId("set").addEventListener("change", (event) => choose(state.case, +event.target.value));
  byId("accept").addEventListener("input", (event) => moveTo(+event.target.value));
  byId("reset").addEventListener("click", () => {
    goHome();
    changed(false);
  });
  byId("threshold").addEventListener("input", (event) =>
    moveToScore(numberAt(+event.target.value, current().sets[state.set].edges)));
  byId("value").addEventListener("input", (event) => {
    if (event.target.value !== "") moveToScore(+event.target.value);
  });
  byId("detector").closest("label").hidden = cases.length < 2;
  byId("set").closest("label").hidden = cases.every((each) => each.sets.length < 3);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("[data-axis]")) {
    button.addEventListener("click", () => {
      state.axis = button.dataset.axis;
      for (const each of document.querySelectorAll("[data-axis]")) each.setAttribute("aria-pressed", String(each === button));
      changed(true);
    });
  }
  for (const each of document.querySelectorAll(".unit")) each.textContent = data.unit;
}

/** Light, dark, or as the reader's system has it. */
function connectTheme() {
  const button = byId("theme");
  const themes = ["system", "light", "dark"];
  let at = 0;
  const show = () => {
    document.documentElement.dataset.theme = themes[at];
    button.textContent = { system: "◐ as the system", light: "☀ light", dark: "☾ dark" }[themes[at]];
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    at = (at + 1) % themes.length;
    show();
  });
  show();
}

async function main() {
  connectTheme();
  compareTable();
  if (!cases.some((each) => each.sets.length > 1)) return;
  connect();
  for (const draw of data.truth ? [drawSentence, drawFigures] : [sayAnswers, countAnswers]) onChange(draw);
  for (const draw of [drawPromise, drawRule, drawControls]) onChange(draw);
  for (const id of ["verdict", "controls", "scores"]) byId(id).hidden = false;
  if (data.truth) {
    for (const id of ["curves", "classes"]) byId(id).hidden = false;
    confusionTable();
    eachTable();
  }
  if (data.runs.some((run) => run.images.length)) {
    byId("gallery").hidden = false;
    drawGallery();
  }
  drawMaps();
  state.case = data.first.case;
  state.set = data.first.set;
  goHome();
  changed(true);
  // What needs no library is there already, and is not drawn again.
  const late = await Promise.all([drawHistogram(), ...(data.truth ? [drawCurves()] : [])]);
  for (const draw of late) draw(true);
  document.body.dataset.ready = "yes";
}

main();
