"use strict";
// Headings become buttons, so that sorting works with the keyboard; without this script they are plain headings.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, head, column));
  });
}

function sort(table, head, column) {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const number = (text) => (text === "" ? NaN : Number(text.replace(/%$/, "")));
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, text: value(row), number: number(value(row)) }));
  const empty = (item) => ["", "n/a", "–"].includes(item.text);
  rows.sort((a, b) => {
    if (empty(a) || empty(b)) return empty(a) - empty(b); // what is missing stays at the end
    const both = !isNaN(a.number) && !isNaN(b.number);
    return sign * (both ? a.number - b.number : a.text.localeCompare(b.text, "en", { numeric: true }));
  });
  body.append(...rows.map((item) => item.row));
}

// The figures: their data are stored once, by columns; a column of few distinct values as these and their places.
const { specs, tables } = JSON.parse(document.getElementById("figures").textContent);
const column = (packed) => (Array.isArray(packed) ? packed : packed.places.map((place) => packed.values[place]));
const unpacked = (table) => {
  const columns = Object.entries(table).map(([field, packed]) => [field, column(packed)]);
  return columns[0][1].map((_, row) => Object.fromEntries(columns.map(([field, values]) => [field, values[row]])));
};
for (const [id, spec] of Object.entries(specs)) {
  const datasets = Object.fromEntries(spec.datasets.map((name) => [name, unpacked(tables[name])]));
  vegaEmbed(`#${id}`, { ...spec, datasets }, { renderer: "svg", actions: false }).catch((error) => {
    document.getElementById(id).textContent = `This figure could not be drawn: ${error.message}`;
  });
}
