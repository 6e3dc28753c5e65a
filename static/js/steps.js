/** The flow's steps, folded to one line that says what goes on and for how long; open, each with its time and result. */

import { el, icon, setText } from "./dom.js";
import { gettext, interpolate, ngettext } from "./i18n.js";

const SECONDS_FROM = 2; // shorter steps are not counted aloud

export class Steps {
  /** `onAsk(item)`: its steps are not known here and somebody wants to see them. */
  constructor(onAsk) {
    this.label = el("span", { class: "steps-label" });
    this.clock = el("span", { class: "steps-clock", "aria-hidden": "true" });
    this.list = el("ol", { class: "steps-list" });
    this.node = el("details", { class: "fold steps", hidden: true }, el("summary", {}, icon("chevron"), this.label, this.clock), this.list);
    this.node.addEventListener("toggle", () => this.node.open && this.item?.steps === null && onAsk(this.item));
  }

  update(item, isLive) {
    this.item = item;
    const steps = item.steps ?? [];
    const isUnknown = item.steps === null;
    const now = isLive ? (item.activity ?? steps.findLast((step) => step.state === "start")?.title) : null;
    const hasNone = !steps.length && !now && item.status !== "starting" && !(isLive && !item.parts.length);
    this.node.hidden = hasNone && !(isUnknown && item.turn);
    setText(this.label, isLive ? now || gettext("Working …") : isUnknown ? gettext("Steps") : summary(steps));
    this.node.classList.toggle("live", isLive);
    this.time(isLive ? `${now}` : null);
    const shown = JSON.stringify(item.steps);
    if (shown === this.shown) return;
    this.shown = shown;
    this.list.replaceChildren(...steps.map(row));
    if (isUnknown && this.node.open) this.list.replaceChildren(el("li", { class: "hint" }, gettext("Loading …")));
  }

  /** Counts the seconds of what is being done now. */
  time(what) {
    if (what === this.what) return;
    this.what = what;
    clearInterval(this.ticking);
    setText(this.clock, "");
    if (what === null) return;
    const since = performance.now();
    this.ticking = setInterval(() => {
      if (!this.node.isConnected) clearInterval(this.ticking);
      const seconds = Math.floor((performance.now() - since) / 1000);
      if (seconds >= SECONDS_FROM) setText(this.clock, interpolate(gettext("%(seconds)s s"), { seconds }));
    }, 1000);
  }
}

function summary(steps) {
  const whole = interpolate(ngettext("%(count)s step", "%(count)s steps", steps.length), { count: steps.length });
  const hasFailed = steps.some((step) => step.state === "error");
  return hasFailed ? interpolate(gettext("%(steps)s, one failed"), { steps: whole }) : whole;
}

function row(step) {
  return el(
    "li",
    { "data-state": step.state },
    icon(step.state === "error" ? "alert" : step.state === "end" ? "check" : "dot"),
    el("span", { class: "step-title" }, step.title),
    step.ms === null ? null : el("span", { class: "step-time" }, duration(step.ms)),
    step.error ? el("span", { class: "step-error" }, step.error) : null,
    hasOutput(step) ? result(step.output) : null,
  );
}

function hasOutput({ output }) {
  return output !== null && !(typeof output === "object" && !Object.keys(output).length);
}

function result(output) {
  const text = typeof output === "string" ? output : JSON.stringify(output, null, 2);
  return el("details", { class: "step-output" }, el("summary", {}, icon("chevron"), gettext("Result")), el("pre", { tabindex: "0" }, text));
}

function duration(ms) {
  const number = new Intl.NumberFormat(document.documentElement.lang || undefined, { maximumFractionDigits: 1 });
  return ms < 1000 ? interpolate(gettext("%(ms)s ms"), { ms }) : interpolate(gettext("%(seconds)s s"), { seconds: number.format(ms / 1000) });
}
