// The connection to the robot's node: opened again whenever it ends. What was asked for while there was none is not
// sent later, for nobody would expect the robot to move then; STOP alone is. A connection may have ended unseen, so STOP
// is sent with the next one, too, until the node has said that it came.

const RETRY_MS = 700;
const SILENT_MS = 6000;

// By this the node knows the page again after a reload; a new tab is another viewer.
function identity() {
  let id = sessionStorage.getItem("viewer");
  if (!id) {
    id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem("viewer", id);
  }
  return id;
}

export class Connection {
  constructor({ onMessage, onPicture, onChange }) {
    this.handlers = { onMessage, onPicture, onChange };
    this.socket = null;
    this.stopWanted = false;
    this.open();
  }

  get isOpen() {
    return this.socket !== null && this.socket.readyState === WebSocket.OPEN;
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws?viewer=${identity()}`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      if (this.stopWanted) this.stop();
      this.handlers.onChange(true);
    };
    socket.onmessage = (event) => {
      this.heardMs = performance.now();
      if (typeof event.data === "string") this.handlers.onMessage(JSON.parse(event.data));
      else this.handlers.onPicture(event.data);
    };
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.handlers.onChange(false);
      setTimeout(() => this.open(), RETRY_MS);
    };
    this.heardMs = performance.now();
    this.socket = socket;
    this.watch ??= setInterval(() => this.endIfSilent(), 1000);
  }

  // The node says something every second. A connection that is silent has ended without a word, as those of
  // phones do.
  endIfSilent() {
    if (this.isOpen && !document.hidden && performance.now() - this.heardMs > SILENT_MS) {
      const socket = this.socket;
      this.socket = null;
      this.handlers.onChange(false);
      socket.close();
      this.open();
    }
  }

  // Whether it could be sent.
  send(request) {
    if (!this.isOpen) return false;
    this.socket.send(JSON.stringify(request));
    return true;
  }

  stop() {
    this.stopWanted = true;
    return this.send({ kind: "stop" });
  }
}
