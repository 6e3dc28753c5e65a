/** What is wrong with the draft: the text's own errors at once, the graph's from the server at each pause of writing. */

import { el, icon, setText } from "../dom.js";
import { interpolate } from "../i18n.js";
import { rangeOf, targetOf, variableOf } from "./places.js";
import { W } from "./words.js";

const PAUSE_MS = 350;
const MOST_SHOWN = 200;

export class Faults {
  /** `actions`: `graph()`, `lineOf(position)`, `onFaults(list)`, `onGo(entry)`. */
  constructor(box, rest, actions) {
    this.box = box;
    this.rest = rest;
    this.actions = actions;
    this.list = el("ol", { class: "fault-list" });
    this.state = el("p", { class: "fault-state", role: "status" });
    box.append(this.state, this.list);
    this.entries = [];
  }

  checkSoon() {
    this.asking?.abort();
    clearTimeout(this.timer);
    const graph = this.actions.graph();
    if (!graph.isWhole && graph.errors.length) {
      this.timer = setTimeout(() => this.take(graph.errors.map((error) => this.textual(error))), PAUSE_MS);
      return;
    }
    this.timer = setTimeout(() => this.check(), PAUSE_MS);
  }

  async check() {
    const asking = new AbortController();
    this.asking = asking;
    this.box.setAttribute("aria-busy", "true");
    try {
      const found = await this.rest.check(this.actions.graph().text, asking.signal);
      if (!asking.signal.aborted) this.show(found);
    } catch (error) {
      if (asking.signal.aborted) return;
      setText(this.state, interpolate(W.checkFailed, { why: error.message }));
    } finally {
      if (this.asking === asking) this.box.removeAttribute("aria-busy");
    }
  }

  /** Faults as the server tells them, of a check or of a build. */
  show(found) {
    const graph = this.actions.graph();
    this.take(found.map((fault) => this.entryOf(graph, fault)));
  }

  entryOf(graph, fault) {
    const target = targetOf(graph, fault);
    const node = target ? graph.nodes[target.index] : null;
    const edge = fault.edge !== null && fault.edge !== undefined ? graph.edges[fault.edge] : null;
    const where = edge ? interpolate(W.edge, edge) : node ? [node.id, fault.field].filter(Boolean).join(" · ") : fault.field || W.graphItself;
    return { fault, text: fault.text, where, node: node?.id ?? null, target, range: rangeOf(graph, fault, variableOf(graph, fault)) };
  }

  textual({ code, from, to }) {
    return { fault: null, text: W.syntax[code], where: interpolate(W.line, { line: this.actions.lineOf(from) }), node: null, target: null, range: { from, to } };
  }

  take(entries) {
    this.entries = entries;
    this.actions.onFaults(entries);
    setText(this.state, entries.length ? interpolate(entries.length === 1 ? W.oneFault : W.faultCount, { count: entries.length }) : W.noFaults);
    this.state.classList.toggle("good", !entries.length);
    this.list.replaceChildren(
      ...entries.slice(0, MOST_SHOWN).map((entry) =>
        el(
          "li",
          {},
          el(
            "button",
            { type: "button", class: "fault", onclick: () => this.actions.onGo(entry) },
            icon("alert"),
            el("span", { class: "fault-text" }, entry.text),
            el("span", { class: "fault-where" }, entry.where),
          ),
        ),
      ),
    );
  }
}
