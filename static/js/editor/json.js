/**
 * JSON as a text with places: a tree that knows where each value stands, edits that touch nothing else, a printer.
 * Pure. The parser takes what is being typed: it never throws, it lists what is wrong and goes on.
 *
 * A tree: `{type: "object", props: [{key, value, from, to}]}`, `{type: "array", items}`, `{type: "string" | "number" |
 * "literal", raw, value}` or `{type: "missing"}`; each with `from` and `to`. `raw` keeps numbers as they were written.
 */

const DEEPEST = 200;
const WIDTH = 96; // a container of plain values that fits is printed on one line

/** `{root, errors: [{from, to, code}]}`; codes: value, comma, colon, key, string, number, end, extra, doubled, deep. */
export function parse(text) {
  return new Parser(text).document();
}

class Parser {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.errors = [];
  }

  document() {
    const root = this.value(0);
    this.skip();
    if (this.at < this.text.length) this.fault("extra", this.at, this.text.length);
    return { root, errors: this.errors };
  }

  fault(code, from = this.at, to = Math.min(from + 1, this.text.length)) {
    this.errors.push({ code, from, to });
  }

  skip() {
    while (/\s/.test(this.text[this.at] ?? "")) this.at += 1;
  }

  value(depth) {
    this.skip();
    const char = this.text[this.at];
    if (char === '"') return this.string();
    if ((char === "{" || char === "[") && depth >= DEEPEST) {
      this.fault("deep", this.at, this.text.length);
      this.at = this.text.length;
      return { type: "missing", from: this.at, to: this.at };
    }
    if (char === "{") return this.object(depth);
    if (char === "[") return this.array(depth);
    return this.word();
  }

  /** A number, true, false, null, or something that is none of them. */
  word() {
    const from = this.at;
    const raw = /^[^\s,:[\]{}"]*/.exec(this.text.slice(from, from + 400))[0];
    if (!raw) {
      this.fault("value");
      return { type: "missing", from, to: from };
    }
    this.at += raw.length;
    const place = { from, to: this.at, raw };
    if (raw === "true" || raw === "false" || raw === "null") return { type: "literal", value: JSON.parse(raw), ...place };
    if (/^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(raw)) return { type: "number", value: Number(raw), ...place };
    this.fault(/^[-\d]/.test(raw) ? "number" : "value", from, this.at);
    return { type: "missing", ...place };
  }

  string() {
    const from = this.at;
    let at = from + 1;
    while (at < this.text.length && this.text[at] !== '"' && this.text[at] !== "\n") at += this.text[at] === "\\" ? 2 : 1;
    const isClosed = this.text[at] === '"';
    this.at = Math.min(isClosed ? at + 1 : at, this.text.length);
    const raw = this.text.slice(from, this.at);
    let value = raw.slice(1, isClosed ? -1 : undefined);
    try {
      value = JSON.parse(isClosed ? raw : `${raw}"`);
      if (!isClosed) this.fault("string", from, this.at);
    } catch {
      this.fault("string", from, this.at);
    }
    return { type: "string", from, to: this.at, raw, value, isClosed };
  }

  object(depth) {
    const node = { type: "object", from: this.at, to: this.at, props: [], isClosed: false };
    this.at += 1;
    const known = new Set();
    this.list(node, "}", () => {
      const key = this.key();
      if (key === null) return false;
      if (known.has(key.value)) this.fault("doubled", key.from, key.to);
      known.add(key.value);
      this.skip();
      const hasColon = this.text[this.at] === ":";
      if (hasColon) this.at += 1;
      else this.fault("colon");
      const value = hasColon ? this.value(depth + 1) : { type: "missing", from: this.at, to: this.at };
      node.props.push({ key, value, from: key.from, to: value.to });
      return true;
    });
    return node;
  }

  key() {
    if (this.text[this.at] === '"') return this.string();
    const from = this.at;
    const raw = /^[^\s,:[\]{}"]*/.exec(this.text.slice(from, from + 400))[0];
    this.fault("key", from, from + Math.max(1, raw.length));
    if (!raw) return null;
    this.at += raw.length;
    return { type: "missing", from, to: this.at, raw, value: raw };
  }

  array(depth) {
    const node = { type: "array", from: this.at, to: this.at, items: [], isClosed: false };
    this.at += 1;
    this.list(node, "]", () => {
      const before = this.at;
      node.items.push(this.value(depth + 1));
      return this.at > before;
    });
    return node;
  }

  /** What stands between brackets. `one` reads an element; false: it could not, the character is passed over. */
  list(node, end, one) {
    let needsComma = false;
    let comma = -1;
    for (;;) {
      this.skip();
      const char = this.text[this.at];
      if (char === undefined || ((char === "}" || char === "]") && char !== end)) {
        this.fault("end", node.from, node.from + 1);
        break;
      }
      if (char === end) {
        if (comma >= 0) this.fault("comma", comma, comma + 1);
        this.at += 1;
        node.isClosed = true;
        break;
      }
      if (char === ",") {
        if (!needsComma) this.fault("value");
        needsComma = false;
        comma = this.at;
        this.at += 1;
        continue;
      }
      if (needsComma) this.fault("comma");
      comma = -1;
      needsComma = one();
      if (!needsComma) this.at += 1;
    }
    node.to = this.at;
  }
}

// ------------------------------------------------------------------ reading

/** The plain value of a tree; what is missing is null. */
export function valueOf(node) {
  if (node.type === "object") {
    const value = {};
    for (const prop of node.props) {
      // a plain assignment to __proto__ would change the object instead of filling it
      Object.defineProperty(value, prop.key.value, { value: valueOf(prop.value), enumerable: true, writable: true, configurable: true });
    }
    return value;
  }
  if (node.type === "array") return node.items.map(valueOf);
  return node.type === "missing" ? null : node.value;
}

export function child(node, step) {
  if (node?.type === "object") return node.props.findLast((prop) => prop.key.value === step)?.value ?? null;
  if (node?.type === "array") return node.items[step] ?? null;
  return null;
}

/** The tree at a path of keys and indices, or null. */
export function find(root, path) {
  return path.reduce((node, step) => (node ? child(node, step) : null), root);
}

/** The way from the root to what stands at a position: `[{node, step}]`, the last one the innermost. */
export function wayTo(root, position) {
  const way = [{ node: root, step: null }];
  for (;;) {
    const { node } = way.at(-1);
    const next =
      node.type === "object"
        ? node.props.find((prop) => prop.from <= position && position <= Math.max(prop.to, prop.value.to))
        : node.type === "array"
          ? node.items.findIndex((item) => item.from <= position && position <= item.to)
          : null;
    if (node.type === "object" && next) way.push({ node: next.value, step: next.key.value, prop: next });
    else if (node.type === "array" && next >= 0) way.push({ node: node.items[next], step: next });
    else return way;
  }
}

// ------------------------------------------------------------------ printing

/** A tree of a plain value, to be printed or put into another. */
export function treeOf(value) {
  if (Array.isArray(value)) return { type: "array", items: value.map(treeOf) };
  if (value !== null && typeof value === "object") {
    return { type: "object", props: Object.entries(value).map(([key, item]) => ({ key: { raw: JSON.stringify(key), value: key }, value: treeOf(item) })) };
  }
  return { type: "plain", raw: JSON.stringify(value) ?? "null" };
}

/** Two blanks a level; what holds plain values only and fits stands on one line. */
export function print(node, level = 0, before = 0) {
  if (node.type !== "object" && node.type !== "array") return node.raw ?? "null";
  const elements = node.type === "object" ? node.props : node.items;
  const [open, close] = node.type === "object" ? "{}" : "[]";
  if (!elements.length) return open + close;
  const values = elements.map((element) => element.value ?? element);
  const trees = node.type === "object" ? values : elements;
  if (trees.every((tree) => isPlain(tree))) {
    const line = open + elements.map((element) => one(node, element, 0, 0)).join(", ") + close;
    if (before + level * 2 + line.length <= WIDTH) return line;
  }
  const pad = "  ".repeat(level + 1);
  return `${open}\n${elements.map((element) => pad + one(node, element, level + 1)).join(",\n")}\n${pad.slice(2)}${close}`;
}

function one(node, element, level) {
  if (node.type === "array") return print(element, level);
  return `${element.key.raw}: ${print(element.value, level, element.key.raw.length + 2)}`;
}

function isPlain(tree) {
  if (tree.type === "object") return !tree.props.length;
  if (tree.type === "array") return tree.items.every((item) => item.type === "number" || item.type === "plain") && tree.items.length <= 2;
  return true;
}

// ------------------------------------------------------------------ edits: {from, to, insert} of the text

/** Puts a value at a path whose parent is there; undefined takes it away. Null: nothing changes. */
export function change(text, root, path, value) {
  if (value !== undefined) return put(text, root, path, treeOf(value));
  const parent = find(root, path.slice(0, -1));
  return child(parent, path.at(-1)) ? removal(parent, path.at(-1)) : null;
}

/** The same for a tree, whose numbers stay as they were written. */
export function put(text, root, path, tree) {
  const parent = find(root, path.slice(0, -1));
  const known = child(parent, path.at(-1));
  if (known) return replacement(text, known, tree);
  if (parent?.type !== "object" && parent?.type !== "array") return null;
  return addition(text, parent, path.at(-1), tree);
}

function replacement(text, known, tree) {
  const insert = print(tree, levelAt(text, known.from));
  return text.slice(known.from, known.to) === insert ? null : { from: known.from, to: known.to, insert };
}

/** At the end of its parent, in the parent's own manner: on lines of their own, or on one. */
function addition(text, parent, step, tree) {
  const element = parent.type === "object" ? { key: { raw: JSON.stringify(step), value: step }, value: tree } : tree;
  const elements = parent.type === "object" ? parent.props : parent.items;
  const last = elements.at(-1);
  const isOnLines = last && text.slice(parent.from, last.from).includes("\n");
  if (!isOnLines) {
    const whole = parent.type === "object" ? { ...parent, props: [...parent.props, element] } : { ...parent, items: [...parent.items, element] };
    return { from: parent.from, to: parent.to, insert: print(whole, levelAt(text, parent.from)) };
  }
  const level = levelAt(text, last.from);
  return { from: last.to, to: last.to, insert: `,\n${"  ".repeat(level)}${one(parent, element, level)}` };
}

function removal(parent, step) {
  const elements = parent.type === "object" ? parent.props : parent.items;
  const index = parent.type === "object" ? elements.findLastIndex((prop) => prop.key.value === step) : step;
  if (elements.length === 1) return { from: parent.from, to: parent.to, insert: parent.type === "object" ? "{}" : "[]" };
  if (index === 0) return { from: elements[0].from, to: elements[1].from, insert: "" };
  return { from: elements[index - 1].to, to: elements[index].to, insert: "" };
}

/** The level of the line on which something stands, by its blanks. */
function levelAt(text, position) {
  const line = text.slice(text.lastIndexOf("\n", position - 1) + 1, position);
  return Math.floor(/^ */.exec(line)[0].length / 2);
}

/** The text after edits that were made for it and do not overlap. */
export function applied(text, changes) {
  return [...changes].sort((a, b) => b.from - a.from).reduce((now, { from, to, insert }) => now.slice(0, from) + insert + now.slice(to), text);
}
