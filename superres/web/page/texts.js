/** The page's texts in the person's language, and figures as that language writes them. */

import { device } from "./kept.js";

const KEPT = "language";
const element = document.getElementById("language");
let texts = {};
let language = "en";
let plurals;

/** The language of the page's menu that was chosen by hand, or that the browser asks for first. */
function chooseLanguage() {
  const languages = Array.from(element.options, (option) => option.value);
  const asked = [
    device.get(KEPT),
    ...navigator.languages.map((tag) => tag.split("-")[0]),
  ];
  return asked.find((tag) => languages.includes(tag)) ?? "en";
}

async function load(name) {
  const response = await fetch(new URL(`languages/${name}.json`, import.meta.url));
  texts = await response.json();
  language = name;
  plurals = new Intl.PluralRules(name);
  document.documentElement.lang = name;
  document.documentElement.dir = texts.direction;
  element.value = name;
  translate(document);
}

/**
 * Return a text, with {names} replaced by values.
 *
 * A text with plural forms, an object from "one", "other" and so on, is chosen by values.count.
 */
export function text(key, values = {}) {
  let found = texts[key];
  if (typeof found === "object") found = found[plurals.select(values.count)] ?? found.other;
  return found.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? formatNumber(value) : value;
  });
}

export function hasText(key) {
  return key in texts;
}

/** Fill in what the HTML leaves to the language: data-text, and data-label for buttons of icons. */
export function translate(root) {
  for (const node of root.querySelectorAll("[data-text]"))
    node.textContent = text(node.dataset.text);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", text(node.dataset.label));
    if (node.localName === "button") node.title = text(node.dataset.label);
  }
}

/** Load the texts, and call `render` each time the person chooses another language. */
export async function startTexts(render) {
  await load(chooseLanguage());
  element.addEventListener("change", async () => {
    const chosen = element.value;
    try {
      await load(chosen);
    } catch {
      element.value = language; // the service is away: its texts cannot be loaded now
      return;
    }
    device.set(KEPT, chosen);
    render();
  });
}

// --- figures

function format(value, options) {
  return new Intl.NumberFormat(language, options).format(value);
}

export function formatNumber(value) {
  return format(value, { maximumFractionDigits: 2 });
}

export function formatPercent(share) {
  return format(share, { style: "percent", maximumFractionDigits: 0 });
}

/** In powers of 1024, as the service's errors and settings count. */
export function formatBytes(count) {
  const units = [
    ["byte", 1],
    ["kilobyte", 1024],
    ["megabyte", 1024 ** 2],
    ["gigabyte", 1024 ** 3],
  ];
  const [unit, size] = units.findLast(([, least]) => count >= least) ?? units[0];
  const value = count / size;
  const maximumFractionDigits = value < 100 ? 1 : 0;
  const unitDisplay = unit === "byte" ? "long" : "short"; // "10 bytes", not "10 byte"
  return format(value, { style: "unit", unit, unitDisplay, maximumFractionDigits });
}

/** `display`: "short" or "narrow", as in Intl.NumberFormat. */
export function formatSeconds(seconds, display = "short") {
  const minutes = seconds / 60;
  const [value, unit] =
    minutes < 1.5
      ? [seconds, "second"]
      : minutes < 90
        ? [minutes, "minute"]
        : [minutes / 60, "hour"];
  return format(Math.max(Math.round(value), 1), { style: "unit", unit, unitDisplay: display });
}

/** A time of the day, or of another day. */
export function formatTime(date) {
  const isToday = date.toDateString() === new Date().toDateString();
  const options = { timeStyle: "short", ...(!isToday && { dateStyle: "medium" }) };
  return new Intl.DateTimeFormat(language, options).format(date);
}

/** Parts of a list, as the language separates them. */
export function formatList(parts) {
  return parts.join(text("comma"));
}

/** A number of pixels: megapixels, or as the language counts large numbers. */
export function formatPixels(count) {
  const compact = format(count, { notation: "compact", maximumFractionDigits: 2 });
  return text("megapixels", { millions: count / 1e6, compact });
}

export function formatSize({ width, height }) {
  return `${width} × ${height}`;
}
