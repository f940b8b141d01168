"use strict";
/* A picture with boxes over it, and the light that joins boxes, phrases and table rows of one key. */
Groma.boxes = (() => {
  const { el, svg } = Groma;
  const SCALE = 10000;
  const PHRASE_COLOURS = 8; // classes .c0 to .c7

  const split = (flat) => {
    const boxes = [];
    for (let i = 0; i + 3 < flat.length; i += 4) boxes.push(flat.slice(i, i + 4));
    return boxes;
  };

  function iou(a, b) {
    const area = (box) => Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1]);
    const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
    const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
    if (width <= 0 || height <= 0 || !area(a) || !area(b)) return 0;
    return (width * height) / (area(a) + area(b) - width * height);
  }

  const best = (box, others) => others.reduce((most, other) => Math.max(most, iou(box, other)), 0);

  /* The copy numbered `number`, or a blank of the same shape where there is none. */
  function picture(number, name, width, height, lazy) {
    const blank = () => el("div", { class: "blank", role: "img", "aria-label": `Picture ${name} is not there` },
      el("span", {}, "no picture"));
    let shown = blank();
    if (Number.isInteger(number)) {
      shown = el("img", {
        alt: `Picture ${name}`, loading: lazy ? "lazy" : "eager", decoding: "async",
        src: `pictures/${String(number).padStart(6, "0")}.webp`,
      });
      shown.addEventListener("error", () => shown.replaceWith(blank()));
    }
    const frame = el("div", { class: "picture" }, shown);
    frame.style.aspectRatio = `${width} / ${height}`;
    return frame;
  }

  /* layers: [{kind, boxes (quadruples), colours?, keys?}] in the order they are drawn. */
  function overlay(layers, width, height) {
    const tall = (SCALE * height) / width;
    const node = svg("svg", {
      class: "overlay", viewBox: `0 0 ${SCALE} ${tall}`, preserveAspectRatio: "none", "aria-hidden": "true",
    });
    for (const { kind, boxes, colours, keys } of layers) {
      boxes.forEach((box, i) => {
        const place = {
          x: box[0], y: (box[1] * tall) / SCALE,
          width: Math.max(1, box[2] - box[0]), height: Math.max(1, ((box[3] - box[1]) * tall) / SCALE),
        };
        const colour = colours && colours[i] !== null && colours[i] !== undefined
          ? ` c${colours[i] % PHRASE_COLOURS}` : "";
        node.append(svg("g", { class: `box ${kind}${colour}`, "data-key": keys ? keys[i] : null },
          svg("rect", { ...place, class: "halo" }), svg("rect", { ...place, class: "line" })));
      });
    }
    return node;
  }

  /* Elements below `root` with a common word in data-key light up together. */
  function join(root) {
    const light = (target) => {
      const from = target && target.closest ? target.closest("[data-key]") : null;
      const keys = from ? from.getAttribute("data-key").split(" ") : [];
      root.classList.toggle("lit", keys.length > 0);
      for (const node of root.querySelectorAll("[data-key]")) {
        node.classList.toggle("on", node.getAttribute("data-key").split(" ").some((key) => keys.includes(key)));
      }
    };
    root.addEventListener("pointerover", (event) => light(event.target));
    root.addEventListener("pointerleave", () => light(null));
    root.addEventListener("focusin", (event) => light(event.target));
    root.addEventListener("focusout", () => light(null));
  }

  return { split, iou, best, picture, overlay, join, PHRASE_COLOURS };
})();
