"use strict";
/* The plots: small line and dot charts as SVG, each with its figures as a table. */
Groma.plots = (() => {
  const { el, svg, byId, percent } = Groma;
  const W = 520, H = 300, LEFT = 52, RIGHT = 14, TOP = 12, BOTTOM = 46;
  const inner = { left: LEFT, right: W - RIGHT, top: TOP, bottom: H - BOTTOM };

  function ticks(low, high, wanted = 5) {
    const raw = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
    const found = [];
    for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + 1e-9; value += step) found.push(value);
    return found;
  }

  /* Bounds in steps of ten percent, that hold all values. */
  function bounds(lines) {
    const all = lines.flatMap((line) => [...line.y, ...(line.lo || []), ...(line.hi || [])])
      .filter((value) => value !== null && value !== undefined);
    if (!all.length) return [0, 1];
    const low = Math.max(0, Math.floor(Math.min(...all) * 10 - 1e-9) / 10);
    const high = Math.min(1, Math.ceil(Math.max(...all) * 10 + 1e-9) / 10);
    return high - low < 0.1 ? [Math.max(0, high - 0.2), Math.max(0.2, high)] : [low, high];
  }

  const linear = (from, to, a, b) => (value) => a + ((value - from) / (to - from || 1)) * (b - a);

  function axes(node, { xTicks, x, yTicks, y, xLabel, yLabel }) {
    for (const value of yTicks) {
      const at = y(value);
      node.append(svg("line", { class: "grid", x1: inner.left, x2: inner.right, y1: at, y2: at }),
        svg("text", { class: "tick", x: inner.left - 8, y: at + 4, "text-anchor": "end" }, percent(value, 0)));
    }
    for (const [value, label] of xTicks) {
      node.append(svg("line", { class: "axis", x1: x(value), x2: x(value), y1: inner.bottom, y2: inner.bottom + 4 }),
        svg("text", { class: "tick", x: x(value), y: inner.bottom + 18, "text-anchor": "middle" }, label));
    }
    node.append(svg("line", { class: "axis", x1: inner.left, x2: inner.right, y1: inner.bottom, y2: inner.bottom }),
      svg("text", { class: "label", x: (inner.left + inner.right) / 2, y: H - 6, "text-anchor": "middle" }, xLabel),
      svg("text", {
        class: "label", x: 13, y: (inner.top + inner.bottom) / 2, "text-anchor": "middle",
        transform: `rotate(-90 13 ${(inner.top + inner.bottom) / 2})`,
      }, yLabel));
  }

  const path = (points) => points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");

  function marker(key, px, py, note) {
    const shape = key === "a"
      ? svg("circle", { class: "dot a", cx: px, cy: py, r: 4 })
      : svg("rect", { class: "dot b", x: px - 3.6, y: py - 3.6, width: 7.2, height: 7.2 });
    shape.append(svg("title", {}, note));
    return shape;
  }

  const name = (run) => Groma.index().runs[run].label;

  function legend(lines, extra = []) {
    return el("ul", { class: "legend" },
      lines.map((line) => el("li", {}, el("span", { class: `letter ${line.key}` }, line.key.toUpperCase()), name(line.run))),
      extra.map((text) => el("li", { class: "quiet" }, text)));
  }

  function card(title, about, node, lines, head, rows, extra) {
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", `${title}. ${about} The figures stand in the table below.`);
    const table = el("table", {},
      el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, rows.map(([first, ...cells]) => el("tr", {}, el("th", { scope: "row" }, first),
        cells.map((text) => el("td", { class: "num" }, text))))));
    return el("section", { class: "card plot" }, el("h3", {}, title), el("p", { class: "quiet" }, about), legend(lines, extra), node,
      el("details", {}, el("summary", {}, "Figures"), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "figures" }, table)));
  }

  const spread = (line, i) => (line.lo && line.lo[i] !== null ? `${percent(line.y[i])} (${percent(line.lo[i])} – ${percent(line.hi[i])})` : percent(line.y[i]));

  function overIou(lines) {
    const node = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}` });
    const xs = lines[0].x;
    const x = linear(xs[0], xs[xs.length - 1], inner.left + 6, inner.right - 6);
    const [low, high] = bounds(lines);
    const y = linear(low, high, inner.bottom, inner.top);
    axes(node, {
      x, y, xTicks: xs.filter((_, i) => i % 2 === 0).map((v) => [v, v.toFixed(1)]), yTicks: ticks(low, high),
      xLabel: "IoU threshold", yLabel: "percent",
    });
    for (const line of lines) {
      const upper = xs.map((v, i) => [x(v), y(line.hi[i])]);
      const lower = xs.map((v, i) => [x(v), y(line.lo[i])]).reverse();
      node.append(svg("path", { class: `band ${line.key}`, d: path([...upper, ...lower]) + "Z" }));
    }
    for (const line of lines) {
      node.append(svg("path", { class: `line ${line.key}`, d: path(xs.map((v, i) => [x(v), y(line.y[i])])) }));
      xs.forEach((v, i) => node.append(marker(line.key, x(v), y(line.y[i]), `IoU ${v.toFixed(2)}: ${spread(line, i)}`)));
    }
    return card("Over the IoU threshold", `${sentence(lines[0].what)}, with 95 % intervals.`, node, lines,
      ["IoU", ...lines.map((l) => name(l.run))], xs.map((v, i) => [v.toFixed(2), ...lines.map((l) => spread(l, i))]));
  }

  const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  /* Dots with intervals over named places; places without any question are left out. */
  function overNames(title, lines, xLabel) {
    const all = [...new Set(lines.flatMap((line) => line.x))];
    const at = (line, label) => line.x.indexOf(label);
    const labels = all.filter((label) => lines.some((line) => at(line, label) >= 0 && line.n[at(line, label)] > 0));
    const node = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}` });
    const step = (inner.right - inner.left) / labels.length;
    const x = (i) => inner.left + (i + 0.5) * step;
    const shown = lines.map((line) => {
      const pick = (values) => labels.map((label) => (at(line, label) < 0 ? null : values[at(line, label)]));
      return { ...line, y: pick(line.y), lo: pick(line.lo), hi: pick(line.hi), n: pick(line.n) };
    });
    const [low, high] = bounds(shown);
    const y = linear(low, high, inner.bottom, inner.top);
    const short = (text) => (text.length * 6.4 > step ? text.slice(0, Math.max(2, Math.floor(step / 6.4) - 1)) + "…" : text);
    axes(node, { x, y, xTicks: labels.map((label, i) => [i, short(label)]), yTicks: ticks(low, high), xLabel, yLabel: "percent" });
    shown.forEach((line, number) => {
      const shift = shown.length > 1 ? (number ? 7 : -7) : 0;
      labels.forEach((label, i) => {
        if (line.y[i] === null) return;
        const px = x(i) + shift;
        node.append(svg("line", { class: `whisker ${line.key}`, x1: px, x2: px, y1: y(line.lo[i]), y2: y(line.hi[i]) }),
          marker(line.key, px, y(line.y[i]), `${label}: ${spread(line, i)}, ${line.n[i]} cases`));
      });
    });
    return card(title, `${sentence(lines[0].what)}, with 95 % intervals.`, node, lines,
      ["", ...shown.flatMap((l) => [name(l.run), "n"])],
      labels.map((label, i) => [label, ...shown.flatMap((l) => [spread(l, i), l.n[i] === null ? "–" : String(l.n[i])])]));
  }

  function recall(lines) {
    const node = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}` });
    const most = Math.max(...lines.map((line) => line.most));
    const scale = linear(0, Math.log(Math.max(2, most)), inner.left + 6, inner.right - 10);
    const x = (k) => scale(Math.log(k));
    const [low, high] = bounds(lines.flatMap((line) => [line, { y: line.y75 }]));
    const y = linear(low, high, inner.bottom, inner.top);
    axes(node, {
      x, y, xTicks: [1, 2, 5, 10, 20, 50, 100, 200, 500].filter((k) => k <= most).map((k) => [k, String(k)]),
      yTicks: ticks(low, high), xLabel: "proposals of a picture (best first)", yLabel: "percent",
    });
    for (const line of lines) {
      for (const [values, kind, iou] of [[line.y75, "faint", "0.75"], [line.y, "", "0.5"]]) {
        node.append(svg("path", { class: `line ${line.key} ${kind}`, d: path(line.x.map((k, i) => [x(k), y(values[i])])) }));
        line.x.forEach((k, i) => {
          const dot = marker(line.key, x(k), y(values[i]), `${k} proposals, IoU ${iou}: ${percent(values[i])}`);
          if (kind) dot.classList.add("faint");
          node.append(dot);
        });
      }
    }
    const ks = [...new Set(lines.flatMap((line) => line.x))].sort((p, q) => p - q);
    const cell = (line, values, k) => (line.x.includes(k) ? percent(values[line.x.indexOf(k)]) : "–");
    return card("Proposal recall", "True boxes that one of the best k proposals overlaps by 0.5 (full) and 0.75 (faint).",
      node, lines, ["k", ...lines.flatMap((l) => [`${name(l.run)}, 0.5`, "0.75"])],
      ks.map((k) => [String(k), ...lines.flatMap((l) => [cell(l, l.y, k), cell(l, l.y75, k)])]));
  }

  function calibration(lines) {
    const node = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}` });
    const x = linear(0, 1, inner.left + 6, inner.right - 6);
    const y = linear(0, 1, inner.bottom, inner.top);
    axes(node, {
      x, y, xTicks: ticks(0, 1).map((v) => [v, percent(v, 0)]), yTicks: ticks(0, 1), xLabel: lines[0].confidence + ", percent", yLabel: "percent",
    });
    node.append(svg("line", { class: "ideal", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }));
    for (const [number, line] of lines.entries()) {
      const total = line.n.reduce((sum, n) => sum + n, 0);
      const filled = line.x.map((_, i) => i).filter((i) => line.n[i] > 0);
      const wide = (x(0.1) - x(0)) / 2 - 2;
      for (const i of filled) {
        const tall = (line.n[i] / total) * (inner.bottom - inner.top) * 0.3;
        node.append(svg("rect", {
          class: `count ${line.key}`, x: x(i / 10) + 1 + number * wide, y: inner.bottom - tall, width: wide, height: tall,
        }));
      }
      node.append(svg("path", { class: `line ${line.key}`, d: path(filled.map((i) => [x(line.x[i]), y(line.y[i])])) }));
      for (const i of filled) {
        node.append(marker(line.key, x(line.x[i]), y(line.y[i]),
          `confidence ${percent(line.x[i])}: ${percent(line.y[i])} right, ${line.n[i]} boxes`));
      }
    }
    const bins = [...Array(10).keys()];
    const extra = lines.map((l) => `${l.key.toUpperCase()}: ECE ${percent(l.ece, 2)} %`);
    return card("Calibration", `${sentence(lines[0].share)}, by ${lines[0].confidence}; bars: how many; ECE: mean distance from the diagonal.`,
      node, lines, ["confidence", ...lines.flatMap((l) => [`${name(l.run)}: mean`, "right", "n"])],
      bins.map((i) => [`${i * 10} – ${i * 10 + 10}`, ...lines.flatMap((l) => [percent(l.x[i]), percent(l.y[i]), String(l.n[i])])]), extra);
  }

  const PLOTS = [
    ["iou", overIou],
    ["area", (lines) => overNames("By the true box's area", lines, "area of the true box, pixels")],
    ["recall", recall],
    ["calibration", calibration],
    ["groups", (lines) => overNames("By group", lines, "group of the question")],
  ];

  function draw() {
    const bench = Groma.bench();
    const view = byId("plots");
    const parts = [];
    for (const [kind, plot] of PLOTS) {
      const lines = Groma.runsShown()
        .filter(([, run]) => bench.series[run] && bench.series[run][kind])
        .map(([key, run]) => ({ ...bench.series[run][kind], key, run: Number(run) }));
      if (lines.length) parts.push(plot(lines));
    }
    view.replaceChildren(el("h2", {}, `Plots: ${bench.title}`),
      parts.length ? el("div", { class: "plots" }, parts) : el("p", { class: "note" }, "Neither run has figures to plot here."));
  }

  Groma.on((state, before) => {
    if (state.view !== "plots") return;
    if (!before || ["view", "bench", "a", "b"].some((key) => state[key] !== before[key])) draw();
  });

  return { ticks, bounds };
})();
