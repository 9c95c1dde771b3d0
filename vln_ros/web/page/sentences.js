// A box for sentences: what was sent before comes back with the arrow keys, also after a reload.

const KEPT = 30;

export class SentenceBox {
  constructor(input, name) {
    this.input = input;
    this.name = name;
    this.at = 0;
    this.draft = "";
    try {
      this.sent = JSON.parse(localStorage.getItem(name)) ?? [];
    } catch {
      this.sent = [];
    }
    input.addEventListener("keydown", (event) => {
      if (event.key === "ArrowUp") this.go(1);
      else if (event.key === "ArrowDown") this.go(-1);
      else return;
      event.preventDefault();
    });
  }

  go(step) {
    const next = this.at + step;
    if (next < 0 || next > this.sent.length) return;
    if (this.at === 0) this.draft = this.input.value;
    this.at = next;
    this.input.value = next === 0 ? this.draft : this.sent[this.sent.length - next];
  }

  // What is in it, to be sent; empty: nothing is.
  get text() {
    return this.input.value.trim();
  }

  clear() {
    const text = this.text;
    this.sent = [...this.sent.filter((s) => s !== text), text].slice(-KEPT);
    localStorage.setItem(this.name, JSON.stringify(this.sent));
    this.at = 0;
    this.input.value = "";
  }
}
