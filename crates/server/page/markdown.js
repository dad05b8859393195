// Blocks of Markdown, as models write it. The result is plain data; render.js makes elements of it and inline.js reads
// the text within a block.
//
// It is CommonMark with the tables, task lists and strikethrough of GitHub, and where it departs, it does so for text
// that comes from a model: HTML is text; a line break in a paragraph is kept; an indented paragraph is no code; a list
// that is indented by two spaces is nested; `---` under a paragraph is a rule. TeX between \[ \] or $$ $$ stays as it is.

/** Quotes and lists within each other, deeper than which text is a paragraph. */
const MAX_DEPTH = 12;
/** Lines of a formula, after which its beginning is text. */
const MAX_MATH_LINES = 60;

const FENCE = /^( {0,3})(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const MARKER = /^[ \t]*([-*+]|(\d{1,9})[.)])([ \t]+|$)/;
const TASK = /^\[([ xX])\] /;

/**
 * The blocks of a text, each with `source`, the lines it came from: `paragraph {text}`, `heading {level, text}`,
 * `code {language, text}`, `math {text}`, `rule`, `quote {blocks}`, `list {start, loose, items: [{checked, blocks}]}`
 * (`start` is null for bullets), `table {align, head, rows}`.
 */
export function parse(text) {
  return blocks(text.replaceAll("\0", "\uFFFD").split(/\r\n|\n|\r/), 0);
}

function blocks(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const [block, end] = next(lines, at, depth);
    block.source = lines.slice(at, end).join("\n");
    found.push(block);
    at = end;
  }
  return found;
}

/** The block that begins at line `at`, and the line after it. */
function next(lines, at, depth) {
  const line = lines[at];
  if (isFence(line)) return code(lines, at);
  if (HEADING.test(line)) return [heading(line), at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return quote(lines, at, depth);
    if (marker(line)?.indent < 4) return list(lines, at, depth);
  }
  return math(lines, at) ?? table(lines, at) ?? paragraph(lines, at);
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !interrupts(lines, end)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trimStart());
  return [{ type: "paragraph", text: text.join("\n").trimEnd() }, end];
}

function heading(line) {
  const level = HEADING.exec(line)[1].length;
  let text = line.trim().slice(level).trim();
  // The closing run of `#`, if it stands by itself.
  let end = text.length;
  while (end > 0 && text[end - 1] === "#") end -= 1;
  if (end === 0 || text[end - 1] === " ") text = text.slice(0, end).trimEnd();
  return { type: "heading", level, text };
}

/** A fence that nothing closes reaches to the end, as it does while an answer is still coming. */
function code(lines, at) {
  const [, indent, fence, info] = FENCE.exec(lines[at]);
  const isEnd = (line) => {
    const found = FENCE.exec(line);
    return found !== null && found[2][0] === fence[0] && found[2].length >= fence.length && isBlank(found[3]);
  };
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).map((line) => dedent(line, indent.length));
  const language = info.trim().split(/\s/, 1)[0];
  return [{ type: "code", language, text: text.join("\n") }, Math.min(end + 1, lines.length)];
}

/** TeX on lines of its own: it ends before a blank line or it is none. */
function math(lines, at) {
  const first = lines[at].trim();
  const close = first.startsWith("$$") ? "$$" : first.startsWith("\\[") ? "\\]" : null;
  if (close === null) return null;
  const limit = Math.min(lines.length, at + MAX_MATH_LINES);
  for (let end = at; end < limit && !isBlank(lines[end]); end += 1) {
    const line = lines[end].trim();
    if (!line.endsWith(close) || (end === at && line.length < 4)) continue;
    const text = lines.slice(at, end + 1).join("\n").trim().slice(2, -2);
    // Something else on the first line after it: then it stands within a paragraph.
    return text.includes(close) ? null : [{ type: "math", text: text.trim() }, end + 1];
  }
  return null;
}

function quote(lines, at, depth) {
  const own = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    if (QUOTE.test(lines[end])) own.push(lines[end].replace(QUOTE, ""));
    // A paragraph may go on without its sign.
    else if (!isBlank(lines[end]) && !isBlank(own.at(-1)) && !interrupts(lines, end)) own.push(lines[end]);
    else break;
  }
  return [{ type: "quote", blocks: blocks(own, depth + 1) }, end];
}

function list(lines, at, depth) {
  const first = marker(lines[at]);
  const items = [];
  let loose = false;
  let end = at;
  while (end < lines.length) {
    const item = marker(lines[end]);
    if (item?.kind !== first.kind || item.indent > 3 || RULE.test(lines[end])) break;
    const own = [dedent(lines[end].replace(item.sign, " ".repeat(item.sign.length)), item.content)];
    end += 1;
    let blanks = 0;
    for (; end + blanks < lines.length; ) {
      const line = lines[end + blanks];
      if (isBlank(line)) {
        blanks += 1;
        continue;
      }
      const indent = indentOf(line);
      const isInside = indent >= item.content || (indent >= item.indent + 2 && marker(line) !== null);
      if (!isInside && (blanks > 0 || marker(line) !== null || interrupts(lines, end))) break;
      for (let blank = 0; blank < blanks; blank += 1) own.push("");
      own.push(dedent(line, item.content));
      end += blanks + 1;
      blanks = 0;
    }
    const task = TASK.exec(own[0]);
    if (task !== null) own[0] = own[0].slice(4);
    items.push({ checked: task === null ? null : task[1] !== " ", blocks: blocks(own, depth + 1) });
    const following = end + blanks < lines.length ? marker(lines[end + blanks]) : null;
    if (following?.kind !== first.kind || following.indent > 3) break;
    loose ||= blanks > 0;
    end += blanks;
  }
  return [{ type: "list", start: first.start, loose, items }, end];
}

function table(lines, at) {
  if (!startsTable(lines, at)) return null;
  const head = cells(lines[at]);
  const align = cells(lines[at + 1]).map((cell) => {
    const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
    return left && right ? "center" : right ? "right" : left ? "left" : null;
  });
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].includes("|") && !interrupts(lines, end); end += 1) {
    const row = cells(lines[end]).slice(0, head.length);
    while (row.length < head.length) row.push("");
    rows.push(row);
  }
  return [{ type: "table", align, head, rows }, end];
}

function startsTable(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") || !/^[ \t:|-]+$/.test(lines[at + 1])) return false;
  const rule = cells(lines[at + 1]);
  return rule.every((cell) => /^:?-+:?$/.test(cell)) && rule.length === cells(lines[at]).length;
}

/** The cells of a row. A bar after a backslash belongs to the text. */
function cells(line) {
  const parts = line.trim().split(/(?<!\\)\|/);
  if (parts.length > 1 && isBlank(parts[0])) parts.shift();
  if (parts.length > 1 && isBlank(parts.at(-1))) parts.pop();
  return parts.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** Whether a block begins at this line even though a paragraph came before it. */
function interrupts(lines, at) {
  const line = lines[at];
  if (isFence(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  if (startsTable(lines, at) || math(lines, at) !== null) return true;
  const item = marker(line);
  // A number at the beginning of a line is a list only where one can begin: `1968.` may well end a sentence.
  return item !== null && item.indent < 4 && !item.isEmpty && (item.start ?? 1) === 1;
}

/** The marker of a list item: its column, the column of its content, which kind of list, and its number. */
function marker(line) {
  const found = MARKER.exec(line);
  if (found === null) return null;
  const [, sign, digits, space] = found;
  const indent = indentOf(line);
  // Five spaces and more belong to the content.
  const width = space.length >= 1 && space.length <= 4 ? space.length : 1;
  return {
    sign,
    indent,
    content: indent + sign.length + width,
    kind: digits === undefined ? sign : sign.at(-1),
    start: digits === undefined ? null : Number(digits),
    isEmpty: found[0].length === line.length,
  };
}

function isFence(line) {
  const found = FENCE.exec(line);
  // A backtick after the fence: then this is inline code.
  return found !== null && !(found[2][0] === "`" && found[3].includes("`"));
}

function isBlank(line) {
  return line.trim() === "";
}

/** The column of the first character. A tab reaches to the next multiple of four. */
function indentOf(line) {
  let column = 0;
  for (let at = 0; line[at] === " " || line[at] === "\t"; at += 1) column += line[at] === " " ? 1 : 4 - (column % 4);
  return column;
}

/** Takes up to `width` columns of space away. What is left of a tab becomes spaces. */
function dedent(line, width) {
  let column = 0;
  let at = 0;
  for (; column < width && (line[at] === " " || line[at] === "\t"); at += 1) {
    column += line[at] === " " ? 1 : 4 - (column % 4);
  }
  return " ".repeat(Math.max(0, column - width)) + line.slice(at);
}
