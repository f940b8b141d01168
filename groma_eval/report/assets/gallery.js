"use strict";
/* The gallery: filters above, the list of questions at the side, the chosen one in full. */
Groma.gallery = (() => {
  const { el, byId } = Groma;
  const ROW_BOXES = 30; // drawn over a row's small picture, at most
  let shown = null; // {bench, list, text: lower-case text by question}
  let parts = null; // the elements, made once
  let turn = 0; // what is loaded for an earlier turn is not drawn

  const run = (letter) => (Groma.state[letter] === "none" ? null : shown.list.runs[Groma.state[letter]] || null);

  // ---- filters ----
  const TESTS = {
    wrong: (column, i) => column.right[i] === 0,
    unproposed: (column, i) => (column.miss[i] & 1) > 0,
    unselected: (column, i) => (column.miss[i] & 2) > 0,
    unanswered: (column, i) => column.status[i] === null || column.status[i] > 0,
  };
  const NAMES = {
    wrong: "wrong", unproposed: "not proposed", unselected: "not selected", unanswered: "unparsed, missing or failed",
  };

  /* 1 where A is right and B wrong (or A better, where there is no right), -1 the other way, 0 where they agree. */
  function better(a, b, i) {
    if (!a || !b || a.status[i] === null || b.status[i] === null) return 0;
    if (a.right[i] !== null && b.right[i] !== null) return Math.sign(a.right[i] - b.right[i]);
    return Math.sign((a.value[i] ?? 0) - (b.value[i] ?? 0));
  }

  function fits() {
    const { only, tag, area, q } = Groma.state;
    const [a, b] = [run("a"), run("b")];
    const tests = [];
    const [letter, name] = [only.slice(0, 1), only.slice(2)];
    if (only === "a-over-b") tests.push((i) => better(a, b, i) > 0);
    else if (only === "b-over-a") tests.push((i) => better(a, b, i) < 0);
    else if (only === "both-wrong") tests.push((i) => a && b && a.right[i] === 0 && b.right[i] === 0);
    else if (Object.hasOwn(TESTS, name) && "ab".includes(letter)) {
      const column = run(letter);
      tests.push((i) => column !== null && TESTS[name](column, i));
    }
    if (tag) {
      const number = shown.list.tagNames.findIndex(([kind, text]) => `${kind}:${text}` === tag);
      tests.push((i) => shown.list.tags[i].includes(number));
    }
    const bit = Groma.pick({ small: 1, medium: 2, large: 4 }, area, 0);
    if (bit) tests.push((i) => (shown.list.area[i] & bit) > 0);
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) tests.push((i) => words.every((word) => text(i).includes(word)));
    return shown.list.ids.map((_, i) => i).filter((i) => tests.every((test) => test(i)));
  }

  function text(i) {
    if (shown.text[i] === undefined) {
      const { list } = shown;
      const [name, path] = list.images[list.image[i]];
      const answers = Object.values(list.runs).map((column) => column.answer[i] || "");
      const tags = list.tags[i].map((t) => list.tagNames[t][1]);
      shown.text[i] = [list.ids[i], list.text[i], name, path.split("/").pop(), ...tags, ...answers].join("\n").toLowerCase();
    }
    return shown.text[i];
  }

  function onlyOptions() {
    const { list } = shown;
    const option = (value, label) => el("option", { value }, label);
    const of = (letter) => {
      const column = run(letter);
      if (!column) return null;
      const has = {
        wrong: column.right.some((v) => v !== null), unproposed: column.miss.some((v) => v & 1),
        unselected: column.miss.some((v) => v & 2), unanswered: column.status.some((v) => v === null || v > 0),
      };
      const options = Object.keys(TESTS).filter((name) => has[name] || Groma.state.only === `${letter}-${name}`)
        .map((name) => option(`${letter}-${name}`, `${letter.toUpperCase()} ${NAMES[name]}`));
      return options.length ? el("optgroup", { label: `Run ${letter.toUpperCase()}` }, options) : null;
    };
    const right = Object.values(list.runs).some((column) => column.right.some((v) => v !== null));
    const both = run("a") && run("b") ? el("optgroup", { label: "A and B" },
      option("a-over-b", right ? "A right, B wrong" : "A better than B"), option("b-over-a", right ? "B right, A wrong" : "B better than A"),
      right ? option("both-wrong", "both wrong") : null) : null;
    return [option("all", "all questions"), of("a"), of("b"), both].filter(Boolean);
  }

  function tagOptions() {
    const kinds = new Map();
    for (const [kind, name] of shown.list.tagNames) kinds.set(kind, [...(kinds.get(kind) || []), name]);
    return [el("option", { value: "" }, "any category"), ...[...kinds].map(([kind, names]) => el("optgroup", { label: kind },
      names.sort().map((name) => el("option", { value: `${kind}:${name}` }, name))))];
  }

  // ---- elements ----
  function make() {
    const change = (key) => (event) => Groma.set({ [key]: event.target.value, id: "" });
    const flip = (key) => () => Groma.set({ [key]: Groma.state[key] === "1" ? "0" : "1" });
    const select = (id, label, key, options) => el("select", { id, "aria-label": label, on: { change: change(key) } }, options);
    const search = el("input", { type: "search", id: "search", placeholder: "Search  ( / )", "aria-label": "Search questions and answers", autocomplete: "off", spellcheck: "false" });
    let pause = 0;
    search.addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(() => Groma.set({ q: search.value, id: "" }), 120);
    });
    const area = select("area", "Area of the true box", "area", [["", "any area"], ["small", "small: below 32²"], ["medium", "medium: below 96²"],
      ["large", "large: 96² and more"]].map(([value, label]) => el("option", { value }, label)));
    const only = select("only", "Which answers", "only", []);
    const tag = select("tag", "Category or group", "tag", []);
    const toggle = (id, key, label, hint) => el("button", { type: "button", id, class: "toggle", "aria-pressed": "false", title: hint, on: { click: flip(key) } }, label);
    const truth = toggle("truth", "truth", "Truth", "Show the true boxes (t)");
    const props = toggle("props", "props", "Proposals", "Show the proposals (p)");
    const link = el("button", { type: "button", id: "copy", title: "Copy the link to this question (c)", on: { click: copy } }, "Copy link");
    const count = el("span", { id: "count", class: "quiet" });
    const list = Groma.list.create({ label: "Questions", draw: row, pick: (i) => Groma.set({ id: shown.list.ids[i] }) });
    const detail = el("article", { id: "question", tabindex: "-1", "aria-label": "The chosen question" });
    const right = el("p", { class: "quiet", id: "right" });
    byId("gallery").replaceChildren(
      el("div", { class: "filters", role: "search" }, search, only, tag, area, truth, props, link, count),
      el("div", { class: "split" }, list.node, el("div", { class: "side" }, detail, right)));
    return { search, only, tag, area, truth, props, list, detail, count, right };
  }

  function row(i) {
    const { list } = shown;
    const [name, , width, height, number] = list.images[list.image[i]];
    const frame = Groma.boxes.picture(number, name, width, height, true);
    const layers = [{ kind: "truth", boxes: Groma.boxes.split(list.truth[i]).slice(0, ROW_BOXES) }];
    for (const [letter, key] of Groma.runsShown()) {
      const column = list.runs[key];
      if (column && column.boxes[i]) layers.push({ kind: letter, boxes: Groma.boxes.split(column.boxes[i]).slice(0, ROW_BOXES) });
    }
    frame.append(Groma.boxes.overlay(layers, width, height));
    const marks = Groma.runsShown().map(([letter, key]) => {
      const column = list.runs[key];
      const right = column ? column.right[i] : null;
      const value = column && column.value[i] !== null ? Groma.percent(column.value[i], 0) : "–";
      const sign = right === 1 ? "✓" : right === 0 ? "✗" : value;
      const said = right === 1 ? "right" : right === 0 ? "wrong" : value;
      const miss = column && column.miss[i] ? (column.miss[i] & 1 ? "not proposed" : "not selected") : "";
      const status = column && column.status[i] > 0 ? "no answer" : "";
      return el("span", { class: `mark ${right === 1 ? "good" : right === 0 ? "bad" : "plain"}` },
        el("span", { class: `letter ${letter}`, "aria-hidden": "true" }, letter.toUpperCase()),
        el("span", { "aria-label": `${letter.toUpperCase()} ${said}` }, sign), el("span", { class: "quiet" }, status || miss));
    });
    const first = run("a") || run("b");
    const title = list.text[i] || (first && first.answer[i]) || name;
    const under = list.text[i] && first && list.task !== "rec" && list.task !== "grounding" ? first.answer[i] : "";
    return [el("div", { class: "thumb" }, frame), el("div", { class: "words" }, el("span", { class: "title", dir: "auto" }, title),
      under ? el("span", { class: "under", dir: "auto" }, under) : null, el("span", { class: "row-marks" }, marks))];
  }

  // ---- drawing ----
  async function open() {
    const bench = Groma.bench();
    const mine = (turn += 1);
    if (!bench.data) {
      shown = null;
      byId("gallery").replaceChildren(el("h2", {}, bench.title), el("p", { class: "note" }, "No run has finished this benchmark: there are no answers to show."));
      parts = null;
      return;
    }
    let list;
    try {
      list = await Groma.load(`${bench.data}-list`);
    } catch (error) {
      byId("gallery").replaceChildren(el("p", { class: "note" }, error.message));
      parts = null;
      return;
    }
    if (mine !== turn) return;
    if (!parts || !parts.list.node.isConnected) parts = make();
    if (!shown || shown.bench !== bench) shown = { bench, list, text: [] };
    filter();
  }

  function filter() {
    const state = Groma.state;
    parts.only.replaceChildren(...onlyOptions());
    parts.tag.replaceChildren(...tagOptions());
    for (const key of ["only", "tag", "area"]) parts[key].value = state[key];
    if (document.activeElement !== parts.search) parts.search.value = state.q;
    const items = fits();
    parts.list.show(items);
    const total = shown.list.ids.length;
    const said = items.length === total ? `${total.toLocaleString("en")} questions` : `${items.length.toLocaleString("en")} of ${total.toLocaleString("en")}`;
    parts.count.textContent = said;
    Groma.say(said);
    parts.right.textContent = `Right: ${shown.list.right}. Sizes are COCO's.`;
    choose();
  }

  async function choose() {
    const mine = (turn += 1);
    const { list, bench } = shown;
    const state = Groma.state;
    const known = state.id ? list.ids.indexOf(state.id) : -1;
    const i = known >= 0 ? known : parts.list.items[0];
    for (const [key, node] of [["truth", parts.truth], ["props", parts.props]]) node.setAttribute("aria-pressed", state[key] === "1" ? "true" : "false");
    if (i === undefined) {
      parts.list.choose(-1);
      parts.detail.replaceChildren(el("p", { class: "note" }, "No question fits these filters."));
      return;
    }
    parts.list.choose(i);
    const chunk = Groma.index().chunk;
    const proposals = {};
    try {
      const details = await Groma.load(`${bench.data}-d${Math.floor(i / chunk)}`);
      if (state.props === "1") {
        for (const [, key] of Groma.runsShown()) {
          if (bench.proposals.map(String).includes(key)) {
            const part = await Groma.load(`${bench.data}-p${key}-${Math.floor(list.image[i] / chunk)}`);
            proposals[key] = part[list.image[i] % chunk];
          }
        }
      }
      if (mine !== turn) return;
      const place = parts.list.place >= 0 ? `${(parts.list.place + 1).toLocaleString("en")} of ${parts.list.items.length.toLocaleString("en")}` : "";
      parts.detail.replaceChildren(Groma.detail.view(list, i, place, details[i % chunk], proposals));
      parts.detail.setAttribute("data-question", list.ids[i]);
    } catch (error) {
      if (mine === turn) parts.detail.replaceChildren(el("p", { class: "note" }, error.message));
    }
  }

  // ---- moving ----
  const ready = () => Groma.state.view === "gallery" && shown && parts;

  function step(by) {
    if (!ready() || !parts.list.items.length) return;
    const items = parts.list.items;
    const place = Math.min(items.length - 1, Math.max(0, parts.list.place + by));
    Groma.set({ id: shown.list.ids[items[place]] });
  }

  function copy() {
    if (!ready()) return;
    const i = parts.list.items[Math.max(0, parts.list.place)];
    if (!Groma.state.id && i !== undefined) Groma.set({ id: shown.list.ids[i] });
    const done = () => Groma.say("link copied");
    const failed = () => Groma.say("the link stands in the address bar");
    if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(done, failed);
    else failed();
  }

  Groma.on((state, before) => {
    if (state.view !== "gallery") return;
    const changed = (keys) => !before || keys.some((key) => state[key] !== before[key]);
    if (changed(["view", "bench"]) || !shown) open();
    else if (changed(["a", "b", "only", "tag", "area", "q"])) filter();
    else if (changed(["id", "truth", "props"])) choose();
  });

  return { step, copy, focusSearch: () => ready() && parts.search.focus(), leaveSearch: () => ready() && parts.list.node.focus() };
})();
