/** Small texts that the browser keeps for the tab or the device, as far as it is allowed to. */

// With cookies blocked, the mere mention of localStorage throws.
function use(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

/** What the tab keeps until it is closed. */
export const tab = {
  get: (name) => use(() => sessionStorage.getItem(name)),
  set: (name, value) => use(() => sessionStorage.setItem(name, value)),
};

/** What the device keeps for all tabs. */
export const device = {
  get: (name) => use(() => localStorage.getItem(name)),
  set: (name, value) => use(() => localStorage.setItem(name, value)),
  remove: (name) => use(() => localStorage.removeItem(name)),
};
