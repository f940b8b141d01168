"use strict";
/* One question in full: for each shown run the picture with boxes, the verdict, the answer with its spans. */
Groma.detail = (() => {
  const { el, percent } = Groma;
  const STATUS = ["answered", "could not be parsed", "missing", "failed"];
  const KINDS = {
    ground_one: "Find the one", ground_all: "Find every", describe: "Describe the marked box",
    describe_scene: "Describe the picture", converse: "Answer", propose: "Propose regions",
  };

  const badge = (text, kind, title) => el("span", { class: `badge ${kind}`, title }, text);

  function badges(list, run, i) {
    const column = list.runs[run];
    if (!column || column.status[i] === null) return [badge("no answer in this run", "plain")];
    const found = [];
    if (column.status[i] > 0) found.push(badge(STATUS[column.status[i]], "warn"));
    if (column.right[i] === 1) found.push(badge("✓ right", "good"));
    if (column.right[i] === 0) found.push(badge("✗ wrong", "bad"));
    if (column.miss[i] & 1) found.push(badge("not proposed", "miss", "no proposal overlaps a missed box by 0.5"));
    if (column.miss[i] & 2) found.push(badge("not selected", "miss", "a proposal overlaps a missed box by 0.5, but another was chosen"));
    return found;
  }

  const VALUE = { grounding: "F1", proposals: "covered" };
  const value = (list, run, i) => {
    const column = list.runs[run];
    if (!column || column.value[i] === null) return "";
    return list.task === "rec" ? `IoU ${column.value[i].toFixed(2)}` : `${Groma.pick(VALUE, list.task, "score")} ${percent(column.value[i], 0)} %`;
  };

  /* Text in pieces; a piece with boxes is a button that lights them. Colours follow the order of such pieces. */
  function spans(pieces, prefix, colourOf) {
    return el("p", { class: "answer", dir: "auto" }, pieces.map(([text, boxes]) => (boxes
      ? el("button", {
        type: "button", class: `span c${colourOf(boxes)}`, "data-key": boxes.map((n) => prefix + n).join(" "),
        "aria-label": `${text}, ${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}`,
      }, text)
      : text)));
  }

  /* The colour of each box: that of the first phrase that names it, or none. */
  function colours(pieces, count) {
    const found = new Array(count).fill(null);
    let next = 0;
    for (const [, boxes] of pieces) {
      if (!boxes) continue;
      for (const n of boxes) if (found[n] === null) found[n] = next;
      next += 1;
    }
    return found.map((c) => (c === null ? null : c % Groma.boxes.PHRASE_COLOURS));
  }

  function boxTable(boxes, truth, answer, key) {
    if (!boxes.length) return el("p", { class: "quiet" }, "No box in the answer.");
    const phrase = new Map();
    for (const [text, numbers] of (answer ? answer.pieces : [])) {
      for (const n of numbers || []) if (!phrase.has(n)) phrase.set(n, text);
    }
    const sure = answer && answer.confidences;
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "boxes" }, el("table", { class: "boxes" },
      el("thead", {}, el("tr", {}, ["Box", "Phrase", "Confidence", truth.length ? "Best IoU with truth" : null, "x1, y1, x2, y2 in %"]
        .filter(Boolean).map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, boxes.map((box, n) => el("tr", { "data-key": key + n },
        el("th", { scope: "row" }, String(n + 1)),
        el("td", {}, phrase.get(n) || "–"),
        el("td", { class: "num" }, sure && n < sure.length ? sure[n].toFixed(3) : "–"),
        truth.length ? el("td", { class: "num" }, Groma.boxes.best(box, truth).toFixed(2)) : null,
        el("td", { class: "num" }, box.map((v) => (v / 100).toFixed(1)).join(", ")))))));
  }

  function panel(list, i, [letter, run], detail, proposals) {
    const state = Groma.state;
    const [name, , width, height, number] = list.images[list.image[i]];
    const truth = Groma.boxes.split(list.truth[i]);
    const column = list.runs[run];
    const answer = detail.runs[run];
    const boxes = answer ? Groma.boxes.split(column.boxes[i]) : [];
    const frame = Groma.boxes.picture(number, name, width, height, false);
    const layers = [];
    if (proposals && proposals.length) {
      layers.push({ kind: "proposal", boxes: Groma.boxes.split(proposals[0]) });
    }
    if (state.truth === "1") layers.push({ kind: "truth", boxes: truth, keys: truth.map((_, n) => `t${n}`) });
    layers.push({ kind: "asked", boxes: Groma.boxes.split(list.asked[i]) });
    const tinted = answer ? colours(answer.pieces, boxes.length) : [];
    layers.push({ kind: letter, boxes, colours: tinted, keys: boxes.map((_, n) => letter + n) });
    frame.append(Groma.boxes.overlay(layers, width, height));
    const [said, rest] = [[], []];
    if (answer) {
      const isText = answer.pieces.length > 0;
      said.push(isText ? spans(answer.pieces, letter, (numbers) => tinted[numbers[0]] ?? 0)
        : el("p", { class: "answer quiet", dir: "auto" }, answer.raw || "(an empty answer)"));
      if (answer.error) said.push(el("p", { class: "note" }, answer.error));
      if (proposals && proposals.length) rest.push(el("p", { class: "quiet" }, about(proposals, truth)));
      if (list.task !== "vqa" || boxes.length) rest.push(boxTable(boxes, truth, answer, letter));
      rest.push(el("details", {}, el("summary", {}, "Prompt, raw answer, scores"),
        el("dl", {}, el("dt", {}, "Prompt"), el("dd", { class: "raw", dir: "auto" }, answer.prompt || "–"),
          el("dt", {}, "Raw answer"), el("dd", { class: "raw", dir: "auto" }, answer.raw || "–"),
          el("dt", {}, "Scores"), el("dd", { class: "raw" }, Object.entries(answer.scores)
            .map(([key, number_]) => `${key} ${Math.round(number_ * 1e4) / 1e4}`).join(", ") || "–"))));
    }
    return el("section", { class: `panel ${letter}`, "aria-label": `Run ${letter.toUpperCase()}` },
      el("h3", {}, el("span", { class: `letter ${letter}` }, letter.toUpperCase()), Groma.index().runs[run].label,
        el("span", { class: "verdict" }, badges(list, run, i), el("span", { class: "quiet" }, value(list, run, i)))),
      said, frame, rest);
  }

  function about(proposals, truth) {
    const boxes = Groma.boxes.split(proposals[0]);
    const best = truth.map((box) => Groma.boxes.best(box, boxes));
    const shown = boxes.length < proposals[2] ? `the best ${boxes.length} of ${proposals[2]}` : `${boxes.length}`;
    return `${shown} proposals${best.length ? `; best IoU with each true box: ${best.slice(0, 12).map((v) => v.toFixed(2)).join(", ")}` : ""}`;
  }

  function truthText(list, i, detail) {
    const spansOf = detail.spans;
    if (!spansOf && !detail.truth.length) return null;
    const first = spansOf && spansOf.length ? spans(spansOf, "t", () => "t") : el("p", { class: "answer", dir: "auto" }, detail.truth[0]);
    const more = detail.truth.slice(1, 8).map((text) => el("li", { dir: "auto" }, text));
    return el("section", { class: "expected" }, el("h3", {}, "Expected"), first, more.length ? el("ul", {}, more) : null);
  }

  function legend(list, i) {
    const kinds = [["truth", "truth", list.truth[i].length && Groma.state.truth === "1"], ["asked", "asked about", list.asked[i].length],
      ["proposal", "proposals", Groma.state.props === "1"]];
    return el("ul", { class: "legend" }, kinds.filter(([, , there]) => there)
      .map(([kind, text]) => el("li", {}, el("span", { class: `key ${kind}`, "aria-hidden": "true" }), text)));
  }

  /* The whole view of question i; details and proposals ({run: entry}) are loaded already. */
  function view(list, i, place, detail, proposals) {
    const [name, path] = list.images[list.image[i]];
    const tags = list.tags[i].map((t) => list.tagNames[t]).map(([kind, text]) => badge(`${kind}: ${text}`, "plain"));
    const shown = Groma.runsShown();
    const root = el("div", { class: "question" },
      el("header", { class: "asked-for" },
        el("p", { class: "quiet" }, Groma.pick(KINDS, detail.kind, detail.kind), place ? ` · ${place}` : "", " · ",
          el("code", {}, list.ids[i]), " · picture ", el("code", { title: path }, name)),
        list.text[i] ? el("h2", { dir: "auto" }, list.text[i]) : null,
        el("div", { class: "tags" }, tags, legend(list, i))),
      el("div", { class: `panels n${shown.length}` }, shown.map((run) => panel(list, i, run, detail, proposals[run[1]]))),
      truthText(list, i, detail));
    Groma.boxes.join(root);
    return root;
  }

  return { view, badges, value };
})();
