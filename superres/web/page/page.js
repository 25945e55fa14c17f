/** The page at /: its first screen. What works on images is loaded with the first of them. */

import { Divider } from "./divider.js";
import { installIntake } from "./intake.js";
import { Service } from "./service.js";
import { Store } from "./store.js";
import { formatBytes, formatPixels, startTexts, text } from "./texts.js";

const element = (id) => document.getElementById(id);
const service = new Service();
const store = new Store();
let work = null; // promise of the working screen

async function startWork() {
  work ??= import("./work.js").then(({ Work }) => new Work(service, store));
  try {
    return await work;
  } catch (error) {
    work = null;
    await service.refresh();
    if (service.isUp) location.reload(); // it has a newer page by now
    throw error;
  }
}

function renderFacts() {
  if (!service.capabilities) return;
  const { inputs, limits, retention } = service.capabilities;
  element("accepted").textContent = text("accepted", {
    formats: inputs.map(({ name }) => name).join(", "),
    bytes: formatBytes(limits.upload_bytes),
    pixels: formatPixels(limits.input_pixels),
  });
  element("privacy").textContent = text("privacy", { days: retention.result_days });
}

service.addEventListener("change", () => {
  element("offline").hidden = service.isUp;
  renderFacts();
});
installIntake(async (files) => {
  if (files.length) (await startWork()).add(files);
});
element("show-code").addEventListener("click", async () => (await startWork()).showCode());
// Once somebody is here, it comes before it is needed.
for (const name of ["pointerdown", "pointermove", "keydown", "dragenter"]) {
  addEventListener(name, () => startWork().catch(() => {}), { once: true });
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
