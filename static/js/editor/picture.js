/** The graph as a picture: read-only, reached by keys, a click selects. Its nodes lie where `layout.js` says. */

import { interpolate } from "../i18n.js";
import { HEIGHT, WIDTH, curve, place } from "./layout.js";
import { W } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const STEP = 1.25;
const NEAREST = 1.6;
const FARTHEST = 0.08;
const READABLE = 0.4; // a large graph is shown in part rather than smaller than this
const DRAG_PX = 4;

export class Picture {
  /** `onSelect(id)`; `kinds`: their titles. */
  constructor(box, { kinds, onSelect }) {
    this.box = box;
    this.kinds = kinds;
    this.onSelect = onSelect;
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.nodes = new Map();
    this.layer = svg("g", {});
    this.edgeLayer = svg("g", {});
    this.nodeLayer = svg("g", {});
    this.layer.append(this.edgeLayer, this.nodeLayer);
    this.svg = svg("svg", { class: "picture", role: "group", "aria-label": W.picture });
    this.svg.append(arrowHead(), this.layer);
    box.append(this.svg);
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    new ResizeObserver(() => this.isFitted !== false && this.fit()).observe(box);
  }

  update(graph) {
    this.graph = graph;
    const shape = JSON.stringify([graph.nodes.map((node) => node.id), graph.edges.map((edge) => [edge.from, edge.to, edge.branch])]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.place = place(graph);
      this.draw();
      if (this.isFitted !== false) this.fit();
    }
    for (const node of graph.nodes) this.nodes.get(node.id)?.update(node, this.kinds.get(node.kind));
  }

  draw() {
    this.edgeLayer.replaceChildren(...this.place.edges.flatMap((edge) => edgeOf(edge)));
    const focused = this.nodeLayer.contains(document.activeElement) ? document.activeElement.dataset.node : null;
    this.nodes = new Map(this.place.nodes.map((at) => [at.id, new Box(at, () => this.pick(at.id))]));
    this.nodeLayer.replaceChildren(...[...this.nodes.values()].map((box) => box.node));
    this.select(this.selected);
    this.mark(this.faulty ?? new Map());
    this.ran(this.trace ?? null);
    if (focused) this.nodes.get(focused)?.node.focus();
  }

  select(id) {
    this.selected = id;
    const reached = this.nodes.has(id) ? id : (this.nodes.keys().next().value ?? null);
    for (const [name, box] of this.nodes) {
      box.node.classList.toggle("selected", name === id);
      box.node.setAttribute("aria-pressed", String(name === id));
      box.node.setAttribute("tabindex", name === reached ? "0" : "-1");
    }
    for (const edge of this.edgeLayer.children) edge.classList.toggle("near", edge.dataset.from === id || edge.dataset.to === id);
  }

  /** `faulty`: node id -> how many faults. */
  mark(faulty) {
    this.faulty = faulty;
    for (const [id, box] of this.nodes) box.mark(faulty.get(id) ?? 0);
  }

  ran(trace) {
    this.trace = trace;
    for (const [id, box] of this.nodes) box.node.dataset.run = trace?.last(id)?.state ?? "";
    const rows = trace?.rows ?? [];
    const walked = new Set(rows.slice(1).map((row, index) => `${rows[index].node}>${row.node}`));
    for (const edge of this.edgeLayer.children) edge.classList.toggle("walked", walked.has(`${edge.dataset.from}>${edge.dataset.to}`));
  }

  pick(id) {
    if (this.wasDragged) return;
    this.select(id);
    this.onSelect(id);
  }

  /** Arrows walk to the nearest node in that direction; plus, minus and 0 zoom. */
  key(event) {
    const zoom = { "+": STEP, "=": STEP, "-": 1 / STEP }[event.key];
    if (zoom && !event.ctrlKey && !event.metaKey) this.zoom(zoom);
    else if (event.key === "0" && !event.ctrlKey && !event.metaKey) this.fit();
    else if (DIRECTIONS[event.key]) this.walk(DIRECTIONS[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.pick(document.activeElement.dataset.node);
    else return;
    event.preventDefault();
  }

  walk(direction) {
    const from = this.nodes.get(document.activeElement?.dataset?.node)?.at;
    if (!from) return;
    const next = [...this.nodes.values()]
      .filter(({ at }) => at !== from)
      .map((box) => ({ box, far: distance(from, box.at, direction) }))
      .filter(({ far }) => far !== null)
      .sort((a, b) => a.far - b.far)[0]?.box;
    if (!next) return;
    for (const box of this.nodes.values()) box.node.setAttribute("tabindex", box === next ? "0" : "-1");
    next.node.focus();
    this.show(next.at);
  }

  // ---------------------------------------------------------------- looking

  fit() {
    if (!this.place) return;
    const { clientWidth, clientHeight } = this.box;
    if (!clientWidth || !clientHeight) return;
    const { width, height } = this.place;
    const whole = Math.min(clientWidth / Math.max(width, 1), clientHeight / Math.max(height, 1), 1);
    this.scale = Math.max(whole, READABLE);
    this.x = whole < READABLE && width * this.scale > clientWidth ? 0 : (clientWidth - width * this.scale) / 2;
    this.y = (clientHeight - height * this.scale) / 2;
    this.isFitted = true;
    this.move();
  }

  zoom(factor, at = { x: this.box.clientWidth / 2, y: this.box.clientHeight / 2 }) {
    const scale = Math.min(NEAREST, Math.max(FARTHEST, this.scale * factor));
    this.x = at.x - ((at.x - this.x) * scale) / this.scale;
    this.y = at.y - ((at.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.isFitted = false;
    this.move();
  }

  wheel(event) {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      const { left, top } = this.box.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY / 300), { x: event.clientX - left, y: event.clientY - top });
      return;
    }
    this.pan(-event.deltaX, -event.deltaY);
  }

  press(event) {
    if (event.button !== 0) return;
    let last = event;
    const first = event;
    this.wasDragged = false;
    const moved = (now) => {
      if (!this.wasDragged && Math.hypot(now.clientX - first.clientX, now.clientY - first.clientY) < DRAG_PX) return;
      this.wasDragged = true;
      this.pan(now.clientX - last.clientX, now.clientY - last.clientY);
      last = now;
    };
    const released = () => {
      removeEventListener("pointermove", moved);
      removeEventListener("pointerup", released);
      removeEventListener("pointercancel", released);
      setTimeout(() => (this.wasDragged = false)); // the click comes after this
    };
    addEventListener("pointermove", moved);
    addEventListener("pointerup", released);
    addEventListener("pointercancel", released);
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.isFitted = false;
    this.move();
  }

  /** Brings a node into sight, with as little movement as it takes. */
  reveal(id) {
    const box = this.nodes.get(id);
    if (box) this.show(box.at);
  }

  show({ x, y }) {
    const { clientWidth, clientHeight } = this.box;
    const left = this.x + (x - WIDTH / 2) * this.scale;
    const top = this.y + (y - HEIGHT / 2) * this.scale;
    const dx = into(left, WIDTH * this.scale, clientWidth);
    const dy = into(top, HEIGHT * this.scale, clientHeight);
    if (dx || dy) {
      this.x += dx;
      this.y += dy;
      this.move();
    }
  }

  move() {
    this.layer.setAttribute("transform", `translate(${this.x.toFixed(1)} ${this.y.toFixed(1)}) scale(${this.scale.toFixed(4)})`);
  }
}

const DIRECTIONS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

/** How far a node is in a direction, what lies aside counted more; null: it lies elsewhere. */
function distance(from, to, [dx, dy]) {
  const along = (to.x - from.x) * dx + (to.y - from.y) * dy;
  const aside = Math.abs((to.x - from.x) * dy + (to.y - from.y) * dx);
  return along > 1 && along * 2 > aside ? along + aside * 2 : null;
}

function into(start, length, room) {
  const margin = 12;
  if (start < margin) return margin - start;
  return start + length > room - margin ? room - margin - start - length : 0;
}

function svg(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function arrowHead() {
  const defs = svg("defs", {});
  const marker = svg("marker", { id: "arrow-head", viewBox: "0 0 8 8", refX: "7", refY: "4", markerWidth: "7", markerHeight: "7", orient: "auto-start-reverse" });
  marker.append(svg("path", { d: "M0 0.5L7.5 4L0 7.5z", class: "arrow-head" }));
  defs.append(marker);
  return defs;
}

function edgeOf(edge) {
  const group = svg("g", { class: "edge", "data-from": edge.from, "data-to": edge.to });
  group.append(svg("path", { d: curve(edge.points), "marker-end": "url(#arrow-head)" }));
  if (edge.label) {
    const text = edge.branch.length > 18 ? `${edge.branch.slice(0, 17)}…` : edge.branch;
    const width = text.length * 6.6 + 14;
    const label = svg("text", { x: edge.label.x, y: edge.label.y + 4, "text-anchor": "middle" });
    label.textContent = text;
    group.append(svg("rect", { x: edge.label.x - width / 2, y: edge.label.y - 9, width, height: 18, rx: 9 }), label);
  }
  return [group];
}

class Box {
  constructor(at, onPick) {
    this.at = at;
    this.node = svg("g", { class: "box", role: "button", "data-node": at.id, transform: `translate(${at.x - WIDTH / 2} ${at.y - HEIGHT / 2})` });
    this.title = svg("text", { x: 0, y: 23, class: "box-title" });
    this.kind = svg("text", { x: 0, y: 40, class: "box-kind" });
    const texts = svg("svg", { x: 42, width: WIDTH - 46, height: HEIGHT, overflow: "hidden" }); // cuts what is too long
    texts.append(this.title, " ", this.kind, " ");
    this.faultText = svg("text", { x: WIDTH - 6, y: 4.5, "text-anchor": "middle" });
    this.faults = svg("g", { class: "box-faults", visibility: "hidden" });
    this.faults.append(svg("circle", { cx: WIDTH - 6, cy: 0, r: 10 }), this.faultText);
    this.node.append(
      svg("rect", { width: WIDTH, height: HEIGHT, rx: 12, class: "box-frame" }),
      svg("circle", { cx: 23, cy: HEIGHT / 2, r: 9, class: "box-dot" }),
      texts,
      this.faults,
    );
    this.node.addEventListener("click", onPick);
  }

  update(node, kind) {
    const kindTitle = kind?.title ?? node.kind;
    const title = node.title || node.id;
    this.node.dataset.kind = kind ? node.kind : "unknown";
    this.title.textContent = title;
    this.kind.textContent = kindTitle;
    this.named = interpolate(W.selectNode, { title, kind: kindTitle });
    this.name();
  }

  mark(count) {
    this.faults.setAttribute("visibility", count ? "visible" : "hidden");
    this.faultText.textContent = String(count);
    this.count = count;
    this.node.classList.toggle("faulty", count > 0);
    this.name();
  }

  name() {
    const faults = !this.count ? "" : this.count === 1 ? `, ${W.oneFault}` : `, ${interpolate(W.faultCount, { count: this.count })}`;
    this.node.setAttribute("aria-label", `${this.named ?? this.at.id}${faults}`);
  }
}
