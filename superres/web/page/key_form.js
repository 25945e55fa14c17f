/** Asks for an API key where the service requires one. */

import { needsKey } from "./failures.js";
import { text } from "./texts.js";

const element = (id) => document.getElementById(id);

export function installKeyForm(queue) {
  const { service } = queue;
  const form = element("key-form");
  let wereRefused = false;

  const findRefused = () =>
    queue.items.filter(({ state, failure }) => state === "failed" && needsKey(failure));

  function render() {
    const refused = findRefused();
    const isMissing = service.capabilities?.api_key_required && !service.apiKey;
    const isWrong = refused.some(({ failure }) => failure.code === "invalid_key");
    element("key-text").textContent = text(isWrong ? "keyWrong" : "key");
    form.hidden = !isMissing && refused.length === 0;
    if (refused.length && !wereRefused) element("key").focus();
    wereRefused = refused.length > 0;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    service.apiKey = element("key").value.trim();
    form.reset();
    queue.start(findRefused());
    render();
  });
  queue.addEventListener("change", render);
  service.addEventListener("change", render);
}
