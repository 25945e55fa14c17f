/** The page at /: its first screen. What works on images is loaded with the first of them. */

import { Divider } from "./divider.js";
import { installIntake } from "./intake.js";
import { Service } from "./service.js";
import { Store } from "./store.js";
import { formatBytes, formatList, formatPixels, startTexts, text } from "./texts.js";

const element = (id) => document.getElementById(id);
const service = new Service();
const store = new Store();
const MAX_ATTEMPTS = 3;
let work = null; // promise of the working screen

async function loadWork() {
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
    try {
      // Chromium remembers that an address could not be imported.
      const { Work } = await import(attempt === 1 ? "./work.js" : `./work.js?${attempt}`);
      return new Work(service, store);
    } catch (error) {
      console.warn("not loaded:", error);
      service.lose();
      await service.until(() => service.isUp);
    }
  }
  location.reload(); // the service has a newer page by now
  return null;
}

function startWork() {
  work ??= loadWork();
  return work;
}

function renderFacts() {
  if (!service.capabilities) return;
  const { inputs, limits, retention } = service.capabilities;
  element("accepted").textContent = text("accepted", {
    formats: formatList(inputs.map(({ name }) => name)),
    bytes: formatBytes(limits.upload_bytes),
    pixels: formatPixels(limits.input_pixels),
  });
  // In a store that is shared, its own rules decide for how long.
  const days = retention.result_days;
  element("privacy").textContent = days ? text("privacy", { count: days }) : text("privacyStore");
}

service.addEventListener("change", () => {
  element("offline").hidden = service.isUp;
  renderFacts();
});
installIntake(async (files) => {
  element("nothing").hidden = files.length > 0;
  if (files.length) (await startWork()).add(files);
});
element("try-sample").addEventListener("click", async () => {
  try {
    const response = await fetch(document.querySelector("#sample .original img").src);
    const blob = await response.blob();
    (await startWork()).add([new File([blob], "example.jpg", { type: blob.type })]);
  } catch {
    service.lose();
  }
});
element("show-code").addEventListener("click", async () => (await startWork()).showCode());
// Once somebody is here, it comes before it is needed.
for (const name of ["pointerdown", "pointermove", "keydown", "dragenter"]) {
  addEventListener(name, startWork, { once: true });
}

const sample = new Divider(document.querySelector("#sample .stage"));
sample.stage.addEventListener("pointerdown", (event) => sample.drag(event));

await startTexts(async () => {
  renderFacts();
  (await work)?.render();
});
service.refresh();
const kept = await store.load();
if (kept.length) (await startWork()).restore(kept);
document.documentElement.dataset.ready = "true"; // for tests, and for whoever scripts the page
