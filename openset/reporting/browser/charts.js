// Vega-Lite charts whose data follow the state.

/** Of what Vega says, the page shows errors alone: before its data are there, it warns of their extent. */
const ERRORS = 1;

/** Draws a declared chart; expressions are interpreted, so that no text becomes code. */
async function chart(name) {
  const options = {
    mode: "vega-lite", ast: true, renderer: "svg", actions: false, defaultStyle: false,
    tooltip: pointedAt, logLevel: ERRORS,
  };
  return (await vegaEmbed(byId(name), data.charts[name], options)).view;
}

/** Marks in the legend the detector whose curve is pointed at. */
function pointedAt(_, __, item) {
  const which = item && item.datum ? item.datum.case : undefined;
  for (const each of byId("legend").children) {
    each.classList.toggle("pointed", Number(each.dataset.case) === which);
  }
}

const FEWEST = 1e-4;

/** The axis of the histogram: scores, or −log10 of p-values. */
function scale() {
  if (state.axis === "score" || !current().held) {
    const { edges, ticks, texts } = unknown();
    return { edges, ticks, texts, of: (score) => score, log: false };
  }
  const { held } = current();
  const largest = Math.max(...held.sizes.map((_, g) => held.atLeast[sum(g, (k) => held.sizes[k])]));
  const end = -Math.log10(Math.max(1 / (largest + 1), FEWEST));
  const edges = Array.from({ length: 61 }, (_, i) => ((i * end) / 60) * 1.0001);
  const marks = [1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 1e-4].filter((p) => -Math.log10(p) <= end);
  return {
    edges,
    log: true,
    ticks: marks.map((p) => placeOf(-Math.log10(p), edges)),
    texts: marks.map(String),
    of: (score, predicted) => -Math.log10(pValue(held, score, predicted)),
  };
}

function barsOf(axis) {
  return ["known", "unknown"].flatMap((kind, i) => {
    const { score, predicted } = current().sets[i === 0 ? 0 : state.set];
    const numbers = axis.log ? score.map((s, k) => axis.of(s, predicted[k])) : score;
    const shares = histogram(numbers, axis.edges);
    return [...shares, shares[shares.length - 1]].map((share, x) => ({ kind, x, share }));
  });
}

/** Where the threshold stands on the axis; thresholds of many classes are a band. */
function cut(axis) {
  const places = Array.from(state.values, (value, c) => placeOf(axis.of(value, c), axis.edges));
  places.sort((a, b) => a - b);
  const [low, high] = [places[0], places[places.length - 1]];
  return [{ low, high, middle: places[places.length >> 1] }];
}

async function drawHistogram() {
  const view = await chart("histogram");
  let axis = scale();
  const draw = (whole) => {
    if (whole) {
      axis = scale();
      view.signal("ticks", axis.ticks).signal("texts", axis.texts).data("bars", barsOf(axis));
    }
    view.data("threshold", cut(axis)).run();
    const [known, unknown] = [current().sets[0].name, current().sets[state.set].name];
    byId("histogram").setAttribute("aria-label",
      `Histogram of the ${axis.log ? "p-values" : "scores"} of ${known} (known) and ${unknown} (unknown); ` +
      `${percent(state.figures.accepted / state.figures.known)} of known lie at or below the threshold, ` +
      `${percent(state.figures.rejected / state.figures.unknown)} of unknown above it`);
  };
  onChange(draw);
  dragThreshold(view, () => axis);
  return draw;
}

/** The threshold is dragged on the picture itself, too. */
function dragThreshold(view, axisNow) {
  const place = byId("histogram");
  const move = (event) => {
    if (!(event.buttons & 1)) return;
    const left = place.getBoundingClientRect().left + view.origin()[0];
    const x = view.scale("x").invert(event.clientX - left);
    const at = numberAt(Math.min(Math.max(x, 0), 60), axisNow().edges);
    if (axisNow().log) moveTo(positionOf(current(), 1 - 10 ** -at));
    else if (state.values.length === 1) moveToScore(at);
  };
  place.addEventListener("pointerdown", (event) => {
    place.setPointerCapture(event.pointerId);
    move(event);
  });
  place.addEventListener("pointermove", move);
}

/** The curves of all detectors of this run on the chosen set, computed once for each set. */
const drawn = new Map();
function curvesOf(which, set) {
  const key = `${which} ${set}`;
  if (!drawn.has(key)) drawn.set(key, curves(cases[which].sets[0], cases[which].sets[set]));
  return drawn.get(key);
}

const comparable = () =>
  cases.flatMap((each, i) => (each.run === current().run && each.sets[state.set] ? [i] : []));

async function drawCurves() {
  const views = { roc: await chart("roc"), rejection: await chart("rejection") };
  for (const view of Object.values(views)) {
    view.addEventListener("click", (_, item) => {
      if (item && item.datum && item.datum.case !== undefined) choose(item.datum.case, state.set);
    });
  }
  const draw = (whole) => {
    for (const [name, view] of Object.entries(views)) {
      if (whole) view.signal("chosen", state.case).data("curves", linesOf(name));
      view.data("point", [pointOf(name)]).run();
    }
    if (whole) drawLegend();
    describeCurves();
  };
  onChange(draw);
  return draw;
}

const linesOf = (name) =>
  comparable().flatMap((which) => curvesOf(which, state.set)[name].map((point, order) =>
    ({ ...point, order, case: which, name: cases[which].name })));

function pointOf(name) {
  const { known, unknown, accepted, rejected, right, answered } = state.figures;
  if (name === "roc") return { x: 1 - rejected / unknown, y: accepted / known };
  return { x: 1 - answered / (known + unknown), y: answered ? right / answered : 1 };
}

function describeCurves() {
  const { name } = current().sets[state.set];
  const roc = pointOf("roc");
  const rejection = pointOf("rejection");
  byId("roc").setAttribute("aria-label",
    `ROC curves on ${name}; at the threshold ${current().name} accepts ${percent(roc.y)} of known and ${percent(roc.x)} of unknown`);
  byId("rejection").setAttribute("aria-label",
    `Accuracy–rejection curves on ${name}; at the threshold ${percent(rejection.x)} are answered “unknown” and ${percent(rejection.y)} of the other answers are right`);
}

/** All detectors by AUROC; a button each, which shows it. */
function drawLegend() {
  const auroc = (which) => cases[which].sets[state.set].auroc ?? -1;
  const ranked = comparable().sort((a, b) => auroc(b) - auroc(a));
  byId("legend").replaceChildren(...ranked.map((which) =>
    node("button", {
      type: "button", data: { case: which }, "aria-pressed": String(which === state.case),
      onclick: () => choose(which, state.set),
    }, cases[which].name, node("small", {}, ` ${auroc(which) < 0 ? "" : auroc(which).toFixed(3)}`))));
}
