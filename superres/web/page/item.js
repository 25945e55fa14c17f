/** One image: what was chosen for it, and how far it is. */

/**
 * state: "ready" (not asked for yet), "waiting" (for its turn), "working", "done" or "failed".
 * options: what was chosen; result.options: what was chosen for the result that there is.
 */
export class Item {
  file = null;
  size = null; // { width, height, hasAlpha } of the original, as soon as it is known
  state = "ready";
  statusUrl = null; // of its job
  progress = null; // of its job, as client.js reports it
  result = null; // { url, blob, bytes, options }
  failure = null;
  interruptions = 0;

  constructor(record) {
    Object.assign(this, record);
  }

  get record() {
    const { name, order, size, options, statusUrl, result, failure, state } = this;
    const kept = state === "working" ? "waiting" : state;
    return { name, order, size, options, statusUrl, result, failure, state: kept };
  }

  /** The file name of its result. */
  get resultName() {
    const { mode, scale, width, ending } = this.result.options;
    const stem = this.name.replace(/\.[^.]*$/, "") + (mode === "restore" ? "_restored" : "");
    return `${stem}_${width ? `${width}w` : `x${scale}`}.${ending}`;
  }

  /** The address of its result; one that could not be stored has one in this page only. */
  get resultUrl() {
    if (this.result.url) return this.result.url;
    this.objectUrl ??= URL.createObjectURL(this.result.blob);
    return this.objectUrl;
  }
}
