/** A lens: the spot under the pointer, enlarged, once of the original and once of the result. */

const ENLARGED = 3; // as against the window, but at least 300 %

export class Lens {
  isOn = false;
  #point = null; // in the window; null: its middle

  constructor(stage) {
    this.stage = stage;
    this.element = stage.querySelector(".lens");
    this.glasses = [...this.element.querySelectorAll("img")];
    stage.addEventListener("pointermove", (event) => this.#follow(event));
    stage.addEventListener("pointerdown", (event) => this.#follow(event));
  }

  /** Take the images of both panes, each as large as the result. */
  setImages(images, size) {
    this.glasses.forEach((glass, index) => {
      const { src } = images[index];
      glass.hidden = !src;
      if (src && glass.src !== src) glass.src = src;
      glass.style.width = `${size.width}px`;
      glass.style.height = `${size.height}px`;
    });
  }

  #follow({ clientX, clientY }) {
    const box = this.stage.getBoundingClientRect();
    this.#point = { x: clientX - box.left, y: clientY - box.top };
    this.draw();
  }

  /** Draw it where the pointer is, for a transform of the panes. */
  draw(transform = this.transform) {
    this.transform = transform;
    this.element.hidden = !this.isOn;
    if (!this.isOn || !transform) return;
    const { clientWidth, clientHeight } = this.stage;
    const { x, y } = this.#point ?? { x: clientWidth / 2, y: clientHeight / 2 };
    const pane = transform.window.width;
    const spot = {
      x: ((x > pane ? x - (clientWidth - pane) : x) - transform.x) / transform.scale,
      y: (y - transform.y) / transform.scale,
    };
    const scale = ENLARGED * Math.max(transform.scale, 1 / devicePixelRatio);
    for (const glass of this.glasses) {
      const { clientWidth: width, clientHeight: height } = glass.parentElement;
      const left = width / 2 - spot.x * scale;
      const top = height / 2 - spot.y * scale;
      glass.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    }
    // Above the pointer, where a finger does not cover it, or below if there is no room.
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const left = Math.min(Math.max(x - width / 2, 0), Math.max(clientWidth - width, 0));
    const top = y > height + 32 ? y - height - 24 : y + 24;
    this.element.style.transform = `translate(${left}px, ${top}px)`;
  }
}
