"use strict";
/* What all parts of the page share: elements, data files, the state in the address.
   Text from the data reaches the page as text nodes and attribute values only, never as markup. */
const Groma = (() => {
  const data = new Map();
  const loading = new Map();
  const SVG = "http://www.w3.org/2000/svg";

  // ---- elements ----
  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
      else node.setAttribute(key, value === true ? "" : String(value));
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  }
  const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
  const byId = (id) => document.getElementById(id);
  const say = (text) => { byId("said").textContent = text; };

  // ---- data files ----
  const checked = (address) => {
    if (!/^data\/[a-z0-9-]+\.js$/.test(address)) throw new TypeError("not a data file of this report");
    return address;
  };
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("groma-data", { createScriptURL: checked })
    : { createScriptURL: checked };

  const put = (name, text) => data.set(name, JSON.parse(text));

  function load(name) {
    if (!loading.has(name)) {
      loading.set(name, new Promise((resolve, reject) => {
        if (data.has(name)) return resolve(data.get(name));
        const script = document.createElement("script");
        script.src = policy.createScriptURL(`data/${name}.js`);
        script.addEventListener("load", () => { script.remove(); resolve(data.get(name)); });
        script.addEventListener("error", () => {
          loading.delete(name);
          reject(new Error(`data/${name}.js cannot be read: is the report's folder whole?`));
        });
        document.head.append(script);
      }));
    }
    return loading.get(name);
  }

  // ---- state ----
  const index = () => data.get("index");
  const KEYS = ["view", "bench", "a", "b", "only", "tag", "area", "q", "truth", "props", "id"];
  const VIEWS = ["summary", "plots", "gallery"];
  const listeners = [];
  let state = null;

  function defaults() {
    const first = index().benchmarks.find((b) => b.data) || index().benchmarks[0];
    const two = index().runs.length > 1;
    return {
      view: "summary", bench: first ? first.name : "", a: "0", b: two ? "1" : "none", only: "all", tag: "", area: "",
      q: "", truth: "1", props: "0", id: "",
    };
  }

  function read() {
    const found = defaults();
    const given = new URLSearchParams(location.hash.slice(1));
    for (const key of KEYS) if (given.has(key)) found[key] = given.get(key);
    const runs = index().runs.length;
    const isRun = (text) => /^\d+$/.test(text) && Number(text) < runs;
    if (!VIEWS.includes(found.view)) found.view = "summary";
    if (!index().benchmarks.some((b) => b.name === found.bench)) found.bench = defaults().bench;
    if (!isRun(found.a)) found.a = "0";
    if (!isRun(found.b) || found.b === found.a) found.b = "none";
    return found;
  }

  function address(next) {
    const plain = defaults();
    const kept = new URLSearchParams();
    for (const key of KEYS) if (next[key] !== plain[key] || key === "view") kept.set(key, next[key]);
    return "#" + kept.toString();
  }

  function tell(before) {
    for (const listener of listeners) listener(state, before);
  }

  /* Change the state; a change of view is a step in the browser's history, other changes are not. */
  function set(patch) {
    const before = state;
    state = { ...state, ...patch };
    if (state.b === state.a) state.b = "none";
    const method = before.view !== state.view ? "pushState" : "replaceState";
    history[method](null, "", address(state));
    tell(before);
  }

  function begin() {
    state = read();
    const again = () => { const before = state; state = read(); tell(before); };
    window.addEventListener("hashchange", again);
    window.addEventListener("popstate", again);
    tell(null);
  }

  const bench = () => index().benchmarks.find((b) => b.name === state.bench);
  const runsShown = () => [["a", state.a], ["b", state.b]].filter(([, run]) => run !== "none");
  /* table[key], for a key that the data or the address gives. */
  const pick = (table, key, otherwise) => (Object.hasOwn(table, key) ? table[key] : otherwise);
  const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : (100 * value).toFixed(digits));

  return {
    el, svg, byId, say, put, load, index, set, begin, bench, runsShown, percent, pick,
    on: (listener) => listeners.push(listener),
    get state() { return state; },
  };
})();
