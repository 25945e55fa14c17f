/** The list of images: a row for each. */

import { save } from "./downloads.js";
import { Row } from "./row.js";

export class List {
  #rows = new Map();
  #element = document.getElementById("list");
  #observer = new IntersectionObserver((entries) => this.#see(entries));

  constructor(queue, originals, work) {
    this.queue = queue;
    this.originals = originals;
    this.work = work;
    queue.addEventListener("change", ({ detail }) =>
      detail ? this.#rows.get(detail)?.render() : this.#sync(),
    );
    queue.service.addEventListener("change", () => this.render());
    this.#element.addEventListener("click", (event) => this.#act(event));
  }

  whenSeen(row) {
    row.element.row = row;
    this.#observer.observe(row.element);
  }

  render() {
    for (const row of this.#rows.values()) row.render();
  }

  /** Mark the item that the viewer shows. */
  mark(item) {
    this.#element.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const row = this.#rows.get(item);
    row?.element.setAttribute("aria-current", "true");
    row?.element.scrollIntoView({ block: "nearest" });
  }

  #see(entries) {
    for (const { isIntersecting, target } of entries) {
      target.row.isSeen = isIntersecting;
      if (isIntersecting) target.row.drawThumbnail();
    }
  }

  #sync() {
    const { items } = this.queue;
    const kept = new Set(items);
    for (const [item, row] of this.#rows) {
      if (kept.has(item)) continue;
      this.#observer.unobserve(row.element);
      row.element.remove();
      this.#rows.delete(item);
    }
    for (const item of items) {
      if (this.#rows.has(item)) continue;
      const row = new Row(item, this);
      this.#rows.set(item, row);
      row.render();
      this.#element.append(row.element);
    }
  }

  #act({ target }) {
    const button = target.closest("[data-action]");
    if (!button) return;
    const { item } = button.closest("li").row;
    const actions = {
      cancel: () => this.queue.cancel(item),
      retry: () => this.queue.start([item]),
      download: () => save(item, this.queue),
      remove: () => this.#remove(item),
    };
    actions[button.dataset.action]();
  }

  #remove(item) {
    const row = this.#rows.get(item).element;
    const next = row.nextElementSibling ?? row.previousElementSibling;
    this.queue.remove(item);
    (next?.querySelector(".thumb") ?? document.getElementById("files")).focus();
  }
}
