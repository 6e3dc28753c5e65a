/** What the user has used of his budgets, where he has some. */

import { el } from "./dom.js";
import { gettext, interpolate } from "./i18n.js";
import { timeOf } from "./times.js";

const MICROS = 1000000;

export class Budgets {
  /** `node`: hidden while there is nothing to show. */
  constructor(node, rest) {
    this.node = node;
    this.rest = rest;
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.refresh());
    this.refresh();
  }

  /** An answer has ended: what is shown has changed. */
  spent() {
    if (!this.node.hidden) this.refresh();
  }

  async refresh() {
    const answer = await this.rest.get("me/usage/").catch(() => null);
    if (!answer) return; // what stands there stays
    const lines = answer.budgets.flatMap(linesOf);
    this.node.hidden = !lines.length;
    this.node.replaceChildren(...lines);
  }
}

/** One for each limit. */
function linesOf(budget) {
  const isDay = budget.period === "day";
  const lines = [];
  if (budget.limit_tokens !== null) {
    const text = isDay ? gettext("Today %(used)s of %(limit)s tokens") : gettext("This month %(used)s of %(limit)s tokens");
    lines.push(line(budget, text, budget.spent_tokens, budget.limit_tokens, count));
  }
  if (budget.limit_cost_micros !== null) {
    const text = isDay ? gettext("Today a cost of %(used)s of %(limit)s") : gettext("This month a cost of %(used)s of %(limit)s");
    lines.push(line(budget, text, budget.spent_cost_micros, budget.limit_cost_micros, money));
  }
  return lines;
}

function line(budget, text, used, limit, shown) {
  const said = interpolate(text, { used: shown(used), limit: shown(limit) });
  const label = budget.of === "user" ? said : `${budget.name}: ${said}`;
  return el(
    "li",
    { class: used >= limit ? "budget used-up" : "budget", title: interpolate(gettext("Begins anew on %(time)s"), { time: timeOf(budget.ends) }) },
    el("span", {}, label),
    el("progress", { max: limit, value: Math.min(used, limit), "aria-label": label }),
  );
}

const count = (number) => number.toLocaleString(document.documentElement.lang || undefined);

const money = (micros) =>
  (micros / MICROS).toLocaleString(document.documentElement.lang || undefined, { minimumFractionDigits: 2, maximumFractionDigits: 4 });
