/**
 * Controls of a node's fields, drawn from the JSON Schema of its kind. A control shows a value and says what it
 * becomes; it never keeps one. What does not fit its schema is shown as JSON, so nothing is lost by looking at it.
 *
 * `host`: `kind`, `world`, `set(path, value)`, `setTree(path, tree)`, `variables()`, `fields()` (the node's present
 * ones), `slots` (path key -> Slot, for faults).
 */

import { el, icon, iconButton, setText } from "../dom.js";
import { interpolate } from "../i18n.js";
import { menuOf } from "../menu.js";
import { namesFor } from "./complete.js";
import { bare, empty, isEither, resolve } from "./graph.js";
import { parse, print, treeOf } from "./json.js";
import { W, choiceOf, labelOf } from "./words.js";

let count = 0;

export const keyOf = (path) => path.join("/");

/** One field: its label, the control that fits its value at the moment, and what is wrong with it. */
export class Slot {
  constructor(host, path, schema, { label, isRequired = false, isUnknown = false, hasLabel = true }) {
    this.host = host;
    this.path = path;
    this.schema = schema;
    this.label = label;
    this.isRequired = isRequired;
    this.isUnknown = isUnknown;
    this.hasLabel = hasLabel;
    this.error = el("p", { class: "field-error", id: `fault-${(count += 1)}` });
    this.node = el("div", { class: "slot" });
    host.slots.set(keyOf(path), this);
  }

  update(value) {
    const make = this.isUnknown ? Raw : chosen(this.host, this.schema, value);
    if (this.control?.constructor !== make) {
      this.control?.forget?.();
      this.control = new make(this);
      this.node.replaceChildren(this.control.node, this.error);
      this.mark(this.told ?? []);
    }
    this.control.update(value);
  }

  /** Faults at this very field. */
  mark(texts) {
    this.told = texts;
    setText(this.error, texts.join(" "));
    this.node.classList.toggle("faulty", texts.length > 0);
    const input = this.control?.input;
    if (!input) return;
    if (texts.length) {
      input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-describedby", this.error.id);
    } else if (!this.control.isBad) {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-describedby");
    }
  }

  focus() {
    for (let at = this.node; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    const target = this.control.input ?? this.node.querySelector("input, select, textarea, button");
    target?.focus();
    this.node.scrollIntoView({ block: "nearest" });
  }

  /** What an empty control means: the key is taken away where it may be. */
  clear() {
    this.host.set(this.path, this.isRequired ? "" : undefined);
  }

  forget() {
    this.host.slots.delete(keyOf(this.path));
    this.control?.forget?.();
  }
}

/** The class of the control for a schema and the value that is there. */
function chosen(host, schema, value) {
  const { schema: own } = bare(host.kind, schema);
  const isUnset = value === undefined || value === null;
  if (own.enum) return isUnset || own.enum.includes(value) ? Choice : Raw;
  if (own.types) return isUnset || typeof value !== "object" ? Side : Raw;
  if (own.type === "array") return isUnset || Array.isArray(value) ? List : Raw;
  if (own.properties) {
    if (!isUnset && (typeof value !== "object" || Array.isArray(value))) return Raw;
    return isEither(host.kind, own) && fitsEither(own, value) ? Either : Group;
  }
  if (own.type === "string") return isUnset || typeof value === "string" ? textFor(own) : Raw;
  if (own.type === "integer" || own.type === "number") return isUnset || typeof value === "number" ? Numeric : Raw;
  if (own.type === "boolean") return isUnset || typeof value === "boolean" ? Flag : Raw;
  return Raw;
}

function fitsEither(own, value) {
  const names = Object.keys(value ?? {}).filter((name) => value[name] !== null);
  return names.length === 1 && names[0] in own.properties && Array.isArray(value[names[0]]);
}

function textFor(own) {
  if (own.format === "template") return Template;
  return own.maxLength > 200 ? LongText : Line;
}

/** A label above an input, or for a reader by ear alone where a list's own heading stands above. */
function labelled(slot, input, ...more) {
  input.id = `input-${(count += 1)}`;
  return el("div", { class: "field" }, el("label", { for: input.id, class: slot.hasLabel ? null : "visually-hidden" }, slot.label), input, ...more);
}

function show(input, text) {
  if (input.value !== text) input.value = text;
}

// ------------------------------------------------------------------ texts

class Line {
  constructor(slot) {
    const { schema: own } = bare(slot.host.kind, slot.schema);
    this.slot = slot;
    this.own = own;
    this.input = el("input", { type: "text", autocomplete: "off", spellcheck: "false", maxlength: own.maxLength ?? null, class: own.format ? "mono" : null });
    if (own.format && own.format !== "branch") {
      this.names = el("datalist", { id: `names-${(count += 1)}` });
      this.input.setAttribute("list", this.names.id);
    }
    this.input.addEventListener("input", () => (this.input.value ? slot.host.set(slot.path, this.input.value) : slot.clear()));
    this.node = labelled(slot, this.input, this.names);
  }

  update(value) {
    show(this.input, value ?? "");
    if (this.own.default) this.input.placeholder = this.own.default;
    if (!this.names) return;
    const known = namesFor(this.own, this.slot.host.fields(), this.slot.host.world);
    if (known.join("\n") === this.shown) return;
    this.shown = known.join("\n");
    this.names.replaceChildren(...known.map((name) => el("option", { value: name })));
  }
}

class LongText {
  constructor(slot) {
    const { schema: own } = bare(slot.host.kind, slot.schema);
    this.input = el("textarea", { rows: "2", class: "grows", maxlength: own.maxLength ?? null });
    this.input.addEventListener("input", () => (this.input.value ? slot.host.set(slot.path, this.input.value) : slot.clear()));
    this.node = labelled(slot, this.input);
  }

  update(value) {
    show(this.input, value ?? "");
  }
}

/** A text with variables, and the list of those that may be read here. */
class Template {
  constructor(slot) {
    const { schema: own } = bare(slot.host.kind, slot.schema);
    this.slot = slot;
    this.input = el("textarea", { rows: "1", class: "grows template", placeholder: own.default || null });
    this.input.addEventListener("input", () => this.send());
    this.picker = picker(slot, (name) => insertAt(this.input, `{{ ${name} }}`));
    this.node = labelled(slot, this.input, this.picker);
  }

  send() {
    const { host, path } = this.slot;
    if (this.input.value) host.set(path, this.input.value);
    else this.slot.clear();
  }

  update(value) {
    show(this.input, value ?? "");
  }
}

/** A button with a menu of the variables that may be read here. */
function picker(slot, onPick) {
  const label = interpolate(W.insertInto, { field: slot.label });
  const button = el("button", { type: "button", class: "picker", title: label, "aria-label": label }, "{{ }}");
  menuOf(button, () => slot.host.variables().map((name) => ({ label: name, icon: "none", run: () => onPick(name) })));
  return button;
}

function insertAt(input, text) {
  input.setRangeText(text, input.selectionStart, input.selectionEnd, "end");
  input.dispatchEvent(new Event("input", { bubbles: true }));
  input.focus();
}

/** A text, a number, true, false or null: written as in JSON, but that a text needs no quotes unless it looks like one. */
class Side {
  constructor(slot) {
    this.slot = slot;
    this.input = el("input", { type: "text", class: "mono", autocomplete: "off", spellcheck: "false", title: W.sideHint });
    this.input.addEventListener("input", () => {
      const value = sideOf(this.input.value);
      if (value === undefined) slot.clear();
      else slot.host.set(slot.path, value);
    });
    this.node = labelled(slot, this.input, picker(slot, (name) => insertAt(this.input, `{{ ${name} }}`)));
  }

  update(value) {
    if (value === undefined ? this.input.value : sideOf(this.input.value) !== value) this.input.value = value === undefined ? "" : sideText(value);
  }
}

function sideOf(text) {
  if (text === "") return undefined;
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? text : value;
  } catch {
    return text;
  }
}

function sideText(value) {
  if (typeof value !== "string") return String(value);
  return value === "" || sideOf(value) !== value ? JSON.stringify(value) : value;
}

// ------------------------------------------------------------------ choices, numbers, flags

class Choice {
  constructor(slot) {
    const { schema: own } = bare(slot.host.kind, slot.schema);
    this.own = own;
    const hasDefault = own.default !== undefined && own.default !== null;
    const none = slot.isRequired ? null : el("option", { value: "" }, hasDefault ? interpolate(W.byDefault, { value: choiceOf(own.default) }) : "–");
    this.input = el("select", {}, none, ...own.enum.map((value, index) => el("option", { value: String(index) }, choiceOf(value))));
    this.input.addEventListener("change", () => (this.input.value === "" ? slot.clear() : slot.host.set(slot.path, own.enum[Number(this.input.value)])));
    this.node = labelled(slot, this.input);
  }

  update(value) {
    show(this.input, value === undefined || value === null ? "" : String(this.own.enum.indexOf(value)));
  }
}

class Numeric {
  constructor(slot) {
    const { schema: own } = bare(slot.host.kind, slot.schema);
    this.input = el("input", {
      type: "number",
      step: own.type === "integer" ? "1" : "any",
      min: own.minimum ?? null,
      max: own.maximum ?? null,
      placeholder: own.default ?? null,
      autocomplete: "off",
    });
    this.input.addEventListener("input", () => {
      if (this.input.value === "") slot.host.set(slot.path, undefined);
      else slot.host.set(slot.path, Number(this.input.value));
    });
    this.node = labelled(slot, this.input);
  }

  update(value) {
    const isSame = this.input.value !== "" && Number(this.input.value) === value;
    if (!isSame) show(this.input, value === undefined || value === null ? "" : String(value));
  }
}

class Flag {
  constructor(slot) {
    const { schema: own } = bare(slot.host.kind, slot.schema);
    this.own = own;
    this.input = el("input", { type: "checkbox" });
    this.input.addEventListener("change", () => {
      const isDefault = this.input.checked === (own.default ?? null);
      slot.host.set(slot.path, isDefault && !slot.isRequired ? undefined : this.input.checked);
    });
    this.node = el("div", { class: "field" }, el("label", { class: "choice" }, this.input, el("span", {}, slot.label)));
  }

  update(value) {
    this.input.checked = value ?? this.own.default ?? false;
  }
}

// ------------------------------------------------------------------ any JSON

/** What has no form of its own: JSON, taken once it is whole. */
class Raw {
  constructor(slot) {
    this.slot = slot;
    this.input = el("textarea", { rows: "2", class: "grows mono", spellcheck: "false", autocomplete: "off" });
    this.problem = el("p", { class: "field-error" });
    this.input.addEventListener("input", () => this.read());
    const remove = slot.isUnknown ? iconButton("close", W.remove, () => slot.host.set(slot.path, undefined)) : null;
    this.node = labelled(slot, this.input, this.problem, remove);
  }

  read() {
    const text = this.input.value;
    const { root, errors } = parse(text);
    this.isBad = text.trim() !== "" && errors.length > 0;
    setText(this.problem, this.isBad ? W.badJson : "");
    this.input.toggleAttribute("aria-invalid", this.isBad);
    if (this.isBad) return;
    if (text.trim() === "") this.slot.host.set(this.slot.path, undefined);
    else this.slot.host.setTree(this.slot.path, root);
  }

  update(value) {
    const now = JSON.stringify(value);
    if (now === this.shown || (this.isBad && document.activeElement === this.input)) return;
    this.shown = now;
    const { root, errors } = parse(this.input.value);
    if (!errors.length && JSON.stringify(JSON.parse(this.input.value)) === now && root) return;
    this.isBad = false;
    setText(this.problem, "");
    this.input.value = value === undefined || value === null ? "" : print(treeOf(value));
  }
}

// ------------------------------------------------------------------ what holds others

/** The properties of an object, each a slot; keys that the schema does not know stay, as JSON. */
export class Group {
  constructor(slot) {
    this.host = slot.host;
    this.path = slot.path;
    this.slots = new Map();
    this.main = el("div", { class: "slots" });
    this.rest = el("div", { class: "slots" });
    this.folded = el("details", { class: "more-fields" }, el("summary", {}, W.more), this.rest);
    this.own = bare(slot.host.kind, slot.schema).schema;
    this.isTop = slot.path.length === 0;
    this.node = this.isTop
      ? el("div", {}, this.main, this.folded)
      : el("fieldset", { class: "group" }, el("legend", { class: slot.hasLabel ? null : "visually-hidden" }, slot.label), this.main);
  }

  update(value) {
    const held = value ?? {};
    const names = Object.keys(this.own.properties ?? {});
    for (const name of names) {
      if (!this.slots.has(name)) this.add(name, held);
    }
    for (const name of Object.keys(held)) {
      if (!this.slots.has(name)) this.add(name, held);
    }
    for (const [name, slot] of this.slots) {
      if (slot.isUnknown && !(name in held)) {
        slot.forget();
        slot.node.remove();
        this.slots.delete(name);
      } else slot.update(held[name]);
    }
    this.folded.hidden = !this.rest.children.length;
  }

  add(name, held) {
    const schema = this.own.properties?.[name];
    const isRequired = (this.own.required ?? []).includes(name);
    const label = schema ? labelOf(name, schema.title ? schema : null) : interpolate(W.unknownField, { name });
    const slot = new Slot(this.host, [...this.path, name], schema ?? {}, { label, isRequired, isUnknown: !schema });
    this.slots.set(name, slot);
    const isMain = !this.isTop || isRequired || name in held || isChief(this.host.kind, schema);
    (isMain ? this.main : this.rest).append(slot.node);
  }

  forget() {
    for (const slot of this.slots.values()) slot.forget();
  }
}

/** What one fills in first: templates, and lists of things. */
function isChief(kind, schema) {
  const { schema: own, isNullable } = bare(kind, schema);
  return (own.format === "template" || own.format === "templates" || Boolean(own.items) || own.maxLength > 1000) && !(isNullable && own.items);
}

class List {
  constructor(slot) {
    this.slot = slot;
    this.host = slot.host;
    this.own = bare(slot.host.kind, slot.schema).schema;
    this.items = [];
    this.list = el("ol", { class: "items" });
    this.adder = el("button", { type: "button", class: "button small quiet", onclick: () => this.append() }, icon("plus"), interpolate(W.addItem, { list: slot.label }));
    this.input = null;
    this.node = el("fieldset", { class: "list" }, el("legend", {}, slot.label), this.list, this.adder);
  }

  update(value) {
    const held = value ?? [];
    this.held = held;
    while (this.items.length > held.length) {
      const { slot, row } = this.items.pop();
      slot.forget();
      row.remove();
    }
    while (this.items.length < held.length) this.grow();
    this.items.forEach(({ slot, up, down }, index) => {
      slot.update(held[index]);
      up.disabled = index === 0;
      down.disabled = index === held.length - 1;
    });
    this.adder.disabled = this.own.maxItems !== undefined && held.length >= this.own.maxItems;
  }

  grow() {
    const index = this.items.length;
    const number = index + 1;
    const item = this.own.items ?? {};
    const label = `${this.slot.label} ${number}`;
    const slot = new Slot(this.host, [...this.slot.path, index], item, { label, isRequired: true, hasLabel: false });
    const up = iconButton("up", interpolate(W.moveUp, { number }), () => this.move(index, index - 1));
    const down = iconButton("down", interpolate(W.moveDown, { number }), () => this.move(index, index + 1));
    const away = iconButton("close", interpolate(W.removeItem, { number }), () => this.remove(index));
    const row = el("li", { class: "item" }, slot.node, el("div", { class: "item-tools" }, up, down, away));
    this.items.push({ slot, row, up, down });
    this.list.append(row);
  }

  append() {
    const value = empty(this.host.kind, this.own.items ?? {});
    this.host.set(this.slot.path, [...this.held, value]);
    this.items.at(-1)?.slot.focus();
  }

  move(from, to) {
    const next = [...this.held];
    next.splice(to, 0, ...next.splice(from, 1));
    this.host.set(this.slot.path, next);
    this.items[to].row.querySelectorAll(".item-tools button")[from < to ? 1 : 0].focus();
  }

  remove(index) {
    const isLast = this.held.length === 1;
    if (isLast && !this.slot.isRequired) this.host.set(this.slot.path, undefined);
    else this.host.set([...this.slot.path, index], undefined);
    (this.items[Math.min(index, this.items.length - 1)]?.row.querySelector(".item-tools button:last-child") ?? this.adder).focus();
  }

  forget() {
    for (const { slot } of this.items) slot.forget();
  }
}

/** One of several lists of the same things: all hold, or any. */
class Either {
  constructor(slot) {
    this.slot = slot;
    this.host = slot.host;
    this.own = resolve(slot.host.kind, bare(slot.host.kind, slot.schema).schema);
    this.names = Object.keys(this.own.properties);
    const words = { all: W.all, any: W.any };
    this.input = el("select", { "aria-label": W.holdsWhen }, ...this.names.map((name) => el("option", { value: name }, words[name] ?? labelOf(name))));
    this.input.addEventListener("change", () => this.host.set(slot.path, { [this.input.value]: this.value[this.name] }));
    this.body = el("div", {});
    this.node = el("div", { class: "either" }, el("div", { class: "field" }, this.input), this.body);
  }

  update(value) {
    this.value = value;
    const name = this.names.find((one) => Array.isArray(value[one]));
    if (name !== this.name) {
      this.list?.forget();
      this.name = name;
      this.list = new Slot(this.host, [...this.slot.path, name], this.own.properties[name], { label: labelOf("comparisons"), isRequired: true });
      this.body.replaceChildren(this.list.node);
    }
    show(this.input, name);
    this.list.update(value[name]);
  }

  forget() {
    this.list?.forget();
  }
}
