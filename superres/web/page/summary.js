/** All images together: what is to be done next, how far it is, and that it is done. */

import { save, saveAll } from "./downloads.js";
import { estimateQueue, estimateSeconds } from "./estimate.js";
import { formatPercent, formatSeconds, text } from "./texts.js";

const element = (id) => document.getElementById(id);

export class Summary {
  #isAsked = false;
  #wasBusy = false;

  constructor(queue) {
    this.queue = queue;
    queue.addEventListener("change", () => this.#renderSoon());
    queue.service.addEventListener("change", () => this.#renderSoon());
    for (const [id, state] of [
      ["start", "ready"],
      ["retry", "failed"],
    ]) {
      element(id).addEventListener("click", () => {
        queue.start(this.#in(state));
        element("actions").focus({ preventScroll: true }); // the button disappears
      });
    }
    element("clear").addEventListener("click", () => queue.remove(...queue.items));
    element("save-all").addEventListener("click", () => this.#saveAll());
    element("notify-choice").hidden = !("Notification" in globalThis);
    element("notify").addEventListener("change", ({ target }) => this.#askToNotify(target));
  }

  #in(...states) {
    return this.queue.items.filter((item) => states.includes(item.state));
  }

  /** Once for each frame, however many images have changed. */
  #renderSoon() {
    if (this.#isAsked) return;
    this.#isAsked = true;
    // Not requestAnimationFrame, which does not come while the tab is in the background.
    setTimeout(() => {
      this.#isAsked = false;
      this.render();
    });
  }

  render() {
    const { queue } = this;
    const [ready, busy, done, failed] = [
      this.#in("ready").filter((item) => !queue.findExceeded(item)),
      this.#in("waiting", "working"),
      this.#in("done"),
      this.#in("failed"),
    ];
    const seconds = this.#secondsFor(ready);
    const start = text("enhance", { count: ready.length });
    const queued = seconds && estimateQueue(queue.service.capabilities);
    const time = formatSeconds(seconds + queued);
    // Small images overtake large ones of others: how many is not known before they are sent.
    element("start").textContent = seconds
      ? `${start} · ${text(queued ? "upTo" : "about", { time })}`
      : start;
    element("start").hidden = ready.length === 0;
    element("retry").textContent = text("retryAll", { count: failed.length });
    element("retry").hidden = failed.length === 0;
    element("save-all").hidden = done.length === 0;
    element("save-all").classList.toggle("primary", !ready.length && !busy.length);
    element("save-all").lastElementChild.textContent = text(
      done.length > 1 ? "downloadAll" : "download",
    );
    element("total").hidden = busy.length === 0;
    this.#renderProgress(busy, done);
    if (this.#wasBusy && busy.length === 0) this.#finish(done, failed);
    this.#wasBusy = busy.length > 0;
  }

  #renderProgress(busy, done) {
    const count = busy.length + done.length;
    const share =
      busy.reduce((sum, { progress }) => sum + (progress?.progress ?? 0), done.length) / count;
    const name = text("name");
    document.title = busy.length ? `${formatPercent(share)} · ${name}` : name;
    element("total").value = busy.length ? share : 0;
    const values = { done: done.length, count };
    const { service, resumesAt } = this.queue;
    const left = service.isUp && !resumesAt && this.#secondsLeft(busy);
    const words = left
      ? text("totalLeft", { ...values, time: formatSeconds(left) })
      : text("total", values);
    element("total-text").textContent = busy.length ? words : "";
  }

  /** The seconds that items will take in all, as far as that can be told. */
  #secondsFor(items) {
    const { capabilities } = this.queue.service;
    const all = items.map(({ options, size }) => estimateSeconds(capabilities, options, size) ?? 0);
    return all.reduce((sum, seconds) => sum + seconds, 0);
  }

  #secondsLeft(busy) {
    const running = busy.map(({ progress }) => progress?.etaSeconds ?? 0);
    const others = this.#secondsFor(
      busy.filter(({ progress }) => progress?.etaSeconds === undefined),
    );
    return others + Math.max(0, ...running);
  }

  #finish(done, failed) {
    const words = failed.length
      ? text("total", { done: done.length, count: done.length + failed.length })
      : text("allDone", { count: done.length });
    element("announcement").textContent = words;
    if (!document.hidden || !element("notify").checked) return;
    try {
      new Notification(text("name"), { body: words });
    } catch {
      // Chromium on Android lets only service workers notify.
    }
  }

  async #askToNotify(box) {
    if (box.checked) box.checked = (await Notification.requestPermission()) === "granted";
  }

  async #saveAll() {
    const button = element("save-all");
    button.disabled = true;
    try {
      const done = this.#in("done");
      await (done.length > 1 ? saveAll(done, this.queue) : save(done[0], this.queue));
    } catch (error) {
      // Unless the person has closed the dialog, or the disk is full, which the browser tells.
      if (error instanceof TypeError) this.queue.service.lose();
    } finally {
      button.disabled = false;
    }
  }
}
