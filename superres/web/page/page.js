/** The page at /: puts its parts together. */

import { installIntake } from "./intake.js";
import { installKeyForm } from "./key_form.js";
import { List } from "./list.js";
import { OptionsForm } from "./options_form.js";
import { Divider } from "./divider.js";
import { Originals } from "./originals.js";
import { Queue } from "./queue.js";
import { Service } from "./service.js";
import { installSnippets, writeSnippets } from "./snippets.js";
import { Store } from "./store.js";
import { Summary } from "./summary.js";
import { formatBytes, startTexts, text } from "./texts.js";
import { Viewer } from "./viewer.js";
import { ViewerControls } from "./viewer_controls.js";

const element = (id) => document.getElementById(id);
const OPTIONS_NAME = "options"; // in sessionStorage

const service = new Service();
const store = new Store();
const queue = new Queue(service, store);
const originals = new Originals(queue, service);
const viewer = new Viewer(element("stage"), queue, originals);
const controls = new ViewerControls(viewer);
const form = new OptionsForm();
const summary = new Summary(queue);
const list = new List(queue, originals, (item) => {
  viewer.show(item);
  controls.open();
});

// --- options: for all images, or for the one that is shown

let options = JSON.parse(sessionStorage.getItem(OPTIONS_NAME)); // of new images, and of all

function isForOne() {
  return !element("scope").hidden && element("options").elements.scope.value === "one";
}

function renderOptions() {
  element("scope").hidden = queue.items.length < 2 || viewer.item === null;
  element("scope-one").textContent = text("scopeOne", { name: viewer.item?.name ?? "" });
  element("mode-hint").textContent = text(`${element("options").elements.mode.value}Hint`);
  if (service.capabilities) form.options = isForOne() ? viewer.item.options : options;
}

form.addEventListener("change", () => {
  if (!isForOne()) {
    options = form.options;
    sessionStorage.setItem(OPTIONS_NAME, JSON.stringify(options));
  }
  queue.choose(isForOne() ? [viewer.item] : queue.items, form.options);
  renderOptions();
});
element("scope").addEventListener("change", renderOptions);

// --- what the service can do

service.addEventListener("change", () => {
  element("offline").hidden = service.isUp;
  const { capabilities } = service;
  if (!capabilities) return;
  form.offer(capabilities);
  options ??= form.options;
  renderFacts();
  renderOptions();
});

function renderFacts() {
  const { inputs, limits, retention } = service.capabilities;
  element("accepted").textContent = text("accepted", {
    formats: inputs.map(({ name }) => name).join(", "),
    bytes: formatBytes(limits.upload_bytes),
    megapixels: limits.input_pixels / 1e6,
  });
  element("privacy").textContent = text("privacy", { days: retention.result_days });
}

// --- images come and go

installIntake((files) => {
  const added = queue.add(files, options);
  originals.measureAll(added);
  if (added.length && viewer.item === null) viewer.show(added[0]);
  if (added.length) element("start").focus({ preventScroll: true });
});

queue.addEventListener("change", ({ detail }) => {
  if (detail) return;
  const isEmpty = queue.items.length === 0;
  element("welcome").hidden = !isEmpty;
  element("work").hidden = isEmpty;
  renderOptions();
});
viewer.addEventListener("select", () => {
  list.mark(viewer.item);
  renderOptions();
});

element("remember").checked = store.isRemembered;
element("forget").hidden = !store.isRemembered;
element("remember").addEventListener("change", ({ target }) => {
  store.isRemembered = target.checked;
  element("forget").hidden = !target.checked;
});
element("forget").addEventListener("click", () => {
  queue.remove(...queue.items);
  store.isRemembered = element("remember").checked = false;
  element("forget").hidden = true;
});

// --- the start

installKeyForm(queue);
installSnippets(() => {
  const name = viewer.item?.name ?? "photo.jpg";
  writeSnippets(isForOne() ? viewer.item.options : options, name);
});
const sample = new Divider(document.querySelector("#sample .stage"));
sample.stage.addEventListener("pointerdown", (event) => sample.drag(event));

await startTexts(() => {
  list.render();
  summary.render();
  controls.render();
  renderOptions();
  if (service.capabilities) renderFacts();
});
service.refresh();
await queue.restore();
originals.measureAll(queue.items);
if (queue.items.length) viewer.show(queue.items[0]);
document.documentElement.dataset.ready = "true"; // for tests, and for whoever scripts the page
