// Tables: detectors and sets, the confusion matrix, and each class.

/** Sorts a table's rows by the column whose head is pressed; once more turns the order round. */
function sortable(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = node("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(table, head));
  }
}

function sortBy(table, head, turn = true) {
  if (!head) return;
  const column = head.cellIndex;
  const before = head.getAttribute("aria-sort");
  const first = head.dataset.up === "1" ? "descending" : "ascending";
  const other = first === "descending" ? "ascending" : "descending";
  const order = !turn ? before : before === first ? other : first;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const key = (row) => {
    const { value } = row.cells[column].dataset;
    return value === undefined ? row.cells[column].textContent.trim() : Number(value);
  };
  const sign = order === "descending" ? -1 : 1;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    return typeof x === "string" || typeof y === "string" ? sign * String(x).localeCompare(String(y)) : sign * (x - y);
  });
  table.tBodies[0].append(...rows);
}

/** Detectors and sets: one metric at a time, and a press on a figure shows what it is about. */
function compareTable() {
  const table = byId("table");
  const metric = byId("metric");
  if (!table) return;
  if (metric) addLiveColumns(table);
  sortable(table);
  for (const cell of table.querySelectorAll("td[data-case]")) makeButton(cell);
  const show = () => {
    for (const cell of table.querySelectorAll("[data-metric]")) cell.hidden = cell.dataset.metric !== metric.value;
    fillLiveColumns(table, metric.value);
    sortBy(table, table.tHead.querySelector(`[data-metric="${metric.value}"]`));
  };
  if (metric) {
    byId("metric-label").hidden = false;
    metric.addEventListener("change", show);
    show();
  }
  onChange((whole) => {
    if (metric) fillLiveColumns(table, metric.value);
    if (whole) markChosen(table);
  });
}

function makeButton(cell) {
  const inside = cell.querySelector("span");
  if (!inside) return;
  const button = node("button", { type: "button", title: "Show this detector and set" }, inside);
  button.addEventListener("click", () => choose(+cell.dataset.case, +cell.dataset.set || state.set));
  cell.prepend(button);
}

function markChosen(table) {
  for (const row of table.tBodies[0].rows) {
    const mine = [...row.cells].filter((cell) => cell.dataset.case === String(state.case));
    row.classList.toggle("chosen", mine.length > 0);
    for (const cell of row.cells) cell.classList.toggle("chosen", mine.includes(cell) && +cell.dataset.set === state.set);
  }
}

/** Columns for what each detector does at the slider's share, beside those of the first metric. */
function addLiveColumns(table) {
  const first = byId("metric").options[0].value;
  for (const { value } of document.querySelectorAll("[data-live]")) {
    for (const row of table.rows) {
      for (const cell of [...row.cells].filter((each) => each.dataset.metric === first)) {
        const { up, case: which, set } = cell.dataset;
        const text = row.parentNode === table.tHead ? cell.firstChild.textContent.trim() : "";
        const made = node(text ? "th" : "td", { data: text ? { metric: value, up: "1" } : { metric: value } }, node("span", {}, text));
        if (text) made.scope = "col";
        else if (which !== undefined && +set) Object.assign(made.dataset, { case: which, set });
        row.append(made);
      }
    }
  }
}

/** All detectors at the share that the slider asks for, each by its own threshold. */
function fillLiveColumns(table, name) {
  if (name !== "rejected" && name !== "f1") return;
  const share = state.position === null ? state.figures.accepted / state.figures.known : current().accept[state.position];
  const matrices = new Map();
  for (const cell of table.querySelectorAll(`td[data-metric="${name}"][data-case]`)) {
    const each = cases[+cell.dataset.case];
    if (!matrices.has(each)) {
      const values = each === current() ? state.values : valuesAt(each, each.accept.length ? positionOf(each, share) : null);
      matrices.set(each, confusion(each.sets, each.run.classes.length, values));
    }
    const found = figures(matrices.get(each), +cell.dataset.set);
    const value = name === "f1" ? found.f1 : found.rejected / found.unknown;
    cell.dataset.value = value;
    cell.querySelector("span").textContent = name === "f1" ? value.toFixed(3) : (100 * value).toFixed(1);
  }
}

/** The most classes with a row of their own in the matrix; the rest are counted as one. */
const NAMED = 14;

/** The classes to show: all, or those with the most errors at the model's own threshold. */
function namedClasses() {
  const { classes } = current().run;
  const all = classes.map((_, c) => c);
  if (classes.length <= NAMED + 1) return all;
  const matrix = confusion(current().sets, classes.length, valuesAt(current(), home(current())));
  const errors = all.map((c) => sum(classes.length + 1, (k) => matrix.at(c, k)) - matrix.at(c, c));
  return all.sort((a, b) => errors[b] - errors[a]).slice(0, NAMED).sort((a, b) => a - b);
}

/** Rows and columns of the matrix: named classes, all others together, the unknown. */
function groups() {
  const { classes } = current().run;
  const named = namedClasses();
  const rest = classes.map((_, c) => c).filter((c) => !named.includes(c));
  const found = named.map((c) => ({ name: classes[c], members: [c] }));
  if (rest.length) found.push({ name: `${rest.length} others`, members: rest });
  return found;
}

function confusionTable() {
  const table = byId("confusion");
  let cells = [];
  let rows = [];
  let columns = [];
  const build = () => {
    const named = groups();
    const size = current().run.classes.length;
    const sets = current().sets.slice(1).map((set, i) => ({ name: set.name, members: [size + i], unknown: i + 1 }));
    rows = [...named, ...sets];
    columns = [...named, { name: "unknown", members: [size] }];
    const head = node("tr", {}, node("td"), ...columns.map((c) => node("th", { scope: "col", title: c.name }, c.name)));
    cells = rows.map(() => columns.map(() => node("td")));
    const body = rows.map((row, r) =>
      node("tr", { className: row.unknown ? (row.unknown === state.set ? "set chosen" : "set") : "" },
        node("th", { scope: "row" }, row.name), ...cells[r]));
    table.replaceChildren(node("thead", {}, head), node("tbody", {}, ...body));
    const few = rows.some((row) => row.members.length > 1);
    byId("confusion-note").textContent =
      `The shade is the share of the row.${few ? ` Of ${size} classes, those with the most errors have a row of their own.` : ""}`;
  };
  const fill = () => {
    rows.forEach((row, r) => {
      const counts = columns.map((column) =>
        sum(row.members.length, (i) => sum(column.members.length, (j) => state.matrix.at(row.members[i], column.members[j]))));
      const total = counts.reduce((a, b) => a + b, 0);
      counts.forEach((n, c) => {
        const cell = cells[r][c];
        const good = row.unknown ? c === columns.length - 1 : c === r;
        cell.textContent = n ? count(n) : "";
        cell.className = good ? "good" : "";
        cell.style.setProperty("--share", `${(100 * n) / (total || 1)}%`);
      });
    });
  };
  onChange((whole) => {
    if (whole) build();
    fill();
  });
}

/** What the threshold does to each class, and how much of the unknown set falls to it. */
function eachTable() {
  const table = byId("each");
  let order = null;
  const HEADS = [["class", 0], [data.unit, 1], ["accepted", 0], ["wrongly rejected", 1], ["answered right", 0], ["unknown taken for it", 1]];
  const heads = HEADS.map(([text, up]) => node("th", { scope: "col", data: { up } }, text));
  const body = node("tbody");
  table.replaceChildren(node("thead", {}, node("tr", {}, ...heads)), body);
  sortable(table);
  table.tHead.addEventListener("click", () => {
    order = [...table.tHead.rows[0].cells].find((head) => head.hasAttribute("aria-sort"));
  });
  const rowOf = (name, c) => {
    const { classes, at } = state.matrix;
    const total = sum(classes + 1, (k) => at(c, k));
    const rejected = at(c, classes);
    const taken = at(classes + state.set - 1, c);
    const bar = (part, whole, kind) => {
      const cell = node("td", { className: `bar ${kind}`, data: { value: whole ? part / whole : 0 } },
        whole ? share(part, whole) : "–", node("small", {}, ` ${count(part)}`));
      cell.style.setProperty("--share", `${whole ? (100 * part) / whole : 0}%`);
      return cell;
    };
    return node("tr", {}, node("th", { scope: "row" }, name),
      node("td", { data: { value: total } }, count(total)),
      bar(total - rejected, total, "known"), bar(rejected, total, "wrong"),
      bar(at(c, c), total, "known"), bar(taken, state.figures.unknown, "unknown"));
  };
  onChange(() => {
    body.replaceChildren(...current().run.classes.map(rowOf));
    if (order) sortBy(table, order, false);
  });
}
