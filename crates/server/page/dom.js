// Elements without markup in strings. Text always becomes a text node, so nothing a model or a server says can become
// an element, and no attribute `style` is ever written, which the page's Content-Security-Policy refuses.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Attributes go by their names; `onclick` and its like are listeners; `true` is an attribute without a
 * value; `null` and `false` leave an attribute or a child out.
 */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A button that submits nothing. */
export function button(label, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, label);
}

/** The element of index.html with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Whether a finger is all there is: there are no keys, and a focused field opens a keyboard over the page. */
export function isTouch() {
  return matchMedia("(hover: none) and (pointer: coarse)").matches;
}

/** Writes text only where it differs: an unchanged node keeps its selection and is not announced again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Copies to the clipboard and says so on the button for a moment. The clipboard's interface exists on https and on
 * this machine only; over plain http to another machine the older way through a selection is left.
 */
export async function copy(text, pressed) {
  const label = pressed.textContent;
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copied = copySelection(text);
    pressed.focus();
  }
  setText(pressed, copied ? "Copied" : "Not copied: the browser refuses");
  setTimeout(() => setText(pressed, label), 1600);
}

/** Offers an object to the user as a JSON file. */
export function download(name, value) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function copySelection(text) {
  const field = el("textarea", { class: "unseen", "aria-hidden": "true" });
  field.value = text;
  // Within an open dialog only its own elements can be selected.
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  return copied;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
