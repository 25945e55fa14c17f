/** What went wrong with an image, as data that can be kept, and in words. */

import { EnhanceError } from "./client.js";
import { formatBytes, formatNumber, formatPixels, hasText, text } from "./texts.js";

// While the service starts, or a proxy in front of it finds it gone.
const OUTAGES = new Set(["not_ready", "unavailable", "timed_out"]);
// Its ticket has expired or its table is lost, it was cancelled elsewhere, its result was evicted.
const LOST_JOBS = new Set(["job_not_found", "cancelled", "done"]);
const KEY_CODES = new Set(["unauthorized", "invalid_key"]);

/** Whether an error means that the service is away, so that waiting helps. */
export function isOutage(error) {
  if (error instanceof EnhanceError)
    return OUTAGES.has(error.code) || [502, 504].includes(error.status);
  return error instanceof TypeError; // fetch's, for any failure of the connection
}

/** Whether an error means that the image has to be sent again. */
export function isLostJob(error) {
  return error instanceof EnhanceError && LOST_JOBS.has(error.code);
}

/** The browser does not have an image's file any more, and there is no result. */
export class MissingFile extends Error {}

/** Turn an error into what is kept of it: { code, words, exceeded }. */
export function toFailure(error) {
  if (error instanceof EnhanceError) {
    return { code: error.code, words: error.message, exceeded: error.exceeded };
  }
  if (isOutage(error)) return { code: "network" };
  if (error instanceof MissingFile) return { code: "no_file" };
  return { code: "unreadable" }; // a folder, or the file changed or disappeared after it was chosen
}

export function needsKey(failure) {
  return KEY_CODES.has(failure?.code);
}

function describeExceeded({ name, limit, actual }) {
  const key = `error${toPascalCase(name)}`;
  if (!hasText(key)) return null;
  const formats = { bytes: formatBytes, pixels: formatPixels, side: formatNumber };
  const format = formats[name.split("_")[1]];
  return text(key, { actual: format(actual), limit: format(limit) });
}

function toPascalCase(name) {
  return name.replace(/(^|_)(\w)/g, (_, __, letter) => letter.toUpperCase());
}

/** Say in the person's language what went wrong. */
export function describeFailure({ code, words, exceeded }) {
  const described = exceeded && describeExceeded(exceeded);
  if (described) return described;
  const key = `error${toPascalCase(code)}`;
  return text(hasText(key) ? key : "errorOther", { words: words ?? code });
}
