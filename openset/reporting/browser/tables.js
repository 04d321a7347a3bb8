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
  if (!table) return;
  sortable(table);
  const metric = byId("metric");
  if (metric) {
    byId("metric-label").hidden = false;
    const show = () => {
      for (const cell of table.querySelectorAll("[data-metric]")) cell.hidden = cell.dataset.metric !== metric.value;
      const shown = table.tHead.querySelector(`[data-metric="${metric.value}"]`);
      if (shown) sortBy(table, shown);
    };
    metric.addEventListener("change", show);
    show();
  }
  for (const cell of table.querySelectorAll("td[data-case]")) {
    const { firstElementChild } = cell;
    if (!firstElementChild) continue;
    const button = node("button", { type: "button", title: "Show this detector and set" }, firstElementChild);
    button.addEventListener("click", () => choose(+cell.dataset.case, +cell.dataset.set || state.set));
    cell.prepend(button);
  }
  onChange((whole) => {
    if (!whole) return;
    for (const cell of table.querySelectorAll("td[data-case]")) {
      const mine = +cell.dataset.case === state.case;
      cell.classList.toggle("chosen", mine && +cell.dataset.set === state.set);
      if (mine) cell.parentNode.classList.add("chosen");
    }
    for (const row of table.tBodies[0].rows) {
      row.classList.toggle("chosen", [...row.cells].some((cell) => cell.dataset.case !== undefined && +cell.dataset.case === state.case));
    }
  });
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
    const head = node("tr", {}, node("td"), ...columns.map((c) => node("th", { scope: "col" }, node("span", {}, c.name))));
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
  const HEADS = [["class", 0], ["images", 1], ["accepted", 0], ["wrongly rejected", 1], ["answered right", 0], ["unknown taken for it", 1]];
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
