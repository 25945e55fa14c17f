/** Keeps the list of images in IndexedDB, so that a reloaded tab has it again. */

/*
 * The list belongs to the tab, whose session is named in sessionStorage. Lists of tabs that are gone
 * are deleted when the page is next opened, but for the one that the person had remembered.
 */

import { device, tab } from "./kept.js";
import { createStore, delMany, entries, set } from "./vendor/idb-keyval.js";

const KEPT = createStore("super-resolution", "kept");
const SESSION = "session"; // in sessionStorage: this tab's; in localStorage: the remembered one
const SIGN_OF_LIFE_SECONDS = 60;
const FORGOTTEN_SECONDS = 3600;
const MAX_FILE_BYTES = 500e6; // of all images in one list

export class Store {
  #session =
    tab.get(SESSION) ??
    device.get(SESSION) ??
    `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;
  #fileBytes = new Map(); // of each image whose file is kept

  constructor() {
    tab.set(SESSION, this.#session);
  }

  get isRemembered() {
    return device.get(SESSION) === this.#session;
  }

  /** Keep the list for when the tab has been closed, or no longer. */
  set isRemembered(value) {
    if (value) device.set(SESSION, this.#session);
    else device.remove(SESSION);
  }

  /** Return what was kept of each image, in the order in which they were added. */
  async load() {
    const all = await this.#try(() => entries(KEPT), []);
    const seen = new Map(
      all.filter(([[kind]]) => kind === "seen").map(([[, who], when]) => [who, when]),
    );
    const isGone = (session) => {
      if (session === this.#session || session === device.get(SESSION)) return false;
      return Date.now() - (seen.get(session) ?? 0) > 1000 * FORGOTTEN_SECONDS;
    };
    const gone = all.map(([key]) => key).filter(([, session]) => isGone(session));
    await this.#try(() => delMany(gone, KEPT));
    this.#giveSignOfLife();
    setInterval(() => this.#giveSignOfLife(), 1000 * SIGN_OF_LIFE_SECONDS);
    const own = all.filter(([[, session]]) => session === this.#session);
    const files = new Map(
      own.filter(([[kind]]) => kind === "file").map(([[, , id], file]) => [id, file]),
    );
    for (const [id, file] of files) this.#fileBytes.set(id, file.size);
    return own
      .filter(([[kind]]) => kind === "image")
      .map(([[, , id], record]) => ({ ...record, id, file: files.get(id) ?? null }))
      .sort((first, second) => first.order - second.order);
  }

  /** Keep an image's file: once, since copying it takes time. */
  async putFile({ id, file }) {
    const bytes = [...this.#fileBytes.values()].reduce((sum, each) => sum + each, file.size);
    if (bytes > MAX_FILE_BYTES) return;
    this.#fileBytes.set(id, file.size);
    await this.#try(() => set(["file", this.#session, id], file, KEPT));
  }

  /** Keep an image's record, whatever has changed of it. */
  async put(id, record) {
    await this.#try(() => set(["image", this.#session, id], record, KEPT));
  }

  async remove(...ids) {
    for (const id of ids) this.#fileBytes.delete(id);
    const kinds = ["image", "file"];
    const keys = ids.flatMap((id) => kinds.map((kind) => [kind, this.#session, id]));
    await this.#try(() => delMany(keys, KEPT));
  }

  #giveSignOfLife() {
    this.#try(() => set(["seen", this.#session], Date.now(), KEPT));
  }

  /** A full disk, or a browser that keeps nothing, is no reason to stop. */
  async #try(action, otherwise) {
    try {
      return await action();
    } catch (error) {
      console.warn("not kept:", error);
      return otherwise;
    }
  }
}
