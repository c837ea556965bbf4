"use strict";
/* Puts the page together: catalogues on and off, mismatches, the chosen source. */

const report = JSON.parse(document.getElementById("report-data").textContent);
const find = (id) => document.getElementById(id);
const layers = report.layers.map((layer) => ({ ...layer, shown: true }));
const CUTOUT = 150, MOST_ROWS = 4;

function select(layer, row) {
  const id = layer.match[row];
  const members = layers.flatMap((other) => {
    const near = other.clump.flatMap((c, i) => (c === layer.clump[row] ? [i] : []));
    const found = near.map((i) => ({ layer: other, row: i, same: other.match[i] === id }));
    found.sort((a, b) => b.same - a.same);
    return found.slice(0, MOST_ROWS);
  });
  find("selected-title").textContent = `Source ${id}`;
  find("selected").dataset.match = id;
  const absent = layers.filter((o) => !members.some((m) => m.layer === o && m.same)).map((o) => o.name);
  find("selected-hint").textContent = absent.length ? `Not in ${absent.join(", ")}.` : "";
  viewer.marked = [layer.x[row], layer.y[row]];
  viewer.draw();
  drawRows(members);
  drawCutouts(layer.x[row], layer.y[row], layer.a[row]);
}

function heading(member, parent) {
  const node = html("th", { scope: "col" }, parent);
  const swatch = html("span", { className: "swatch" }, node);
  swatch.style.background = member.layer.colour;
  node.append(member.layer.name);
  if (!member.same) html("span", { className: "unit", textContent: "beside it" }, node);
  return node;
}

function drawRows(members) {
  const table = find("rows");
  table.replaceChildren();
  const head = html("tr", {}, html("thead", {}, table));
  html("th", { scope: "col", textContent: "" }, head);
  members.forEach((member) => heading(member, head));
  const body = html("tbody", {}, table);
  for (const field of report.fields) {
    const texts = members.map((m) => cell(field, m.layer, m.row));
    if (texts.every((t) => t === "–")) continue;
    const line = html("tr", {}, body);
    html("th", { scope: "row", textContent: field.unit ? `${field.label} (${field.unit})` : field.label }, line);
    texts.forEach((textContent) => html("td", { textContent }, line));
  }
  const [first, ...rest] = members;
  if (!rest.length) return;
  const scale = report.frame.pixel_scale;
  const comparisons = [
    [`offset from ${first.layer.name} (arcsec)`, (m) => Math.hypot(m.layer.x[m.row] - first.layer.x[first.row],
      m.layer.y[m.row] - first.layer.y[first.row]) * scale],
    [`total flux / ${first.layer.name}`, (m) => ratio(m, first, "total_flux")],
    [`peak flux / ${first.layer.name}`, (m) => ratio(m, first, "peak_flux")],
  ];
  for (const [label, value] of comparisons) {
    const line = html("tr", {}, body);
    html("th", { scope: "row", textContent: label }, line);
    members.forEach((m, i) => {
      const v = i ? value(m) : null;
      html("td", { textContent: Number.isFinite(v) && v !== null ? Number(v.toPrecision(3)) : "–" }, line);
    });
  }
}

function ratio(member, first, key) {
  const [a, b] = [member, first].map((m) => m.layer.values[key]?.[m.row] ?? NaN);
  return a / b;
}

function drawCutouts(x, y, size) {
  const place = find("cutouts");
  place.replaceChildren();
  const side = Math.max(8 * (report.frame.beam?.[0] ?? 5), 3 * size);
  const zoom = CUTOUT / side, density = window.devicePixelRatio || 1;
  const plain = report.frame.uri ? [["image", []]] : [];
  const views = [...plain, ...layers.map((layer) => [layer.name, [layer]])];
  for (const [name, shown] of views) {
    const figure = html("figure", {}, place);
    const canvas = html("canvas", { width: CUTOUT * density, height: CUTOUT * density }, figure);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Cut-out of the image${shown.length ? " with " + name : ""}`);
    const mismatches = viewer.onlyMismatches;
    viewer.onlyMismatches = false;
    viewer.render(canvas.getContext("2d"), { x0: x - side / 2, y0: y - side / 2, zoom,
      width: CUTOUT, height: CUTOUT, ratio: density, layers: shown });
    viewer.onlyMismatches = mismatches;
    html("figcaption", { textContent: name, title: name }, figure);
  }
  const note = html("figure", {}, place);
  html("figcaption", { textContent: `${Number((side * report.frame.pixel_scale).toPrecision(2))} arcsec wide` }, note);
}

function showMismatches(kind) {
  for (const button of find("mismatch-kinds").children)
    button.setAttribute("aria-pressed", button.dataset.kind === kind.key);
  const head = html("tr", {}), body = find("mismatch-table").querySelector("tbody");
  for (const { label, unit } of kind.columns) {
    const text = kind.rows.some((entry) => typeof entry.cells[head.children.length] === "string");
    const node = html("th", { scope: "col", textContent: label, className: text ? "text" : "" }, head);
    html("span", { className: "unit", textContent: unit || " " }, node);
  }
  find("mismatch-table").querySelector("thead").replaceChildren(head);
  body.replaceChildren();
  if (!kind.rows.length) html("td", { textContent: "None.", colSpan: kind.columns.length }, html("tr", {}, body));
  for (const entry of kind.rows) {
    const line = html("tr", {}, body);
    const layer = layers[entry.layer];
    entry.cells.forEach((value, i) => {
      const node = html("td", {}, line);
      if (i === 0) {
        const swatch = html("span", { className: "swatch" }, node);
        swatch.style.background = layers[entry.of].colour;
        html("button", { type: "button", textContent: value }, node);
      } else {
        node.textContent = typeof value === "number" ? short(value) : value ?? "–";
        if (typeof value === "string") node.className = "text";
      }
    });
    line.addEventListener("click", () => {
      body.querySelector(".chosen")?.classList.remove("chosen");
      line.classList.add("chosen");
      viewer.centre(layer.x[entry.row], layer.y[entry.row], 260 / Math.max(12 * (report.frame.beam?.[0] ?? 5), 20));
      select(layer, entry.row);
    });
  }
}

function readout() {
  const at = viewer.pointer, unit = report.frame.unit;
  if (!at) { find("readout").textContent = " "; return; }
  const [x, y] = viewer.toImage(...at), sky = viewer.skyAt(x, y), code = viewer.codeAt(x, y);
  let text = `x ${x.toFixed(1)}, y ${y.toFixed(1)}`;
  if (sky) text += `  ·  ${sexagesimal(sky[0], true)} ${sexagesimal(sky[1], false)} (ICRS)`;
  if (code === 0) text += "  ·  blank";
  else if (code) {
    const s = viewer.significance(code), value = report.frame.level + s * report.frame.rms;
    text += `  ·  ≈ ${Number(value.toPrecision(2))} ${unit} (${Number(s.toPrecision(2))} rms)`.replaceAll("-", "−");
  }
  find("readout").textContent = text;
}

function scaleBar() {
  const scale = report.frame.pixel_scale, nice = [1, 2, 5];
  let length = null;
  for (let e = 4; e >= -2 && length === null; e--)
    for (const m of [...nice].reverse())
      if (length === null && (m * 10 ** e / scale) * viewer.zoom < 160) length = m * 10 ** e;
  const width = (length / scale) * viewer.zoom;
  const label = length >= 3600 ? `${length / 3600}°` : length >= 60 && length % 60 === 0 ? `${length / 60}′` : `${length}″`;
  const key = find("key"), root = svg("svg", { width: width + 60, height: 44 });
  const halo = { "paint-order": "stroke", stroke: "#fff", "stroke-width": 3 };
  svg("path", { d: `M2 36h${width}m0 -5v10M2 31v10`, stroke: "#fff", "stroke-width": 5, fill: "none" }, root);
  svg("path", { d: `M2 36h${width}m0 -5v10M2 31v10`, stroke: "#000", "stroke-width": 2, fill: "none" }, root);
  svg("text", { x: 4, y: 27, ...halo, "font-size": 13 }, root, label);
  key.replaceChildren(root);
}

function toggle(index, shown) {
  layers[index].shown = shown;
  for (const node of document.querySelectorAll(`[data-layer="${index}"]`)) node.style.display = shown ? "" : "none";
  viewer.draw();
}

const viewer = new Viewer(find("sky"), report.frame, layers, select, () => { readout(); scaleBar(); });
viewer.load().then(() => { document.body.dataset.ready = "true"; });
for (const figure of report.figures) drawFigure(figure, layers, find("figures"));
const drawn = new Set(report.figures.flatMap((figure) => figure.series.map((s) => s.layer)).filter((layer) => layer !== null));
for (const index of [...drawn].sort((a, b) => a - b)) {
  const line = html("span", {}, find("legend")), layer = layers[index];
  line.dataset.layer = index;
  const key = svg("svg", { width: 36, height: 14 }, line);
  svg("path", { d: "M0 7h36", stroke: layer.colour, "stroke-width": 1.8, "stroke-dasharray": layer.dash.join(" ") }, key);
  marker(index, 18, 7, 3.6, layer.colour, key);
  line.append(layer.name);
}
if (!report.figures.length) find("curves").remove();
for (const kind of report.mismatches) {
  const button = html("button", { type: "button", textContent: kind.label }, find("mismatch-kinds"));
  button.dataset.kind = kind.key;
  button.addEventListener("click", () => showMismatches(kind));
}
if (report.mismatches.length) showMismatches(report.mismatches[0]);
else {
  find("mismatches").remove();
  find("only-mismatches").closest("label").remove();
  find("selected-hint").textContent = "Click a source in the image.";
}
layers.forEach((_, index) => {
  find(`layer-${index}`).addEventListener("change", (event) => toggle(index, event.target.checked));
});
find("zoom-in").addEventListener("click", () => viewer.zoomBy(1.6));
find("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.6));
find("zoom-fit").addEventListener("click", () => viewer.fit());
const recolour = () => {
  viewer.stretch = find("stretch").value;
  viewer.colours = find("colours").value;
  viewer.ceiling = Number(find("ceiling").value);
  find("ceiling-value").textContent = `${Number(viewer.ceilingSigma.toPrecision(2))} rms`;
  viewer.recolour();
};
for (const id of ["stretch", "colours", "ceiling"]) find(id).addEventListener("input", recolour);
find("only-mismatches")?.addEventListener("change", (event) => {
  viewer.onlyMismatches = event.target.checked;
  viewer.draw();
});
if (!report.frame.uri) for (const id of ["stretch", "colours", "ceiling"]) find(id).closest("label").remove();
else recolour();
