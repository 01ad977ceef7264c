// Tables sort by their heads: by number or text, downwards, upwards, then as they were.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const sort = (column, direction) => {
    const value = (row) => row.cells[column].dataset.value;
    const isNumeric = original.every((row) => value(row) === undefined || !isNaN(value(row)));
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) {
        return (x === undefined) - (y === undefined);  // what is missing stays last
      }
      const order = isNumeric ? x - y : x.localeCompare(y, "en", { numeric: true });
      return direction === "ascending" ? order : -order;
    };
    body.append(...(direction === "none" ? original : [...original].sort(compare)));
  };
  heads.forEach((head, column) => {
    const isText = column === 0 || !original.some((row) => row.cells[column].matches(".number"));
    const turns = isText ? ["ascending", "descending", "none"] : ["descending", "ascending", "none"];
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = turns[(turns.indexOf(now) + 1) % turns.length];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      sort(column, next);
    });
  });
}
