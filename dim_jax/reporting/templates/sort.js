/* Tables of class "sortable": a click on a column's heading sorts the rows by it, a second one the other way round. */
"use strict";
(() => {
  const value = (row, column) => row.cells[column].textContent.trim().replace("\u2212", "-");
  const order = (column, sign) => (a, b) => {
    const texts = [value(a, column), value(b, column)], numbers = texts.map(parseFloat);
    if (numbers.some(Number.isNaN)) {
      const empty = numbers.map(Number.isNaN); // rows without a number stay last
      return empty[0] === empty[1] ? sign * texts[0].localeCompare(texts[1]) : empty[0] - empty[1];
    }
    return sign * (numbers[0] - numbers[1]);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const first = column === 0 ? "ascending" : "descending"; // names from A, scores from the best
        const other = first === "ascending" ? "descending" : "ascending";
        const direction = heading.getAttribute("aria-sort") === first ? other : first;
        for (const one of headings) one.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", direction);
        body.append(...[...body.rows].sort(order(column, direction === "ascending" ? 1 : -1)));
      });
    });
  }
})();
