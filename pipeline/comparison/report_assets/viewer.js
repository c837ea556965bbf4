"use strict";
/* The image with the sources of every catalogue on it, on a 2-D canvas. */

const MAPS = {
  grey: { light: false, at: (t) => [255 * t, 255 * t, 255 * t] },
  inverted: { light: true, at: (t) => [255 - 245 * t, 255 - 245 * t, 255 - 245 * t] },
  viridis: { light: false, at: (t) => between(VIRIDIS, t) },
};
const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const FLOOR = -3, SMALLEST = 3.5, LARGEST_ZOOM = 40;

function between(stops, t) {
  const at = Math.min(Math.max(t, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
  return stops[i].map((v, k) => v + (at - i) * (stops[i + 1][k] - v));
}

const STRETCHES = {
  linear: (t) => t,
  sqrt: (t) => Math.sqrt(t),
  log: (t) => Math.log1p(300 * t) / Math.log1p(300),
};

class Viewer {
  /* frame: size, codes of the pixels, sky grid; layers: the catalogues. */
  constructor(canvas, frame, layers, onSelect, onMove) {
    Object.assign(this, { canvas, frame, layers, onSelect, onMove });
    this.onlyMismatches = false;
    this.stretch = "asinh";
    this.colours = "inverted";
    this.ceiling = 30;
    this.marked = null;
    this.queued = false;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
    this.fit();
  }

  async load() {
    if (!this.frame.uri) return;
    const image = new Image();
    image.src = this.frame.uri;
    await image.decode();
    const plane = document.createElement("canvas");
    plane.width = image.width;
    plane.height = image.height;
    const context = plane.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, image.width, image.height);
    this.codes = new Uint8Array(image.width * image.height);
    for (let i = 0; i < this.codes.length; i++) this.codes[i] = pixels.data[4 * i];
    this.plane = plane;
    this.pixels = pixels;
    this.recolour();
  }

  /* Pixel codes are steps of asinh((value - level) / rms); 0 is blank. */
  significance(code) {
    return Math.sinh(this.frame.first + (code - 1) * this.frame.step);
  }

  get ceilingSigma() {
    const top = Math.max(this.frame.brightest ?? 100, 20);
    return 5 * (top / 5) ** (this.ceiling / 100);
  }

  recolour() {
    if (!this.codes) return;
    const table = new Uint32Array(256), high = this.ceilingSigma, map = MAPS[this.colours];
    const soft = (s) => Math.asinh(s / 3);
    for (let code = 1; code < 256; code++) {
      const s = Math.min(Math.max(this.significance(code), FLOOR), high);
      const t = this.stretch === "asinh"
        ? (soft(s) - soft(FLOOR)) / (soft(high) - soft(FLOOR))
        : STRETCHES[this.stretch]((s - FLOOR) / (high - FLOOR));
      const [r, g, b] = map.at(t).map(Math.round);
      table[code] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
    table[0] = map.light ? 0xffd9cfc8 : 0xff4a3f38;
    const out = new Uint32Array(this.pixels.data.buffer);
    for (let i = 0; i < out.length; i++) out[i] = table[this.codes[i]];
    this.plane.getContext("2d").putImageData(this.pixels, 0, 0);
    this.draw();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.ratio = ratio;
    this.draw();
  }

  fit() {
    const { nx, ny } = this.frame;
    this.zoom = this.smallest = Math.min(this.width / nx, this.height / ny) || 1;
    this.x = (nx - 1) / 2;
    this.y = (ny - 1) / 2;
    this.draw();
  }

  toScreen(x, y) {
    return [this.width / 2 + (x - this.x) * this.zoom, this.height / 2 - (y - this.y) * this.zoom];
  }

  toImage(sx, sy) {
    return [this.x + (sx - this.width / 2) / this.zoom, this.y - (sy - this.height / 2) / this.zoom];
  }

  zoomBy(factor, sx = this.width / 2, sy = this.height / 2) {
    const [x, y] = this.toImage(sx, sy);
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.5 * this.smallest), LARGEST_ZOOM);
    const [nowX, nowY] = this.toImage(sx, sy);
    this.x += x - nowX;
    this.y += y - nowY;
    this.draw();
  }

  pan(dx, dy) {
    this.x = Math.min(Math.max(this.x - dx / this.zoom, 0), this.frame.nx);
    this.y = Math.min(Math.max(this.y + dy / this.zoom, 0), this.frame.ny);
    this.draw();
  }

  centre(x, y, zoom) {
    this.x = x;
    this.y = y;
    this.zoom = Math.max(this.zoom, zoom);
    this.draw();
  }

  draw() {
    if (this.queued || this.zoom === undefined) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.paint();
    });
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const [x0] = this.toImage(0, this.height), [, y0] = this.toImage(0, this.height);
    const drawn = this.render(context, {
      x0, y0, zoom: this.zoom, width: this.width, height: this.height, ratio: this.ratio,
      layers: this.layers.filter((layer) => layer.shown),
    });
    if (this.marked) {
      const [sx, sy] = this.toScreen(...this.marked);
      context.strokeStyle = MAPS[this.colours].light ? "#000" : "#fff";
      context.lineWidth = 1.5;
      context.setLineDash([]);
      context.beginPath();
      for (const [cx, cy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        const gap = Math.max(16, 1.2 * (this.frame.beam?.[0] ?? 8) * this.zoom);
        context.moveTo(sx + cx * gap, sy + cy * gap);
        context.lineTo(sx + cx * (gap + 14), sy + cy * (gap + 14));
      }
      context.stroke();
    }
    /* what is on the screen, for assistive technology and for tests */
    Object.assign(this.canvas.dataset, {
      x: this.x.toFixed(2), y: this.y.toFixed(2), zoom: this.zoom.toFixed(4),
      drawn: JSON.stringify(drawn),
    });
    this.onMove?.();
  }

  /* Draw a part of the field; (x0, y0) is its lower left corner in image pixels. */
  render(context, { x0, y0, zoom, width, height, ratio, layers }) {
    const light = MAPS[this.colours].light || !this.plane;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = this.plane ? "#e9ebee" : "#fff";
    context.fillRect(0, 0, width, height);
    const screen = (x, y) => [(x - x0) * zoom, height - (y - y0) * zoom];
    if (this.plane) {
      const { nx, ny, bin } = this.frame;
      const [left, top] = screen(-0.5, -0.5 + this.plane.height * bin);
      context.imageSmoothingEnabled = zoom * bin < 1;
      context.drawImage(this.plane, left, top, this.plane.width * bin * zoom,
        this.plane.height * bin * zoom);
    }
    const drawn = {};
    for (const layer of layers) {
      drawn[layer.name] = 0;
      const index = this.layers.indexOf(layer);
      const casing = light ? "rgb(255 255 255 / 70%)" : "rgb(0 0 0 / 60%)";
      const ellipses = new Path2D(), crosses = new Path2D();
      for (let i = 0; i < layer.x.length; i++) {
        if (this.onlyMismatches && layer.status[i] !== 1) continue;
        const [sx, sy] = screen(layer.x[i], layer.y[i]);
        const a = Math.max(layer.a[i] * zoom / 2, SMALLEST) + 1.5 * index;
        const b = Math.max(layer.b[i] * zoom / 2, SMALLEST) + 1.5 * index;
        if (!(sx > -a && sx < width + a && sy > -a && sy < height + a)) continue;
        drawn[layer.name] += 1;
        const angle = -layer.t[i] * Math.PI / 180;
        ellipses.moveTo(sx + a * Math.cos(angle), sy + a * Math.sin(angle));
        ellipses.ellipse(sx, sy, a, b, angle, 0, 2 * Math.PI);
        if (layer.status[i] === 1) {
          crosses.moveTo(sx - 4, sy - 4);
          crosses.lineTo(sx + 4, sy + 4);
          crosses.moveTo(sx - 4, sy + 4);
          crosses.lineTo(sx + 4, sy - 4);
        }
      }
      const colour = layer.truth ? (light ? "#000" : "#fff") : layer.colour;
      const close = zoom > 2 * this.smallest;
      for (const [style, extra] of close ? [[casing, 2.2], [colour, 0]] : [[colour, 0]]) {
        context.strokeStyle = style;
        context.lineWidth = (layer.truth ? 1.2 : close ? 1.6 : 1.2) + extra;
        context.setLineDash(layer.dash);
        context.stroke(ellipses);
        context.setLineDash([]);
        context.stroke(crosses);
      }
    }
    return drawn;
  }

  /* The nearest row of a visible catalogue, within reach of the pointer. */
  nearest(sx, sy) {
    let best = null;
    const [x, y] = this.toImage(sx, sy);
    for (const layer of this.layers) {
      if (!layer.shown) continue;
      for (let i = 0; i < layer.x.length; i++) {
        if (this.onlyMismatches && layer.status[i] !== 1) continue;
        const distance = Math.hypot(layer.x[i] - x, layer.y[i] - y) * this.zoom;
        const reach = Math.max(10, 0.6 * layer.a[i] * this.zoom);
        if (distance < reach && (!best || distance < best.distance))
          best = { layer, row: i, distance };
      }
    }
    return best;
  }

  codeAt(x, y) {
    if (!this.codes) return null;
    const { bin } = this.frame, w = this.plane.width, h = this.plane.height;
    const column = Math.floor((x + 0.5) / bin), line = Math.floor((y + 0.5) / bin);
    if (column < 0 || line < 0 || column >= w || line >= h) return null;
    return this.codes[(h - 1 - line) * w + column];
  }

  /* Sky position from a coarse grid of directions, interpolated; degrees. */
  skyAt(x, y) {
    const { sky, nx, ny } = this.frame, n = sky.n;
    const u = Math.min(Math.max(x / Math.max(nx - 1, 1), 0), 1) * (n - 1);
    const v = Math.min(Math.max(y / Math.max(ny - 1, 1), 0), 1) * (n - 1);
    const i = Math.min(Math.floor(u), n - 2), j = Math.min(Math.floor(v), n - 2);
    const [s, t] = [u - i, v - j], at = (a, b) => sky.vectors[(j + b) * n + i + a];
    const [p, q, r, w] = [at(0, 0), at(1, 0), at(0, 1), at(1, 1)];
    if (!p || !q || !r || !w) return null;
    const d = [0, 1, 2].map((k) => (1 - t) * ((1 - s) * p[k] + s * q[k]) + t * ((1 - s) * r[k] + s * w[k]));
    const ra = (Math.atan2(d[1], d[0]) * 180 / Math.PI + 360) % 360;
    return [ra, Math.atan2(d[2], Math.hypot(d[0], d[1])) * 180 / Math.PI];
  }

  listen() {
    const { canvas } = this;
    let start = null, moved = false;
    const touches = new Map();
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      touches.set(event.pointerId, place(event));
      start = place(event);
      moved = false;
    });
    canvas.addEventListener("pointermove", (event) => {
      const here = place(event);
      if (touches.has(event.pointerId) && touches.size === 2) {
        const apart = () => { const [p, q] = [...touches.values()]; return Math.hypot(p[0] - q[0], p[1] - q[1]); };
        const before = apart();
        touches.set(event.pointerId, here);
        const [p, q] = [...touches.values()];
        this.zoomBy(apart() / before, (p[0] + q[0]) / 2, (p[1] + q[1]) / 2);
        moved = true;
      } else if (start) {
        const last = touches.get(event.pointerId) ?? here;
        if (moved || Math.hypot(here[0] - start[0], here[1] - start[1]) > 3) {
          moved = true;
          canvas.classList.add("moving");
          this.pan(here[0] - last[0], here[1] - last[1]);
        }
        if (touches.has(event.pointerId) && moved) touches.set(event.pointerId, here);
      }
      this.pointer = here;
      this.onMove?.();
    });
    const end = (event) => {
      if (start && !moved && event.type === "pointerup") {
        const found = this.nearest(...place(event));
        if (found) this.onSelect(found.layer, found.row);
      }
      touches.delete(event.pointerId);
      if (!touches.size) start = null;
      canvas.classList.remove("moving");
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => { this.pointer = null; this.onMove?.(); });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(1.0015 ** -Math.max(-400, Math.min(400, event.deltaY)), ...place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      if (moves[event.key]) this.pan(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
      else if (event.key === "-") this.zoomBy(1 / 1.4);
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
    });
  }
}
