/** Where images come from: the file picker, the clipboard, files and folders that are dropped. */

const element = (id) => document.getElementById(id);
// Of a folder's files, those with such a name are taken; of others, the service says what they are.
// Not ._photo.jpg, which macOS puts beside photo.jpg on other disks.
const IMAGE_NAME = /^[^.].*\.(png|jpe?g|webp|heic|heif|hif|tiff?|bmp|avif|gif)$/i;

function readEntries(reader) {
  return new Promise((resolve, reject) => reader.readEntries(resolve, reject));
}

function getFile(entry) {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

/** Return the images in a folder and in the folders in it. */
async function readFolder(folder) {
  const files = [];
  const reader = folder.createReader();
  // A browser may give a folder's entries in several parts; the last is empty.
  for (
    let entries = await readEntries(reader);
    entries.length;
    entries = await readEntries(reader)
  ) {
    for (const entry of entries) {
      if (entry.isDirectory) files.push(...(await readFolder(entry)));
      else if (IMAGE_NAME.test(entry.name)) files.push(await getFile(entry));
    }
  }
  return files;
}

async function readDropped(data) {
  // All entries first: they are gone once this function has waited for something.
  const entries = Array.from(data.items, (item) => item.webkitGetAsEntry?.());
  const files = [...data.files];
  const folders = entries.filter((entry) => entry?.isDirectory);
  if (!folders.length) return files;
  const names = new Set(folders.map(({ name }) => name));
  const inFolders = await Promise.all(folders.map(readFolder));
  return [...files.filter(({ name }) => !names.has(name)), ...inFolders.flat()];
}

/** Call `add` with the files of each choice, paste and drop. */
export function installIntake(add) {
  element("files").addEventListener("change", ({ target }) => {
    add([...target.files]);
    target.value = "";
  });
  document.addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files.length) add([...clipboardData.files]);
  });
  const cover = element("drop-cover");
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    cover.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) cover.hidden = true;
  });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    cover.hidden = true;
    add(await readDropped(event.dataTransfer));
  });
}
