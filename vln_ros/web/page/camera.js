// Pictures: shown when they come, acknowledged when they are on the screen.

const VIEWS = ["camera", "reuse"];
const HEAD_BYTES = 13; // view (1), number (4), stamp in ns (8)

export class Camera {
  constructor(canvas, placeholder, acknowledge) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.placeholder = placeholder;
    this.acknowledge = acknowledge;
    this.view = VIEWS[0];
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
    try {
      const picture = await createImageBitmap(new Blob([new Uint8Array(buffer, HEAD_BYTES)], { type: "image/jpeg" }));
      if (view === this.view && number > this.newest) {
        this.newest = number;
        await this.draw(picture);
        document.dispatchEvent(new CustomEvent("picture-shown", { detail: { view, stampNs: String(stampNs) } }));
      }
      picture.close();
    } catch {
      this.placeholder.textContent = "The picture cannot be read";
      this.placeholder.hidden = false;
    } finally {
      this.acknowledge(number); // also of one that cannot be read: the next one may be better
    }
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
