/** The page at /: a queue of images, a viewer, downloads. */

import { enhance, EnhanceError } from "./client.js";
import { language, messages } from "./messages.js";

const PARALLEL = 2;
const KEY_NAME = "api-key"; // for as long as the tab is open
const element = (id) => document.getElementById(id);
const items = [];
let shown = null;

// --- texts

document.documentElement.lang = language;
document.title = messages.title;
for (const node of document.querySelectorAll("[data-text]")) {
  node.textContent = messages[node.dataset.text];
}
element("compare").setAttribute("aria-label", messages.compare);
element("stage").setAttribute("aria-label", messages.stage);

function describeError(error) {
  if (error instanceof EnhanceError) {
    return messages.errors[error.code]?.replace("{words}", () => error.message) ?? error.message;
  }
  // A folder was dropped, or the file changed or disappeared after it was chosen.
  if (error.name === "NotFoundError" || error.name === "NotReadableError") {
    return messages.errors.unreadable;
  }
  return messages.errors.network;
}

function announce(text) {
  element("announcement").textContent = text;
}

// --- the queue

function make(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

class Item {
  constructor(file) {
    this.file = file;
    this.state = "waiting";
    this.results = new Map(); // "format scale mode" -> promise of an object URL
    this.controllers = new Set();
    this.isAborted = false;
    this.source = URL.createObjectURL(file);
    this.row = make("li");
    this.bar = make("progress", { max: 1, value: 0, hidden: true });
    this.bar.setAttribute("aria-label", file.name);
    this.text = make("div", { className: "state", textContent: messages.waiting });
    this.actions = make("div", { className: "actions" });
    const middle = make("div");
    middle.append(make("div", { className: "name", textContent: file.name }), this.text, this.bar);
    const thumbnail = make("img", { src: this.source, alt: "" });
    thumbnail.addEventListener("error", () => thumbnail.classList.add("broken"));
    this.row.append(thumbnail, middle, this.actions);
    this.setActions(["cancel", () => this.cancel()]);
    element("queue").append(this.row);
  }

  setActions(...pairs) {
    const hadFocus = this.actions.contains(document.activeElement);
    this.actions.replaceChildren(
      ...pairs.map(([name, action], index) => {
        const button = make("button", { type: "button", textContent: messages[name] });
        button.className = index ? "plain" : "";
        button.setAttribute("aria-label", `${messages[name]}: ${this.file.name}`);
        button.addEventListener("click", action);
        return button;
      }),
    );
    // Keyboard focus on the Cancel button must not jump back to the top of the page.
    if (hadFocus) this.actions.firstChild.focus();
  }

  showProgress({ state, progress, position, etaSeconds }) {
    this.bar.hidden = false;
    if (state === "running") {
      const left = messages.seconds(Math.max(Math.round(etaSeconds), 1));
      this.text.textContent = messages.running(Math.round(100 * progress), left);
      this.bar.value = progress;
    } else {
      this.text.textContent = state === "queued" ? messages.queued(position) : messages[state];
      this.bar.removeAttribute("value");
    }
  }

  /** Get a result: existing, in progress, or new. */
  fetchResult(options) {
    const key = `${options.format} ${options.scale} ${options.mode}`;
    if (!this.results.has(key)) {
      const result = this.makeResult(options);
      this.results.set(key, result);
      result.catch(() => this.results.delete(key));
    }
    return this.results.get(key);
  }

  async makeResult(options) {
    const controller = new AbortController();
    this.controllers.add(controller);
    try {
      const { blob } = await enhance(this.file, {
        ...options,
        apiKey: sessionStorage.getItem(KEY_NAME),
        signal: controller.signal,
        onProgress: (progress) => this.showProgress(progress),
      });
      controller.signal.throwIfAborted();
      return URL.createObjectURL(blob);
    } finally {
      this.controllers.delete(controller);
      this.bar.hidden = true;
    }
  }

  abort() {
    this.isAborted = true;
    for (const controller of this.controllers) controller.abort();
  }

  async start() {
    this.state = "running";
    try {
      await this.fetchResult(previewOptions());
      this.finish("done", messages.done);
      this.setActions(["show", () => show(this)], ["remove", () => this.remove()]);
      if (shown === null) show(this);
    } catch (error) {
      const isCancelled = this.isAborted;
      const text = isCancelled ? messages.cancelled : describeError(error);
      this.finish(isCancelled ? "cancelled" : "failed", text);
      this.setActions(["remove", () => this.remove()]);
      this.needsKey = error instanceof EnhanceError && error.code === "unauthorized";
      if (this.needsKey) askForKey();
    }
    startNext();
  }

  restart() {
    this.needsKey = false;
    this.state = "waiting";
    this.row.className = "";
    this.text.textContent = messages.waiting;
    this.setActions(["cancel", () => this.cancel()]);
  }

  finish(state, text) {
    this.state = state;
    this.row.className = state;
    this.bar.hidden = true;
    this.text.textContent = text;
    announce(`${this.file.name}: ${text}`);
  }

  cancel() {
    if (this.state === "waiting") {
      this.finish("cancelled", messages.cancelled);
      this.setActions(["remove", () => this.remove()]);
    } else {
      this.abort();
    }
  }

  remove() {
    items.splice(items.indexOf(this), 1);
    this.abort();
    this.row.remove();
    URL.revokeObjectURL(this.source);
    for (const result of this.results.values()) result.then(URL.revokeObjectURL, () => {});
    if (shown === this) hideViewer();
    element("queue-section").hidden = items.length === 0;
    element("files").focus();
  }
}

function startNext() {
  const running = items.filter((item) => item.state === "running").length;
  const waiting = items.filter((item) => item.state === "waiting");
  for (const item of waiting.slice(0, PARALLEL - running)) item.start();
}

function askForKey() {
  if (!element("key-form").hidden) return;
  element("key-form").hidden = false;
  element("key").focus();
}

function useKey(event) {
  event.preventDefault();
  sessionStorage.setItem(KEY_NAME, element("key").value.trim());
  element("key-form").reset();
  element("key-form").hidden = true;
  for (const item of items.filter((each) => each.needsKey)) item.restart();
  startNext();
}

function addFiles(files) {
  for (const file of files) items.push(new Item(file));
  element("queue-section").hidden = items.length === 0;
  startNext();
}

element("key-form").addEventListener("submit", useKey);
element("files").addEventListener("change", ({ target }) => {
  addFiles(target.files);
  target.value = "";
});
document.addEventListener("paste", ({ clipboardData }) => addFiles(clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
document.addEventListener("dragleave", () => element("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  addFiles(event.dataTransfer.files);
});
addEventListener("pagehide", () => items.forEach((item) => item.abort()));

// --- the viewer

async function show(item) {
  shown = item;
  element("viewer").hidden = false;
  element("viewer-name").textContent = item.file.name;
  element("before").src = item.source;
  const options = previewOptions();
  const url = await item.fetchResult(options);
  if (shown !== item || element("mode").value !== options.mode) return;
  element("after").src = url;
  await element("after").decode().catch(() => {}); // another one was selected meanwhile
  if (shown !== item) return;
  layOut();
  split();
  writeSnippets();
}

function hideViewer() {
  shown = null;
  element("viewer").hidden = true;
}

/** Size the sheet: result pixels times the zoom, or whatever fits. */
function layOut() {
  const { naturalWidth, naturalHeight } = element("after");
  if (!naturalWidth) return;
  const chosen = element("zoom").value;
  const fitting = Math.min(element("stage").clientWidth / naturalWidth, 1);
  const zoom = chosen === "fit" ? fitting : Number(chosen);
  element("sheet").style.width = `${naturalWidth * zoom}px`;
  element("sheet").style.height = `${naturalHeight * zoom}px`;
}

function split() {
  element("sheet").style.setProperty("--split", `${element("compare").value}%`);
}

function previewOptions() {
  return { format: "png", scale: 3, mode: element("mode").value };
}

function chosenOptions() {
  const [format, scale, mode] = ["format", "scale", "mode"].map((name) => element(name).value);
  return { format, scale: Number(scale), mode };
}

async function changeMode() {
  const item = shown;
  if (item === null) return;
  try {
    await show(item);
  } catch (error) {
    announce(`${item.file.name}: ${describeError(error)}`);
  } finally {
    item.text.textContent = messages.done;
  }
}

/** Offer the modes if the service has them. */
async function offerModes() {
  const health = await (await fetch("api/health")).json();
  element("mode-choice").hidden = !health.restore_model;
}

function writeSnippets() {
  const { format, scale, mode } = chosenOptions();
  const home = new URL("./", document.baseURI).href;
  const query = `format=${format}&scale=${scale}&mode=${mode}`;
  const ending = format === "jpeg" ? "jpg" : format;
  const name = shown.file.name.replaceAll("'", "");
  element("curl").textContent =
    `curl -F image=@'${name}' -F format=${format} -F scale=${scale} -F mode=${mode} ` +
    `-o result.${ending} ${home}api/enhance`;
  element("fetch").textContent =
    `const response = await fetch("${home}api/enhance?${query}", {\n` +
    `  method: "POST",\n  body: file,\n  headers: { "Content-Type": file.type },\n});\n` +
    `const image = await response.blob();`;
}

async function download() {
  const options = chosenOptions();
  const { format, scale, mode } = options;
  const item = shown;
  element("download").disabled = true;
  try {
    const href = await item.fetchResult(options);
    if (!items.includes(item)) return;
    const stem = item.file.name.replace(/\.[^.]*$/, "") + (mode === "restore" ? "_restored" : "");
    make("a", { href, download: `${stem}_x${scale}.${format === "jpeg" ? "jpg" : format}` }).click();
    announce(`${item.file.name}: ${messages.done}`);
  } catch (error) {
    announce(`${item.file.name}: ${describeError(error)}`);
  } finally {
    item.text.textContent = messages.done;
    element("download").disabled = false;
  }
}

/** Pan a zoomed image with the mouse; touch and keys scroll natively. */
function startDrag(down) {
  if (down.pointerType !== "mouse" || down.button !== 0) return;
  const stage = element("stage");
  const [left, top] = [stage.scrollLeft + down.clientX, stage.scrollTop + down.clientY];
  const drag = (move) => stage.scrollTo(left - move.clientX, top - move.clientY);
  stage.setPointerCapture(down.pointerId);
  stage.addEventListener("pointermove", drag);
  const stop = () => stage.removeEventListener("pointermove", drag);
  stage.addEventListener("lostpointercapture", stop, { once: true });
}

async function copy({ target }) {
  await navigator.clipboard.writeText(element(target.dataset.copy).textContent);
  announce(messages.copied);
}

element("stage").addEventListener("pointerdown", startDrag);
// Most browsers cannot show TIFF and HEIC: then there is only the result to see.
for (const event of ["load", "error"]) {
  element("before").addEventListener(event, () => {
    element("viewer").classList.toggle("alone", event === "error");
  });
}
element("zoom").addEventListener("change", layOut);
element("compare").addEventListener("input", split);
element("format").addEventListener("change", writeSnippets);
element("scale").addEventListener("change", writeSnippets);
element("mode").addEventListener("change", changeMode);
element("download").addEventListener("click", download);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard; // absent in insecure contexts
  button.addEventListener("click", copy);
}
addEventListener("resize", layOut);
offerModes().catch(() => {}); // the service is not reachable now
