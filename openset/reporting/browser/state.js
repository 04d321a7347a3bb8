// What the reader has chosen, and the data behind it. Everything else is drawn from here.

const data = JSON.parse(document.getElementById("data").textContent);
const array = decoder(data.arrays);
const byId = (id) => document.getElementById(id);

/** The cases with their arrays decoded: known set first, then the unknown ones. */
const cases = data.cases.map((each) => {
  const run = data.runs[each.run];
  const scored = (its) => ({ score: array(its.score), predicted: array(its.predicted), label: array(its.label) });
  const values = array(each.values);
  const width = each.accept.length ? values.length / each.accept.length : 1;
  const held = each.held && {
    knots: array(each.held.knots), atLeast: array(each.held.atLeast),
    above: array(each.held.above), sizes: each.held.sizes,
  };
  return {
    ...each,
    run,
    held,
    sets: each.sets.map((its, i) => ({ ...its, ...run.sets[i], ...scored(its) })),
    gallery: {
      score: array(each.gallery.score),
      predicted: array(each.gallery.predicted),
      second: array(each.gallery.second),
      parts: each.gallery.parts,
    },
    given: array(each.given),
    thresholds: each.accept.map((_, i) => values.subarray(i * width, (i + 1) * width)),
  };
});

/** `position` is that of the slider, or null where the threshold was set on the score. */
const state = { case: 0, set: 1, position: 0, values: [Infinity], axis: "score" };

const current = () => cases[state.case];
const known = () => current().sets[0];
const unknown = () => current().sets[state.set];

/** Draws what depends on the detector or the set (`whole`), or on the threshold alone. */
const drawings = [];
function onChange(draw) {
  drawings.push(draw);
}

function changed(whole) {
  state.matrix = confusion(current().sets, current().run.classes.length, state.values);
  state.figures = state.set ? figures(state.matrix, state.set) : null;
  for (const draw of drawings) draw(whole);
}

/** The position with a share to accept, or the nearest one. */
function positionOf(each, share) {
  let best = 0;
  each.accept.forEach((a, i) => {
    if (Math.abs(a - share) < Math.abs(each.accept[best] - share)) best = i;
  });
  return best;
}

function moveTo(position) {
  state.position = position;
  state.values = current().thresholds[position];
  changed(false);
}

function moveToScore(value) {
  state.position = null;
  state.values = [value];
  changed(false);
}

/** The position of the model's own threshold; null where it was given without a share. */
const home = (each) => each.own ?? (each.given ? null : positionOf(each, 0.95));

/** The thresholds of a case at a position, or those that it came with. */
const valuesAt = (each, position) => (position === null ? each.given : each.thresholds[position]) ?? [Infinity];

function goHome() {
  state.position = home(current());
  state.values = valuesAt(current(), state.position);
}

/** Shows another detector or set; the share to accept stays, as far as the detector has it. */
function choose(which, set) {
  const share = state.position === null ? null : current().accept[state.position];
  const other = which !== state.case;
  state.case = which;
  state.set = Math.min(set, current().sets.length - 1);
  if (other) {
    if (share === null) goHome();
    else {
      state.position = positionOf(current(), share);
      state.values = valuesAt(current(), state.position);
    }
  }
  changed(true);
}

/** A DOM node with properties and children; texts are texts, whatever they hold. */
function node(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else if (name === "data") Object.assign(made.dataset, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A number as it is read, with the number as it is in `value`. */
function figure(value, text) {
  return node("data", { value: String(value) }, text);
}

const percent = (share, digits = 1) =>
  Number.isFinite(share) ? `${(100 * share).toFixed(digits)} %` : "–";
const share = (part, whole) => figure(part / whole, percent(part / whole));
/** A share to accept, with as many digits as it has. */
const asked = (accept) => `${+(100 * accept).toFixed(4)} %`;
const count = (n) => n.toLocaleString("en");
const short = (x) => (Number.isFinite(x) ? String(+x.toPrecision(4)).replace("-", "−") : String(x));
