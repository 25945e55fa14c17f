/** A row of the list: an image, how far it is, and what can be done with it. */

import { estimateSeconds, resultSize } from "./estimate.js";
import { describeFailure } from "./failures.js";
import { formatBytes, formatPercent, formatSeconds, formatSize, formatTime, text } from "./texts.js";

const ICONS = { cancel: "remove", remove: "remove", retry: "retry", download: "download" };
const ACTIONS = {
  ready: ["remove"],
  waiting: ["cancel"],
  working: ["cancel"],
  done: ["download", "remove"],
  failed: ["retry", "remove"],
};

function make(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

function makeIcon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export class Row {
  #shownActions = "";
  #isDrawn = false;

  constructor(item, list) {
    this.item = item;
    this.list = list;
    this.element = make("li");
    this.thumb = make("button", { type: "button", className: "thumb" });
    this.thumb.textContent = item.name.split(".").pop().slice(0, 4).toUpperCase();
    this.thumb.addEventListener("click", () => list.work.view(item));
    this.state = make("div", { className: "row-state" });
    this.bar = make("progress", { max: 1, hidden: true });
    this.bar.setAttribute("aria-label", item.name);
    this.actions = make("div", { className: "row-actions" });
    const middle = make("div");
    middle.append(
      make("div", { className: "row-name", textContent: item.name, title: item.name }),
      this.state,
      this.bar,
    );
    this.element.append(this.thumb, middle, this.actions);
    list.whenSeen(this);
  }

  /** Draw the thumbnail, once it is seen and may be drawn. */
  async drawThumbnail() {
    const { item } = this;
    const { originals } = this.list;
    if (this.#isDrawn || !originals.hasThumbnail(item)) return;
    this.#isDrawn = true;
    const canvas = make("canvas");
    try {
      await originals.drawThumbnail(item, canvas);
      this.thumb.replaceChildren(canvas);
    } catch {
      // Its ending stays.
    }
  }

  describe() {
    const { item } = this;
    const { capabilities, isUp } = this.list.queue.service;
    const { state, progress } = item;
    if (state === "failed") return describeFailure(item.failure);
    if (state === "waiting") {
      const { resumesAt } = this.list.queue;
      if (isUp && resumesAt) return text("paused", { time: formatTime(resumesAt) });
      return text(isUp ? "waiting" : "away");
    }
    if (state === "done") {
      const size = item.size ? formatSize(resultSize(item.result.options, item.size)) : "";
      const bytes = formatBytes(item.result.bytes);
      return size ? text("done", { size, bytes }) : bytes;
    }
    if (state === "working") {
      if (!isUp) return text("away");
      if (!progress) return text("waiting");
      if (progress.state === "running") {
        const time = formatSeconds(progress.etaSeconds);
        return text("running", { percent: formatPercent(progress.progress), time });
      }
      if (progress.state !== "queued") return text(progress.state);
      return progress.position ? text("queued", { count: progress.position }) : text("queuedNext");
    }
    if (!item.size) return item.file ? formatBytes(item.file.size) : "";
    const sizes = {
      from: formatSize(item.size),
      to: formatSize(resultSize(item.options, item.size)),
    };
    const seconds = estimateSeconds(capabilities, item.options, item.size);
    if (seconds === null) return text("ready", sizes);
    return text("readyTime", { ...sizes, time: formatSeconds(seconds, "narrow") });
  }

  render() {
    const { item } = this;
    const exceeded = item.state === "ready" && this.list.queue.findExceeded(item);
    this.element.dataset.state = exceeded ? "failed" : item.state;
    const words = exceeded ? describeFailure({ code: "exceeded", exceeded }) : this.describe();
    if (this.state.textContent !== words) this.state.textContent = words;
    this.thumb.setAttribute("aria-label", `${text("view")}: ${item.name}`);
    const isRunning = item.state === "working" && item.progress?.state === "running";
    this.bar.hidden = !isRunning;
    if (isRunning) this.bar.value = item.progress.progress;
    this.#renderActions(ACTIONS[item.state]);
    if (this.isSeen) this.drawThumbnail();
  }

  #renderActions(names) {
    const shown = names.map((name) => text(name)).join();
    if (shown === this.#shownActions) return;
    this.#shownActions = shown;
    const hadFocus = this.actions.contains(document.activeElement);
    this.actions.replaceChildren(
      ...names.map((name) => {
        const button = make("button", { type: "button", className: "icon", title: text(name) });
        button.dataset.action = name;
        button.setAttribute("aria-label", `${text(name)}: ${this.item.name}`);
        button.append(makeIcon(ICONS[name]));
        return button;
      }),
    );
    // The focus must not jump to the top of the page when a button is replaced.
    if (hadFocus) this.actions.lastChild.focus();
  }
}
