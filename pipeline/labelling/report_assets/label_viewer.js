"use strict";
/* The image with the outlines of objects on it, coloured by what was decided. */

const OPEN = "#E69F00", REJECTED = "#8b1a1a";

class LabelViewer extends Viewer {
  /* candidates: edges and boxes; state: objects and what is chosen. */
  constructor(canvas, frame, candidates, state, onPick, onBox, onMove) {
    super(canvas, frame, [], () => {}, onMove);
    Object.assign(this, { candidates, state, onPick, onBox });
    this.drawing = false;
    this.box = null;
    this.listenToo();
    this.draw();
  }

  /* Edges of an object: of all that it is made of, or of its box. */
  outline(object) {
    if (object.box) {
      const [x0, y0, x1, y1] = object.box;
      return { box: [x0 - 0.5, y0 - 0.5, x1 + 0.5, y1 + 0.5] };
    }
    return { edges: object.candidates.map((number) => this.candidates[number].edges) };
  }

  bounds(object) {
    if (object.box) return object.box;
    const boxes = object.candidates.map((number) => this.candidates[number].box);
    return [0, 1, 2, 3].map((k) => (k < 2 ? Math.min : Math.max)(...boxes.map((box) => box[k])));
  }

  colour(object) {
    if (object.state === "open") return OPEN;
    return object.state === "rejected" ? REJECTED : this.state.colours[object.kind] ?? "#0072B2";
  }

  render(context, part) {
    super.render(context, { ...part, layers: [] });
    const { x0, y0, zoom, width, height } = part;
    const screen = (x, y) => [(x - x0) * zoom, height - (y - y0) * zoom];
    const light = MAPS[this.colours].light || !this.plane;
    const drawn = { open: 0, accepted: 0, rejected: 0, chosen: 0 };
    this.state?.objects.forEach((object, number) => {
      const [left, low, right, high] = this.bounds(object);
      const [sx0, sy1] = screen(left - 1, low - 1), [sx1, sy0] = screen(right + 1, high + 1);
      if (sx1 < 0 || sy1 < 0 || sx0 > width || sy0 > height) return;
      drawn[object.state] += 1;
      const path = new Path2D(), { box, edges } = this.outline(object);
      if (box) {
        const [ax, ay] = screen(box[0], box[3]), [bx, by] = screen(box[2], box[1]);
        path.rect(ax, ay, bx - ax, by - ay);
      }
      for (const list of edges ?? [])
        for (let i = 0; i < list.length; i += 3) {
          const x = list[i] - 0.5, y = list[i + 1] - 0.5;
          path.moveTo(...screen(x, y));
          path.lineTo(...screen(x + (list[i + 2] ? 0 : 1), y + (list[i + 2] ? 1 : 0)));
        }
      if (object.candidates.length > 1) {
        /* parts that were merged are tied together */
        const middle = object.candidates.map((one) => {
          const b = this.candidates[one].box;
          return [(b[0] + b[2]) / 2, (b[1] + b[3]) / 2];
        });
        for (const other of middle.slice(1)) {
          path.moveTo(...screen(...middle[0]));
          path.lineTo(...screen(...other));
        }
      }
      const chosen = this.state.chosen.has(number);
      drawn.chosen += chosen;
      context.setLineDash(object.state === "rejected" ? [3, 3] : []);
      if (chosen) {
        context.strokeStyle = light ? "rgb(0 0 0 / 85%)" : "rgb(255 255 255 / 85%)";
        context.lineWidth = 5;
        context.stroke(path);
      }
      context.strokeStyle = this.colour(object);
      context.lineWidth = chosen ? 2.4 : 1.4;
      context.stroke(path);
    });
    context.setLineDash([]);
    if (this.box) {
      const [ax, ay] = screen(this.box[0], this.box[1]), [bx, by] = screen(this.box[2], this.box[3]);
      context.strokeStyle = "#D55E00";
      context.lineWidth = 1.5;
      context.strokeRect(Math.min(ax, bx), Math.min(ay, by), Math.abs(bx - ax), Math.abs(by - ay));
    }
    return drawn;
  }

  /* The smallest object whose bounds hold a place on the screen. */
  objectAt(sx, sy) {
    const [x, y] = this.toImage(sx, sy), reach = Math.max(1, 5 / this.zoom);
    let best = null, least = Infinity;
    this.state.objects.forEach((object, number) => {
      const [x0, y0, x1, y1] = this.bounds(object);
      if (x < x0 - reach || x > x1 + reach || y < y0 - reach || y > y1 + reach) return;
      const area = (x1 - x0 + 1) * (y1 - y0 + 1);
      if (area < least) [best, least] = [number, area];
    });
    return best;
  }

  /* Clicks choose objects; in drawing mode a drag makes a box, and does not pan. */
  listenToo() {
    const { canvas } = this, place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let start = null;
    canvas.addEventListener("pointerdown", (event) => {
      start = place(event);
      if (!this.drawing) return;
      event.stopImmediatePropagation();
      canvas.setPointerCapture(event.pointerId);
      const [x, y] = this.toImage(...start);
      this.box = [x, y, x, y];
    }, { capture: true });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.drawing || !this.box) return;
      event.stopImmediatePropagation();
      [this.box[2], this.box[3]] = this.toImage(...place(event));
      this.draw();
    }, { capture: true });
    canvas.addEventListener("pointerup", (event) => {
      if (this.drawing && this.box) {
        event.stopImmediatePropagation();
        const [ax, ay, bx, by] = this.box, { nx, ny } = this.frame;
        const inside = (v, n) => Math.min(Math.max(Math.round(v), 0), n - 1);
        this.box = null;
        const made = [inside(Math.min(ax, bx), nx), inside(Math.min(ay, by), ny),
          inside(Math.max(ax, bx), nx), inside(Math.max(ay, by), ny)];
        if (made[2] > made[0] && made[3] > made[1]) this.onBox(made);
        this.draw();
      } else if (start) {
        const here = place(event);
        if (Math.hypot(here[0] - start[0], here[1] - start[1]) <= 3)
          this.onPick(this.objectAt(...here), event.shiftKey || event.ctrlKey || event.metaKey);
      }
      start = null;
    }, { capture: true });
  }
}
