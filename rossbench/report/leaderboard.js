"use strict";
// Sorts within a target, so that no two protocols and no two tasks are ever in one order; filters; opens what is linked.
const rows = [...document.querySelectorAll("tr[data-name]")];
const find = name => document.querySelector(`#filter [name=${name}]`);

function valueOf(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
}

function isMissing(value) {
  return value === "—" || value === "";
}

function sort(head, column) {
  const cells = [...head.parentElement.cells], table = head.closest("table");
  const first = table.querySelector("tr[data-name]");
  const isNumber = typeof valueOf(first, column) === "number" || head.dataset.kind === "number";
  const was = head.getAttribute("aria-sort");
  const order = was ? (was === "descending" ? "ascending" : "descending") : (isNumber ? "descending" : "ascending");
  const sign = order === "ascending" ? 1 : -1;
  cells.forEach(cell => cell.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
  for (const body of table.tBodies) {
    const sorted = [...body.querySelectorAll("tr[data-name]")].sort((a, b) => {
      const x = valueOf(a, column), y = valueOf(b, column);
      if (isMissing(x) || isMissing(y)) return isMissing(x) - isMissing(y);
      return sign * (isNumber ? x - y : x.localeCompare(y, "en", {numeric: true}));
    });
    body.append(...sorted);
  }
}

function filter() {
  const words = find("words").value.toLowerCase().split(/\s+/);
  const wanted = {target: find("target").value, audit: find("audit").value, board: find("board").value};
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word))
      || Object.entries(wanted).some(([name, value]) => value && row.dataset[name] !== value);
  }
  for (const part of document.querySelectorAll(".board, .board tbody"))
    part.hidden = !part.querySelector("tr[data-name]:not([hidden])");
  const shown = rows.filter(row => !row.hidden).length;
  document.querySelector("#shown").textContent = `${shown} of ${rows.length} shown`;
}

function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const entry = target && target.closest("details");
  if (!entry) return;
  entry.open = true;
  target.scrollIntoView();
}

function tell() {  // what does not fit
  for (const table of document.querySelectorAll(".board .scroll"))
    table.previousElementSibling.style.display = table.scrollWidth > table.clientWidth ? "block" : "none";
}

for (const head of document.querySelectorAll(".board thead tr:last-child th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => sort(head, head.cellIndex));
}
document.querySelector("#filter").hidden = false;
document.querySelector("#filter").addEventListener("input", filter);
document.querySelector("#filter").addEventListener("submit", event => event.preventDefault());
window.addEventListener("hashchange", open);
window.addEventListener("resize", tell);
filter();
tell();
open();
