"use strict";
/* The page's frame: views, the choice of benchmark and runs, keys, light and dark. */
(() => {
  const { el, byId } = Groma;
  const VIEWS = ["summary", "plots", "gallery"];

  // ---- light and dark ----
  const remembered = { // a browser may refuse to store anything for a file
    get() { try { return localStorage.getItem("groma-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("groma-theme", value); } catch { /* for this visit only */ } },
  };
  const dark = () => {
    const asked = document.documentElement.getAttribute("data-theme");
    return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const theme = (name) => document.documentElement.setAttribute("data-theme", name);
  if (["light", "dark"].includes(remembered.get())) theme(remembered.get());
  byId("theme").addEventListener("click", () => { theme(dark() ? "light" : "dark"); remembered.set(dark() ? "dark" : "light"); });

  // ---- choices ----
  const index = Groma.index();
  if (!index) {
    byId("main").prepend(el("p", { class: "note" }, "data/index.js cannot be read: is the report's folder whole?"));
    return;
  }
  byId("bench").replaceChildren(...index.benchmarks.map((b) => el("option", { value: b.name }, b.title)));
  byId("bench").addEventListener("change", (event) => Groma.set({ bench: event.target.value, id: "", only: "all", tag: "", area: "", q: "" }));
  for (const key of ["a", "b"]) {
    const options = index.runs.map((r, number) => el("option", { value: String(number) }, r.label));
    if (key === "b") options.unshift(el("option", { value: "none" }, "none"));
    byId(`run-${key}`).replaceChildren(...options);
    byId(`run-${key}`).addEventListener("change", (event) => Groma.set({ [key]: event.target.value }));
  }
  byId("pick-runs").hidden = index.runs.length < 2;

  function frame(state, before) {
    for (const view of VIEWS) byId(view).hidden = view !== state.view;
    document.body.setAttribute("data-view", state.view);
    for (const link of document.querySelectorAll("nav a")) {
      const here = link.getAttribute("data-view") === state.view;
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    byId("bench").value = state.bench;
    byId("run-a").value = state.a;
    byId("run-b").value = state.b;
    byId("pick-bench").hidden = state.view === "summary";
    byId("pick-runs").hidden = state.view === "summary" || index.runs.length < 2;
    if (before && before.view !== state.view) window.scrollTo(0, 0);
  }
  Groma.on(frame);

  // Links keep what else is chosen.
  document.addEventListener("click", (event) => {
    const link = event.target.closest ? event.target.closest("a[data-view], a[data-bench]") : null;
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const [view, bench] = [link.getAttribute("data-view"), link.getAttribute("data-bench")];
    if (view) Groma.set({ view });
    if (bench) { const section = byId(`bench-${bench}`); if (section) section.scrollIntoView(); }
  });

  // ---- help ----
  const help = byId("help");
  byId("open-help").addEventListener("click", () => help.showModal());
  byId("close-help").addEventListener("click", () => help.close());
  help.addEventListener("click", (event) => { if (event.target === help) help.close(); });

  // ---- keys ----
  const flip = (key) => Groma.set({ [key]: Groma.state[key] === "1" ? "0" : "1" });
  let lastG = 0;
  const KEYS = {
    j: () => Groma.gallery.step(1), k: () => Groma.gallery.step(-1), ArrowDown: () => Groma.gallery.step(1), ArrowUp: () => Groma.gallery.step(-1),
    G: () => Groma.gallery.step(Infinity), t: () => flip("truth"), p: () => flip("props"), c: () => Groma.gallery.copy(),
    w: () => Groma.set({ only: Groma.state.only === "a-wrong" ? "all" : "a-wrong", id: "" }), "/": () => Groma.gallery.focusSearch(),
    g: () => { const now = performance.now(); if (now - lastG < 800) Groma.gallery.step(-Infinity); lastG = now; },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const typing = event.target.closest && event.target.closest("input, select, textarea");
    if (event.key === "Escape" && typing) { // a browser would empty the search
      event.preventDefault();
      return Groma.gallery.leaveSearch();
    }
    if (typing) return;
    if (event.key === "?") { event.preventDefault(); return help.showModal(); }
    if (VIEWS[Number(event.key) - 1]) return Groma.set({ view: VIEWS[Number(event.key) - 1] });
    if (Groma.state.view !== "gallery" || !Object.hasOwn(KEYS, event.key)) return;
    // Arrows scroll the question where that has the focus.
    if (event.key.startsWith("Arrow") && event.target.closest && event.target.closest(".side")) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  Groma.begin();
})();
