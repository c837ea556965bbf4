"use strict";
/* All sources in a plane: dots, and pictures where there is room for them. */

const DOT = 4, PICTURE = 46, EDGE = 3, TARGET = "#c0392b";

class PlaneMap extends Viewer {
  /* rows: those that have a picture, the ones to be drawn first in front. */
  constructor(canvas, frame, places, rows, page) {
    const layer = { name: "sources", shown: true, status: [], a: places.x.map(() => 0), ...places };
    super(canvas, frame, [layer], (_, row) => page.select(row), () => page.hover());
    Object.assign(this, { rows, page, withPictures: true, chosen: null, pointed: null, boxes: [] });
  }

  /* Pictures that do not overlap, the first rows before the others. */
  placed(screen, width, height) {
    const taken = new Map(), size = PICTURE + 2 * EDGE, found = [];
    for (const row of this.rows) {
      const [x, y] = screen(row);
      if (!(x > -size && x < width + size && y > -size && y < height + size)) continue;
      const i = Math.floor(x / size), j = Math.floor(y / size);
      const near = [-1, 0, 1].flatMap((a) => [-1, 0, 1].flatMap((b) => taken.get(`${i + a},${j + b}`) ?? []));
      if (near.some((other) => Math.abs(other.x - x) < size && Math.abs(other.y - y) < size)) continue;
      const box = { row, x, y };
      taken.set(`${i},${j}`, [...(taken.get(`${i},${j}`) ?? []), box]);
      found.push(box);
    }
    return found;
  }

  render(context, { x0, y0, zoom, width, height, ratio }) {
    const { x, y } = this.layers[0];
    const screen = (row) => [(x[row] - x0) * zoom, height - (y[row] - y0) * zoom];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.setLineDash([]);
    Object.assign(context, { strokeStyle: "rgb(0 0 0 / 35%)", lineWidth: 0.8 });
    let dots = 0;
    for (let row = 0; row < x.length; row++) {
      const [sx, sy] = screen(row);
      if (!(sx > -DOT && sx < width + DOT && sy > -DOT && sy < height + DOT)) continue;
      dots += 1;
      context.fillStyle = this.page.colour(row);
      context.beginPath();
      context.arc(sx, sy, DOT, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
    this.boxes = this.withPictures ? this.placed(screen, width, height) : [];
    const half = PICTURE / 2;
    for (const { row, x: sx, y: sy } of this.boxes) {
      context.fillStyle = this.page.colour(row);
      context.fillRect(sx - half - EDGE, sy - half - EDGE, PICTURE + 2 * EDGE, PICTURE + 2 * EDGE);
      this.page.drawPicture(context, row, sx - half, sy - half, PICTURE);
    }
    const ring = (row, colour, lineWidth, gap) => {
      const [sx, sy] = screen(row);
      const shown = this.boxes.some((box) => box.row === row);
      Object.assign(context, { strokeStyle: colour, lineWidth });
      context.beginPath();
      const reach = shown ? half + EDGE + gap : DOT + 2 + gap;
      if (shown) context.rect(sx - reach, sy - reach, 2 * reach, 2 * reach);
      else context.arc(sx, sy, reach, 0, 2 * Math.PI);
      context.stroke();
    };
    for (const row of this.page.targets) ring(row, TARGET, 2.5, 2);
    if (this.pointed !== null) ring(this.pointed, "#5b6570", 1.5, 5);
    if (this.chosen !== null) ring(this.chosen, "#000", 2, 5);
    return { dots, pictures: this.boxes.length };
  }

  /* A picture under the pointer comes before a dot near it. */
  nearest(sx, sy) {
    const reach = PICTURE / 2 + EDGE;
    const box = this.boxes.find((one) => Math.abs(one.x - sx) <= reach && Math.abs(one.y - sy) <= reach);
    return box ? { layer: this.layers[0], row: box.row, distance: 0 } : super.nearest(sx, sy);
  }
}
