"use strict";
/* Curves of all catalogues in the same axes, as SVG. */

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function html(name, properties, parent) {
  const node = Object.assign(document.createElement(name), properties);
  if (parent) parent.append(node);
  return node;
}

/* Markers differ in shape as well as in colour. */
function marker(shape, x, y, r, colour, parent) {
  const paths = [
    `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
    `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    `M${x} ${y - 1.3 * r}l${1.2 * r} ${2.2 * r}h${-2.4 * r}z`,
    `M${x} ${y - 1.4 * r}l${1.4 * r} ${1.4 * r}l${-1.4 * r} ${1.4 * r}l${-1.4 * r} ${-1.4 * r}z`,
  ];
  return svg("path", { d: paths[shape % paths.length], fill: colour }, parent);
}

function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const m of high / low > 300 ? [1] : high / low > 30 ? [1, 3] : [1, 2, 5])
        if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) found.push(m * 10 ** e);
    // of a short stretch of a logarithmic axis, round numbers with equal steps are more
    if (found.length > 2) return found;
  }
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-6) * step; v <= high + 1e-6 * step; v += step)
    found.push(Math.abs(v) < 1e-9 * step ? 0 : v);
  return found;
}

function tickText(value) {
  if (value !== 0 && (Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3)) {
    const [digits, power] = Number(value.toPrecision(4)).toExponential().split("e");
    return `${digits === "1" ? "" : digits + "×"}10^${Number(power)}`;
  }
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

/* Text with 10^n as a raised exponent. */
function tickLabel(value, attributes, parent) {
  const [base, power] = tickText(value).split("^");
  const node = svg("text", attributes, parent, base);
  if (power !== undefined)
    svg("tspan", { dy: -4, "font-size": 9 }, node, power.replace("-", "−"));
}

function axisRange(values, given, log) {
  const kept = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  let low = given?.[0] ?? Math.min(...kept), high = given?.[1] ?? Math.max(...kept);
  if (!(Number.isFinite(low) && Number.isFinite(high))) return log ? [1, 10] : [0, 1];
  if (log) {
    if (given?.[0] == null) low /= 1.15;
    if (given?.[1] == null) high *= 1.15;
    return high > low ? [low, high] : [low / 2, low * 2];
  }
  const pad = high > low ? 0.06 * (high - low) : Math.abs(high) * 0.1 || 1;
  return [given?.[0] ?? low - pad, given?.[1] ?? high + pad];
}

/* What a curve of the image itself, and of no catalogue, looks like. */
const IMAGE = { name: "image", colour: "#1c2024", dash: [] };

function drawFigure(figure, layers, parent) {
  const box = html("div", { className: "figure" }, parent);
  html("h3", { textContent: figure.title }, box);
  html("p", { className: "note", textContent: figure.note }, box);
  const W = 430, H = 290, L = 58, R = 12, T = 8, B = 44;
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img",
    "aria-label": `${figure.title}: ${figure.y.label} against ${figure.x.label}` }, box);
  const xs = figure.series.flatMap((s) => s.x);
  const ys = figure.series.flatMap((s) => [...s.y, ...(s.low ?? []), ...(s.high ?? [])])
    .concat(figure.reference ?? []);
  const [x0, x1] = axisRange(xs, figure.x.range, figure.x.log);
  const [y0, y1] = axisRange(ys, figure.y.range, figure.y.log);
  const along = (v, a, b, log) => (log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a));
  const px = (v) => L + (W - L - R) * along(v, x0, x1, figure.x.log);
  const py = (v) => H - B - (H - T - B) * along(v, y0, y1, figure.y.log);
  for (const v of ticks(x0, x1, figure.x.log)) {
    svg("line", { class: "grid", x1: px(v), x2: px(v), y1: T, y2: H - B }, root);
    const anchor = px(v) > W - R - 12 ? "end" : "middle";
    tickLabel(v, { x: px(v), y: H - B + 16, "text-anchor": anchor }, root);
  }
  for (const v of ticks(y0, y1, figure.y.log)) {
    svg("line", { class: "grid", x1: L, x2: W - R, y1: py(v), y2: py(v) }, root);
    tickLabel(v, { x: L - 6, y: py(v) + 4, "text-anchor": "end" }, root);
  }
  for (const v of figure.reference ?? [])
    svg("line", { class: "reference", x1: L, x2: W - R, y1: py(v), y2: py(v) }, root);
  svg("rect", { class: "frame", x: L, y: T, width: W - L - R, height: H - T - B }, root);
  svg("text", { class: "label", x: (L + W - R) / 2, y: H - 8, "text-anchor": "middle" }, root,
    figure.x.label);
  svg("text", { class: "label", transform: `translate(13 ${(T + H - B) / 2}) rotate(-90)`,
    "text-anchor": "middle" }, root, figure.y.label);
  const clip = `clip-${Math.random().toString(36).slice(2)}`;
  svg("rect", { x: L, y: T - 5, width: W - L - R, height: H - T - B + 10 },
    svg("clipPath", { id: clip }, root));
  const inside = svg("g", { "clip-path": `url(#${clip})` }, root);
  for (const series of figure.series) {
    const layer = layers[series.layer] ?? IMAGE;
    const group = svg("g", { "data-layer": series.layer, class: "series" }, inside);
    const shown = series.x.map((_, i) => i).filter((i) => series.y[i] !== null &&
      (!figure.y.log || series.y[i] > 0) && (!figure.x.log || series.x[i] > 0));
    const shift = figure.plain ? 0 : (series.layer - (layers.length - 1) / 2) * 4;
    const at = (i) => [px(series.x[i]) + shift, py(series.y[i])];
    if (shown.length > 1)
      svg("path", { d: "M" + shown.map((i) => at(i).join(" ")).join("L"), fill: "none",
        stroke: layer.colour, "stroke-width": 1.8, "stroke-dasharray": layer.dash.join(" ") }, group);
    if (figure.plain) continue;
    for (const i of shown) {
      const [x, y] = at(i);
      if (series.low && series.low[i] !== null && series.high[i] !== null)
        svg("line", { x1: x, x2: x, y1: py(figure.y.log ? Math.max(series.low[i], y0) : series.low[i]),
          y2: py(series.high[i]), stroke: layer.colour, "stroke-width": 1.2 }, group);
      const dot = marker(series.layer, x, y, 3.6, layer.colour, group);
      const interval = series.low && series.low[i] !== null
        ? ` (${short(series.low[i])} to ${short(series.high[i])})` : "";
      const number = series.n ? `, ${series.n[i]} sources` : "";
      svg("title", {}, dot, `${layer.name}: ${short(series.y[i])}${interval} at ` +
        `${short(series.x[i])}${number}`);
    }
  }
}

function short(value) {
  if (value === null || value === undefined) return "–";
  return String(Number(value.toPrecision(4))).replace("-", "−");
}
