/** A debug run of the built draft beside the form: a chat of its own, and what each node read, gave, took and cost. */

import { el, icon, setText } from "../dom.js";
import { gettext, interpolate } from "../i18n.js";
import { Messages } from "../messages.js";
import { fieldsOf, valueOf } from "../questions.js";
import { Follow } from "../scroll.js";
import { View } from "../view.js";
import { Wire, newId } from "../wire.js";
import { Sayer } from "./sayer.js";
import { Trace, costOf, duration, money } from "./trace.js";
import { W } from "./words.js";

const PAINT_MS = 50;
const ICONS = { start: "dot", end: "check", error: "alert", wait: "dot" };

export class Trial {
  /**
   * `box`: the panel. `actions`: `ready()` saves and builds the draft, false where it cannot be; `forgotten()`: the
   * server's build is gone; `ran(trace)` after each change; `select(id)`; `graph()`, `kinds`.
   */
  constructor(box, config, actions) {
    this.config = config;
    this.actions = actions;
    this.part = (name) => box.querySelector(`[data-trial-${name}]`);
    this.starter = this.part("start");
    this.starter.addEventListener("click", () => this.start());
    this.follow = new Follow(this.part("scroller"), this.part("content"), this.part("to-end"));
    this.composer = new Sayer(this.part("composer"), { onSend: (text) => this.say(text), onStop: () => this.stop() });
    this.messages = new Messages(this.part("messages"), this.tools());
    this.rows = new Map();
    this.view = new View();
    this.trace = new Trace();
    this.paint();
  }

  /** What a chat's messages can be asked to do here. */
  tools() {
    return {
      me: this.config.user.id,
      goOn: () => this.say(gettext("Go on.")),
      rate: null,
      stepsOf: () => {},
      linkTo: (item) => new URL(`/c/${this.chat}/#m-${item.key}`, location.href).href,
      answer: (question, answer) => this.send("answer", { question, ...answer }),
      regenerate: (item) => this.send("regenerate", { message: item.key }),
      edit: (item, text) => this.send("edit", { message: item.key, text }),
      unqueue: (item) => this.send("stop", { turn: item.turn }),
      resend: (item) => {
        const { id, type, text, target } = this.view.pending.find((command) => command.id === item.command);
        this.send(type, target ? { message: target, text } : { text, ...this.extra() }, id);
      },
      takeBack: (item) => {
        this.composer.giveBack(this.view.drop(item.command));
        this.paint();
      },
      switchTo: (id) => {
        this.view.chat.head = this.view.newestLeaf(id);
        this.paint();
      },
      trace: (error, item) => error?.trace || [this.wire?.trace, item?.turn].filter(Boolean).join(" "),
      textLimit: () => this.view.limits.text_chars,
      causeOf: () => null,
    };
  }

  async start() {
    if (this.starter.disabled) return;
    this.starter.disabled = true;
    this.tell("");
    const isReady = await this.actions.ready().catch(() => false);
    this.starter.disabled = false;
    if (!isReady) return;
    this.wire?.close();
    this.view = new View();
    this.trace = new Trace();
    this.params = null;
    this.chat = null;
    this.isOld = false;
    this.hasBegun = true;
    this.actions.ran(this.trace);
    this.wire = new Wire((position) => this.address(position), {
      onFrame: (frame) => this.heard(frame),
      onReply: (command, reply) => this.replied(command, reply),
      onState: (state) => this.moved(state),
    });
    this.wire.open();
    this.paint();
  }

  /** Until something was said the chat has no row: a line that is cut before that begins another one. */
  address(position) {
    const url = new URL(this.config.socket, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (this.chat) {
      url.searchParams.set("chat_id", this.chat);
      if (position) {
        url.searchParams.set("epoch", position.epoch);
        url.searchParams.set("seq", String(position.seq));
      }
    }
    return url.href;
  }

  heard(frame) {
    this.view.apply(frame);
    this.trace.apply(frame);
    if (frame.type === "welcome") this.greet(frame.flow);
    if (["node", "turn_start", "turn_end", "question"].includes(frame.type)) this.actions.ran(this.trace);
    this.paintSoon();
  }

  replied(command, reply) {
    this.view.replied(command, reply);
    if (reply.type === "ok") this.chat = this.view.chat.id;
    this.paintSoon();
  }

  moved(state) {
    const code = state.refusal?.code;
    if (code === "not_built") {
      this.wire.close();
      this.actions.forgotten();
    }
    if (state.name === "refused" || code === "not_built") this.tell(state.refusal.text || code, true);
    else if (state.name === "live") this.tell("");
    else if (state.name !== "closed") this.tell(state.refusal?.text || W.connecting);
    if (state.name === "live") this.composer.area.focus();
    this.paintSoon();
  }

  greet(flow) {
    setText(this.part("greeting"), flow.greeting ?? "");
    this.part("suggestions").replaceChildren(
      ...flow.suggestions.map((text) => el("li", {}, el("button", { type: "button", class: "suggestion", onclick: () => this.say(text) }, text))),
    );
    const box = this.part("params");
    if (!this.params && flow.params?.properties) {
      this.params = fieldsOf(flow.params);
      box.replaceChildren(...this.params.map((field) => field.node));
    }
    box.hidden = !this.params;
  }

  extra() {
    return this.params?.length ? { params: valueOf(this.params) } : {};
  }

  send(type, fields, id = newId()) {
    this.view.sent({ id, type, ...fields });
    this.wire.send(type, fields, id);
    this.paint();
  }

  say(text) {
    this.follow.toEnd();
    this.send("say", { text, ...this.extra() });
  }

  stop() {
    if (this.view.state === "idle" || this.view.stopping.size) return;
    const turn = this.view.active?.id;
    this.send("stop", turn ? { turn } : {});
  }

  /** The draft is another one now than the one that runs here. */
  changed() {
    if (this.isOld || !this.hasBegun) return;
    this.isOld = true;
    this.paint();
  }

  tell(text, isBad = false) {
    const line = this.part("line");
    line.hidden = !text;
    line.classList.toggle("bad", isBad);
    setText(line, text);
  }

  // ---------------------------------------------------------------- painting

  paintSoon() {
    this.timer ??= setTimeout(() => this.paint(), PAINT_MS);
  }

  paint() {
    clearTimeout(this.timer);
    this.timer = null;
    const items = this.view.items();
    this.messages.paint(items);
    this.follow.text(`${items.length} ${(items.at(-1)?.parts ?? []).reduce((sum, part) => sum + (part.text?.length ?? 0) + 1, 0)}`);
    const state = this.view.state;
    const isLive = this.wire?.state.name === "live";
    this.composer.update({ state, isStopping: this.view.stopping.size > 0, isClosed: !isLive, placeholder: W.write });
    setText(this.starter.querySelector("span"), this.hasBegun ? W.trialAnew : W.trialStart);
    this.starter.classList.toggle("small", Boolean(this.hasBegun));
    this.part("old").hidden = !this.isOld;
    this.part("idle").hidden = Boolean(this.hasBegun);
    this.part("chat").hidden = !this.hasBegun;
    this.part("welcome").hidden = items.length > 0 || !isLive;
    setText(this.part("status"), state === "waiting" ? gettext("A question for you") : "");
    this.paintTrace();
  }

  paintTrace() {
    const { rows } = this.trace;
    const keys = new Set(rows.map((row) => row.key));
    for (const [key, step] of this.rows) {
      if (keys.has(key)) continue;
      step.node.remove();
      this.rows.delete(key);
    }
    const list = this.part("steps");
    for (const row of rows) {
      if (!this.rows.has(row.key)) {
        const step = new Step(row.node, this.actions);
        this.rows.set(row.key, step);
        list.append(step.node);
      }
      this.rows.get(row.key).update(row, this.trace, this.actions.graph(), this.actions.kinds);
    }
    this.part("trace").hidden = !rows.length;
    const { ms, tokens, cost } = this.trace.total;
    const used = tokens ? [interpolate(W.tokens, { count: tokens }), interpolate(W.cost, { cost: money(cost) })] : [];
    setText(this.part("total"), rows.length ? [...used, duration(ms)].join(" · ") : "");
  }
}

/** One visit of a node: a line that opens. */
class Step {
  constructor(id, actions) {
    this.icon = el("span", { class: "run-step-icon" });
    this.title = el("span", { class: "run-step-title" });
    this.facts = el("span", { class: "run-step-facts" });
    this.inputs = el("dl", { class: "run-step-values" });
    this.output = el("dl", { class: "run-step-values" });
    this.error = el("p", { class: "field-error" });
    this.node = el(
      "li",
      {},
      el(
        "details",
        { class: "run-step" },
        el("summary", { onclick: () => actions.select(id) }, this.icon, this.title, this.facts),
        this.error,
        el("h4", {}, W.inputs),
        this.inputs,
        el("h4", {}, W.outputs),
        this.output,
      ),
    );
  }

  update(row, trace, graph, kinds) {
    const shown = JSON.stringify(row);
    if (shown === this.shown) return;
    this.shown = shown;
    this.node.dataset.state = row.state;
    this.node.dataset.node = row.node;
    this.icon.replaceChildren(icon(ICONS[row.state]), el("span", { class: "visually-hidden" }, W.states[row.state]));
    setText(this.title, row.title);
    const { cost, tokens, hasUsage } = costOf(row);
    const facts = [
      row.visit > 1 ? interpolate(W.visit, { count: row.visit }) : null,
      hasUsage ? interpolate(W.tokens, { count: tokens }) : null,
      hasUsage ? interpolate(W.cost, { cost: money(cost) }) : null,
      row.state === "start" || row.state === "wait" ? W.states[row.state] : duration(row.ms),
    ];
    setText(this.facts, facts.filter(Boolean).join(" · "));
    setText(this.error, row.error ?? "");
    const inputs = trace.inputsOf(row, graph, kinds).map(({ name, value, isKnown }) => [name, isKnown ? value : W.notShown]);
    const isObject = row.output !== null && typeof row.output === "object" && !Array.isArray(row.output);
    const outputs = isObject ? Object.entries(row.output) : row.output === null ? [] : [["", row.output]];
    fill(this.inputs, inputs, W.noInputs);
    fill(this.output, outputs, W.noOutputs);
  }
}

function fill(list, pairs, otherwise) {
  if (!pairs.length) {
    list.replaceChildren(el("dt", {}, "–"), el("dd", { class: "none" }, otherwise));
    return;
  }
  list.replaceChildren(...pairs.flatMap(([name, value]) => [el("dt", {}, name || "–"), el("dd", {}, textOfValue(value))]));
}

function textOfValue(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}
