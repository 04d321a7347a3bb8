// Images whose pixels are labelled: image, answer, score and truth, at the present threshold.

const UNKNOWN = -1;
const VOID = -100;
const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function heat(share) {
  const at = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1);
  const from = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[from].map((x, k) => x + (at - from) * (HEAT[from + 1][k] - x));
}

/** Paints each pixel by a colour [R, G, B] or [R, G, B, A]. */
function paint(canvas, colourOf) {
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < canvas.width * canvas.height; i++) {
    const [r, g, b, a] = colourOf(i);
    picture.data.set([r, g, b, a ?? 255], 4 * i);
  }
  context.putImageData(picture, 0, 0);
}

function canvasOf(maps, label) {
  return node("canvas", { width: maps.width, height: maps.height, role: "img", "aria-label": label });
}

function mapFigure(maps, name, number) {
  const [score, predicted, label] = [array(maps.score), array(maps.predicted), array(maps.label)];
  const ordered = score.slice().sort();
  const [low, high] = [0.01, 0.99].map((q) => ordered[Math.round(q * (ordered.length - 1))]);
  const classes = current().run.classes.length;
  const colour = (c) => data.palette[c === UNKNOWN ? data.palette.length - 2 : c === VOID ? data.palette.length - 1 : c];
  const where = `image ${number + 1} of ${name}`;
  const [answer, heatMap, truth] = ["Answer", "Score", "Truth"].map((what) => canvasOf(maps, `${what} of ${where}`));
  paint(heatMap, (i) => heat((score[i] - low) / (high - low || 1)));
  paint(truth, (i) => colour(label[i]));
  const note = node("p", { className: "note" });
  const draw = () => {
    const unknown = rejects(score, predicted, state.values);
    let called = 0;
    paint(answer, (i) => {
      called += unknown(i);
      return [...colour(unknown(i) ? UNKNOWN : predicted[i]), unknown(i) ? 215 : 110];
    });
    note.textContent = `${percent(called / score.length)} of its pixels are answered “unknown”.`;
  };
  const image = () => node("img", { src: maps.src, alt: `${where}` });
  const part = (title, ...inside) => node("figure", {}, node("figcaption", {}, title), node("div", { className: "layers" }, ...inside));
  const figure = node("div", { className: "maps" }, part("Image", image()), part("Answer", image(), answer), part("Score", heatMap), data.truth ? part("Truth", truth) : null, note);
  return { figure, draw };
}

function drawMaps() {
  let shown = [];
  const build = () => {
    shown = Object.entries(current().maps).flatMap(([name, its]) => its.map((maps, i) => mapFigure(maps, name, i)));
    byId("maps").hidden = !shown.length;
    byId("map-list").replaceChildren(...shown.map((each) => each.figure));
  };
  onChange((whole) => {
    if (whole) build();
    for (const each of shown) each.draw();
  });
}
