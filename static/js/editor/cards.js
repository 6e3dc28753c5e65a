/** The form of a draft: a card for each node, with its fields, what follows it, and what its last debug run did. */

import { el, icon, setText } from "../dom.js";
import { interpolate } from "../i18n.js";
import { menuOf } from "../menu.js";
import { Group, keyOf } from "./fields.js";
import { branchesOf, variables } from "./graph.js";
import { targetOf } from "./places.js";
import { duration } from "./trace.js";
import { W } from "./words.js";

const ID = /^[a-z][a-z0-9_]{0,39}$/;
let count = 0;

export class Cards {
  /** `actions`: set, setTree, rename, setTitle, setKind, setEdge, removeEdge, add, duplicate, remove, select. */
  constructor(list, world, actions) {
    this.list = list;
    this.world = world;
    this.actions = actions;
    this.cards = [];
    this.faults = [];
    this.selected = null;
  }

  /** Cards live by their place in the draft: a rename keeps the card that one writes in. */
  update(graph) {
    this.graph = graph;
    while (this.cards.length > graph.nodes.length) this.cards.pop().forget();
    while (this.cards.length < graph.nodes.length) {
      const card = new Card(this, this.cards.length);
      this.cards.push(card);
      this.list.append(card.node);
    }
    for (const card of this.cards) card.update(graph.nodes[card.index]);
    this.list.classList.toggle("empty", !graph.nodes.length);
    this.select(this.selected);
  }

  cardOf(id) {
    return this.cards.find((card) => card.now.id === id) ?? null;
  }

  select(id) {
    this.selected = id;
    for (const card of this.cards) card.node.classList.toggle("selected", card.now.id === id);
  }

  /** Opens a node's card and brings it into sight; `path`: the field to write in. */
  reveal(id, { path = null, key = null, edge = null, focus = true } = {}) {
    const card = this.cardOf(id);
    if (!card) return;
    this.select(id);
    card.open(true);
    card.node.scrollIntoView({ block: "nearest" });
    if (focus) card.focus({ path, key, edge });
  }

  mark(faults) {
    this.faults = faults.map((fault) => ({ fault, target: targetOf(this.graph, fault) }));
    for (const card of this.cards) card.mark(this.faults.filter(({ target }) => target?.index === card.index));
  }

  ran(trace) {
    for (const card of this.cards) card.ran(trace?.last(card.now.id) ?? null);
  }
}

class Card {
  constructor(cards, index) {
    this.cards = cards;
    this.index = index;
    this.slots = new Map();
    this.told = [];
    const body = `card-${(count += 1)}`;
    this.name = el("span", { class: "card-name" });
    this.small = el("span", { class: "card-id" });
    this.kindName = el("span", { class: "card-kind" });
    this.faultMark = el("span", { class: "fault-mark", hidden: true });
    this.runMark = el("span", { class: "run-mark", hidden: true });
    this.toggle = el(
      "button",
      { type: "button", class: "card-head", "aria-expanded": "false", "aria-controls": body, onclick: () => this.toggled() },
      icon("chevron"),
      el("span", { class: "card-dot", "aria-hidden": "true" }),
      el("span", { class: "card-title" }, this.name, this.small),
      this.runMark,
      this.faultMark,
      this.kindName,
    );
    this.body = el("div", { class: "card-body", id: body, hidden: true });
    this.node = el("li", { class: "card node-card" }, el("h3", {}, this.toggle), this.body);
    this.node.addEventListener("focusin", () => cards.selected !== this.now.id && cards.actions.select(this.now.id));
  }

  get isOpen() {
    return !this.body.hidden;
  }

  get kind() {
    return this.cards.world.kinds.get(this.now.kind);
  }

  toggled() {
    this.open(!this.isOpen);
    this.cards.actions.select(this.now.id);
  }

  open(isOpen) {
    this.body.hidden = !isOpen;
    this.toggle.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) this.draw();
  }

  update(node) {
    const hasNewKind = this.now?.kind !== node.kind;
    this.now = node;
    setText(this.name, node.title || node.id || "–");
    setText(this.small, node.title ? node.id : "");
    setText(this.kindName, this.kind?.title ?? node.kind);
    this.node.dataset.kind = this.kind ? node.kind : "unknown";
    this.node.dataset.node = node.id;
    if (hasNewKind) this.clear();
    if (this.isOpen) this.draw();
  }

  clear() {
    for (const slot of [...this.slots.values()]) slot.forget();
    this.slots.clear();
    this.parts = null;
    this.body.replaceChildren();
  }

  // ---------------------------------------------------------------- the body, made when it is first opened

  draw() {
    if (!this.parts) this.make();
    this.parts.head.update();
    this.parts.group.update(this.now.fields);
    this.parts.edges.update();
    this.mark(this.told);
  }

  make() {
    const { actions, world } = this.cards;
    const host = {
      kind: this.kind ?? { schema: { $ref: "#/$defs/Fields", $defs: { Fields: {} } }, outputs: [] },
      world,
      slots: this.slots,
      set: (path, value) => actions.set(this.index, path, value),
      setTree: (path, tree) => actions.setTree(this.index, path, tree),
      variables: () => variables(this.cards.graph, world.kinds, this.now.id),
      fields: () => this.now.fields,
    };
    this.parts = { head: new Head(this), group: new Group({ host, path: [], schema: host.kind.schema, label: "" }), edges: new Edges(this) };
    const end = el(
      "div",
      { class: "card-end" },
      adder(world.kinds, W.addAfter, (kind) => actions.add(kind, this.now.id)),
      el("button", { type: "button", class: "button small quiet", onclick: () => actions.duplicate(this.index) }, W.duplicate),
      el("button", { type: "button", class: "button small quiet danger", onclick: () => actions.remove(this.index), "aria-label": `${W.removeNode}: ${this.now.id}` }, W.remove),
    );
    this.body.replaceChildren(this.parts.head.node, this.parts.group.node, this.parts.edges.node, end);
  }

  // ---------------------------------------------------------------- faults, and the last run

  mark(told) {
    this.told = told;
    const isMany = told.length > 1;
    this.faultMark.hidden = !told.length;
    setText(this.faultMark, told.length ? (isMany ? interpolate(W.faultCount, { count: told.length }) : W.oneFault) : "");
    this.node.classList.toggle("faulty", told.length > 0);
    if (!this.parts) return;
    const marks = new Map();
    const own = [];
    for (const { fault, target } of told) {
      const slot = target.edge === null && target.path.length ? this.slotFor(target.path) : null;
      if (slot) marks.set(slot, [...(marks.get(slot) ?? []), fault.text]);
      else own.push({ fault, target });
    }
    for (const slot of this.slots.values()) slot.mark(marks.get(slot) ?? []);
    this.parts.head.mark(own);
    this.parts.edges.mark(own);
  }

  /** The field's own slot, or that of what holds it. */
  slotFor(path) {
    for (let length = path.length; length > 0; length -= 1) {
      const slot = this.slots.get(keyOf(path.slice(0, length)));
      if (slot) return slot;
    }
    return null;
  }

  focus({ path, key, edge }) {
    const slot = path?.length ? this.slotFor(path) : null;
    if (slot) slot.focus();
    else if (edge !== null && edge !== undefined) this.parts.edges.focus(edge);
    else if (key) this.parts.head.focus(key);
    else this.toggle.focus();
  }

  ran(row) {
    this.runMark.hidden = !row;
    this.node.dataset.run = row?.state ?? "";
    if (row) setText(this.runMark, row.state === "end" ? duration(row.ms) : W.states[row.state]);
  }

  forget() {
    this.clear();
    this.node.remove();
  }
}

/** Id, title and kind. */
class Head {
  constructor(card) {
    this.card = card;
    const { actions, world } = card.cards;
    this.id = el("input", { type: "text", class: "mono", maxlength: "40", autocomplete: "off", spellcheck: "false" });
    this.id.addEventListener("change", () => this.renamed());
    this.title = el("input", { type: "text", maxlength: "120", autocomplete: "off" });
    this.title.addEventListener("input", () => actions.setTitle(card.index, this.title.value));
    this.kind = el("button", { type: "button", class: "button small kind-button", id: `kind-${(count += 1)}` });
    menuOf(this.kind, () =>
      [...world.kinds.values()].map((kind) => ({
        label: kind.title,
        isChecked: kind.kind === card.now.kind,
        run: () => kind.kind !== card.now.kind && actions.setKind(card.index, kind),
      })),
    );
    this.idError = el("p", { class: "field-error" });
    this.error = el("p", { class: "field-error" });
    this.node = el("div", { class: "card-fields" }, el("div", { class: "row" }, field(W.title, this.title), field(W.id, this.id, this.idError), el("div", { class: "field" }, el("span", { class: "label" }, W.kind), this.kind)), this.error);
  }

  update() {
    const { now } = this.card;
    if (document.activeElement !== this.id) this.id.value = now.id;
    if (this.title.value !== now.title) this.title.value = now.title;
    const title = this.card.kind?.title ?? now.kind;
    if (title === this.kindTitle) return;
    this.kindTitle = title;
    this.kind.replaceChildren(title, icon("chevron"));
    this.kind.setAttribute("aria-label", `${W.kind}: ${title}`);
  }

  renamed() {
    const id = this.id.value.trim();
    const { card } = this;
    if (id === card.now.id) return;
    const isTaken = card.cards.graph.nodes.some((node) => node.id === id);
    const what = isTaken ? W.isTaken : ID.test(id) ? "" : W.badId;
    setText(this.idError, what);
    this.id.toggleAttribute("aria-invalid", Boolean(what));
    if (!what) card.cards.actions.rename(card.index, id);
  }

  mark(own) {
    setText(this.error, own.filter(({ target }) => target.edge === null).map(({ fault }) => fault.text).join(" "));
  }

  focus(key) {
    (key === "title" ? this.title : key === "kind" ? this.kind : this.id).focus();
  }
}

function field(label, input, ...more) {
  input.id = `input-card-${(count += 1)}`;
  return el("div", { class: "field" }, el("label", { for: input.id }, label), input, ...more);
}

/** Where each branch leads. */
class Edges {
  constructor(card) {
    this.card = card;
    this.rows = el("ul", { class: "edge-rows" });
    this.error = el("p", { class: "field-error" });
    this.optional = el("div", { class: "optional" });
    this.node = el("fieldset", { class: "edges" }, el("legend", {}, W.next), this.rows, this.optional, this.error);
    this.selects = new Map(); // branch, "" for none -> select
  }

  update() {
    const { card } = this;
    const { graph } = card.cards;
    const { named, optional, passes } = branchesOf(card.now, card.kind);
    const edges = graph.edges.filter((edge) => edge.from === card.now.id);
    const used = edges.map((edge) => edge.branch);
    const isEnd = card.kind?.is_end && !edges.length;
    const wanted = [...named, ...optional.filter((branch) => used.includes(branch)), ...(passes || used.includes(null) ? [null] : [])];
    const stray = [...new Set(used.filter((branch) => !wanted.includes(branch)))];
    const free = optional.filter((branch) => !used.includes(branch));
    this.node.hidden = isEnd;
    const shape = JSON.stringify([wanted, stray, free, edges.map((edge) => [edge.branch, edge.to, edge.index]), graph.nodes.map((node) => [node.id, node.title]), card.now.id]);
    if (shape === this.shape) return;
    this.shape = shape;
    const held = document.activeElement?.dataset?.branch;
    const hasFocus = this.rows.contains(document.activeElement);
    this.selects.clear();
    const rows = [...wanted, ...stray].flatMap((branch) => {
      const own = edges.filter((edge) => edge.branch === branch);
      const shown = own.length ? own : [null];
      return shown.map((edge, index) => this.row(branch, edge, { isStray: stray.includes(branch) || index > 0, named }));
    });
    this.rows.replaceChildren(...rows);
    this.optional.replaceChildren(
      ...free.map((branch) =>
        el("button", { type: "button", class: "button small quiet", onclick: () => this.addOptional(branch) }, interpolate(W.addBranch, { branch })),
      ),
    );
    if (hasFocus && held !== undefined) this.selects.get(held)?.focus();
  }

  row(branch, edge, { isStray, named }) {
    const { actions, graph } = this.card.cards;
    const id = `edge-${(count += 1)}`;
    const label = branch ?? (named.length ? W.otherwise : W.follows);
    const select = el("select", { id, "data-branch": branch ?? "", disabled: isStray });
    const targets = graph.nodes.filter((node) => node.id);
    select.append(
      el("option", { value: "" }, `– ${W.nothing} –`),
      ...targets.map((node) => el("option", { value: node.id }, node.title ? `${node.title} (${node.id})` : node.id)),
    );
    if (edge && !targets.some((node) => node.id === edge.to)) select.append(el("option", { value: edge.to }, edge.to));
    select.value = edge?.to ?? "";
    select.addEventListener("change", () => actions.setEdge(this.card.now.id, branch, select.value || null));
    if (!isStray) this.selects.set(branch ?? "", select);
    const away = isStray
      ? el("button", { type: "button", class: "button small quiet", onclick: () => actions.removeEdge(edge.index), title: W.strayEdge }, W.removeEdge)
      : null;
    return el("li", { "data-edge": edge ? String(edge.index) : null }, el("label", { for: id, class: branch === null ? "" : "branch" }, label), icon("arrow"), select, away);
  }

  addOptional(branch) {
    const end = this.card.cards.graph.nodes.find((node) => this.card.cards.world.kinds.get(node.kind)?.is_end);
    this.card.cards.actions.setEdge(this.card.now.id, branch, end?.id ?? this.card.now.id);
    this.selects.get(branch)?.focus();
  }

  mark(own) {
    setText(this.error, own.filter(({ target }) => target.edge !== null).map(({ fault }) => fault.text).join(" "));
  }

  focus(edge) {
    this.rows.querySelector(`[data-edge="${edge}"] select, [data-edge="${edge}"] button`)?.focus();
  }
}

/** A button with a menu of kinds: choosing one adds it. */
export function adder(kinds, label, onAdd) {
  const button = el("button", { type: "button", class: "button small quiet adder" }, icon("plus"), label);
  menuOf(button, () =>
    [...kinds.values()].filter((kind) => !kind.is_start).map((kind) => ({ label: kind.title, icon: "dot", run: () => onAdd(kind) })),
  );
  return button;
}
