/** Turns what mouse, wheel and fingers do on the stage into what the viewer does. */

const DRAG_PIXELS = 4; // less is a click
const WHEEL_ZOOM = 0.002;
const PINCH_ZOOM = 0.01; // a touchpad's pinch: small steps, with Ctrl by convention
const LINE_PIXELS = 16;

export class Gestures {
  #pointers = new Map();

  constructor(stage, viewer) {
    this.stage = stage;
    this.viewer = viewer;
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    }
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("dblclick", (event) =>
      this.viewer.toggleFullSize(...this.#locate(event)),
    );
  }

  /** Where an event is, in the window of one pane. */
  #locate({ clientX, clientY }) {
    const box = this.stage.getBoundingClientRect();
    const x = clientX - box.left;
    const width = this.viewer.transform.window.width;
    return [x > width ? x - (box.width - width) : x, clientY - box.top];
  }

  #down(event) {
    if (event.button !== 0) return;
    const isOnHandle = event.defaultPrevented; // the divider follows by itself, but may be pinched
    const { pointerId, clientX: x, clientY: y } = event;
    this.#pointers.set(pointerId, { x, y, moved: false, isOnHandle });
    if (!isOnHandle) this.stage.setPointerCapture(pointerId);
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const { clientX: x, clientY: y } = event;
    const isDrag = before.moved || Math.hypot(x - before.x, y - before.y) >= DRAG_PIXELS;
    if (!isDrag) return;
    if (this.#pointers.size === 2) this.#pinch(event, before);
    else if (before.isOnHandle) return;
    else if (this.viewer.dividesOnDrag) this.viewer.divideAt(x);
    else this.viewer.pan(x - before.x, y - before.y);
    this.#pointers.set(event.pointerId, { ...before, x, y, moved: true });
  }

  /** Two fingers: zoom by how far they are apart, around the one that rests. */
  #pinch({ pointerId, clientX, clientY }, before) {
    const [, resting] = [...this.#pointers].find(([id]) => id !== pointerId);
    const apart = (x, y) => Math.hypot(x - resting.x, y - resting.y);
    const factor = apart(clientX, clientY) / Math.max(apart(before.x, before.y), 1);
    const [x, y] = this.#locate({ clientX: resting.x, clientY: resting.y });
    this.viewer.zoomBy(factor, x, y);
  }

  #wheel(event) {
    event.preventDefault();
    const pixels =
      event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE_PIXELS * event.deltaY : event.deltaY;
    const factor = Math.exp(-pixels * (event.ctrlKey ? PINCH_ZOOM : WHEEL_ZOOM));
    this.viewer.zoomBy(factor, ...this.#locate(event));
  }
}
