/** The same request in code: curl, JavaScript and Python, with the chosen options. */

import { endingOf, toRequest } from "./estimate.js";
import { text } from "./texts.js";

const element = (id) => document.getElementById(id);

/** Write the code for an item's file and options. */
export function writeSnippets(options, name) {
  const request = toRequest(options);
  const url = new URL("api/enhance", document.baseURI).href;
  const ending = endingOf(options);
  const file = name.replaceAll(/["'\\\n]/g, "");
  const fields = Object.entries(request).map(([key, value]) => `-F ${key}=${value}`);
  element("curl").textContent =
    `curl -F image=@'${file}' ${fields.join(" ")} \\\n  -o result.${ending} ${url}`;
  element("fetch").textContent =
    `import { enhance } from "${new URL("static/client.js", document.baseURI).href}";\n\n` +
    `const { blob, url } = await enhance(file, ${JSON.stringify(request, null, 2)});`;
  const data = Object.entries(request).map(([key, value]) => `"${key}": "${value}"`);
  element("python").textContent =
    `import requests\n\n` +
    `with open("${file}", "rb") as image:\n` +
    `    answer = requests.post(\n        "${url}",\n        files={"image": image},\n` +
    `        data={${data.join(", ")}},\n    )\n` +
    `answer.raise_for_status()\n` +
    `with open("result.${ending}", "wb") as result:\n    result.write(answer.content)`;
}

/** Let the dialog close by a click beside it, and its texts be copied. */
export function installCopying() {
  element("code-dialog").addEventListener("click", ({ target }) => {
    if (target === element("code-dialog")) target.close(); // beside it
  });
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = !navigator.clipboard; // absent in insecure contexts
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(element(button.dataset.copy).textContent);
      button.textContent = text("copied");
      setTimeout(() => (button.textContent = text("copy")), 2000);
    });
  }
}
