"use strict";
/* Puts the page together: the map, the chosen source, the sheets of pictures. */

const report = JSON.parse(document.getElementById("report-data").textContent);
const find = (id) => document.getElementById(id);
const source = { values: report.values };
const CUTOUT = 192, TILE = 100, WITHOUT = "#8a939c";
const cells = new Map(report.pictures.rows.map((row, cell) => [row, cell]));
const targets = new Set(report.targets);
const sprite = new Image();
let loaded = false;
let colouring = report.colours[0] ?? null;

/* Colours */

function colour(row) {
  const value = colouring ? report.values[colouring.key]?.[row] ?? null : null;
  if (value === null) return WITHOUT;
  if (colouring.classes) return colouring.classes.find((one) => one.name === value)?.colour ?? WITHOUT;
  const [low, high] = colouring.ends;
  return shade((value - low) / (high - low));
}

/* High values are dark, so that they stand out from the white of the map. */
function shade(t) {
  return `rgb(${between(VIRIDIS, 1 - t).map(Math.round).join(" ")})`;
}

function drawScale() {
  const place = find("scale");
  place.replaceChildren();
  if (!colouring) return;
  for (const { name, colour: background, count } of colouring.classes ?? []) {
    const line = html("span", {}, place);
    html("i", { className: "swatch" }, line).style.background = background;
    line.append(`${name || "no class"} (${count})`);
  }
  if (colouring.classes) return;
  const line = html("span", {}, place), [low, high] = colouring.ends;
  line.append(short(low));
  const bar = html("canvas", { width: 140, height: 10 }, line), context = bar.getContext("2d");
  for (let i = 0; i < 140; i++) {
    context.fillStyle = shade(i / 139);
    context.fillRect(i, 0, 1, 10);
  }
  line.append(short(high));
}

/* Pictures */

function drawPicture(context, row, x, y, size) {
  const cell = cells.get(row), { side, columns } = report.pictures;
  context.imageSmoothingEnabled = true;
  if (cell !== undefined && loaded)
    context.drawImage(sprite, (cell % columns) * side, Math.floor(cell / columns) * side, side, side, x, y, size, size);
}

function picture(row, size, parent) {
  const density = window.devicePixelRatio || 1;
  const canvas = html("canvas", { width: size * density, height: size * density }, parent);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", cells.has(row) ? `Picture of ${report.values.name[row]}` : "No picture in this page");
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  drawPicture(context, row, 0, 0, size);
  return canvas;
}

function tile(row, value, parent) {
  const button = html("button", { type: "button", className: targets.has(row) ? "target" : "" }, parent);
  button.dataset.row = row;
  picture(row, TILE, button);
  html("span", { textContent: report.values.name[row] }, button);
  html("span", { className: "value", textContent: value === null ? "–" : value.toFixed(3).replace("-", "−") }, button);
  button.addEventListener("click", () => {
    select(row);
    centre(row);
    find("map").scrollIntoView({ block: "nearest" });
  });
}

function showSheet(sheet) {
  for (const button of find("sheet-kinds").children)
    button.setAttribute("aria-pressed", button.dataset.kind === sheet.key);
  find("sheet-tiles").replaceChildren();
  for (const row of sheet.rows) tile(row, report.values[sheet.key]?.[row] ?? null, find("sheet-tiles"));
}

/* The chosen source, or the one that is pointed at */

let shown = null;

function show(row) {
  if (row === shown) return;
  shown = row;
  const name = report.values.name[row], width = report.widths[row];
  find("selected").dataset.row = row;
  find("selected-title").textContent = name;
  find("selected-hint").textContent = [
    targets.has(row) ? "The others were compared to it." : "",
    cells.has(row) ? "" : "This page holds no picture of it.",
  ].filter(Boolean).join(" ");
  find("cutouts").replaceChildren();
  const figure = html("figure", {}, find("cutouts"));
  picture(row, CUTOUT, figure);
  html("figcaption", { textContent: width === null ? "" : `${short(width)} arcsec wide, north up` }, figure);
  const body = html("tbody", {});
  for (const field of report.fields) {
    const textContent = cell(field, source, row);
    if (textContent === "–") continue;
    const line = html("tr", {}, body);
    html("th", { scope: "row", textContent: field.unit ? `${field.label} (${field.unit})` : field.label }, line);
    html("td", { textContent }, line);
  }
  find("rows").replaceChildren(body);
  find("alike-tiles").replaceChildren();
  report.alike[row].forEach((other, i) => {
    if (other >= 0) tile(other, report.likeness[row][i], find("alike-tiles"));
  });
}

function select(row) {
  plane.chosen = row;
  find("selected").dataset.chosen = row;
  show(row);
  plane.draw();
}

function centre(row) {
  if (report.x[row] !== null) plane.centre(report.x[row], report.y[row], 2 * plane.smallest);
}

function hover() {
  const at = plane.pointer, near = at && !plane.canvas.classList.contains("moving") ? plane.nearest(...at) : null;
  const row = near ? near.row : null;
  if (row === plane.pointed) return;
  plane.pointed = row;
  if (row !== null) show(row);
  else if (plane.chosen !== null) show(plane.chosen);
  find("readout").textContent = row === null ? "\u00a0" : [
    report.values.name[row],
    ...report.colours.map(({ key, label }) => [label.toLowerCase(), report.values[key]?.[row]])
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([label, value]) => `${label} ${typeof value === "number" ? short(value) : value}`),
  ].join("  ·  ");
  plane.draw();
}

const numbers = (values) => values.map((value) => value ?? NaN);
const plane = new PlaneMap(find("sky"), report.frame, { x: numbers(report.x), y: numbers(report.y) },
  report.pictures.rows, { colour, drawPicture, select, hover, targets: report.targets });

for (const { key, label } of report.colours) html("option", { value: key, textContent: label }, find("colour-by"));
if (!report.colours.length) find("colour-by").closest("label").remove();
else find("colour-by").addEventListener("input", (event) => {
  colouring = report.colours.find((one) => one.key === event.target.value);
  drawScale();
  plane.draw();
});
find("with-pictures").addEventListener("change", (event) => {
  plane.withPictures = event.target.checked;
  plane.draw();
});
find("zoom-in").addEventListener("click", () => plane.zoomBy(1.6));
find("zoom-out").addEventListener("click", () => plane.zoomBy(1 / 1.6));
find("zoom-fit").addEventListener("click", () => plane.fit());

for (const sheet of report.sheets) {
  const button = html("button", { type: "button", textContent: `${sheet.label} (${sheet.rows.length})` }, find("sheet-kinds"));
  button.dataset.kind = sheet.key;
  button.addEventListener("click", () => showSheet(sheet));
}

async function start() {
  if (report.pictures.uri) {
    sprite.src = report.pictures.uri;
    await sprite.decode();
    loaded = true;
  }
  drawScale();
  showSheet(report.sheets[0]);
  const first = report.targets[0] ?? report.sheets[0].rows[0];
  if (first !== undefined) select(first);
  plane.draw();
  document.body.dataset.ready = "true";
}
start();
