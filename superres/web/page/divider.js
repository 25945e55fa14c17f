/** The line between original and result, at a share of a stage's width. */

const STEP = 0.01;
const LARGE_STEP = 0.1;

export class Divider {
  #share = 0.5;

  constructor(stage) {
    this.stage = stage;
    this.handle = stage.querySelector(".divider");
    this.handle.addEventListener("keydown", (event) => this.#press(event));
    this.handle.addEventListener("pointerdown", (event) => this.drag(event));
  }

  get share() {
    return this.#share;
  }

  set share(value) {
    this.#share = Math.min(Math.max(value, 0), 1);
    const percent = `${100 * this.#share}%`;
    this.stage.style.setProperty("--split", percent);
    this.handle.setAttribute("aria-valuenow", Math.round(100 * this.#share));
  }

  /** Follow the pointer that has just gone down. */
  drag(down) {
    if (down.button !== 0 || down.defaultPrevented) return; // the handle has it already
    const target = down.currentTarget;
    const box = this.stage.getBoundingClientRect();
    // The handle keeps its distance from the pointer; anything else makes the line jump to it.
    const offset = target === this.handle ? down.clientX - box.left - this.#share * box.width : 0;
    const follow = (move) => {
      if (move.pointerId === down.pointerId)
        this.share = (move.clientX - box.left - offset) / box.width;
    };
    target.setPointerCapture(down.pointerId);
    target.addEventListener("pointermove", follow);
    target.addEventListener(
      "lostpointercapture",
      () => target.removeEventListener("pointermove", follow),
      { once: true },
    );
    if (target === this.handle) {
      this.handle.focus({ preventScroll: true });
      down.preventDefault();
    }
  }

  #press(event) {
    const step = event.shiftKey ? LARGE_STEP : STEP;
    const shares = {
      ArrowLeft: this.#share - step,
      ArrowDown: this.#share - step,
      ArrowRight: this.#share + step,
      ArrowUp: this.#share + step,
      Home: 0,
      End: 1,
    };
    if (!(event.key in shares)) return;
    this.share = shares[event.key];
    event.preventDefault();
    event.stopPropagation();
  }
}
