/**
 * Markdown that grows, as blocks. Pure: text in, blocks out.
 *
 * All blocks but the last are whole: more text cannot change them, so they are parsed once and painted once. Only
 * the open tail is parsed again. `finish` parses everything once more, since a link definition at the end may
 * change what stands before it; what did not change keeps its block.
 */

import { Lexer } from "../vendor/marked-18.2.1/marked.esm.js";

export class Blocks {
  constructor() {
    this.text = "";
    this.whole = []; // {raw, token}
    this.tail = null; // the open one
    this.from = 0; // where the tail begins in the text
  }

  /** Takes the whole text so far (line ends made plain, so that lengths of `raw` add up). Returns true where it is not a continuation, so that all must be painted anew. */
  update(whole) {
    const text = whole.includes("\r") ? whole.replace(/\r\n?/g, "\n") : whole;
    const isNew = !text.startsWith(this.text);
    if (isNew) {
      this.whole = [];
      this.from = 0;
    }
    if (text === this.text && this.tail) return false;
    this.text = text;
    const tokens = lex(text.slice(this.from));
    const last = lastBlock(tokens);
    let at = this.from;
    this.tail = null;
    tokens.forEach((token, index) => {
      if (index < last) {
        if (isBlock(token)) this.whole.push({ raw: token.raw, token });
        at += token.raw.length;
      } else if (index === last) {
        this.tail = { raw: token.raw, token: open(token, text.slice(at)) };
      }
    });
    if (last >= 0) this.from = at;
    return isNew;
  }

  /** No more will come: every block is whole. */
  finish() {
    this.whole = lex(this.text)
      .filter(isBlock)
      .map((token) => ({ raw: token.raw, token }));
    this.tail = null;
    this.from = this.text.length;
  }
}

function lex(text) {
  return new Lexer({ gfm: true }).lex(text);
}

function isBlock(token) {
  return token.type !== "space" && token.type !== "def";
}

function lastBlock(tokens) {
  for (let index = tokens.length - 1; index >= 0; index -= 1) if (isBlock(tokens[index])) return index;
  return -1;
}

/** The tail as it will probably end: a half table is a table, a half `**word` is bold. */
function open(token, raw) {
  if (token.type === "code") return { ...token, text: token.text.replace(/\n?[ ]{0,3}(`{1,2}|~{1,2})$/, "") };
  if (token.type !== "paragraph" && token.type !== "list" && token.type !== "heading" && token.type !== "blockquote") {
    return token;
  }
  const closed = closeTable(raw) ?? closeInline(raw);
  if (closed === raw) return token;
  return lex(closed).find(isBlock) ?? { type: "space", raw: "" };
}

/** A header row whose delimiter row is not there yet gets one. */
export function closeTable(raw) {
  const lines = raw.split("\n");
  if (!/^ {0,3}\|.*\|\s*$/.test(lines[0]) || lines.length > 2) return null;
  if (lines.length === 2 && !/^[\s|:-]*$/.test(lines[1])) return null;
  const columns = lines[0].trim().slice(1, -1).split(/(?<!\\)\|/).length;
  return `${lines[0]}\n|${" --- |".repeat(columns)}`;
}

/** Ends what the last line has begun: code, bold, emphasis, strike, links. Whole markup is left as it is. */
export function closeInline(raw) {
  const start = raw.lastIndexOf("\n") + 1;
  let line = raw.slice(start);
  const ticks = line.match(/`+/g) ?? [];
  if (ticks.length % 2) {
    const mark = ticks.at(-1);
    if (line.endsWith(mark)) return raw.slice(0, start) + line.slice(0, -mark.length);
    return raw + mark;
  }
  const outside = line.replace(/(`+)[^`]*\1/g, (code) => "x".repeat(code.length));

  const link = outside.match(/!?\[[^\]\n]*(\](\([^)\n]*)?)?$/);
  if (link && !/^\[[ xX]?\]?$/.test(link[0])) {
    const label = line.slice(link.index).replace(/^!?\[/, "").replace(/\](\([^)]*)?$/, "");
    line = line.slice(0, link.index) + (link[0].startsWith("!") ? "" : label);
    return raw.slice(0, start) + closeMarks(line);
  }
  return raw.slice(0, start) + closeMarks(line);
}

function closeMarks(line) {
  const outside = line.replace(/(`+)[^`]*\1/g, (code) => "x".repeat(code.length)).replace(/\\./g, "xx");
  let result = line;
  for (const mark of ["**", "~~", "__"]) {
    if ((outside.split(mark).length - 1) % 2 === 0) continue;
    const half = mark[0];
    if (result.endsWith(mark)) result = result.slice(0, -mark.length);
    else if (result.endsWith(half)) result += half;
    else if (!/\s$/.test(result)) result += mark;
    else result = result.trimEnd() + mark;
  }
  const singles = result.replace(/(`+)[^`]*\1/g, "").replace(/\\./g, "").replaceAll("**", "");
  const stars = (singles.replace(/^\s*\* /, "").match(/\*/g) ?? []).length;
  if (stars % 2) {
    if (/(^|[^*])\*$/.test(result)) result = result.slice(0, -1);
    else if (/(^|[\s(])\*[^\s*][^*]*$/.test(result)) result = `${result.trimEnd()}*`;
  }
  return result;
}

/** Sentences that are whole, for readers by ear. Returns them and how far they reach. */
export function sentences(text, from) {
  const found = [];
  const ends = /[.!?。！？…]["'”’)\]]*(?=\s)|\n{2,}|[。！？]/g;
  ends.lastIndex = from;
  let at = from;
  for (let match = ends.exec(text); match; match = ends.exec(text)) {
    const end = match.index + match[0].length;
    const sentence = plain(text.slice(at, end));
    if (sentence) found.push(sentence);
    at = end;
  }
  return { found, at };
}

/** Markdown without its marks. */
export function plain(text) {
  return text
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/[`*_~#>|]+/g, "")
    .replace(/\s+/g, " ")
    .trim();
}
