// Elements from Markdown. An answer that grows is rendered again many times a second, so blocks that did not change keep
// their elements, and with them selection, scrolling and focus.

import { button, copy, el } from "./dom.js";
import { parseInline } from "./inline.js";
import { parse } from "./markdown.js";

const INLINE = { strong: "strong", emphasis: "em", strike: "del" };

/** Markdown within an element, kept up to date with a text. */
export class MarkdownView {
  #root;
  #text = "";
  #blocks = [];

  constructor(root) {
    this.#root = root;
  }

  update(text) {
    if (text === this.#text) return;
    this.#text = text;
    const blocks = parse(text);
    blocks.forEach((block, index) => {
      const before = this.#blocks[index];
      const node = this.#root.children[index];
      if (before === undefined) this.#root.append(element(block));
      else if (before.type === block.type && before.source === block.source) return;
      else if (!extend(node, before, block)) node.replaceWith(element(block));
    });
    while (this.#root.children.length > blocks.length) this.#root.lastElementChild.remove();
    this.#blocks = blocks;
  }
}

/** Code that only became longer gets the rest of it, whatever its length. */
function extend(node, before, block) {
  const grows = block.type === "code" && before.type === "code" && before.language === block.language;
  if (!grows || before.text === "" || !block.text.startsWith(before.text)) return false;
  node.querySelector("code").firstChild.appendData(block.text.slice(before.text.length));
  return true;
}

function element(block) {
  switch (block.type) {
    case "heading":
      // The page's own headings come first: a heading of an answer is one of the third level at most.
      return el(`h${Math.min(6, block.level + 2)}`, { dir: "auto" }, ...inline(block.text));
    case "code":
      return code(block);
    case "math":
      return el("pre", { class: "math", dir: "ltr", tabindex: "0" }, block.text);
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", { dir: "auto" }, ...block.blocks.map(element));
    case "list":
      return list(block);
    case "table":
      return table(block);
    default:
      return el("p", { dir: "auto" }, ...inline(block.text));
  }
}

function code(block) {
  const body = el("code", {}, block.text);
  const press = button("Copy", (event) => copy(body.textContent, event.currentTarget), { "aria-label": "Copy code" });
  const name = block.language === "" ? "text" : block.language;
  return el(
    "figure",
    { class: "code" },
    el("figcaption", {}, el("span", {}, name), press),
    el("pre", { dir: "ltr", tabindex: "0", role: "region", "aria-label": `Code, ${name}` }, body),
  );
}

function list({ start, loose, items }) {
  const attributes = { class: loose ? "loose" : null, dir: "auto" };
  if (start !== null && start !== 1) attributes.start = start;
  return el(start === null ? "ul" : "ol", attributes, ...items.map(item));
}

function item({ checked, blocks }) {
  if (checked === null) return el("li", { dir: "auto" }, ...blocks.map(element));
  const box = el("input", { type: "checkbox", disabled: true, checked, "aria-label": checked ? "Done" : "Not done" });
  return el("li", { class: "task", dir: "auto" }, box, el("div", {}, ...blocks.map(element)));
}

function table({ align, head, rows }) {
  const cell = (tag) => (text, column) => el(tag, { class: align[column], dir: "auto" }, ...inline(text));
  return el(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...head.map(cell("th")))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell("td"))))),
    ),
  );
}

function inline(text) {
  return parseInline(text).map(inlineElement);
}

function inlineElement(node) {
  if (typeof node === "string") return node;
  switch (node.type) {
    case "break":
      return el("br");
    case "code":
      return el("code", { dir: "ltr" }, node.text);
    case "math":
      return el("span", { class: "math", dir: "ltr" }, node.text);
    case "link": {
      const children = node.children.length === 0 ? [node.href] : node.children.map(inlineElement);
      const attributes = { href: node.href, title: node.href, target: "_blank", rel: "noopener noreferrer nofollow" };
      return el("a", attributes, ...children);
    }
    default:
      return el(INLINE[node.type], {}, ...node.children.map(inlineElement));
  }
}
