/** Results as files: one of them, or all of them in a ZIP file. */

/** Return the response with an item's result; null if it is no longer stored. */
async function fetchResult(item, queue) {
  const response = await fetch(item.resultUrl);
  if (response.ok) return response;
  if (response.status !== 404) throw new TypeError(`status ${response.status}`);
  queue.loseResult(item);
  return null;
}

function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser may still be reading it
}

/** Save an item's result under a name made from the original's. */
export async function save(item, queue) {
  try {
    const response = await fetchResult(item, queue);
    if (response) saveBlob(await response.blob(), item.resultName);
  } catch {
    queue.service.lose(); // the page says so
  }
}

/** Give equal names numbers: a.png, a (2).png. On many disks, A.png is a.png. */
function nameAll(items) {
  const taken = new Set();
  return items.map(({ resultName }) => {
    let name = resultName;
    for (let count = 2; taken.has(name.toLowerCase()); count++) {
      name = resultName.replace(/(\.[^.]*)$/, ` (${count})$1`);
    }
    taken.add(name.toLowerCase());
    return name;
  });
}

/**
 * Save all results in one ZIP file.
 *
 * Where the browser lets a page write a file, they go from the service to the disk piece by piece;
 * elsewhere the browser collects them first. What is no longer stored is left out; its row says so.
 */
export async function saveAll(items, queue) {
  const name = "enhanced.zip";
  // Asked first, while the browser still knows that the person has just pressed a button.
  const handle = await globalThis.showSaveFilePicker?.({ suggestedName: name });
  const { downloadZip } = await import("./vendor/client-zip.js");
  const names = nameAll(items);
  async function* read() {
    for (const [index, item] of items.entries()) {
      const input = await fetchResult(item, queue);
      if (input) yield { name: names[index], input };
    }
  }
  const zip = downloadZip(read());
  if (handle) await zip.body.pipeTo(await handle.createWritable());
  else saveBlob(await zip.blob(), name);
}
