"use strict";
/* A list of any length that keeps only the rows in sight: a listbox, with one height for all rows. */
Groma.list = (() => {
  const { el } = Groma;
  const HEIGHT = 84, SPARE = 6; // pixels, as in the style sheet; rows kept beyond both ends

  /* draw(item) gives a row's content; pick(item) is called for the row that is clicked. */
  function create({ label, draw, pick }) {
    let items = [];
    let chosen = -1;
    let waiting = false;
    const rows = new Map();
    const space = el("div", { class: "space", role: "presentation" });
    const box = el("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": label }, space);

    function row(i) {
      const node = el("div", {
        class: "row", role: "option", id: `row-${i}`, "aria-setsize": items.length, "aria-posinset": i + 1,
        "aria-selected": i === chosen ? "true" : "false", "data-item": items[i],
      }, draw(items[i]));
      node.style.transform = `translateY(${i * HEIGHT}px)`;
      node.addEventListener("click", () => pick(items[i]));
      return node;
    }

    function render() {
      waiting = false;
      const first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - SPARE);
      const last = Math.min(items.length, Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT) + SPARE);
      for (const [i, node] of rows) if (i < first || i >= last) { node.remove(); rows.delete(i); }
      for (let i = first; i < last; i += 1) {
        if (!rows.has(i)) { const node = row(i); rows.set(i, node); space.append(node); }
      }
    }

    function later() {
      if (!waiting) { waiting = true; requestAnimationFrame(render); }
    }

    function choose(item, scroll = true) {
      chosen = items.indexOf(item);
      if (chosen >= 0 && scroll) {
        const top = chosen * HEIGHT;
        if (top < box.scrollTop) box.scrollTop = top;
        else if (top + HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + HEIGHT - box.clientHeight;
      }
      render();
      for (const [i, node] of rows) node.setAttribute("aria-selected", i === chosen ? "true" : "false");
      if (chosen >= 0) box.setAttribute("aria-activedescendant", `row-${chosen}`);
      else box.removeAttribute("aria-activedescendant");
    }

    function show(next) {
      items = next;
      chosen = -1;
      for (const node of rows.values()) node.remove();
      rows.clear();
      space.style.height = `${items.length * HEIGHT}px`;
      box.scrollTop = 0;
      render();
    }

    box.addEventListener("scroll", later, { passive: true });
    new ResizeObserver(later).observe(box);
    return { node: box, show, choose, get place() { return chosen; }, get items() { return items; } };
  }

  return { create };
})();
