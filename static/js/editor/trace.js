/** What each node of a debug run was given, gave, took and cost, from the `node` events. Pure. */

import { fieldsOf } from "./graph.js";

export class Trace {
  constructor() {
    this.rows = [];
    this.turn = null;
  }

  /** Every frame of the socket may be given. A run that begins again (an answer, a takeover) goes over its rows anew. */
  apply(frame) {
    if (frame.type === "turn_start" && frame.turn !== this.turn) {
      this.turn = frame.turn;
      this.rows = [];
    } else if (frame.type === "node" && (this.turn === null || frame.turn === this.turn)) {
      this.turn = frame.turn;
      this.node(frame);
    } else if (frame.type === "turn_end" && frame.turn === this.turn) {
      for (const row of this.rows) if (row.state === "start") row.state = frame.status === "done" ? "end" : "error";
    } else if (frame.type === "question" && frame.turn === this.turn) {
      const row = this.rows.findLast((one) => one.state === "start");
      if (row) row.state = "wait";
    }
  }

  node({ node, visit, kind, title, state, ms, output, error }) {
    const key = `${node}#${visit}`;
    const known = this.rows.find((row) => row.key === key);
    const row = known ?? { key, node, visit, kind, title: title || node };
    Object.assign(row, { state, ms: ms ?? null, output: output ?? null, error: error ?? null });
    if (!known) this.rows.push(row);
  }

  /** The last visit of a node, or null. */
  last(node) {
    return this.rows.findLast((row) => row.node === node) ?? null;
  }

  get total() {
    return this.rows.reduce(
      (sum, row) => {
        const { cost, tokens } = costOf(row);
        return { ms: sum.ms + (row.ms ?? 0), cost: sum.cost + cost, tokens: sum.tokens + tokens };
      },
      { ms: 0, cost: 0, tokens: 0 },
    );
  }

  /** The variables that a node's templates read, with what they held: `[{name, value, isKnown}]`. */
  inputsOf(row, graph, kinds) {
    const node = graph.nodes.find((one) => one.id === row.node);
    if (!node) return [];
    const at = this.rows.indexOf(row);
    const fields = { ...defaultsOf(kinds.get(node.kind)), ...node.fields };
    return readsOf(fields).map((name) => {
      const [root, ...path] = name.split(".");
      const source = root === "input" ? this.rows.find((one) => one.kind === "start") : this.rows.slice(0, at).findLast((one) => one.node === root);
      return { name, ...lookUp(source?.output, path) };
    });
  }
}

/** What a kind's fields hold where a node says nothing. */
function defaultsOf(kind) {
  const known = kind ? fieldsOf(kind) : {};
  return Object.fromEntries(Object.entries(known).map(([name, schema]) => [name, schema.default ?? null]));
}

function lookUp(output, path) {
  let value = output;
  for (const step of path) {
    if (value === null || typeof value !== "object" || !(step in value)) return { value: null, isKnown: false };
    value = value[step];
  }
  return { value, isKnown: value !== undefined };
}

/** The names that stand in `{{ … }}` and in the tags of a node's fields, words of the language and texts left out. */
export function readsOf(fields) {
  const names = new Set();
  for (const text of texts(fields)) {
    for (const [, inner] of text.matchAll(/\{[{%](.*?)[}%]\}/gs)) {
      const plain = inner.replace(/"[^"]*"|'[^']*'/g, " ");
      for (const [name] of plain.matchAll(/(?<![\w.|])[a-z]\w*(?:\.\w+)+/g)) names.add(name);
    }
  }
  return [...names];
}

function texts(value) {
  if (typeof value === "string") return [value];
  if (value === null || typeof value !== "object") return [];
  return Object.values(value).flatMap(texts);
}

/** What a row's usage says: money in millionths, tokens in and out. */
export function costOf(row) {
  const usage = row.output?.usage;
  if (usage === null || typeof usage !== "object") return { cost: 0, tokens: 0, hasUsage: false };
  return { cost: usage.cost_micros ?? 0, tokens: (usage.input_tokens ?? 0) + (usage.output_tokens ?? 0), hasUsage: true };
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "";
  return ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Millionths of the currency that the prices are in. */
export function money(micros) {
  return (micros / 1e6).toFixed(micros < 10_000 ? 6 : 4);
}
