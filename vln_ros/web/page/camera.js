// Pictures: shown when they come, acknowledged when they are on the screen.

const VIEWS = ["camera", "reuse", "goal_picture", "plan"];
const [COLOR, , GOAL, PLAN] = VIEWS;
const HEAD_BYTES = 17; // view (1), number (4), stamp in ns (8), size as a share of the camera's (float, 4)
const KEPT = 30; // An answer is about a picture that came before it.
const NEAR_NS = 250_000_000n; // Not every picture of the camera is sent.

export class Camera {
  constructor(canvas, goalCanvas, placeholder, acknowledge, onPlan) {
    this.onPlan = onPlan;
    this.goalCanvas = goalCanvas;
    this.recent = [];
    this.goal = { row: null, column: null, stamp_ns: "" };
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.placeholder = placeholder;
    this.acknowledge = acknowledge;
    this.view = COLOR;
    this.newest = 0;
  }

  choose(view) {
    this.view = view;
    this.newest = 0;
    this.placeholder.hidden = false;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  // Pictures are counted by the node: another one counts from 1 again.
  beginAnew() {
    this.newest = 0;
  }

  async take(buffer) {
    const head = new DataView(buffer);
    const view = VIEWS[head.getUint8(0)];
    const number = head.getUint32(1);
    const stampNs = head.getBigUint64(5);
    const scale = head.getFloat32(13);
    try {
      const picture = await createImageBitmap(new Blob([new Uint8Array(buffer, HEAD_BYTES)], { type: "image/jpeg" }));
      if (view === this.view && number > this.newest) {
        this.newest = number;
        if (view === COLOR) this.remember(picture, stampNs, scale);
        await this.draw(picture);
        document.dispatchEvent(new CustomEvent("picture-shown", { detail: { view, stampNs: String(stampNs) } }));
      }
      if (view === GOAL) {
        this.remember(picture, stampNs, scale);
        this.setGoal(this.goal); // of before this page was opened
      }
      if (view === PLAN) this.onPlan(picture);
      else if (!this.recent.some((kept) => kept.picture === picture)) picture.close();
    } catch {
      this.placeholder.textContent = "The picture cannot be read";
      this.placeholder.hidden = false;
    } finally {
      this.acknowledge(number); // also of one that cannot be read: the next one may be better
    }
  }

  remember(picture, stampNs, scale) {
    this.recent.push({ picture, stampNs, scale });
    while (this.recent.length > KEPT) this.recent.shift().picture.close();
  }

  // The point that the model has named, in the picture that it was asked about: the newest one shows another view.
  setGoal(goal) {
    this.goal = goal;
    const { row, column, stamp_ns: stamp } = goal;
    this.goalCanvas.hidden = true;
    if (row === null) return;
    const off = ({ stampNs }) => (stampNs > BigInt(stamp) ? stampNs - BigInt(stamp) : BigInt(stamp) - stampNs);
    const near = this.recent.filter((kept) => off(kept) <= NEAR_NS).sort((a, b) => (off(a) < off(b) ? -1 : 1));
    if (!near.length) return;
    const { picture, scale } = near[0];
    this.goalCanvas.width = picture.width;
    this.goalCanvas.height = picture.height;
    const context = this.goalCanvas.getContext("2d");
    context.drawImage(picture, 0, 0);
    const radius = picture.width / 22;
    for (const [color, width] of [["#000", radius / 2], ["#ffd43b", radius / 4]]) {
      context.beginPath();
      context.arc((column + 0.5) * scale, (row + 0.5) * scale, radius, 0, 2 * Math.PI);
      context.strokeStyle = color;
      context.lineWidth = width;
      context.stroke();
    }
    this.goalCanvas.hidden = false;
  }

  // Resolves when the browser puts it on the screen; at once where nothing is put there, as in a hidden tab.
  draw(picture) {
    return new Promise((resolve) => {
      const put = () => {
        if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) {
          this.canvas.width = picture.width;
          this.canvas.height = picture.height;
        }
        this.context.drawImage(picture, 0, 0);
        this.placeholder.hidden = true;
        resolve();
      };
      if (document.hidden) put();
      else requestAnimationFrame(put);
    });
  }
}
