"use strict";
/* Decisions: what is chosen, what becomes of it, and how it is kept. */

const page = JSON.parse(document.getElementById("report-data").textContent);
const find = (id) => document.getElementById(id);
const COLOURS = ["#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A6D00", "#6A3D9A", "#B2182B", "#1B7837"];
const KEPT = `cyclades-labels-${page.identity}`, MOST_STEPS = 200;

const fresh = () => page.objects.map((_, number) => ({ candidates: [number], box: null, state: "open", kind: "" }));
const state = {
  objects: fresh(),
  chosen: new Set(),
  colours: Object.fromEntries(page.classes.map((name, k) => [name, COLOURS[k % COLOURS.length]])),
};
const steps = [];

function decisions() {
  return {
    format: page.format, version: page.version, image: page.image, identity: page.identity,
    configuration: page.configuration, classes: page.classes, objects: state.objects,
  };
}

/* What the route thinks an object is: of a merged one, several components. */
function suggestion(object) {
  if (object.candidates.length > 1 && page.classes.includes("multi-component")) return "multi-component";
  return object.candidates.length ? page.objects[object.candidates[0]].suggestion : page.classes[0];
}

function tell(text) { find("told").textContent = text; }

function keep() {
  try { localStorage.setItem(KEPT, JSON.stringify(state.objects)); } catch { /* a private window keeps nothing */ }
}

function change(act) {
  steps.push(JSON.stringify(state.objects));
  if (steps.length > MOST_STEPS) steps.shift();
  act();
  keep();
  show();
}

function chosen() { return [...state.chosen].map((number) => state.objects[number]); }

function decide(what, kind) {
  if (!state.chosen.size) return;
  change(() => {
    for (const object of chosen()) {
      object.state = what;
      object.kind = what === "accepted" ? kind ?? (object.kind || suggestion(object)) : "";
    }
  });
}

function merge() {
  const parts = chosen().filter((object) => object.candidates.length);
  if (parts.length < 2) return;
  change(() => {
    const numbers = parts.flatMap((object) => object.candidates).sort((a, b) => a - b);
    const made = { candidates: numbers, box: null, state: "accepted", kind: "" };
    made.kind = suggestion(made);
    state.objects = state.objects.filter((object) => !parts.includes(object));
    state.objects.push(made);
    state.chosen = new Set([state.objects.length - 1]);
  });
}

function separate() {
  const whole = chosen().filter((object) => object.candidates.length > 1 || object.box);
  if (!whole.length) return;
  change(() => {
    state.objects = state.objects.filter((object) => !whole.includes(object));
    const first = state.objects.length;
    for (const object of whole)
      for (const number of object.candidates)
        state.objects.push({ candidates: [number], box: null, state: "open", kind: "" });
    state.chosen = new Set(state.objects.slice(first).map((_, k) => first + k));
  });
}

function undo() {
  const before = steps.pop();
  if (before === undefined) return;
  state.objects = JSON.parse(before);
  state.chosen.clear();
  keep();
  show();
}

function next() {
  let best = null;
  state.objects.forEach((object, number) => {
    if (object.state !== "open" || !object.candidates.length) return;
    const snr = page.objects[object.candidates[0]].snr;
    if (best === null || snr > best.snr) best = { number, snr };
  });
  if (best === null) return tell("Nothing is open.");
  state.chosen = new Set([best.number]);
  const [x0, y0, x1, y1] = viewer.bounds(state.objects[best.number]);
  const fits = 0.25 * Math.min(viewer.width, viewer.height) / Math.max(x1 - x0, y1 - y0, 8);
  viewer.zoom = Math.min(fits, 12);
  viewer.centre((x0 + x1) / 2, (y0 + y1) / 2, 0);
  show();
}

function show() {
  const count = (what) => state.objects.filter((object) => object.state === what).length;
  find("progress").textContent =
    `${count("accepted")} accepted, ${count("rejected")} rejected, ${count("open")} open`;
  const some = state.chosen.size > 0;
  for (const id of ["accept", "reject", "reopen"]) find(id).disabled = !some;
  find("merge").disabled = chosen().filter((object) => object.candidates.length).length < 2;
  find("separate").disabled = !chosen().some((object) => object.candidates.length > 1 || object.box);
  find("undo").disabled = !steps.length;
  for (const button of find("classes").children) {
    button.disabled = !some;
    const all = some && chosen().every((o) => o.state === "accepted" && o.kind === button.dataset.name);
    button.setAttribute("aria-pressed", String(all));
  }
  const table = find("rows");
  table.replaceChildren();
  find("selected-hint").hidden = some;
  if (some) {
    const head = html("tr", {}, html("thead", {}, table));
    for (const name of ["object", "state", "class", "S/N", "pixels"]) html("th", { textContent: name }, head);
    const body = html("tbody", {}, table);
    for (const object of chosen()) {
      const parts = object.candidates.map((number) => page.objects[number]);
      const line = html("tr", {}, body);
      const cells = [
        object.box ? "drawn" : object.candidates.map((number) => number + 1).join(" + "), object.state,
        object.kind || (object.state === "open" ? `${suggestion(object)}?` : ""),
        parts.length ? Math.max(...parts.map((part) => part.snr)).toFixed(1) : "–",
        parts.length ? String(parts.reduce((sum, part) => sum + part.pixels, 0)) : "–",
      ];
      for (const text of cells) html("td", { textContent: text }, line);
    }
  }
  viewer.draw();
}

function pick(number, more) {
  if (number === null) { if (!more) state.chosen.clear(); }
  else if (!more) state.chosen = new Set([number]);
  else if (!state.chosen.delete(number)) state.chosen.add(number);
  show();
}

function drawMode(on) {
  viewer.drawing = on;
  find("draw").setAttribute("aria-pressed", String(on));
  viewer.canvas.classList.toggle("drawing", on);
}

function addBox(box) {
  change(() => {
    state.objects.push({ candidates: [], box, state: "accepted", kind: page.classes[0] });
    state.chosen = new Set([state.objects.length - 1]);
  });
  drawMode(false);
}

function readout() {
  if (!viewer?.pointer) return (find("readout").textContent = "\u00a0");
  const [x, y] = viewer.toImage(...viewer.pointer), code = viewer.codeAt(x, y);
  const sky = page.frame.sky ? viewer.skyAt(x, y) : null;
  const parts = [`x ${x.toFixed(1)}, y ${y.toFixed(1)}`];
  if (sky) parts.push(`${sky[0].toFixed(5)}°, ${sky[1].toFixed(5).replace("-", "−")}°`);
  if (code) parts.push(`${viewer.significance(code).toFixed(1)} times the noise`);
  find("readout").textContent = parts.join(" · ");
}

function save() {
  const blob = new Blob([JSON.stringify(decisions(), null, 1)], { type: "application/json" });
  const link = html("a", { href: URL.createObjectURL(blob), download: `${page.image}.decisions.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  tell(`Saved as ${link.download}.`);
}

async function load(file) {
  let content;
  try { content = JSON.parse(await file.text()); } catch { return tell(`${file.name} is no file of this page.`); }
  if (content.format !== page.format || !Array.isArray(content.objects)) return tell(`${file.name} is no file of this page.`);
  if (content.identity !== page.identity) return tell(`${file.name} is about other objects than this page.`);
  change(() => { state.objects = content.objects; state.chosen.clear(); });
  tell(`Going on with ${file.name}.`);
}

/* Put together */

page.classes.forEach((name, k) => {
  const button = html("button", { type: "button", title: `Accept as ${name} (${k + 1})` }, find("classes"));
  button.dataset.name = name;
  html("i", { className: "swatch" }, button).style.background = state.colours[name];
  button.append(name, " ");
  if (k < 9) html("kbd", { textContent: k + 1 }, button);
  button.addEventListener("click", () => decide("accepted", name));
});
try {
  const before = JSON.parse(localStorage.getItem(KEPT) ?? "null");
  if (before) {
    state.objects = before;
    tell("Going on with what this browser kept.");
  }
} catch { /* nothing was kept */ }

let viewer = null;
viewer = new LabelViewer(find("sky"), page.frame, page.objects, state, pick, addBox, readout);
const actions = {
  accept: () => decide("accepted"), reject: () => decide("rejected"), reopen: () => decide("open"),
  merge, separate, next, undo, save, draw: () => drawMode(!viewer.drawing),
  "zoom-in": () => viewer.zoomBy(1.4), "zoom-out": () => viewer.zoomBy(1 / 1.4), "zoom-fit": () => viewer.fit(),
};
for (const [id, act] of Object.entries(actions)) find(id).addEventListener("click", act);
const keys = { a: "accept", r: "reject", o: "reopen", m: "merge", s: "separate", n: "next", z: "undo", d: "draw" };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  const key = event.key.toLowerCase(), number = Number(event.key);
  if (keys[key]) actions[keys[key]]();
  else if (number >= 1 && number <= Math.min(9, page.classes.length)) decide("accepted", page.classes[number - 1]);
  else if (key === "escape") { drawMode(false); state.chosen.clear(); show(); }
  else return;
  event.preventDefault();
});
for (const id of ["stretch", "colours"])
  find(id).addEventListener("change", (event) => { viewer[id] = event.target.value; viewer.recolour(); });
const ceiling = () => {
  viewer.ceiling = Number(find("ceiling").value);
  find("ceiling-value").textContent = `${viewer.ceilingSigma.toPrecision(2)} σ`;
  viewer.recolour();
};
find("ceiling").addEventListener("input", ceiling);
find("load").addEventListener("change", (event) => { if (event.target.files.length) load(event.target.files[0]); });
find("command").textContent = `cyclades label ${page.image}.fits --decisions ${page.image}.decisions.json --output DIR`;
viewer.load().then(() => {
  ceiling();
  show();
  document.body.dataset.ready = "";
});
