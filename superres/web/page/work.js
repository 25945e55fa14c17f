/** The working screen: puts its parts together, and says which images the options are for. */

import { tab } from "./kept.js";
import { installKeyForm } from "./key_form.js";
import { List } from "./list.js";
import { OptionsForm } from "./options_form.js";
import { Originals } from "./originals.js";
import { Queue } from "./queue.js";
import { installCopying, writeSnippets } from "./snippets.js";
import { Summary } from "./summary.js";
import { text } from "./texts.js";
import { Viewer } from "./viewer.js";
import { ViewerControls } from "./viewer_controls.js";

const element = (id) => document.getElementById(id);
const OPTIONS_NAME = "options";
const SHOWN_NAME = "shown"; // the id of the image in the viewer


export class Work {
  #form = new OptionsForm();
  #options = JSON.parse(tab.get(OPTIONS_NAME)); // of new images, and of all

  constructor(service, store) {
    this.service = service;
    this.store = store;
    this.queue = new Queue(service, store);
    this.originals = new Originals(this.queue, service);
    this.viewer = new Viewer(element("stage"), this.queue, this.originals);
    this.controls = new ViewerControls(this.viewer);
    this.summary = new Summary(this.queue);
    this.list = new List(this.queue, this.originals, this);
    installKeyForm(this.queue);
    installCopying();
    this.#form.addEventListener("change", () => this.#choose());
    element("scope").addEventListener("change", () => this.#renderOptions());
    service.addEventListener("change", () => this.#offer());
    this.queue.addEventListener("change", ({ detail }) => detail ?? this.#renderOptions());
    this.viewer.addEventListener("select", () => {
      this.list.mark(this.viewer.item);
      tab.set(SHOWN_NAME, this.viewer.item?.id);
      this.#renderOptions();
    });
    this.#installKeeping();
    this.#offer();
  }

  /** Go on with the images that the tab had before it was reloaded. */
  restore(records) {
    this.queue.restore(records);
    this.originals.measureAll(this.queue.items);
    const shown = tab.get(SHOWN_NAME);
    this.viewer.show(this.queue.items.find(({ id }) => id === shown) ?? this.queue.items[0]);
    this.controls.resume();
  }

  async add(files) {
    await this.service.until(() => this.service.capabilities);
    this.service.refresh(); // how fast it is now
    const added = this.queue.add(files, this.#options);
    this.originals.measureAll(added);
    if (this.viewer.item === null) this.viewer.show(added[0]);
    this.summary.render();
    element("start").focus({ preventScroll: true });
  }

  /** Show an image that the person wants to look at. */
  view(item) {
    this.viewer.show(item);
    this.controls.open();
  }

  async showCode() {
    await this.service.until(() => this.service.capabilities);
    const options = this.#isForOne ? this.viewer.item.options : this.#options;
    const { api_key_required: isKeyRequired } = this.service.capabilities;
    writeSnippets(options, this.viewer.item?.name ?? "photo.jpg", isKeyRequired);
    element("code-dialog").showModal();
  }

  render() {
    this.list.render();
    this.summary.render();
    this.controls.render();
    this.#renderOptions();
  }

  get #isForOne() {
    return !element("scope").hidden && element("options").elements.scope.value === "one";
  }

  /** Offer what the service can do, as soon as that is known. */
  #offer() {
    const { capabilities } = this.service;
    if (!capabilities) return;
    this.#form.offer(capabilities);
    this.#options ??= this.#form.options;
    this.#renderOptions();
  }

  #choose() {
    const { options } = this.#form;
    if (!this.#isForOne) {
      this.#options = options;
      tab.set(OPTIONS_NAME, JSON.stringify(options));
    }
    this.queue.choose(this.#isForOne ? [this.viewer.item] : this.queue.items, options);
    this.#renderOptions();
  }

  #renderOptions() {
    const { items } = this.queue;
    const { item } = this.viewer;
    element("welcome").hidden = items.length > 0;
    element("work").hidden = items.length === 0;
    element("scope").hidden = items.length < 2 || item === null;
    element("scope-one").textContent = text("scopeOne", { name: item?.name ?? "" });
    if (this.service.capabilities)
      this.#form.options = this.#isForOne ? item.options : this.#options;
    element("mode-hint").textContent = text(`${element("options").elements.mode.value}Hint`);
  }

  #installKeeping() {
    const { store } = this;
    const render = () => {
      element("remember").checked = store.isRemembered;
      element("forget").hidden = !store.isRemembered;
    };
    element("remember").addEventListener("change", ({ target }) => {
      store.isRemembered = target.checked;
      render();
    });
    element("forget").addEventListener("click", async () => {
      store.isRemembered = false;
      // The list is shown until its images are gone from the disk: the tab may be closed then.
      await store.remove(...this.queue.items.map(({ id }) => id));
      this.queue.remove(...this.queue.items);
      render();
    });
    render();
  }
}
