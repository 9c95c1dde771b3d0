// A person puts a simulated robot somewhere: from a list, or on the map, where it shall stand and where it shall look.
// Nothing on the map does anything before its button was pressed.

const DRAGGED_PX = 12; // A hand that only presses shakes a little.

export class Putting {
  constructor({ map, form, select, button, hint, here, send }) {
    Object.assign(this, { map, form, select, button, hint, here, send });
    this.from = null;
    this.offered = "";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send({ kind: "begin", start: select.value });
    });
    button.addEventListener("click", () => this.arm(button.ariaPressed !== "true"));
    const canvas = map.canvas;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("pointerup", (event) => this.drop(event));
    canvas.addEventListener("pointercancel", () => this.arm(false));
  }

  // What the world offers; nothing where the robot is not simulated.
  offer({ current, here, offered }) {
    this.form.hidden = !offered.length;
    if (!offered.length) this.arm(false);
    this.here.textContent = here;
    const key = JSON.stringify(offered);
    if (key !== this.offered) {
      this.offered = key;
      this.select.replaceChildren(...offered.map(([id, name]) => new Option(name, id)));
    }
    if (offered.some(([id]) => id === current) && current !== this.current) this.select.value = current;
    this.current = current;
  }

  arm(isArmed) {
    this.button.ariaPressed = String(isArmed);
    this.map.canvas.classList.toggle("armed", isArmed);
    this.hint.hidden = !isArmed;
    this.from = null;
    this.map.setDraft(null);
  }

  press(event) {
    if (this.button.ariaPressed !== "true" || !event.isPrimary || event.button !== 0) return;
    event.preventDefault();
    this.map.canvas.setPointerCapture(event.pointerId);
    const [x, y] = this.map.toWorld(event.offsetX, event.offsetY);
    this.from = { u: event.offsetX, v: event.offsetY, place: { x, y, yaw: this.map.place?.yaw ?? 0 } };
    this.map.setDraft(this.from.place);
  }

  drag(event) {
    if (!this.from) return;
    const [du, dv] = [event.offsetX - this.from.u, event.offsetY - this.from.v];
    if (Math.hypot(du, dv) < DRAGGED_PX) return;
    this.from.place = { ...this.from.place, yaw: Math.atan2(-dv, du) };
    this.map.setDraft(this.from.place);
  }

  drop(event) {
    if (!this.from) return;
    this.drag(event);
    const { x, y, yaw } = this.from.place;
    this.arm(false);
    this.send({ kind: "put", x_m: x, y_m: y, yaw_rad: yaw });
  }
}
