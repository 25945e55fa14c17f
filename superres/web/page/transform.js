/** Where an image lies in a window: pure geometry, in CSS pixels. */

const MAX_ZOOM = 16; // device pixels for each pixel of the image
const ROUNDING = 1e-6; // CSS pixels

export class Transform {
  image = { width: 1, height: 1 }; // in its own pixels
  window = { width: 1, height: 1 };
  scale = 1; // CSS pixels for each pixel of the image
  x = 0; // of the image's left edge
  y = 0;
  isFitted = true;

  /** Device pixels for each pixel of the image: 1 is 100 %. */
  get zoom() {
    return this.scale * devicePixelRatio;
  }

  get fittingScale() {
    const { image, window } = this;
    const fitting = Math.min(window.width / image.width, window.height / image.height);
    return Math.min(fitting, 1 / devicePixelRatio);
  }

  /** Whether all of the image is seen, so that there is nothing to pan. */
  get isWhole() {
    const { image, scale, window } = this;
    const spare = Math.min(window.width - image.width * scale, window.height - image.height * scale);
    return spare > -ROUNDING;
  }

  /** Show the whole image, at 100 % if it is small. */
  fit() {
    this.isFitted = true;
    this.scale = this.fittingScale;
    this.#clamp();
  }

  /** Change the zoom; the point (x, y) of the window stays where it is. */
  zoomTo(zoom, x = this.window.width / 2, y = this.window.height / 2) {
    const limited = Math.min(zoom / devicePixelRatio, MAX_ZOOM / devicePixelRatio);
    const scale = Math.max(limited, this.fittingScale);
    const factor = scale / this.scale;
    this.x = x - (x - this.x) * factor;
    this.y = y - (y - this.y) * factor;
    this.scale = scale;
    this.isFitted = limited < scale;
    this.#clamp();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#clamp();
  }

  /** Take the same image in other pixels: it stays where it is. */
  replace(image) {
    this.scale *= this.image.width / image.width;
    this.image = image;
  }

  /** Take another image, or another window: the zoom stays, and so does what is in the middle. */
  resize(image, window) {
    const middle = {
      x: (this.window.width / 2 - this.x) / (this.image.width * this.scale),
      y: (this.window.height / 2 - this.y) / (this.image.height * this.scale),
    };
    this.image = image;
    this.window = window;
    if (this.isFitted) return this.fit();
    this.scale = Math.max(this.scale, this.fittingScale);
    this.x = window.width / 2 - middle.x * image.width * this.scale;
    this.y = window.height / 2 - middle.y * image.height * this.scale;
    this.#clamp();
  }

  /** Leave no empty space beside an image that fills the window; centre one that does not. */
  #clamp() {
    this.x = this.#limit(this.x, this.window.width, this.image.width * this.scale);
    this.y = this.#limit(this.y, this.window.height, this.image.height * this.scale);
  }

  #limit(position, window, length) {
    if (length <= window) return (window - length) / 2;
    return Math.min(Math.max(position, window - length), 0);
  }

  get css() {
    return `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
  }
}
