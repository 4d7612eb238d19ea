"use strict";
// Sorts tables by a click on a heading, and opens and leaves pictures by keys. Without it the page shows the same.
addEventListener("DOMContentLoaded", () => {
  const parsed = (cell) => {
    const text = cell.textContent.trim().replace("\u2212", "-");
    const time = /^(?:(\d+) days?, )?(\d+):(\d\d):(\d\d)$/.exec(text);
    if (time) return ((24 * +(time[1] || 0) + +time[2]) * 60 + +time[3]) * 60 + +time[4];
    const number = /^[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?=$|[\s,%])/.exec(text);
    return number ? +number[0] : text === "\u2013" || text === "" ? null : text;
  };
  const compare = (one, other, sign) => {
    if (one === null || other === null) return (one === null) - (other === null);
    if (typeof one === "number" && typeof other === "number") return sign * (one - other);
    return sign * String(one).localeCompare(String(other), undefined, { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    if (rows.length < 2) continue;
    heads.forEach((head, column) => {
      if (!head.firstElementChild && column) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.title = "sort";
      if (!button.textContent.trim()) button.setAttribute("aria-label", "sort by the first column");
      head.append(button);
      button.addEventListener("click", () => {
        // Figures first fall, texts first rise; the third click brings back the order of the page.
        const keys = new Map(rows.map((row) => [row, parsed(row.cells[column])]));
        const falls = [...keys.values()].some((key) => typeof key === "number");
        const order = falls ? ["descending", "ascending"] : ["ascending", "descending"];
        const now = order[order.indexOf(head.ariaSort) + 1];
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        if (now) head.ariaSort = now;
        const sign = now === "descending" ? -1 : 1;
        const sorted = now ? [...rows].sort((a, b) => compare(keys.get(a), keys.get(b), sign)) : rows;
        body.append(...sorted);
      });
    });
  }
  const open = () => document.querySelector("details.zoom[open]");
  addEventListener("keydown", (event) => {
    const shown = open();
    if (!shown) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape" || event.key === "Tab") shown.open = false;
    if (!step) return;
    event.preventDefault();
    const all = [...shown.closest(".strip").querySelectorAll("details.zoom")];
    const next = all[all.indexOf(shown) + step];
    if (!next) return;
    shown.open = false;
    next.open = true;
    next.firstElementChild.focus({ preventScroll: true });
  });
});
