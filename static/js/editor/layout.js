/** Where the nodes and edges of the picture lie. Pure: dagre does the work. */

import { Graph, layout } from "../../vendor/dagre-3.1.3/dagre.esm.js";

export const WIDTH = 176;
export const HEIGHT = 54;
const LABEL_CHAR = 6.6;

/** `{width, height, nodes: [{id, x, y}], edges: [{index, points, label: {x, y} | null}]}`; x and y are middles. */
export function place(graph) {
  const drawn = new Graph({ multigraph: true });
  drawn.setGraph({ rankdir: "LR", nodesep: 26, ranksep: 46, edgesep: 14, marginx: 20, marginy: 20 });
  const names = new Set();
  for (const node of graph.nodes) {
    if (!node.id || names.has(node.id)) continue;
    names.add(node.id);
    drawn.setNode(node.id, { width: WIDTH, height: HEIGHT });
  }
  const known = graph.edges.filter((edge) => names.has(edge.from) && names.has(edge.to));
  for (const edge of known) {
    const label = edge.branch ? { width: Math.min(edge.branch.length, 18) * LABEL_CHAR + 14, height: 18, labelpos: "c" } : {};
    drawn.setEdge(edge.from, edge.to, label, String(edge.index));
  }
  layout(drawn);
  const { width = 0, height = 0 } = drawn.graph();
  return {
    width: Number.isFinite(width) ? width : 0,
    height: Number.isFinite(height) ? height : 0,
    nodes: [...names].map((id) => ({ id, x: drawn.node(id).x, y: drawn.node(id).y })),
    edges: known.map((edge) => {
      const { points, x, y } = drawn.edge({ v: edge.from, w: edge.to, name: String(edge.index) });
      return { ...edge, points, label: edge.branch ? { x, y } : null };
    }),
  };
}

/** A smooth line through points, as the `d` of a path. */
export function curve(points) {
  const [first, ...rest] = points;
  if (rest.length < 2) return `M${at(first)}L${at(rest[0] ?? first)}`;
  let d = `M${at(first)}`;
  for (let index = 0; index < rest.length - 1; index += 1) {
    const middle = { x: (rest[index].x + rest[index + 1].x) / 2, y: (rest[index].y + rest[index + 1].y) / 2 };
    d += `Q${at(rest[index])} ${at(index === rest.length - 2 ? rest.at(-1) : middle)}`;
  }
  return d;
}

function at({ x, y }) {
  return `${x.toFixed(1)} ${y.toFixed(1)}`;
}
