/** The originals: an address at which an <img> shows each, its size, and its thumbnail. */

import { preview } from "./client.js";
import { hasTransparency } from "./transparency.js";

const THUMBNAIL_PIXELS = 112; // of its shorter side
const LONGEST_THUMBNAIL = 448;
// What no browser but Safari shows, and the service turns into PNG.
const FOREIGN_NAME = /\.(heic|heif|hif|tiff?)$/i;

/** Load an image's header; resolves to its size, rejects if the browser cannot show it. */
async function measure(url, blob) {
  const image = new Image();
  await new Promise((resolve, reject) => {
    image.onload = resolve;
    image.onerror = reject;
    image.src = url;
  });
  const { naturalWidth: width, naturalHeight: height } = image;
  return { width, height, hasAlpha: await hasTransparency(blob) };
}

export class Originals {
  #shown = new Map(); // item -> promise of { url, blob, width, height }
  #last = Promise.resolve(); // of what is done one after the other, so that others get their turn
  #lastPreview = Promise.resolve();

  constructor(queue, service) {
    this.queue = queue;
    this.service = service;
    queue.addEventListener("change", ({ detail }) => detail === null && this.#release());
  }

  /** Find out the sizes of items, so that their results' sizes and times can be told. */
  measureAll(items) {
    for (const item of items)
      if (item.file && !item.size) this.#afterOthers(() => this.#measure(item));
  }

  /**
   * Resolve to { url, width, height } of an item's original.
   *
   * What the browser cannot show, TIFF and HEIC mostly, the service turns into a PNG.
   */
  load(item) {
    if (!this.#shown.has(item)) {
      const loading = this.#load(item);
      this.#shown.set(item, loading);
      loading.catch(() => this.#shown.delete(item));
    }
    return this.#shown.get(item);
  }

  /** Whether there can be a thumbnail of an item by now. */
  hasThumbnail({ file, name, size }) {
    const { isUp, apiKey, capabilities } = this.service;
    if (!file || size) return Boolean(file);
    const isAllowed = isUp && capabilities && (apiKey || !capabilities.api_key_required);
    const isSmall = file.size <= capabilities?.limits.upload_bytes;
    return FOREIGN_NAME.test(name) && isAllowed && isSmall;
  }

  /** Draw an item's thumbnail into a canvas; rejects if neither browser nor service can show it. */
  async drawThumbnail(item, canvas) {
    const blob = await this.#findBlob(item);
    await this.#afterOthers(async () => {
      const { width, height } = item.size ?? (await createImageBitmap(blob));
      const shrink = Math.min(
        THUMBNAIL_PIXELS / Math.min(width, height),
        LONGEST_THUMBNAIL / Math.max(width, height),
        1,
      );
      const small = await createImageBitmap(blob, {
        resizeWidth: Math.max(Math.round(width * shrink), 1),
        resizeHeight: Math.max(Math.round(height * shrink), 1),
        resizeQuality: "medium",
      });
      Object.assign(canvas, { width: small.width, height: small.height });
      canvas.getContext("2d").drawImage(small, 0, 0);
      small.close();
    });
  }

  async #findBlob(item) {
    if (this.#shown.has(item)) return (await this.#shown.get(item)).blob;
    return item.size ? item.file : this.#previewSmall(item);
  }

  /** One after the other, too, but nothing else waits for the service. */
  #previewSmall({ file }) {
    const { apiKey } = this.service;
    const done = this.#lastPreview.then(() => preview(file, { maxSide: THUMBNAIL_PIXELS, apiKey }));
    this.#lastPreview = done.catch(() => {});
    return done;
  }

  #afterOthers(action) {
    const done = this.#last.then(action);
    this.#last = done.catch(() => {});
    return done;
  }

  async #measure(item) {
    const url = URL.createObjectURL(item.file);
    try {
      this.queue.change(item, { size: await measure(url, item.file) });
    } catch {
      // Told when its result is made, or when it is looked at.
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  async #load(item) {
    if (!item.file) throw new Error("no file");
    let blob = item.file;
    let url = URL.createObjectURL(blob);
    let size;
    try {
      size = await measure(url, blob);
    } catch {
      URL.revokeObjectURL(url);
      blob = await preview(item.file, { apiKey: this.service.apiKey });
      url = URL.createObjectURL(blob);
      size = await measure(url, blob);
    }
    if (!item.size) this.queue.change(item, { size });
    return { url, blob, ...size };
  }

  #release() {
    for (const [item, loading] of this.#shown) {
      if (this.queue.items.includes(item)) continue;
      this.#shown.delete(item);
      loading.then(
        ({ url }) => URL.revokeObjectURL(url),
        () => {},
      );
    }
  }
}
