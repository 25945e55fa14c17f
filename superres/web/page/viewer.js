/** Shows an image: its original and, as soon as there is one, its result, to be compared. */

import { Divider } from "./divider.js";
import { resultSize } from "./estimate.js";
import { Gestures } from "./gestures.js";
import { Lens } from "./lens.js";
import { Transform } from "./transform.js";

/** Load an image and decode it off the main thread, so that it is never drawn half. */
async function decode(url) {
  const image = Object.assign(new Image(), { alt: "", src: url });
  await image.decode();
  return image;
}

/** Dispatches "select" when another item is shown, and "change" when the view has changed. */
export class Viewer extends EventTarget {
  item = null;
  transform = new Transform();
  isBeside = false; // side by side, instead of divided
  isLoading = false;

  constructor(stage, queue, originals) {
    super();
    this.stage = stage;
    this.queue = queue;
    this.originals = originals;
    this.panes = [...stage.querySelectorAll(".pane")];
    this.divider = new Divider(stage);
    this.lens = new Lens(stage);
    new Gestures(stage, this);
    new ResizeObserver(() => this.#layOut()).observe(stage);
    queue.addEventListener("change", ({ detail }) => this.#queueChanged(detail));
    queue.service.addEventListener("change", () => this.#serviceChanged());
  }

  /** Show an item; null: nothing. */
  async show(item) {
    const shownResult = this.#result;
    const isSame = item === this.item;
    this.item = item;
    this.#result = item?.result;
    if (!isSame) {
      this.stage.dataset.shows = "nothing";
      this.dispatchEvent(new Event("select"));
    } else if (shownResult === this.#result) {
      if (this.stage.dataset.shows !== "nothing") this.#update(); // another size may be chosen
      return;
    }
    await this.#load();
  }

  async #load() {
    const { item } = this;
    this.isLoading = item !== null;
    if (item === null) return;
    const result = this.#result;
    const images = await Promise.all([
      this.#decodeOriginal(item),
      result && this.#decodeResult(item),
    ]);
    if (this.item !== item || this.#result !== result) return; // another one was chosen meanwhile
    this.isLoading = false;
    images.forEach((image, index) =>
      this.panes[index].replaceChildren(image || Object.assign(new Image(), { alt: "" })),
    );
    const [hasOriginal, hasResult] = images.map(Boolean);
    const both = hasOriginal ? "both" : "enhanced";
    const hadImage = this.stage.dataset.shows !== "nothing";
    this.stage.dataset.shows = hasResult ? both : hasOriginal ? "original" : "nothing";
    if (hadImage) this.#update(); // its result has come, or changed
    else this.#layOut();
  }

  /** Show the item that is `step` rows further down. */
  step(step) {
    const { items } = this.queue;
    const next = items[items.indexOf(this.item) + step];
    if (next) this.show(next);
  }

  // --- how it is shown

  /** Whether a drag anywhere moves the divider: a whole image leaves nothing to pan. */
  get dividesOnDrag() {
    return this.stage.classList.contains("divided") && this.transform.isWhole;
  }

  divideAt(clientX) {
    const box = this.stage.getBoundingClientRect();
    this.divider.share = (clientX - box.left) / box.width;
  }

  fit() {
    this.transform.fit();
    this.#draw();
  }

  /** Zoom to a number of device pixels for each of the image, around a point of the window. */
  zoomTo(zoom, x, y) {
    this.transform.zoomTo(zoom, x, y);
    this.#draw();
  }

  zoomBy(factor, x, y) {
    this.zoomTo(this.transform.zoom * factor, x, y);
  }

  toggleFullSize(x, y) {
    if (Math.abs(this.transform.zoom - 1) < 1e-6) this.fit();
    else this.zoomTo(1, x, y);
  }

  pan(dx, dy) {
    this.transform.pan(dx, dy);
    this.#draw();
  }

  setBeside(isBeside) {
    this.isBeside = isBeside;
    this.#layOut();
  }

  setLens(isOn) {
    this.lens.isOn = isOn;
    this.#draw();
  }

  /** Show the original alone, for as long as something is held. */
  hold(isHeld) {
    this.stage.classList.toggle("held", isHeld && this.stage.dataset.shows === "both");
  }

  #result = undefined; // the one that is shown

  async #decodeOriginal(item) {
    try {
      return await decode((await this.originals.load(item)).url);
    } catch {
      return null; // no image, or no longer here: its row says so
    }
  }

  async #decodeResult(item) {
    try {
      return await decode(item.resultUrl);
    } catch {
      // Evicted, unless the service is away, or the result was replaced meanwhile.
      if (this.queue.service.isUp && item.result === this.#result) {
        this.queue.loseResult(item);
      }
      return null;
    }
  }

  #queueChanged(item) {
    if (this.item && !this.queue.items.includes(this.item)) this.show(null);
    else if (item && item === this.item) this.show(item);
  }

  /** It may be back, or have a key now: what it has to show may then be seen. */
  #serviceChanged() {
    const { shows } = this.stage.dataset;
    const isMissing = shows === "nothing" || (this.#result && shows === "original");
    if (isMissing && !this.isLoading && this.queue.service.isUp) this.#load();
  }

  /** Of the result, or of the one that there will be: both images are shown in that size. */
  get #size() {
    const [original, result] = this.panes.map(({ firstElementChild: image }) => ({
      width: image.naturalWidth,
      height: image.naturalHeight,
    }));
    if (result.width) return result;
    const isShown = original.width && this.item;
    return isShown ? resultSize(this.item.options, original) : { width: 1, height: 1 };
  }

  /** The same image in another size stays where it is. */
  #update() {
    this.transform.replace(this.#size);
    this.#layOut();
  }

  #layOut() {
    const { stage, panes } = this;
    const isBoth = stage.dataset.shows === "both";
    stage.classList.toggle("divided", isBoth && !this.isBeside);
    stage.classList.toggle("beside", isBoth && this.isBeside);
    const size = this.#size;
    const images = panes.map((pane) => pane.firstElementChild);
    for (const image of images) {
      image.style.width = `${size.width}px`;
      image.style.height = `${size.height}px`;
    }
    this.lens.setImages(images, size);
    const { clientWidth, clientHeight: height } = stage;
    const width = stage.classList.contains("beside") ? clientWidth / 2 : clientWidth;
    this.transform.resize(size, { width: Math.max(width, 1), height: Math.max(height, 1) });
    this.#draw();
  }

  #draw() {
    const { css, scale } = this.transform;
    for (const pane of this.panes) pane.firstElementChild.style.transform = css;
    this.stage.style.setProperty("--scale", scale);
    this.stage.classList.toggle("zoomed", !this.transform.isWhole);
    this.lens.draw(this.transform);
    this.dispatchEvent(new Event("change"));
  }
}
