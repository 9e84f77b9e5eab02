"use strict";
// Sorts a table by the column whose heading is pressed: numbers from the largest, names from A; again turns it around.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const text = row.cells[column].dataset.key;
    return text !== "" && isFinite(text) ? Number(text) : text;
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const rows = [...table.tBodies[0].rows];
      const numbers = rows.every((row) => typeof key(row, column) === "number");
      const before = head.getAttribute("aria-sort");
      const order = before === null ? (numbers ? "descending" : "ascending")
        : before === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      rows.sort((one, other) => {
        const a = key(one, column), b = key(other, column);
        return sign * (numbers ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
      });
      table.tBodies[0].append(...rows);
    });
  });
}
