// Numbers as people read them, each with its unit.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const MISSING = "–";

/** 1204 is `1,204`. */
export function count(value) {
  return isNumber(value) ? whole.format(value) : MISSING;
}

/** Three digits that matter: `0.42`, `8.31`, `41.2`, `1,204`. */
export function decimal(value) {
  if (!isNumber(value)) return MISSING;
  const size = Math.abs(value);
  if (size >= 100 || size === 0) return whole.format(value);
  return value.toFixed(size >= 10 ? 1 : 2);
}

/** Tokens each second. */
export function rate(value) {
  return isNumber(value) ? `${decimal(value)} tokens/s` : MISSING;
}

/** A share between 0 and 1. */
export function percent(value) {
  return isNumber(value) ? `${(value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %` : MISSING;
}

/** A duration in seconds: `350 ms`, `3.4 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`. */
export function duration(value) {
  if (!isNumber(value)) return MISSING;
  if (value < 0.9995) return `${decimalMs(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  const seconds = Math.round(value);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

/** Bytes in the units of memory. */
export function bytes(value) {
  if (!isNumber(value)) return MISSING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? whole.format(value) : decimal(value)} ${units[unit]}`;
}

/** `1 token`, `2 tokens`. */
export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function decimalMs(value) {
  return value.toFixed(value < 10 ? 1 : 0);
}
