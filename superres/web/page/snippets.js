/** The same request in code: curl, JavaScript and Python, with the chosen options. */

import { toRequest } from "./estimate.js";
import { text } from "./texts.js";

const element = (id) => document.getElementById(id);

const KEY = "YOUR_KEY";

/** Write the code for a file of some name and options; with a key, if the service requires one. */
export function writeSnippets(options, name, isKeyRequired) {
  const request = toRequest(options);
  const url = new URL("api/enhance", document.baseURI).href;
  const file = name.replaceAll(/["'\\\n]/g, "");
  const parts = [
    `curl -F 'image=@"${file}"'`, // curl's own quotes, for names with a comma or semicolon
    ...(isKeyRequired ? [`-H "Authorization: Bearer ${KEY}"`] : []),
    Object.entries(request)
      .map(([key, value]) => `-F ${key}=${value}`)
      .join(" "),
    `-o result.${options.ending} ${url}`,
  ];
  element("curl").textContent = parts.join(" \\\n  ");
  const settings = { ...request, ...(isKeyRequired && { apiKey: KEY }) };
  element("fetch").textContent =
    `import { enhance } from "${new URL("static/client.js", document.baseURI).href}";\n\n` +
    `const { blob, url } = await enhance(file, ${JSON.stringify(settings, null, 2)});`;
  const data = Object.entries(request).map(([key, value]) => `"${key}": "${value}"`);
  const headers = isKeyRequired ? `        headers={"Authorization": "Bearer ${KEY}"},\n` : "";
  element("python").textContent =
    `import requests\n\n` +
    `with open("${file}", "rb") as image:\n` +
    `    answer = requests.post(\n        "${url}",\n${headers}        files={"image": image},\n` +
    `        data={${data.join(", ")}},\n    )\n` +
    `answer.raise_for_status()\n` +
    `with open("result.${options.ending}", "wb") as result:\n    result.write(answer.content)`;
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
