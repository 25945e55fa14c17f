/**
 * The service's reference client: upscale an image, follow its progress, cancel it.
 *
 *   import { enhance } from "https://sr.example/static/client.js";
 *   const { blob } = await enhance(file, { format: "webp", onProgress: console.log });
 *
 * No dependencies. Types are in client.d.ts.
 */

// The service that this module was loaded from, with its path prefix: .../static/client.js or
// .../static/<version>/client.js.
const HOME = new URL(import.meta.url.slice(0, import.meta.url.lastIndexOf("/static/") + 1));
const OPTION_NAMES = ["format", "quality", "lossless", "scale", "width", "height", "mode"];
const RETRIED = new Set([429, 502, 503, 504]);
const MAX_ATTEMPTS = 8;
const MAX_PAUSE_SECONDS = 60;
const FIRST_WAIT_SECONDS = 2;
const POLL_SECONDS = 10;
const MIN_POLL_SECONDS = 0.5;

/** A response that is not an image: `code` is stable, `message` is for people. */
export class EnhanceError extends Error {
  constructor(problem, status) {
    super(problem.error ?? `The service answered ${status}.`);
    this.name = "EnhanceError";
    this.code = problem.code ?? "unknown";
    this.status = status;
    this.requestId = problem.request_id ?? null;
  }
}

/** Wait, or throw when the signal is aborted. */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(finish, 1000 * seconds);
    function finish() {
      signal?.removeEventListener("abort", finish);
      clearTimeout(timer);
      signal?.aborted ? reject(signal.reason) : resolve();
    }
    signal?.addEventListener("abort", finish);
  });
}

async function readProblem(response) {
  try {
    return await response.json();
  } catch {
    return {}; // a proxy in front may not speak JSON
  }
}

/** Send a request; retry if the service is busy, or does not respond for a moment. */
async function ask(url, options) {
  for (let attempt = 1; ; attempt++) {
    let seconds = Math.min(2 ** attempt / 2, MAX_PAUSE_SECONDS);
    try {
      const response = await fetch(url, options);
      if (response.ok) return response;
      const asked = Number(response.headers.get("Retry-After"));
      // If an hour's limit is used up, do not wait it out with the file in hand.
      const isSpent = response.status === 429 && asked > MAX_PAUSE_SECONDS;
      if (!RETRIED.has(response.status) || attempt === MAX_ATTEMPTS || isSpent) {
        throw new EnhanceError(await readProblem(response), response.status);
      }
      if (asked > 0) seconds = Math.min(asked, MAX_PAUSE_SECONDS);
    } catch (error) {
      // fetch throws a TypeError for any failure of the connection, CORS included.
      if (!(error instanceof TypeError) || attempt >= 3) throw error;
    }
    await pause(seconds, options.signal);
  }
}

/** The SHA-256 of a file in hex; null outside secure contexts, where browsers lack crypto.subtle. */
async function hashFile(file) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function fetchResult(url, options) {
  const response = await ask(url, options);
  return { blob: await response.blob(), url };
}

/** Follow a job to its end. */
async function follow(status, { signal, onProgress, authorization }) {
  while (status.state === "queued" || status.state === "running") {
    onProgress?.({
      state: status.state,
      progress: status.progress,
      position: status.position,
      etaSeconds: status.eta_seconds,
    });
    const asked = Date.now();
    const headers = { Prefer: `wait=${POLL_SECONDS}`, ...authorization };
    const next = await (await ask(status.status_url, { headers, signal })).json();
    const isSame = next.state === status.state && next.tiles_done === status.tiles_done;
    const early = MIN_POLL_SECONDS - (Date.now() - asked) / 1000;
    if (isSame && early > 0) await pause(early, signal);
    status = next;
  }
  if (status.state === "done" && status.result) return status.result;
  throw new EnhanceError(status.problem ?? { code: status.state }, status.problem?.status ?? 500);
}

/**
 * Upscale an image.
 *
 * Aborting the signal cancels the job and rejects with the signal's reason.
 */
export async function enhance(
  file,
  { signal, onProgress, baseUrl = HOME, apiKey, ...options } = {},
) {
  signal?.throwIfAborted();
  // For the API only: results are fetched without it.
  const authorization = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
  const parameters = new URLSearchParams();
  for (const name of OPTION_NAMES) {
    if (options[name] !== undefined && options[name] !== null) parameters.set(name, options[name]);
  }
  onProgress?.({ state: "hashing", progress: 0 });
  const key = await hashFile(file);
  signal?.throwIfAborted();
  if (key !== null) {
    const query = new URLSearchParams([["sha256", key], ...parameters]);
    const url = new URL(`api/result?${query}`, baseUrl);
    const found = await (await ask(url, { headers: authorization, signal })).json();
    if (found.exists) return { ...(await fetchResult(found.url, { signal })), cacheHit: true };
  }
  onProgress?.({ state: "uploading", progress: 0 });
  const answer = await ask(new URL(`api/enhance?${parameters}`, baseUrl), {
    method: "POST",
    body: file,
    headers: {
      // For other kinds of file, a PDF say, the service's error then names the kind.
      "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream",
      Prefer: `respond-async, wait=${FIRST_WAIT_SECONDS}`,
      ...authorization,
    },
    signal,
  });
  if (answer.status === 200) {
    const link = /<([^>]*)>/.exec(answer.headers.get("Link") ?? "");
    const cacheHit = answer.headers.get("X-Cache-Hit") === "true";
    return { blob: await answer.blob(), url: link ? link[1] : null, cacheHit };
  }
  let status = null;
  try {
    status = await answer.json();
    const url = await follow(status, { signal, onProgress, authorization });
    return { ...(await fetchResult(url, { signal })), cacheHit: false };
  } catch (error) {
    if (signal?.aborted && status !== null) {
      // keepalive: survives the page being closed.
      const headers = authorization;
      fetch(status.status_url, { method: "DELETE", headers, keepalive: true }).catch(() => {});
    }
    throw error;
  }
}
