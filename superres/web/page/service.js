/** The service as this page sees it: whether it answers, what it can do, the key it wants. */

import { tab } from "./kept.js";

const CHECK_MILLISECONDS = 3000;
const KEY_NAME = "api-key"; // for as long as the tab is open

/** Dispatches "change" when it is lost, when it is back, and when its capabilities have changed. */
export class Service extends EventTarget {
  /** What GET /api/capabilities answers; null until it has. */
  capabilities = null;
  isUp = true;
  #apiKey = tab.get(KEY_NAME);

  get apiKey() {
    return this.#apiKey;
  }

  set apiKey(key) {
    this.#apiKey = key;
    tab.set(KEY_NAME, key);
    this.dispatchEvent(new Event("change"));
  }

  /** Ask for its capabilities: what it can do, and how fast it is now. */
  async refresh() {
    try {
      const response = await fetch("api/capabilities");
      if (!response.ok) throw new TypeError(`status ${response.status}`);
      this.capabilities = await response.json();
      this.isUp = true;
      this.dispatchEvent(new Event("change"));
      // It knows its speed as soon as it has loaded its model.
      if (this.capabilities.seconds_per_pixel === null)
        setTimeout(() => this.refresh(), CHECK_MILLISECONDS);
    } catch {
      this.lose();
    }
  }

  /** Resolve as soon as a condition holds, such as that its capabilities are known. */
  async until(condition) {
    while (!condition()) {
      await new Promise((resolve) => this.addEventListener("change", resolve, { once: true }));
    }
  }

  /** Take it for away, and ask until it answers. */
  lose() {
    if (!this.isUp) return;
    this.isUp = false;
    this.dispatchEvent(new Event("change"));
    this.#check();
  }

  async #check() {
    while (!this.isUp) {
      await new Promise((resolve) => setTimeout(resolve, CHECK_MILLISECONDS));
      await this.refresh();
    }
  }
}
