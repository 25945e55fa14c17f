/** What a result will be: its size, time and name, and whether a limit forbids it. */

const MODEL_PIXELS = 9; // of the result, for each of the input

/** Whether two choices lead to the same result. */
export function areSame(first, second) {
  return JSON.stringify(toRequest(first)) === JSON.stringify(toRequest(second));
}

/** A choice as the API takes it: without what says nothing, such as a lossless result's quality. */
export function toRequest({ mode, format, scale, width, quality, lossless }) {
  return {
    mode,
    format,
    ...(width ? { width } : { scale }),
    ...(lossless ? { lossless } : quality ? { quality } : {}),
  };
}

/** The size of the result of an image, { width, height }, in pixels. */
export function resultSize({ scale, width }, size) {
  if (!width) return { width: size.width * scale, height: size.height * scale };
  return { width, height: Math.max(Math.round((size.height * width) / size.width), 1) };
}

/** How many input pixels the network takes the time of; transparency is a second image. */
function workPixels(options, size) {
  const result = resultSize(options, size);
  const pixels = size.width * size.height * (size.hasAlpha ? 2 : 1);
  return Math.max(pixels, (result.width * result.height) / MODEL_PIXELS);
}

/** How many seconds an image takes once it is its turn; null if that cannot be said yet. */
export function estimateSeconds(capabilities, options, size) {
  const perPixel = capabilities?.seconds_per_pixel;
  return size && perPixel ? perPixel * workPixels(options, size) : null;
}

/** How many seconds pass at most before it is the turn of the next image. */
export function estimateQueue({ seconds_per_pixel: perPixel, queued_pixels: pixels }) {
  return (perPixel ?? 0) * pixels;
}

/**
 * The first limit that an image exceeds, { name, limit, actual }, as the service's errors have it;
 * null if there is none, or if the size is not known.
 */
export function findExceeded({ limits, formats }, options, file, size) {
  const checks = [["upload_bytes", limits.upload_bytes, file?.size ?? 0]];
  if (size) {
    const result = resultSize(options, size);
    const { max_side: maxSide } = formats.find(({ name }) => name === options.format);
    checks.push(
      ["input_pixels", limits.input_pixels, size.width * size.height],
      ["input_side", limits.input_side, Math.max(size.width, size.height)],
      ["output_pixels", limits.output_pixels, result.width * result.height],
      ["output_side", maxSide, Math.max(result.width, result.height)],
    );
  }
  const found = checks.find(([, limit, actual]) => actual > limit);
  return found ? { name: found[0], limit: found[1], actual: found[2] } : null;
}
