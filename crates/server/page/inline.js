// The text within a block of Markdown: emphasis, code, links, line breaks. Every search has an end or is remembered, so
// that the time stays in proportion to the text, however it was made.

/** Elements within each other, deeper than which emphasis is left as it is written. */
const MAX_DEPTH = 16;
/** The longest formula between single dollars. */
const MAX_MATH = 400;

const PUNCTUATION = /[\p{P}\p{S}]/u;
const CJK = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/u;
const PLAIN = /[^\\`$<&!\[\]*_~\nh]+/y;
const AUTOLINK = /<(https?:\/\/[^\s<>]{1,2000})>/y;
const BARE = /https?:\/\/[^\s<>"`[\]，。；：！？、（）【】「」『』]+/y;
const ENTITY = /&(amp|lt|gt|quot|nbsp|#39);/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00A0", "#39": "'" };
const TARGET =
  /\(\s{0,20}(<[^<>\n]{0,2000}>|[^\s()<>]{0,2000}(?:\([^\s()<>]{0,500}\)[^\s()<>]{0,500}){0,5})(?:\s{1,20}(?:"[^"]{0,300}"|'[^']{0,300}'|\([^()]{0,300}\)))?\s{0,20}\)/y;

/**
 * The nodes of a text: strings, and `{type, children}` for `strong`, `emphasis`, `strike`, `link` (with `href`), or
 * `{type, text}` for `code` and `math`, or `{type: "break"}`.
 */
export function parseInline(text) {
  return build(new Scanner(text).scan());
}

/** The address of a link that may be followed, or null: http and https only. */
export function safeHref(address) {
  if (!/^https?:\/\//i.test(address)) return null;
  try {
    return new URL(address).href;
  } catch {
    return null;
  }
}

/**
 * Cuts text into tokens: `{text}`, `{node}`, runs of delimiters `{delimiter, ...}`, and beginnings and ends of elements,
 * which stand on the tokens as `opens` and `closes`.
 */
class Scanner {
  #text;
  #at = 0;
  #tokens = [];
  #runs = [];
  #brackets = [];
  /** For each length of a run of backticks, where the last such run begins. */
  #lastTicks = new Map();

  constructor(text) {
    this.#text = text;
    for (const found of text.matchAll(/`+/g)) this.#lastTicks.set(found[0].length, found.index);
  }

  scan() {
    while (this.#at < this.#text.length) {
      const length = this.#one();
      this.#at += length;
    }
    pair(this.#runs);
    return this.#tokens;
  }

  /** Takes one token and returns its length. */
  #one() {
    const plain = this.#match(PLAIN);
    if (plain !== null) return this.#plain(plain[0]);
    const character = this.#text[this.#at];
    switch (character) {
      case "\n": return this.#node({ type: "break" }, 1);
      case "\\": return this.#escape();
      case "`": return this.#code();
      case "$": return this.#dollar();
      case "&": return this.#entity();
      case "<": return this.#link(this.#match(AUTOLINK)) ?? this.#plain(character);
      case "h": return this.#bare() ?? this.#plain(character);
      case "!":
      case "[": return this.#open();
      case "]": return this.#close();
      default: return this.#run(character);
    }
  }

  #escape() {
    const next = this.#text[this.#at + 1] ?? "";
    if (next === "(") return this.#math("\\(", "\\)") ?? this.#plain("\\(");
    if (next === "[") return this.#math("\\[", "\\]") ?? this.#plain("[", 2);
    if (next === "\n") return this.#node({ type: "break" }, 2);
    // Of the punctuation that may be escaped, a backslash before a letter is none.
    return /[!-/:-@[-`{-~]/.test(next) ? this.#plain(next, 2) : this.#plain("\\");
  }

  #code() {
    const ticks = this.#match(/`+/y)[0];
    const start = this.#at + ticks.length;
    if ((this.#lastTicks.get(ticks.length) ?? -1) < start) return this.#plain(ticks);
    let end = start;
    for (;;) {
      end = this.#text.indexOf(ticks, end);
      const length = runLength(this.#text, end);
      if (length === ticks.length) break;
      end += length;
    }
    let text = this.#text.slice(start, end).replaceAll("\n", " ");
    if (text.startsWith(" ") && text.endsWith(" ") && text.trim() !== "") text = text.slice(1, -1);
    return this.#node({ type: "code", text }, end + ticks.length - this.#at);
  }

  /**
   * A formula between dollars begins and ends without a space, and no digit follows: `$5 and $6` is none. The dollars
   * stay, for `$HOME:$PATH` is none either.
   */
  #dollar() {
    if (this.#text.startsWith("$$", this.#at)) return this.#math("$$", "$$") ?? this.#plain("$$");
    const inside = this.#text.slice(this.#at + 1, this.#at + 1 + MAX_MATH);
    const found = /^(?=\S)[^$\n]*?[^$\s\\]\$(?!\d)/.exec(inside);
    if (found === null) return this.#plain("$");
    return this.#node({ type: "math", text: `$${found[0]}` }, found[0].length + 1);
  }

  #math(open, close) {
    const start = this.#at + open.length;
    const inside = this.#text.slice(start, start + 4 * MAX_MATH);
    const end = inside.indexOf(close);
    if (end <= 0) return null;
    return this.#node({ type: "math", text: inside.slice(0, end).trim() }, open.length + end + close.length);
  }

  #entity() {
    const found = this.#match(ENTITY);
    return found === null ? this.#plain("&") : this.#plain(ENTITIES[found[1]], found[0].length);
  }

  #bare() {
    const before = this.#text[this.#at - 1] ?? " ";
    const found = /[\p{L}\p{N}]/u.test(before) && !CJK.test(before) ? null : this.#match(BARE);
    if (found === null) return null;
    const address = found[0].slice(0, addressEnd(found[0]));
    return this.#link([address, address]);
  }

  #link(found) {
    const href = found === null ? null : safeHref(found[1]);
    return href === null ? null : this.#node({ type: "link", href, children: [found[1]] }, found[0].length);
  }

  #open() {
    const image = this.#text[this.#at] === "!";
    if (image && this.#text[this.#at + 1] !== "[") return this.#plain("!");
    const sign = image ? "![" : "[";
    this.#brackets.push({ token: this.#tokens.length, runs: this.#runs.length });
    return this.#plain(sign);
  }

  /** An image is a link here: the page loads nothing from elsewhere. Other addresses than http(s) stay text. */
  #close() {
    const bracket = this.#brackets.pop();
    const target = bracket === undefined ? null : this.#match(TARGET, this.#at + 1);
    const href = target === null ? null : safeHref(target[1].replace(/^<|>$/g, ""));
    if (href === null) return this.#plain("]");
    // Emphasis that begins inside a link ends inside it, and there is no link within a link.
    pair(this.#runs.splice(bracket.runs));
    for (const token of this.#tokens.slice(bracket.token)) {
      if (token.node?.type === "link") [token.text, token.node] = [token.node.children[0], null];
    }
    const open = this.#tokens[bracket.token];
    open.text = "";
    open.opens = [{ type: "link", href }];
    this.#tokens.push({ text: "", closes: 1 });
    this.#brackets = [];
    return 1 + target[0].length;
  }

  #run(character) {
    const length = runLength(this.#text, this.#at);
    if (character === "~" && length !== 2) return this.#plain(character.repeat(length));
    const before = previous(this.#text, this.#at);
    const after = following(this.#text, this.#at + length);
    const left = flanks(after, before);
    const right = flanks(before, after);
    const word = character === "_";
    const run = {
      delimiter: character,
      left: length,
      length,
      canOpen: left && (!word || !right || PUNCTUATION.test(before)),
      canClose: right && (!word || !left || PUNCTUATION.test(after)),
      opens: [],
      closes: 0,
    };
    this.#tokens.push(run);
    this.#runs.push(run);
    return length;
  }

  #plain(text, length = text.length) {
    this.#tokens.push({ text });
    return length;
  }

  #node(node, length) {
    this.#tokens.push({ node });
    return length;
  }

  #match(pattern, at = this.#at) {
    pattern.lastIndex = at;
    return pattern.exec(this.#text);
  }
}

/**
 * Pairs runs of delimiters, as the appendix of CommonMark does: every run that can close looks back for the nearest one
 * that can open. `floor` remembers how far back nothing was found.
 */
function pair(runs) {
  const floor = new Map();
  const before = runs.map((_, index) => index - 1);
  for (let at = 0; at < runs.length; at += 1) {
    const closer = runs[at];
    while (closer.canClose && closer.left > 0) {
      const name = `${closer.delimiter}${closer.canOpen}${closer.length % 3}`;
      const bottom = floor.get(name) ?? -1;
      let from = before[at];
      while (from > bottom && !matches(runs[from], closer)) from = before[from];
      if (from <= bottom) {
        floor.set(name, before[at]);
        break;
      }
      const opener = runs[from];
      const width = closer.delimiter === "~" || (opener.left >= 2 && closer.left >= 2) ? 2 : 1;
      opener.left -= width;
      closer.left -= width;
      opener.opens.push({ type: closer.delimiter === "~" ? "strike" : width === 2 ? "strong" : "emphasis" });
      closer.closes += 1;
      // What stands between them can pair no more.
      before[at] = opener.left > 0 ? from : before[from];
    }
    // A run that cannot open or is used up is no candidate for those behind it.
    if (at + 1 < runs.length && (!closer.canOpen || closer.left === 0)) before[at + 1] = before[at];
  }
}

function matches(opener, closer) {
  if (opener.delimiter !== closer.delimiter || !opener.canOpen || opener.left === 0) return false;
  // The rule of three: `***a** b*` and the like would otherwise pair wrongly.
  const either = opener.canClose || closer.canOpen;
  return !(either && (opener.length + closer.length) % 3 === 0 && (opener.length % 3 !== 0 || closer.length % 3 !== 0));
}

/** A tree from tokens: at a run first what it closes, then what is left of it as text, then what it opens. */
function build(tokens) {
  const root = [];
  const stack = [root];
  for (const token of tokens) {
    for (let closes = token.closes ?? 0; closes > 0; closes -= 1) stack.pop();
    if (token.node) stack.at(-1).push(token.node);
    else addText(stack.at(-1), token.delimiter ? token.delimiter.repeat(token.left) : token.text);
    for (const element of (token.opens ?? []).toReversed()) {
      if (stack.length > MAX_DEPTH) {
        stack.push(stack.at(-1));
        continue;
      }
      const node = { ...element, children: [] };
      stack.at(-1).push(node);
      stack.push(node.children);
    }
  }
  return root;
}

function addText(nodes, text) {
  if (text === "") return;
  if (typeof nodes.at(-1) === "string") nodes[nodes.length - 1] += text;
  else nodes.push(text);
}

/**
 * Whether a run touches the text on the side of `near`. Beside a letter of a script without spaces, punctuation counts
 * as a letter: such text would otherwise find no end for `**“a”**`.
 */
function flanks(near, far) {
  if (isSpace(near)) return false;
  return !PUNCTUATION.test(near) || isSpace(far) || PUNCTUATION.test(far) || CJK.test(far);
}

/** A full stop behind an address ends the sentence, and a bracket that it did not open is not its own. */
function addressEnd(address) {
  let unopened = 0;
  for (const character of address) unopened += character === ")" ? 1 : character === "(" ? -1 : 0;
  let end = address.length;
  for (; end > 0; end -= 1) {
    const last = address[end - 1];
    if (last === ")" && unopened > 0) unopened -= 1;
    else if (!".,;:!?'*_~".includes(last)) break;
  }
  return end;
}

function isSpace(character) {
  return character === "" || /\s/.test(character);
}

function previous(text, at) {
  const low = text.charCodeAt(at - 1);
  return low >= 0xdc00 && low <= 0xdfff ? text.slice(at - 2, at) : text.slice(Math.max(0, at - 1), at);
}

function following(text, at) {
  const code = text.codePointAt(at);
  return code === undefined ? "" : String.fromCodePoint(code);
}

function runLength(text, at) {
  let end = at;
  while (text[end] === text[at] && end < text.length) end += 1;
  return end - at;
}
