/** A row of the list: an image, how far it is, and what can be done with it. */

import { describe } from "./describe.js";
import { text } from "./texts.js";

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

  render() {
    const { item } = this;
    const { queue } = this.list;
    const isExceeding = item.state === "ready" && queue.findExceeded(item);
    this.element.dataset.state = isExceeding ? "failed" : item.state;
    const words = describe(item, queue);
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
