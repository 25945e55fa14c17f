/** The viewer's buttons and keys; on a phone, opening and closing it. */

import { describe } from "./describe.js";
import { save } from "./downloads.js";
import { formatPercent, formatSize, text } from "./texts.js";

const element = (id) => document.getElementById(id);
const ZOOM_STEP = 1.25;
const PAN_PIXELS = 64;
const VIEWING = "viewing"; // the history's state while the viewer covers the phone
const narrow = matchMedia("(max-width: 60rem)");

export class ViewerControls {
  constructor(viewer) {
    this.viewer = viewer;
    const { stage } = viewer;
    const actions = {
      "previous": () => viewer.step(-1),
      "next": () => viewer.step(1),
      "zoom-out": () => viewer.zoomBy(1 / ZOOM_STEP),
      "zoom-in": () => viewer.zoomBy(ZOOM_STEP),
      "fit": () => viewer.fit(),
      "full-size": () => viewer.zoomTo(1),
      "side-by-side": () => viewer.setBeside(!viewer.isBeside),
      "use-lens": () => viewer.setLens(!viewer.lens.isOn),
      "fullscreen": () => this.#toggleFullscreen(),
      "close-viewer": () => history.back(),
      "viewer-save": () => save(viewer.item, viewer.queue),
    };
    for (const [id, action] of Object.entries(actions)) {
      element(id).addEventListener("click", () => {
        action();
        this.render();
      });
    }
    element("fullscreen").hidden = !document.fullscreenEnabled;
    this.#installHold(element("hold"));
    element("viewer").addEventListener("keydown", (event) => this.#press(event));
    stage.addEventListener("keyup", ({ key }) => key === " " && viewer.hold(false));
    viewer.addEventListener("change", () => this.render());
    viewer.addEventListener("select", () => this.#select());
    viewer.queue.addEventListener("change", ({ detail }) => {
      if (detail && detail === viewer.item) this.render();
    });
    viewer.queue.service.addEventListener("change", () => this.render());
    addEventListener("popstate", ({ state }) => {
      if (state === VIEWING && viewer.item) this.open();
      else this.#close();
    });
    narrow.addEventListener("change", () => this.#close());
  }

  /** Cover the phone again, as it was before the page was reloaded. */
  resume() {
    if (history.state === VIEWING) this.open();
  }

  /** Bring the viewer before the person who has asked for it. */
  open() {
    if (narrow.matches && !document.body.classList.contains("viewing")) {
      document.body.classList.add("viewing");
      for (const id of ["top", "panel"]) element(id).inert = true;
      if (history.state !== VIEWING) history.pushState(VIEWING, ""); // so that "back" closes it
    }
    this.viewer.stage.focus({ preventScroll: true });
  }

  #close() {
    document.body.classList.remove("viewing");
    for (const id of ["top", "panel"]) element(id).inert = false;
    const row = document.querySelector('#list [aria-current="true"] .thumb');
    if (document.activeElement === document.body) row?.focus();
  }

  #select() {
    const { item } = this.viewer;
    if (item === null && document.body.classList.contains("viewing")) history.back();
    this.render();
  }

  render() {
    const { item, transform, isBeside, lens, queue, stage } = this.viewer;
    const index = queue.items.indexOf(item);
    const { shows } = stage.dataset;
    const hasImage = shows !== "nothing" && item !== null;
    element("viewer-name").textContent = item?.name ?? "";
    element("viewer-size").textContent = hasImage ? formatSize(transform.image) : "";
    element("viewer-save").hidden = item?.state !== "done";
    const isUnderWay = ["waiting", "working", "failed"].includes(item?.state);
    element("stage-state").hidden = !isUnderWay;
    element("stage-state").textContent = isUnderWay ? describe(item, queue) : "";
    element("stage-text").hidden = hasImage || this.viewer.isLoading;
    element("stage-text").textContent = text(item === null ? "noImage" : "notShown");
    element("full-size").textContent = formatPercent(1);
    element("zoom").textContent = hasImage ? formatPercent(transform.zoom) : "";
    element("previous").disabled = index <= 0;
    element("next").disabled = index === -1 || index === queue.items.length - 1;
    for (const id of ["zoom-in", "zoom-out", "fit", "full-size", "use-lens"]) {
      element(id).disabled = !hasImage;
    }
    for (const id of ["hold", "side-by-side"]) element(id).disabled = shows !== "both";
    const pressed = {
      "fit": transform.isFitted,
      "full-size": Math.abs(transform.zoom - 1) < 1e-6 && !transform.isFitted,
      "side-by-side": isBeside,
      "use-lens": lens.isOn,
    };
    for (const [id, isPressed] of Object.entries(pressed))
      element(id).setAttribute("aria-pressed", isPressed);
  }

  /** For as long as the button is held, by pointer or key, the original is seen alone. */
  #installHold(button) {
    button.addEventListener("pointerdown", ({ pointerId }) => {
      button.setPointerCapture(pointerId);
      this.viewer.hold(true);
    });
    for (const name of ["lostpointercapture", "keyup", "blur"]) {
      button.addEventListener(name, () => this.viewer.hold(false));
    }
    button.addEventListener("keydown", ({ key }) => {
      if (key === " " || key === "Enter") this.viewer.hold(true);
    });
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
  }

  #press(event) {
    const { viewer } = this;
    const actions = {
      "ArrowLeft": () => viewer.step(-1),
      "ArrowRight": () => viewer.step(1),
      "Shift ArrowLeft": () => viewer.pan(PAN_PIXELS, 0),
      "Shift ArrowRight": () => viewer.pan(-PAN_PIXELS, 0),
      "Shift ArrowUp": () => viewer.pan(0, PAN_PIXELS),
      "Shift ArrowDown": () => viewer.pan(0, -PAN_PIXELS),
      "+": () => viewer.zoomBy(ZOOM_STEP),
      "=": () => viewer.zoomBy(ZOOM_STEP),
      "-": () => viewer.zoomBy(1 / ZOOM_STEP),
      "0": () => viewer.fit(),
      "1": () => viewer.zoomTo(1),
      "f": () => this.#toggleFullscreen(),
      "l": () => viewer.setLens(!viewer.lens.isOn),
      "s": () => viewer.setBeside(!viewer.isBeside),
      " ": () => viewer.hold(true),
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = event.shiftKey && event.key.startsWith("Arrow") ? "Shift " : "";
    const action = actions[arrow + event.key];
    if (!action || (event.key === " " && event.target !== viewer.stage)) return;
    event.preventDefault();
    action();
    this.render();
  }

  #toggleFullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else element("viewer").requestFullscreen?.();
  }
}
