/** What may stand at a position of the draft's text, by the schemas of the kinds and by the graph itself. Pure. */

import { bare, branchesOf, variables } from "./graph.js";
import { find, wayTo } from "./json.js";

const TOP_KEYS = { schema: "1", nodes: "[]", edges: "[]" };
const NODE_KEYS = { id: '""', kind: '""', title: '""', fields: "{}", at: "[0, 0]" };
const EDGE_KEYS = { from: '""', to: '""', branch: '""' };
const WORD = /[\w$.-]*$/;

/**
 * @param world `{kinds: Map, providers: {slug: [model]}}`
 * @returns `{from, to, options: [{label, insert, detail, type}]}` or null; `type`: key, value, variable
 */
export function complete(graph, position, world) {
  const way = wayTo(graph.root, position);
  const { node, prop } = way.at(-1);
  const inText = insideText(node, position);
  if (inText) {
    const template = templateAt(graph, node, position, way, world);
    if (template) return template;
  }
  const key = keyAt(way, position);
  if (key) return keys(graph, key, way, position, world);
  const path = way.slice(1).map((one) => one.step);
  if (node.type === "object" || (node.type === "array" && !prop)) return null;
  if (!inText && position < node.from) return null;
  const values = valuesAt(graph, path, world);
  if (!values.length) return null;
  const [from, to] = node.type === "missing" && !node.raw ? [position, position] : [node.from, node.to];
  return { from, to, options: values.map(({ value, detail }) => ({ label: String(value), insert: JSON.stringify(value), detail, type: "value" })) };
}

function insideText(node, position) {
  return node.type === "string" && node.from < position && (position < node.to || !node.isClosed);
}

// ------------------------------------------------------------------ keys

/** The object and key that the position is in, where a key may stand there. */
function keyAt(way, position) {
  const last = way.at(-1);
  if (last.prop && position <= last.prop.key.to) return { object: way.at(-2).node, key: last.prop.key, depth: way.length - 2 };
  if (last.node.type === "object" && last.node.from < position && (position < last.node.to || !last.node.isClosed)) {
    return { object: last.node, key: null, depth: way.length - 1 };
  }
  return null;
}

function keys(graph, { object, key, depth }, way, position, world) {
  const path = way.slice(1, depth + 1).map((one) => one.step);
  const known = new Set(object.props.filter((prop) => prop.key !== key).map((prop) => prop.key.value));
  const options = Object.entries(keysAt(graph, path, world))
    .filter(([name]) => !known.has(name))
    .map(([name, value]) => ({ label: name, insert: `${JSON.stringify(name)}: ${value}`, detail: "", type: "key" }));
  if (!options.length) return null;
  if (!key) {
    const typed = WORD.exec(graph.text.slice(object.from + 1, position))[0];
    return { from: position - typed.length, to: position, options };
  }
  const hasValue = graph.text.slice(key.to).trimStart().startsWith(":");
  return { from: key.from, to: key.to, options: hasValue ? options.map((one) => ({ ...one, insert: JSON.stringify(one.label) })) : options };
}

/** The keys of an object at a path, each with the text of the value it begins with. */
function keysAt(graph, path, world) {
  if (!path.length) return TOP_KEYS;
  if (path[0] === "edges" && path.length === 2) return EDGE_KEYS;
  if (path[0] !== "nodes") return {};
  if (path.length === 2) return NODE_KEYS;
  const { kind, schema } = schemaAt(graph, path, world);
  const properties = schema?.properties ?? {};
  return Object.fromEntries(Object.entries(properties).map(([name, inner]) => [name, begins(kind, inner)]));
}

function begins(kind, schema) {
  const { schema: own } = bare(kind, schema);
  if (own.enum) return JSON.stringify(own.default ?? own.enum[0]);
  if (own.type === "array") return "[]";
  if (own.type === "object") return "{}";
  if (own.type === "boolean") return String(!own.default);
  if (own.type === "integer" || own.type === "number") return String(own.minimum ?? 0);
  return '""';
}

/** The schema of what stands at a path below a node's fields, and the node's kind. */
function schemaAt(graph, path, world) {
  const node = graph.root && find(graph.root, path.slice(0, 2));
  const name = node?.type === "object" ? node.props.find((prop) => prop.key.value === "kind")?.value.value : null;
  const kind = world.kinds.get(name);
  if (!kind || path[2] !== "fields") return { kind: null, schema: null };
  let schema = bare(kind, kind.schema).schema;
  for (const step of path.slice(3)) {
    const inner = typeof step === "number" ? schema.items : schema.properties?.[step];
    if (!inner) return { kind, schema: null };
    schema = bare(kind, inner).schema;
  }
  return { kind, schema };
}

// ------------------------------------------------------------------ values

function valuesAt(graph, path, world) {
  const [top, index, key] = path;
  if (top === "nodes" && path.length === 3 && key === "kind") {
    return [...world.kinds.values()].map((kind) => ({ value: kind.kind, detail: kind.title }));
  }
  if (top === "edges" && path.length === 3) return edgeValues(graph, index, key, world);
  if (top !== "nodes" || key !== "fields") return [];
  const { schema } = schemaAt(graph, path, world);
  if (!schema) return [];
  if (schema.enum) return schema.enum.map((value) => ({ value, detail: "" }));
  if (schema.type === "boolean") return [true, false].map((value) => ({ value, detail: "" }));
  return namesFor(schema, rawNode(graph, index), world).map((value) => ({ value, detail: schema.format }));
}

/** What a field that names something outside may name: a provider, one of its models. */
export function namesFor(schema, fields, world) {
  if (schema.format === "provider") return Object.keys(world.providers);
  if (schema.format === "model") return world.providers[fields?.provider] ?? [];
  return world[`${schema.format}s`] ?? [];
}

function edgeValues(graph, index, key, world) {
  if (key === "from" || key === "to") return listNodes(graph).map(({ id, kind }) => ({ value: id, detail: kind }));
  if (key !== "branch") return [];
  const from = find(graph.root, ["edges", index, "from"])?.value;
  const node = listNodes(graph).find((one) => one.id === from);
  if (!node) return [];
  const { named, optional } = branchesOf(node, world.kinds.get(node.kind));
  return [...named, ...optional].map((value) => ({ value, detail: "" }));
}

/** The nodes of a text that may be no whole JSON at this moment. */
function listNodes(graph) {
  if (graph.isWhole) return graph.nodes;
  const list = find(graph.root, ["nodes"]);
  return (list?.items ?? []).map((_, index) => ({
    index,
    id: find(graph.root, ["nodes", index, "id"])?.value ?? "",
    kind: find(graph.root, ["nodes", index, "kind"])?.value ?? "",
    fields: rawNode(graph, index),
  }));
}

function rawNode(graph, index) {
  if (graph.nodes[index]) return graph.nodes[index].fields;
  const provider = find(graph.root, ["nodes", index, "fields", "provider"])?.value;
  return provider ? { provider } : {};
}

// ------------------------------------------------------------------ inside a template

function templateAt(graph, node, position, way, world) {
  const path = way.slice(1).map((one) => one.step);
  if (path[0] !== "nodes" || path[2] !== "fields" || (way.at(-1).prop && position <= way.at(-1).prop.key.to)) return null;
  const before = graph.text.slice(node.from, position);
  const opened = Math.max(before.lastIndexOf("{{"), before.lastIndexOf("{%"));
  if (opened < 0 || /\}\}|%\}/.test(before.slice(opened))) return null;
  const typed = WORD.exec(before)[0];
  const nodes = listNodes(graph);
  const own = nodes[path[1]];
  if (!own) return null;
  const whole = graph.isWhole ? graph : { ...graph, nodes, edges: edgesOf(graph) };
  const options = variables(whole, world.kinds, own.id).map((name) => ({ label: name, insert: name, detail: "", type: "variable" }));
  return { from: position - typed.length, to: position, options };
}

function edgesOf(graph) {
  const list = find(graph.root, ["edges"]);
  return (list?.items ?? []).map((_, index) => ({
    index,
    from: find(graph.root, ["edges", index, "from"])?.value ?? "",
    to: find(graph.root, ["edges", index, "to"])?.value ?? "",
    branch: find(graph.root, ["edges", index, "branch"])?.value ?? null,
  }));
}
