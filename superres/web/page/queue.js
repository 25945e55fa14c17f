/** The images: has them made, a few at a time, and keeps what is to survive a reload. */

import { follow, submit, withdraw } from "./client.js";
import { areSame, findExceeded, toRequest } from "./estimate.js";
import { isLostJob, isOutage, MissingFile, toFailure } from "./failures.js";
import { Item } from "./item.js";

const PARALLEL = 3;
const MAX_INTERRUPTIONS = 5; // without any progress in between

/** Dispatches "change", with the item in `detail`, or null if items came or went. */
export class Queue extends EventTarget {
  items = [];
  #controllers = new WeakMap(); // item -> of its last run
  #resumesAt = 0; // when a rate limit that is used up allows more, as Date.now() counts

  constructor(service, store) {
    super();
    this.service = service;
    this.store = store;
    service.addEventListener("change", () => this.#startNext());
  }

  /** Go on with what the tab had before it was reloaded. */
  restore(records) {
    this.items = records.map((record) => new Item(record));
    this.#announce(null);
    this.#startNext();
  }

  add(files, options) {
    const now = Date.now();
    const added = Array.from(files, (file, index) => {
      const id = `${now.toString(36)}-${index}-${Math.random().toString(36).slice(2, 8)}`;
      return new Item({
        id,
        file,
        name: file.name,
        order: now + index / 1e4,
        options: { ...options },
      });
    });
    this.items.push(...added);
    this.#announce(null);
    for (const item of added) {
      this.store.put(item.id, item.record);
      this.store.putFile(item);
    }
    return added;
  }

  remove(...items) {
    for (const item of items) {
      this.cancel(item);
      if (item.objectUrl) URL.revokeObjectURL(item.objectUrl);
    }
    this.items = this.items.filter((item) => !items.includes(item));
    this.store.remove(...items.map(({ id }) => id));
    this.#announce(null);
  }

  /** When the next image may be sent; null: now. */
  get resumesAt() {
    return this.#resumesAt > Date.now() ? new Date(this.#resumesAt) : null;
  }

  /** Change an item, unless it was removed; what is to survive a reload is kept. */
  change(item, changes) {
    if (!this.items.includes(item)) return;
    Object.assign(item, changes);
    if (!("progress" in changes) || "state" in changes) this.store.put(item.id, item.record);
    this.#announce(item);
  }

  /** An item's result is no longer stored. */
  loseResult(item) {
    this.change(item, { state: "failed", result: null, failure: { code: "gone" } });
  }

  /** Choose options for items; those that are being made are left alone. */
  choose(items, options) {
    for (const item of items) {
      if (item.state === "working" || item.state === "waiting") continue;
      const isDone = item.result && areSame(options, item.result.options);
      this.change(item, {
        options: { ...options },
        state: isDone ? "done" : "ready",
        failure: null,
      });
    }
  }

  /** Make what is not made yet. */
  start(items) {
    for (const item of items) {
      if (!["ready", "failed"].includes(item.state) || this.findExceeded(item)) continue;
      this.change(item, { state: "waiting", failure: null, interruptions: 0 });
    }
    this.#startNext();
  }

  /** The limit that an item exceeds, so that it need not be sent; see estimate.js. */
  findExceeded({ options, file, size }) {
    const { capabilities } = this.service;
    return capabilities && findExceeded(capabilities, options, file, size);
  }

  /** Stop making an item; its job is cancelled. */
  cancel(item) {
    this.#controllers.get(item)?.abort();
    if (item.statusUrl) withdraw(item.statusUrl, this.service);
    if (["waiting", "working"].includes(item.state)) {
      this.change(item, { state: "ready", statusUrl: null, progress: null });
    }
  }

  #announce(item) {
    this.dispatchEvent(new CustomEvent("change", { detail: item }));
  }

  #startNext() {
    if (!this.service.isUp || this.resumesAt) return;
    const waiting = this.items.filter((item) => item.state === "waiting");
    const free = PARALLEL - this.items.filter((item) => item.state === "working").length;
    for (const item of waiting.slice(0, Math.max(free, 0))) this.#run(item);
  }

  async #run(item) {
    const controller = new AbortController();
    const { signal } = controller;
    this.#controllers.set(item, controller);
    this.change(item, { state: "working" });
    try {
      const result = await this.#make(item, signal);
      signal.throwIfAborted();
      this.change(item, {
        state: "done",
        result,
        statusUrl: null,
        progress: null,
        interruptions: 0,
      });
    } catch (error) {
      if (!signal.aborted) this.#fail(item, error);
    }
    this.#startNext();
  }

  async #make(item, signal) {
    const options = { ...item.options };
    const onProgress = (progress) => {
      if (signal.aborted) return;
      const isMoving = progress.state === "queued" || progress.state === "running";
      this.change(item, { progress, ...(isMoving && { interruptions: 0 }) });
    };
    const asked = { ...toRequest(options), apiKey: this.service.apiKey, signal, onProgress };
    let { statusUrl } = item;
    let answer = {};
    if (!statusUrl) {
      if (!item.file) throw new MissingFile();
      answer = await submit(item.file, asked);
      ({ statusUrl = null } = answer);
      if (signal.aborted && statusUrl) withdraw(statusUrl, this.service);
      signal.throwIfAborted();
      this.change(item, { statusUrl });
    }
    const url = statusUrl ? await follow(statusUrl, asked) : answer.url;
    if (!url) return { url: null, blob: answer.blob, bytes: answer.blob.size, options };
    const head = await fetch(url, { method: "HEAD", signal });
    return { url, blob: null, bytes: Number(head.headers.get("Content-Length")), options };
  }

  #fail(item, error) {
    const interruptions = item.interruptions + 1;
    if (isLostJob(error) && interruptions < MAX_INTERRUPTIONS) {
      this.change(item, { state: "waiting", statusUrl: null, progress: null, interruptions });
    } else if (isOutage(error) && interruptions < MAX_INTERRUPTIONS) {
      this.change(item, { state: "waiting", progress: null, interruptions });
      this.service.lose();
    } else if (error.status === 429 && error.retryAfter) {
      this.change(item, { state: "waiting", progress: null });
      this.#pause(error.retryAfter);
    } else {
      const failure = toFailure(error);
      this.change(item, { state: "failed", failure, statusUrl: null, progress: null });
    }
  }

  /** A limit for each hour or day is used up: go on by itself when it allows more. */
  #pause(seconds) {
    this.#resumesAt = Date.now() + 1000 * seconds;
    for (const item of this.items) if (item.state === "waiting") this.#announce(item);
    setTimeout(() => this.#startNext(), 1000 * seconds + 100);
  }
}
