/** Results as files: one of them, or all of them in a ZIP file. */

async function fetchResult({ resultUrl }) {
  const response = await fetch(resultUrl);
  if (!response.ok) throw new TypeError(`status ${response.status}`);
  return response;
}

function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser may still be reading it
}

/** Save an item's result under a name made from the original's. */
export async function save(item) {
  saveBlob(await (await fetchResult(item)).blob(), item.resultName);
}

/** Give equal names numbers: a.png, a (2).png. */
function nameAll(items) {
  const counts = new Map();
  return items.map(({ resultName: name }) => {
    const count = (counts.get(name) ?? 0) + 1;
    counts.set(name, count);
    return count === 1 ? name : name.replace(/(\.[^.]*)$/, ` (${count})$1`);
  });
}

/**
 * Save all results in one ZIP file.
 *
 * Where the browser lets a page write a file, they go from the service to the disk piece by piece;
 * elsewhere the browser collects them first.
 */
export async function saveAll(items) {
  const name = "enhanced.zip";
  // Asked first, while the browser still knows that the person has just pressed a button.
  const handle = await globalThis.showSaveFilePicker?.({ suggestedName: name });
  const { downloadZip } = await import("./vendor/client-zip.js");
  const names = nameAll(items);
  async function* read() {
    for (const [index, item] of items.entries()) {
      yield { name: names[index], input: await fetchResult(item) };
    }
  }
  const zip = downloadZip(read());
  if (handle) await zip.body.pipeTo(await handle.createWritable());
  else saveBlob(await zip.blob(), name);
}
