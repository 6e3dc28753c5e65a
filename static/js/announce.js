/** For readers by ear: what goes on in a word, the answer sentence by sentence, never by token. */

import { plain, sentences } from "./blocks.js";
import { el } from "./dom.js";
import { gettext, interpolate } from "./i18n.js";
import { localTimes } from "./times.js";

const KEPT = 6;

export class Announcer {
  /** `status`: a region of role status; `log`: one of role log. */
  constructor(status, log) {
    this.status = status;
    this.log = log;
    this.seen = new Map(); // part id -> how much of its text was told
    this.told = null;
  }

  /** Called after each paint with the view's state and its last answer. */
  update(state, item, isFirst) {
    const told = `${state} ${item?.question?.question ?? ""}`;
    if (isFirst) {
      this.skip(item);
      this.told = told;
      return;
    }
    if (item?.role === "assistant") this.read(item);
    if (told === this.told) return;
    this.told = told;
    if (state === "starting" || state === "running") this.say(gettext("The answer is being written."));
    else if (state === "waiting") this.say(interpolate(gettext("A question for you: %(text)s"), { text: item?.question?.text ?? "" }));
    else if (item?.status === "stopped") this.say(gettext("Stopped."));
    else if (item?.status === "error") this.say(interpolate(gettext("Error: %(text)s"), { text: localTimes(item.error?.text ?? "") }));
    else this.say(gettext("The answer is complete."));
  }

  say(text) {
    this.status.textContent = text;
  }

  read(item) {
    for (const part of item.parts) {
      if (part.kind !== "text") continue;
      const known = this.seen.get(part.id) ?? 0;
      const { found, at } = sentences(part.text, known);
      this.seen.set(part.id, at);
      for (const sentence of found) this.tell(sentence);
      const isWhole = item.status === "done" || item.status === "stopped" || item.status === "error";
      if (isWhole && at < part.text.length) {
        this.seen.set(part.id, part.text.length);
        const rest = plain(part.text.slice(at));
        if (rest) this.tell(rest);
      }
    }
  }

  /** What stands already is not read out. */
  skip(item) {
    this.seen = new Map();
    for (const part of item?.parts ?? []) this.seen.set(part.id, part.text?.length ?? 0);
  }

  tell(sentence) {
    this.log.append(el("p", {}, sentence));
    while (this.log.children.length > KEPT) this.log.firstElementChild.remove();
  }
}
