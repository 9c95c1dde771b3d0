// The map, seen from above, x of the odometry frame to the right, y up: trail, path, obstacles, goal, robot; below
// them the plan of a simulated scene.

const LEAST_M = 4; // Side of the least that is shown.
const MARGIN = 0.12;
const TRAIL_STEP_M = 0.02;

export class RobotMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.trail = [];
    this.path = [];
    this.obstacles = [];
    this.goal = null;
    this.place = null;
    this.area = null;
    this.plan = null;
    this.draft = null;
    this.view = null;
    this.isDue = false;
    new ResizeObserver(() => this.redraw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  setTrail(points) {
    this.trail = points;
    this.redraw();
  }

  setPath(points) {
    this.path = points;
    this.redraw();
  }

  setObstacles(points) {
    this.obstacles = points;
    this.redraw();
  }

  // The place that the model has named; without one it is where the path ends.
  setGoal(point) {
    this.goal = point;
    this.redraw();
  }

  setPlace({ x_m, y_m, yaw_rad }) {
    this.place = { x: x_m, y: y_m, yaw: yaw_rad };
    const last = this.trail.at(-1);
    if (!last || Math.hypot(x_m - last[0], y_m - last[1]) > TRAIL_STEP_M) this.trail.push([x_m, y_m]);
    this.redraw();
  }

  // The rectangle that the plan shows; null: there is none.
  setArea(area) {
    this.area = area;
    this.redraw();
  }

  setPlan(picture) {
    this.plan?.close();
    this.plan = picture;
    this.redraw();
  }

  // Where a person is about to put the robot; null: nowhere.
  setDraft(place) {
    this.draft = place;
    this.redraw();
  }

  // Metres under a place of the canvas.
  toWorld(u, v) {
    const { scale, x, y } = this.view;
    return [x + (u - this.canvas.clientWidth / 2) / scale, y - (v - this.canvas.clientHeight / 2) / scale];
  }

  redraw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.draw();
    });
  }

  // Everything in sight, not less than LEAST_M; grows at once and shrinks slowly, so that it does not jump.
  fit(width, height) {
    const here = this.place ? [[this.place.x, this.place.y]] : [[0, 0]];
    const area = this.area;
    const corners = area ? [[area.x_m, area.y_m], [area.x_m + area.width_m, area.y_m + area.height_m]] : [];
    const things = [...this.trail, ...this.path, ...this.obstacles, ...(this.goal ? [this.goal] : [])];
    const points = [...here, ...corners, ...things];
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const [x, y] of points) {
      x0 = Math.min(x0, x); x1 = Math.max(x1, x);
      y0 = Math.min(y0, y); y1 = Math.max(y1, y);
    }
    const margin = area ? 0 : MARGIN; // A plan has one of its own.
    const spanX = Math.max(x1 - x0, LEAST_M) * (1 + 2 * margin);
    const spanY = Math.max(y1 - y0, LEAST_M) * (1 + 2 * margin);
    const scale = Math.min(width / spanX, height / spanY);
    const wanted = { scale, x: (x0 + x1) / 2, y: (y0 + y1) / 2 };
    const before = this.view;
    if (before && scale > before.scale) wanted.scale = before.scale + 0.05 * (scale - before.scale);
    this.view = wanted;
  }

  draw() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    this.fit(width, height);
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const c = this.context;
    const { scale, x, y } = this.view;
    const at = (px, py) => [width / 2 + (px - x) * scale, height / 2 - (py - y) * scale];
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    if (this.plan && this.area) {
      const { x_m, y_m, width_m, height_m } = this.area;
      c.globalAlpha = Number(color("plan-opacity"));
      c.drawImage(this.plan, ...at(x_m, y_m + height_m), width_m * scale, height_m * scale);
      c.globalAlpha = 1;
    }
    this.drawScale(c, width, height, color);

    c.fillStyle = color("obstacle");
    const cell = Math.max(3, 0.1 * scale);
    for (const [px, py] of this.obstacles) {
      const [u, v] = at(px, py);
      c.fillRect(u - cell / 2, v - cell / 2, cell, cell);
    }
    const line = (points, stroke, width_px, dash) => {
      if (points.length < 2) return;
      c.beginPath();
      points.forEach(([px, py], i) => (i ? c.lineTo(...at(px, py)) : c.moveTo(...at(px, py))));
      c.strokeStyle = stroke;
      c.lineWidth = width_px;
      c.lineJoin = c.lineCap = "round";
      c.setLineDash(dash);
      c.stroke();
      c.setLineDash([]);
    };
    line(this.trail, color("trail"), 3, []);
    line(this.path, color("path"), 3, [2, 7]);
    const goal = this.goal ?? (this.path.length > 1 ? this.path.at(-1) : null);
    if (goal) {
      const [u, v] = at(...goal);
      c.beginPath();
      c.arc(u, v, 7, 0, 2 * Math.PI);
      c.strokeStyle = color("goal");
      c.lineWidth = 3;
      c.stroke();
    }
    for (const [place, fill] of [[this.place, "text"], [this.draft, "goal"]]) {
      if (!place) continue;
      const [u, v] = at(place.x, place.y);
      c.save();
      c.translate(u, v);
      c.rotate(-place.yaw);
      c.beginPath();
      c.moveTo(13, 0);
      c.lineTo(-9, 8);
      c.lineTo(-5, 0);
      c.lineTo(-9, -8);
      c.closePath();
      c.fillStyle = color(fill);
      c.fill();
      c.restore();
    }
  }

  // A bar that says how long a metre is; and where no plan does it, a grid.
  drawScale(c, width, height, color) {
    const { scale } = this.view;
    const step = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500].find((s) => s * scale > 34) ?? 1000;
    if (!(this.plan && this.area)) this.drawGrid(c, width, height, color, step);
    c.strokeStyle = c.fillStyle = color(this.area ? "text" : "muted");
    c.beginPath();
    c.moveTo(10, height - 10.5);
    c.lineTo(10 + step * scale, height - 10.5);
    c.stroke();
    c.font = "12px sans-serif";
    c.fillText(`${step} m`, 12, height - 15);
  }

  drawGrid(c, width, height, color, step) {
    const { scale, x, y } = this.view;
    c.strokeStyle = color("grid");
    c.lineWidth = 1;
    c.beginPath();
    for (let k = Math.ceil((x - width / 2 / scale) / step); k * step < x + width / 2 / scale; k += 1) {
      const u = Math.round(width / 2 + (k * step - x) * scale) + 0.5;
      c.moveTo(u, 0);
      c.lineTo(u, height);
    }
    for (let k = Math.ceil((y - height / 2 / scale) / step); k * step < y + height / 2 / scale; k += 1) {
      const v = Math.round(height / 2 - (k * step - y) * scale) + 0.5;
      c.moveTo(0, v);
      c.lineTo(width, v);
    }
    c.stroke();
  }
}
