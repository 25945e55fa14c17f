/** The originals: an address at which an <img> shows each, its size, and its thumbnail. */

import { preview } from "./client.js";

const THUMBNAIL_PIXELS = 112;

/** Load an image's header; resolves to its size, rejects if the browser cannot show it. */
function measure(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve({ width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = reject;
    image.src = url;
  });
}

export class Originals {
  #shown = new Map(); // item -> promise of { url, blob, width, height }
  #last = Promise.resolve(); // of what is done one after the other, so that others get their turn

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

  /** Draw an item's thumbnail into a canvas; rejects if the browser cannot show it. */
  drawThumbnail(item, canvas) {
    return this.#afterOthers(async () => {
      const { blob } = (await this.#shown.get(item)) ?? { blob: item.file };
      const small = await createImageBitmap(blob, {
        resizeWidth: THUMBNAIL_PIXELS,
        resizeQuality: "medium",
      });
      Object.assign(canvas, { width: small.width, height: small.height });
      canvas.getContext("2d").drawImage(small, 0, 0);
      small.close();
    });
  }

  #afterOthers(action) {
    const done = this.#last.then(action);
    this.#last = done.catch(() => {});
    return done;
  }

  async #measure(item) {
    const url = URL.createObjectURL(item.file);
    try {
      this.queue.change(item, { size: await measure(url) });
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
      size = await measure(url);
    } catch {
      URL.revokeObjectURL(url);
      blob = await preview(item.file, { apiKey: this.service.apiKey });
      url = URL.createObjectURL(blob);
      size = await measure(url);
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
