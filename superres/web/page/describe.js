/** How far an image is, in words. */

import { estimateSeconds, resultSize } from "./estimate.js";
import { describeFailure } from "./failures.js";
import { formatBytes, formatPercent, formatSeconds, formatSize, formatTime, text } from "./texts.js";

function describeReady({ file, size, options }, capabilities) {
  if (!size) return file ? formatBytes(file.size) : "";
  const sizes = { from: formatSize(size), to: formatSize(resultSize(options, size)) };
  const seconds = estimateSeconds(capabilities, options, size);
  if (seconds === null) return text("ready", sizes);
  return text("readyTime", { ...sizes, time: formatSeconds(seconds, "narrow") });
}

function describeProgress(progress) {
  if (!progress) return text("waiting");
  if (progress.state === "running") {
    const time = formatSeconds(progress.etaSeconds);
    return text("running", { percent: formatPercent(progress.progress), time });
  }
  if (progress.state !== "queued") return text(progress.state);
  return progress.position ? text("queued", { count: progress.position }) : text("queuedNext");
}

function describeDone({ size, result }) {
  const bytes = formatBytes(result.bytes);
  if (!size) return bytes;
  return text("done", { size: formatSize(resultSize(result.options, size)), bytes });
}

/** Say how far an item of a queue is. */
export function describe(item, queue) {
  const { capabilities, isUp } = queue.service;
  const exceeded = item.state === "ready" && queue.findExceeded(item);
  if (exceeded) return describeFailure({ code: "exceeded", exceeded });
  if (item.state === "ready") return describeReady(item, capabilities);
  if (item.state === "done") return describeDone(item);
  if (item.state === "failed") return describeFailure(item.failure);
  if (!isUp) return text("away");
  if (item.state === "working") return describeProgress(item.progress);
  const { resumesAt } = queue;
  return resumesAt ? text("paused", { time: formatTime(resumesAt) }) : text("waiting");
}
