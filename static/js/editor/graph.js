/**
 * A flow's draft as the editor reads and changes it. Pure. The text is the one document; everything here is either
 * read from it or is a list of edits `{from, to, insert}` to it, so that what nobody touched stays as it was written.
 */

import { change, child, find, parse, print, put, treeOf, valueOf } from "./json.js";

/** What a template may read besides nodes (the server's `flows/graph.py` decides; this is for suggestions). */
const ROOTS = ["input.text", "input.params", "input.files", "chat.history", "user.name", "now"];
const NODE_KEYS = ["id", "kind", "title", "fields", "at"];
/** Words of the template language that a node might be named after. */
const TAKEN = ["input", "chat", "user", "vars", "now", "case", "if", "for", "with", "break", "continue", "raw", "comment"];
const ID = /^[a-z][a-z0-9_]{0,39}$/;

/** A text, its tree, and its nodes and edges as plain values. `isWhole`: it is JSON, of the form of a graph. */
export function read(text) {
  const { root, errors } = parse(text);
  const value = errors.length ? null : valueOf(root);
  const isWhole = value !== null && Array.isArray(value.nodes ?? []) && Array.isArray(value.edges ?? []) && root.type === "object";
  const nodes = isWhole ? (value.nodes ?? []).map(nodeOf) : [];
  const edges = isWhole ? (value.edges ?? []).map((edge, index) => ({ from: edge?.from ?? "", to: edge?.to ?? "", branch: edge?.branch ?? null, index })) : [];
  return { text, root, errors, isWhole, nodes, edges };
}

function nodeOf(raw, index) {
  const own = raw !== null && typeof raw === "object" ? raw : {};
  const fields = own.fields !== null && typeof own.fields === "object" ? own.fields : {};
  return { index, id: String(own.id ?? ""), kind: String(own.kind ?? ""), title: String(own.title ?? ""), fields };
}

export function indexOf(graph, id) {
  return graph.nodes.findIndex((node) => node.id === id);
}

// ------------------------------------------------------------------ kinds

/** The schema of a kind's fields with its references looked up as one goes: `resolve(kind, schema)`. */
export function resolve(kind, schema) {
  if (!schema?.$ref) return schema ?? {};
  const { $ref, ...own } = schema;
  return { ...kind.schema.$defs[$ref.split("/").at(-1)], ...own };
}

export function fieldsOf(kind) {
  return resolve(kind, kind.schema).properties ?? {};
}

/** Without `null` among its choices: `{schema, isNullable}`. */
export function bare(kind, schema) {
  const whole = resolve(kind, schema);
  const choices = whole.anyOf?.filter((one) => one.type !== "null");
  if (!choices) return { schema: whole, isNullable: false };
  const { anyOf, ...own } = whole;
  if (choices.length === 1) return { schema: { ...own, ...resolve(kind, choices[0]) }, isNullable: anyOf.length > 1 };
  return { schema: { ...own, types: choices.map((one) => one.type) }, isNullable: anyOf.length > choices.length };
}

/** The branches that a node may choose: those its fields name, those its kind always has, those that need no edge. */
export function branchesOf(node, kind) {
  if (!kind) return { named: [], optional: [], passes: true };
  const named = [];
  collect(kind, kind.schema, node.fields, named);
  return {
    named: [...new Set([...named, ...(kind.branches ?? [])])],
    optional: kind.optional_branches ?? [],
    passes: kind.passes ?? true,
  };
}

function collect(kind, schema, value, found) {
  const { schema: own } = bare(kind, schema);
  if (own.format === "branch" && typeof value === "string" && value) found.push(value);
  if (own.items && Array.isArray(value)) for (const item of value) collect(kind, own.items, item, found);
  if (own.properties && value !== null && typeof value === "object") {
    for (const [name, inner] of Object.entries(own.properties)) if (name in value) collect(kind, inner, value[name], found);
  }
}

// ------------------------------------------------------------------ what may be read at a node

/** The nodes from which a way leads to `id`. */
export function before(graph, id) {
  const found = new Set();
  const waiting = [id];
  while (waiting.length) {
    const at = waiting.pop();
    for (const edge of graph.edges) {
      if (edge.to !== at || found.has(edge.from)) continue;
      found.add(edge.from);
      waiting.push(edge.from);
    }
  }
  return found;
}

/** The names that a template at node `id` may read. */
export function variables(graph, kinds, id) {
  const start = graph.nodes.find((node) => kinds.get(node.kind)?.is_start);
  const params = Object.keys(start?.fields.params?.properties ?? {}).map((name) => `input.params.${name}`);
  const reached = before(graph, id);
  const outputs = graph.nodes.filter((node) => reached.has(node.id)).flatMap((node) => outputsOf(node, kinds.get(node.kind)).map((name) => `${node.id}.${name}`));
  const kept = graph.nodes.filter((node) => node.kind === "set" && ID.test(node.fields.name)).map((node) => `vars.${node.fields.name}`);
  return [...outputs, ...ROOTS, ...params, ...new Set(kept)];
}

/** A form's own fields are named too: `details.value.cups`. A kind whose outputs depend says null: its fields name them. */
export function outputsOf(node, kind) {
  if (!kind) return [];
  if (kind.outputs === null) return Object.keys(fieldsOf(kind)).filter((name) => name in node.fields);
  const inner = Object.keys(node.fields.schema?.properties ?? {});
  const holder = kind.outputs.includes("value") ? "value" : "data";
  return kind.outputs.flatMap((name) => [name, ...(name === holder ? inner.map((one) => `${name}.${one}`) : [])]);
}

// ------------------------------------------------------------------ canonical text

/** A tree in the order that versions are compared in and people read: no value changes, numbers stay as written. */
export function format(root, kinds) {
  if (root.type !== "object") return `${print(root)}\n`;
  const ordered = inOrder(root, ["schema", "nodes", "edges"]);
  const inside = (key, arrange) => {
    const list = child(ordered, key);
    if (list?.type === "array") list.items = list.items.map((item) => (item.type === "object" ? arrange(item) : item));
  };
  ordered.props = ordered.props.map((prop) => ({ ...prop, value: { ...prop.value } }));
  inside("nodes", (node) => orderedNode(node, kinds));
  inside("edges", (edge) => inOrder(edge, ["from", "to", "branch"]));
  return `${print(ordered)}\n`;
}

function orderedNode(node, kinds) {
  const ordered = inOrder(node, NODE_KEYS);
  const kind = kinds.get(child(node, "kind")?.value);
  ordered.props = ordered.props.map((prop) =>
    prop.key.value === "fields" && prop.value.type === "object" && kind ? { ...prop, value: orderedFields(kind, kind.schema, prop.value) } : prop,
  );
  return ordered;
}

function orderedFields(kind, schema, tree) {
  const { schema: own } = bare(kind, schema);
  if (tree.type === "array" && own.items) return { ...tree, items: tree.items.map((item) => orderedFields(kind, own.items, item)) };
  if (tree.type !== "object" || !own.properties) return tree;
  const ordered = inOrder(tree, Object.keys(own.properties));
  ordered.props = ordered.props.map((prop) => {
    const inner = own.properties[prop.key.value];
    return inner ? { ...prop, value: orderedFields(kind, inner, prop.value) } : prop;
  });
  return ordered;
}

function inOrder(tree, keys) {
  const rank = (prop) => {
    const at = keys.indexOf(prop.key.value);
    return at < 0 ? keys.length : at;
  };
  return { ...tree, props: [...tree.props].sort((a, b) => rank(a) - rank(b)) };
}

// ------------------------------------------------------------------ edits

/** Puts a field, whose parents are made where they are not there; undefined takes it away. */
export function setField(graph, index, path, value) {
  const whole = ["nodes", index, "fields", ...path];
  let depth = whole.length - 1;
  while (depth > 2 && find(graph.root, whole.slice(0, depth)) === null) depth -= 1;
  if (depth === whole.length - 1) return edits(change(graph.text, graph.root, whole, value));
  if (value === undefined) return [];
  const made = whole.slice(depth + 1).reduceRight((inner, step) => ({ [step]: inner }), value);
  return edits(change(graph.text, graph.root, whole.slice(0, depth + 1), made));
}

/** A field given as JSON text that was parsed: its numbers stay as they were written. */
export function setFieldTree(graph, index, path, tree) {
  if (!find(graph.root, ["nodes", index, "fields", ...path.slice(0, -1)])) return setField(graph, index, path, valueOf(tree));
  return edits(put(graph.text, graph.root, ["nodes", index, "fields", ...path], tree));
}

export function setTitle(graph, index, title) {
  return edits(change(graph.text, graph.root, ["nodes", index, "title"], title || undefined));
}

/** Takes the fields along that the new kind knows too. */
export function setKind(graph, index, kind) {
  const known = fieldsOf(kind);
  const fields = find(graph.root, ["nodes", index, "fields"]);
  const kept = fields?.type === "object" ? { ...fields, props: fields.props.filter((prop) => prop.key.value in known) } : null;
  const filled = { ...starting(kind), ...(kept ? valueOf(kept) : {}) };
  return edits(change(graph.text, graph.root, ["nodes", index, "kind"], kind.kind), change(graph.text, graph.root, ["nodes", index, "fields"], filled));
}

/** Renames a node where it stands, in the edges, and in the templates that read it. */
export function rename(graph, index, id) {
  const old = graph.nodes[index].id;
  const found = edits(change(graph.text, graph.root, ["nodes", index, "id"], id));
  if (!ID.test(old) || graph.nodes.filter((node) => node.id === old).length > 1) return found;
  for (const edge of graph.edges) {
    for (const end of ["from", "to"]) {
      if (edge[end] === old) found.push(...edits(change(graph.text, graph.root, ["edges", edge.index, end], id)));
    }
  }
  const word = new RegExp(`(?<![\\w.'"])${old}(?=\\.)`, "g");
  for (const node of graph.nodes) {
    for (const tree of strings(find(graph.root, ["nodes", node.index, "fields"]))) {
      const raw = tree.raw.replace(/\{\{.*?\}\}|\{%.*?%\}/gs, (tag) => tag.replace(word, id));
      if (raw !== tree.raw) found.push({ from: tree.from, to: tree.to, insert: raw });
    }
  }
  return found;
}

/** Every text of a tree. */
export function strings(tree) {
  if (!tree) return [];
  if (tree.type === "string") return [tree];
  if (tree.type === "array") return tree.items.flatMap(strings);
  return tree.type === "object" ? tree.props.flatMap((prop) => strings(prop.value)) : [];
}

/** A new node of a kind; `after`: an edge to it leaves that node (by `branch`), and what followed there follows it. */
export function addNode(graph, kind, { after = null, branch = null } = {}) {
  const id = freeId(graph, kind.kind);
  const node = { id, kind: kind.kind, fields: starting(kind), at: [0, 0] };
  const edge = after === null ? null : graph.edges.find((one) => one.from === after && one.branch === branch);
  const edges = graph.edges.map(bareEdge);
  if (edge) edges[edge.index].to = id;
  else if (after !== null) edges.push(bareEdge({ from: after, to: id, branch }));
  if (edge && !kind.is_end) edges.push({ from: id, to: edge.to });
  return { id, changes: edits(addTo(graph, "nodes", node), setEdges(graph, edges)) };
}

export function duplicate(graph, index) {
  const node = graph.nodes[index];
  const id = freeId(graph, node.id);
  const source = find(graph.root, ["nodes", index]);
  const tree = { ...source, props: source.props.map((prop) => (prop.key.value === "id" ? { ...prop, value: treeOf(id) } : prop)) };
  return { id, changes: edits(put(graph.text, graph.root, ["nodes", graph.nodes.length], tree)) };
}

/** Takes a node away with its edges; where one thing followed it, that follows whatever led here. */
export function removeNode(graph, index) {
  const { id } = graph.nodes[index];
  const next = [...new Set(graph.edges.filter((edge) => edge.from === id && edge.to !== id).map((edge) => edge.to))];
  const edges = graph.edges
    .filter((edge) => edge.from !== id)
    .map((edge) => bareEdge(edge.to === id && next.length === 1 ? { ...edge, to: next[0] } : edge))
    .filter((edge) => edge.to !== id);
  return edits(change(graph.text, graph.root, ["nodes", index], undefined), setEdges(graph, edges));
}

/** Where a branch of a node leads; `to` null: nowhere. */
export function setEdge(graph, from, branch, to) {
  const edge = graph.edges.find((one) => one.from === from && one.branch === branch);
  if (edge && to !== null) return edits(change(graph.text, graph.root, ["edges", edge.index, "to"], to));
  if (edge) return removeEdge(graph, edge.index);
  return to === null ? [] : edits(addTo(graph, "edges", bareEdge({ from, to, branch })));
}

export function removeEdge(graph, index) {
  return edits(change(graph.text, graph.root, ["edges", index], undefined));
}

function setEdges(graph, edges) {
  const same = edges.length === graph.edges.length && edges.every((edge, index) => edge.to === graph.edges[index].to);
  return same ? null : change(graph.text, graph.root, ["edges"], edges);
}

function addTo(graph, key, value) {
  if (find(graph.root, [key])) return change(graph.text, graph.root, [key, graph[key].length], value);
  return change(graph.text, graph.root, [key], [value]);
}

function bareEdge({ from, to, branch }) {
  return branch === null || branch === undefined ? { from, to } : { from, to, branch };
}

/** A kind's needed fields, empty, so that the form and the faults show what is to be filled in. */
export function starting(kind) {
  const { required = [], properties = {} } = resolve(kind, kind.schema);
  return Object.fromEntries(required.map((name) => [name, empty(kind, properties[name])]));
}

/** The value that a control begins with. */
export function empty(kind, schema) {
  const { schema: own } = bare(kind, schema);
  if (own.default !== undefined && own.default !== null) return own.default;
  if (own.enum) return own.enum.includes("equals") ? "equals" : own.enum[0];
  if (own.type === "array") return own.minItems ? [empty(kind, own.items)] : [];
  if (own.properties) return emptyObject(kind, own);
  if (own.type === "object") return {};
  if (own.type === "boolean") return false;
  return own.type === "integer" || own.type === "number" ? (own.minimum ?? 0) : "";
}

/** Two lists of which one is needed (`all`, `any`): the first, with one element. */
function emptyObject(kind, own) {
  const names = Object.keys(own.properties);
  if (isEither(kind, own)) return { [names[0]]: [empty(kind, bare(kind, own.properties[names[0]]).schema.items)] };
  return Object.fromEntries((own.required ?? []).map((name) => [name, empty(kind, own.properties[name])]));
}

/** An object of lists, all optional, all of the same things: exactly one of them is meant. */
export function isEither(kind, own) {
  const inner = Object.values(own.properties ?? {}).map((schema) => bare(kind, schema));
  return inner.length > 1 && !own.required?.length && inner.every((one) => one.isNullable && one.schema.items && one.schema.items.$ref === inner[0].schema.items.$ref);
}

function freeId(graph, stem) {
  const taken = new Set([...graph.nodes.map((node) => node.id), ...TAKEN]);
  const base = (ID.test(stem) ? stem : "node").replace(/_?\d+$/, "").slice(0, 36) || "node";
  let id = base;
  for (let number = 2; taken.has(id); number += 1) id = `${base}_${number}`;
  return id;
}

function edits(...changes) {
  return changes.filter(Boolean).flat();
}
