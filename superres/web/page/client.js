/** The service's reference client: upscale an image, follow its progress, cancel it. */

/*
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
  constructor(problem, status, retryAfter = null) {
    super(problem.error ?? `The service answered ${status}.`);
    this.name = "EnhanceError";
    this.code = problem.code ?? "unknown";
    this.status = status;
    this.requestId = problem.request_id ?? null;
    this.exceeded = problem.exceeded ?? null;
    this.retryAfter = retryAfter;
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
async function ask(url, { onProgress, ...options }) {
  for (let attempt = 1; ; attempt++) {
    let seconds = Math.min(2 ** attempt / 2, MAX_PAUSE_SECONDS);
    try {
      const response = await fetch(url, options);
      if (response.ok) return response;
      const asked = Number(response.headers.get("Retry-After"));
      // If an hour's limit is used up, do not wait it out with the file in hand.
      const isSpent = response.status === 429 && asked > MAX_PAUSE_SECONDS;
      if (!RETRIED.has(response.status) || attempt === MAX_ATTEMPTS || isSpent) {
        throw new EnhanceError(await readProblem(response), response.status, asked || null);
      }
      if (asked > 0) seconds = Math.min(asked, MAX_PAUSE_SECONDS);
      onProgress?.({ state: "busy", progress: 0 });
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

/** For the API only: results are fetched without it. */
function authorize(apiKey) {
  return apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
}

function upload(file, apiKey) {
  return {
    method: "POST",
    body: file,
    headers: {
      // For other kinds of file, a PDF say, the service's error then names the kind.
      "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream",
      ...authorize(apiKey),
    },
  };
}

/**
 * Upload an image, unless its result exists.
 *
 * Resolves to { url, cacheHit } if the result is ready, with its `blob` if that came along (the only
 * one if it could not be stored: then `url` is null); otherwise to { statusUrl }, for `follow`.
 */
export async function submit(
  file,
  { signal, onProgress, baseUrl = HOME, apiKey, ...options } = {},
) {
  signal?.throwIfAborted();
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
    const asked = { headers: authorize(apiKey), signal, onProgress };
    const found = await (await ask(url, asked)).json();
    if (found.exists) return { url: found.url, cacheHit: true };
  }
  onProgress?.({ state: "uploading", progress: 0 });
  const request = upload(file, apiKey);
  request.headers.Prefer = `respond-async, wait=${FIRST_WAIT_SECONDS}`;
  const address = new URL(`api/enhance?${parameters}`, baseUrl);
  const answer = await ask(address, { ...request, signal, onProgress });
  if (answer.status === 200) {
    const link = /<([^>]*)>/.exec(answer.headers.get("Link") ?? "");
    const cacheHit = answer.headers.get("X-Cache-Hit") === "true";
    return { blob: await answer.blob(), url: link ? link[1] : null, cacheHit };
  }
  return { statusUrl: (await answer.json()).status_url };
}

/** Follow a job to its end; resolves to the result's URL. Aborting the signal leaves it running. */
export async function follow(statusUrl, { signal, onProgress, apiKey } = {}) {
  const headers = authorize(apiKey);
  let status = await (await ask(statusUrl, { headers, signal })).json();
  headers.Prefer = `wait=${POLL_SECONDS}`;
  while (status.state === "queued" || status.state === "running") {
    onProgress?.({
      state: status.state,
      progress: status.progress,
      position: status.position,
      etaSeconds: status.eta_seconds,
    });
    const asked = Date.now();
    const next = await (await ask(statusUrl, { headers, signal })).json();
    const isSame = next.state === status.state && next.tiles_done === status.tiles_done;
    const early = MIN_POLL_SECONDS - (Date.now() - asked) / 1000;
    if (isSame && early > 0) await pause(early, signal);
    status = next;
  }
  if (status.state === "done" && status.result) return status.result;
  throw new EnhanceError(status.problem ?? { code: status.state }, status.problem?.status ?? 500);
}

/** Cancel a job; it is not waited for, and survives the page being closed. */
export function withdraw(statusUrl, { apiKey } = {}) {
  const headers = authorize(apiKey);
  fetch(statusUrl, { method: "DELETE", headers, keepalive: true }).catch(() => {});
}

/** Get an upload as a PNG of its own size, or smaller: for formats that browsers cannot show. */
export async function preview(file, { signal, maxSide, baseUrl = HOME, apiKey } = {}) {
  const query = maxSide ? `?max_side=${maxSide}` : "";
  const url = new URL(`api/preview${query}`, baseUrl);
  return (await ask(url, { ...upload(file, apiKey), signal })).blob();
}

/**
 * Upscale an image.
 *
 * Aborting the signal cancels the job and rejects with the signal's reason.
 */
export async function enhance(file, options = {}) {
  const { signal, apiKey } = options;
  const answer = await submit(file, options);
  if (answer.blob) return answer;
  try {
    const url = answer.url ?? (await follow(answer.statusUrl, options));
    return { ...(await fetchResult(url, { signal })), cacheHit: answer.cacheHit ?? false };
  } catch (error) {
    if (signal?.aborted && answer.statusUrl) withdraw(answer.statusUrl, { apiKey });
    throw error;
  }
}
