// Typed arrays in, numbers out: what openset.evaluation computes, at any threshold.

const TYPES = {
  float32: Float32Array, float64: Float64Array, int16: Int16Array, int32: Int32Array, uint8: Uint8Array,
};

/** The arrays of the page, each decoded when it is first asked for. */
function decoder(stored) {
  const ready = [];
  return (i) => {
    if (i === null || i === undefined) return null;
    if (!ready[i]) {
      const [type, text] = stored[i];
      const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      ready[i] = new TYPES[type](bytes.buffer);
    }
    return ready[i];
  };
}

/** Whether a score lies above the threshold of its class, as `Scored.rejected` decides it. */
function rejects(score, predicted, values) {
  if (values.length > 1) return (i) => score[i] > values[predicted[i]];
  // PyTorch compares a tensor with one number in the tensor's own precision.
  const value = score instanceof Float32Array ? Math.fround(values[0]) : values[0];
  return (i) => score[i] > value;
}

/** Counts of the true class, or unknown set, by answer: [K + sets, K + 1]; the last is unknown. */
function confusion(sets, classes, values) {
  const columns = classes + 1;
  const counts = new Float64Array((classes + sets.length - 1) * columns);
  sets.forEach(({ score, predicted, label }, which) => {
    const unknown = rejects(score, predicted, values);
    for (let i = 0; i < score.length; i++) {
      const row = which === 0 ? (label ? label[i] : 0) : classes + which - 1;
      counts[row * columns + (unknown(i) ? classes : predicted[i])] += 1;
    }
  });
  return { counts, classes, columns, at: (row, column) => counts[row * columns + column] };
}

function sum(count, each) {
  let total = 0;
  for (let i = 0; i < count; i++) total += each(i);
  return total;
}

/** The figures of the known set and one unknown set, from the counts of `confusion`. */
function figures(matrix, which) {
  const { classes, at } = matrix;
  const row = classes + which - 1;
  const known = sum(classes, (r) => sum(classes + 1, (c) => at(r, c)));
  const unknown = sum(classes + 1, (c) => at(row, c));
  const accepted = known - sum(classes, (r) => at(r, classes));
  const right = sum(classes, (c) => at(c, c));
  const rejected = at(row, classes);
  const answered = accepted + unknown - rejected;
  return { known, unknown, accepted, right, rejected, answered, f1: macroF1(matrix, row) };
}

/** Mean F1 of the known classes and of the unknown; what is neither true nor answered is left out. */
function macroF1({ classes, at }, row) {
  let total = 0;
  let present = 0;
  for (let c = 0; c <= classes; c++) {
    const own = c < classes ? c : row;
    const rows = sum(classes, (r) => at(r, c)) + at(row, c);
    const both = rows + sum(classes + 1, (k) => at(own, k));
    if (!both) continue;
    total += (2 * at(own, c)) / both;
    present += 1;
  }
  return total / present;
}

/** How many of some ascending numbers are at most x. */
function atMost(ascending, x) {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The share of held-out known samples that look at least so strange, as `HeldOut.p_values`. */
function pValue(held, score, predicted) {
  const group = held.sizes.length > 1 ? predicted : 0;
  const start = sum(group, (g) => held.sizes[g]);
  const knots = held.knots.subarray(start, start + held.sizes[group]);
  let place = atMost(knots, score);
  if (place && knots[place - 1] === score) place -= 1;
  const total = held.atLeast[start];
  return (1 + (place ? held.above[start + place - 1] : total)) / (1 + total);
}

/** ROC and accuracy–rejection curve of one detector on one unknown set, known being positive. */
function curves(known, unknown, points = 200) {
  const right = known.score.filter((_, i) => known.predicted[i] === known.label[i]).sort();
  const sides = [known.score, unknown.score].map((score) => score.slice().sort());
  const all = new known.score.constructor(sides[0].length + sides[1].length);
  all.set(sides[0]);
  all.set(sides[1], sides[0].length);
  all.sort();
  const roc = [{ x: 0, y: 0 }];
  const rejection = [];
  for (let k = 0; k <= points; k++) {
    const value = all[Math.round((k / points) * (all.length - 1))];
    const [taken, mistaken] = sides.map((side) => atMost(side, value));
    roc.push({ x: mistaken / sides[1].length, y: taken / sides[0].length });
    const answered = taken + mistaken;
    rejection.push({ x: 1 - answered / all.length, y: atMost(right, value) / answered });
  }
  return { roc, rejection };
}

/** Shares of the scores between the edges; what lies beyond the ends counts in the outermost. */
function histogram(numbers, edges) {
  const bars = new Float64Array(edges.length - 1);
  for (let i = 0; i < numbers.length; i++) bars[barOf(numbers[i], edges)] += 1;
  return Array.from(bars, (count) => count / (numbers.length || 1));
}

function barOf(x, edges) {
  return Math.min(Math.max(atMost(edges, x) - 1, 0), edges.length - 2);
}

/** Where a number stands on an axis of equally wide bars, and the number at a place. */
function placeOf(x, edges) {
  const bar = barOf(x, edges);
  const inside = (x - edges[bar]) / (edges[bar + 1] - edges[bar]);
  return bar + Math.min(Math.max(inside, 0), 1);
}

function numberAt(place, edges) {
  const bar = Math.min(Math.floor(place), edges.length - 2);
  return edges[bar] + (place - bar) * (edges[bar + 1] - edges[bar]);
}
