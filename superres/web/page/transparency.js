/** Whether an image file has transparency, from its first bytes: the network then runs twice. */

const HEAD_BYTES = 4096; // a PNG's transparent colours mostly come within these

function readAscii(bytes, start, end) {
  return String.fromCharCode(...bytes.subarray(start, end));
}

/**
 * Sources: PNG (third edition), 11.2.1 IHDR and 11.3.1.1 tRNS; RFC 9649 (WebP), 2.7 and 3.4.
 *
 * Of other formats it says no: what it is for is an estimate.
 */
export async function hasTransparency(file) {
  const bytes = new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer());
  if (readAscii(bytes, 1, 4) === "PNG") {
    const hasAlphaChannel = (bytes[25] & 4) !== 0; // colour types 4 and 6
    return hasAlphaChannel || readAscii(bytes, 0, bytes.length).includes("tRNS");
  }
  if (readAscii(bytes, 8, 12) !== "WEBP") return false;
  const kind = readAscii(bytes, 12, 16);
  if (kind === "VP8X") return (bytes[20] & 0x10) !== 0;
  return kind === "VP8L" && (bytes[24] & 0x10) !== 0;
}
