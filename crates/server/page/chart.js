// Charts of the status view: lines over the last minutes, and bars. Shapes are SVG stretched to the card; texts are HTML,
// so that they are not stretched with it.

import { el, setText, svg } from "./dom.js";

/** What a chart shows, in seconds. */
export const WINDOW_SECONDS = 300;

const WIDTH = 600;
const HEIGHT = 100;
/** Two points further apart than this are not joined: nobody looked in between. */
const GAP_SECONDS = 4;

/**
 * A card with one line for each of `lines` (their names). `format` writes a value with its unit; `max` fixes the top of
 * the scale, which otherwise follows the values; `least` is the lowest top it takes.
 */
export class LineChart {
  #format;
  #max;
  #least;
  #lines;
  #top = el("span", { class: "top" });
  #note = el("p", { class: "hint", hidden: true });
  #when = el("span", { class: "when" }, "now");
  #cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
  #picture;
  #samples = [];
  #hover = null;

  constructor({ title, lines, format, max = null, least = 0 }) {
    this.#format = format;
    this.#max = max;
    this.#least = least;
    this.#lines = lines.map((name, index) => ({
      name,
      value: el("b"),
      path: svg("path", { class: `line line-${index}`, "vector-effect": "non-scaling-stroke" }),
    }));
    const grid = [0.5, 25, 50, 75, HEIGHT - 0.5].map((y) =>
      svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y, "vector-effect": "non-scaling-stroke" }),
    );
    this.#cursor.setAttribute("vector-effect", "non-scaling-stroke");
    this.#picture = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": title },
      ...grid,
      ...this.#lines.map(({ path }) => path),
      this.#cursor,
    );
    const legend = this.#lines.map(({ name, value }, index) =>
      el("li", {}, el("i", { class: `key key-${index}`, "aria-hidden": "true" }), `${name} `, value),
    );
    this.root = el(
      "section",
      { class: "card", "aria-label": title },
      el("h2", {}, title),
      el("ul", { class: "legend" }, ...legend),
      el("div", { class: "plot" }, this.#picture, this.#top, el("span", { class: "bottom" }, "0")),
      el("div", { class: "axis" }, el("span", {}, `${WINDOW_SECONDS / 60} min ago`), this.#when),
      this.#note,
    );
    this.#picture.addEventListener("pointermove", (event) => this.#point(event));
    this.#picture.addEventListener("pointerleave", () => {
      this.#hover = null;
      this.#draw();
    });
  }

  /** Shows `samples`, `[{at, values}]` with `at` in seconds and null where there is no value; `note` stands below. */
  update(samples, note = "") {
    this.#samples = samples;
    this.#note.hidden = note === "";
    setText(this.#note, note);
    this.#draw();
  }

  #draw() {
    const now = this.#samples.at(-1)?.at ?? 0;
    const values = this.#samples.flatMap((sample) => sample.values).filter((value) => value !== null);
    const top = this.#max ?? niceTop(Math.max(this.#least, ...values));
    setText(this.#top, this.#format(top));
    const x = (at) => WIDTH * (1 - (now - at) / WINDOW_SECONDS);
    this.#lines.forEach(({ path }, index) => path.setAttribute("d", outline(this.#samples, index, x, top)));

    const shown = this.#hovered(x) ?? this.#samples.at(-1);
    this.#lines.forEach(({ value }, index) => setText(value, this.#format(shown?.values[index] ?? null)));
    const ago = shown === undefined ? 0 : Math.round(now - shown.at);
    setText(this.#when, this.#hover === null || ago === 0 ? "now" : `${ago} s ago`);
    this.#cursor.setAttribute("visibility", this.#hover === null ? "hidden" : "visible");
    if (shown !== undefined) {
      this.#cursor.setAttribute("x1", x(shown.at));
      this.#cursor.setAttribute("x2", x(shown.at));
    }
  }

  #point(event) {
    const { left, width } = this.#picture.getBoundingClientRect();
    this.#hover = ((event.clientX - left) / width) * WIDTH;
    this.#draw();
  }

  #hovered(x) {
    if (this.#hover === null) return undefined;
    const distance = (sample) => Math.abs(x(sample.at) - this.#hover);
    return this.#samples.reduce((best, each) => (best && distance(best) <= distance(each) ? best : each), undefined);
  }
}

/** A card with a bar from 0 to 1 for each value; a null stands for none. */
export class BarChart {
  #picture = svg("svg", { preserveAspectRatio: "none", role: "img" });
  #summary = el("p", { class: "legend" });
  #first = el("span");
  #last = el("span");
  #title;

  constructor({ title, about }) {
    this.#title = title;
    this.root = el(
      "section",
      { class: "card", "aria-label": title },
      el("h2", {}, title),
      this.#summary,
      el("div", { class: "plot" }, this.#picture, el("span", { class: "top" }, "1"), el("span", { class: "bottom" }, "0")),
      el("div", { class: "axis" }, this.#first, this.#last),
      el("p", { class: "hint" }, about),
    );
  }

  /** `name(index)` is what a bar stands for; `summary` is said above. */
  update(values, name, summary) {
    this.#picture.setAttribute("viewBox", `0 0 ${Math.max(1, values.length)} 1`);
    this.#picture.setAttribute("aria-label", `${this.#title}: ${summary}`);
    const bars = values.map((value, index) => {
      const height = value ?? 0.015;
      const label = `${name(index)}: ${value === null ? "none" : value.toFixed(2)}`;
      const shape = { class: value === null ? "share none" : "share", x: index + 0.12, width: 0.76, y: 1 - height, height };
      return svg("rect", shape, svg("title", {}, label));
    });
    this.#picture.replaceChildren(...bars);
    setText(this.#summary, summary);
    setText(this.#first, values.length > 0 ? name(0) : "");
    setText(this.#last, values.length > 1 ? name(values.length - 1) : "");
  }
}

/** The next number of 1, 2, 2.5, 5 times a power of ten. */
export function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 2, 2.5, 5, 10].find((each) => each * power >= value * (1 - 1e-9));
  return factor * power;
}

function outline(samples, index, x, top) {
  let path = "";
  let before = null;
  for (const { at, values } of samples) {
    const value = values[index];
    if (value === null) {
      before = null;
      continue;
    }
    const y = HEIGHT - 1 - (HEIGHT - 2) * Math.min(1, value / top);
    const joined = before !== null && at - before <= GAP_SECONDS;
    path += `${joined ? "L" : "M"}${x(at).toFixed(1)} ${y.toFixed(1)}`;
    before = at;
  }
  return path;
}
