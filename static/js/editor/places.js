/** Where a fault is: the path in the draft, the range in its text, the node and field in the form. Pure. */

import { find, wayTo } from "./json.js";

/** Faults whose field is a key of the node itself, not one of its kind's fields. */
const OF_NODE = new Set(["reserved_id", "unknown_kind", "unknown_key", "bad_graph", "doubled_id"]);

/** `cases[0].when` -> `["cases", 0, "when"]`. */
export function pathOf(field) {
  if (!field) return [];
  return [...field.matchAll(/[^.[\]]+|\[(\d+)\]/g)].map((match) => (match[1] === undefined ? match[0] : Number(match[1])));
}

/** The fault's path from the root of the draft. */
export function placeOf(graph, fault) {
  if (fault.edge !== null && fault.edge !== undefined) return ["edges", fault.edge];
  if (fault.node === null || fault.node === undefined) return pathOf(fault.field);
  const same = graph.nodes.filter((node) => node.id === fault.node);
  const node = fault.code === "doubled_id" ? same.at(-1) : same[0];
  if (!node) return [];
  const inside = pathOf(fault.field);
  if (!inside.length) return ["nodes", node.index, ...(fault.code === "doubled_id" ? ["id"] : [])];
  return OF_NODE.has(fault.code) ? ["nodes", node.index, ...inside] : ["nodes", node.index, "fields", ...inside];
}

/** The node that a fault is shown at, and the path within its fields; an edge's fault is shown where it begins. */
export function targetOf(graph, fault) {
  const place = placeOf(graph, fault);
  if (place[0] === "edges") {
    const edge = graph.edges[place[1]];
    const index = edge ? graph.nodes.findIndex((node) => node.id === edge.from) : -1;
    return index < 0 ? null : { index, path: [], edge: place[1] };
  }
  if (place[0] !== "nodes" || typeof place[1] !== "number") return null;
  if (place[2] === "fields") return { index: place[1], path: place.slice(3), edge: null };
  return { index: place[1], path: [], key: place[2], edge: null };
}

/** The range of a fault in the text: the variable that is not known, else the value, else the nearest that is there. */
export function rangeOf(graph, fault, name = null) {
  const path = placeOf(graph, fault);
  for (let length = path.length; length >= 0; length -= 1) {
    const tree = find(graph.root, path.slice(0, length));
    if (!tree) continue;
    if (length < path.length || tree.type === "object" || tree.type === "array") return firstOf(tree, graph.text);
    const at = name && tree.type === "string" ? tree.raw.indexOf(name) : -1;
    return at < 0 ? { from: tree.from, to: tree.to } : { from: tree.from + at, to: tree.from + at + name.length };
  }
  return { from: 0, to: 0 };
}

/** Of an object its first line, a node's id before all. */
function firstOf(tree, text) {
  const id = tree.type === "object" && tree.props.find((prop) => prop.key.value === "id" || prop.key.value === "from");
  if (id) return { from: id.value.from, to: id.value.to };
  const end = text.indexOf("\n", tree.from);
  return { from: tree.from, to: Math.max(tree.from + 1, Math.min(tree.to, end < 0 ? tree.to : end)) };
}

/** The name in a fault's own words, where a variable is the matter: the server's sentence quotes it. */
export function variableOf(graph, fault) {
  if (fault.code !== "unknown_variable" && fault.code !== "late_variable") return null;
  const tree = find(graph.root, placeOf(graph, fault));
  if (tree?.type !== "string") return null;
  const names = [...tree.value.matchAll(/[A-Za-z_][\w-]*(?:\.[\w-]+)*/g)].map((match) => match[0]);
  return names.filter((name) => fault.text.includes(name)).sort((a, b) => b.length - a.length)[0] ?? null;
}

/** The index of the node in which a position of the text lies, or the node that an edge begins at; null elsewhere. */
export function nodeAt(graph, position) {
  const way = wayTo(graph.root, position);
  if (way[1]?.step === "nodes" && way[2]) return graph.nodes[way[2].step]?.id ?? null;
  if (way[1]?.step === "edges" && way[2]) return graph.edges[way[2].step]?.from ?? null;
  return null;
}
