/** Says how the connection is: a word in the header always, a line with what to do when it is not well. */

import { el, icon, setText } from "./dom.js";
import { gettext, interpolate, ngettext } from "./i18n.js";

const BLIP_MS = 2000; // shorter troubles are nobody's business

export class Connection {
  /** `editUrl`: where the flow is published, for who may; null for others. */
  constructor(pill, line, { onTryNow, signInUrl, editUrl }) {
    this.pill = pill;
    this.pillText = pill.querySelector("[data-text]");
    this.line = line;
    this.onTryNow = onTryNow;
    this.signInUrl = signInUrl;
    this.editUrl = editUrl;
    this.state = { name: "connecting" };
    this.isDegraded = false;
    this.troubleSince = performance.now();
    this.ticking = setInterval(() => this.paint(), 500);
  }

  move(state, trace) {
    if (state.name === "live") this.troubleSince = null;
    else this.troubleSince ??= performance.now();
    this.state = state;
    this.trace = trace;
    this.paint();
  }

  degraded(isDegraded) {
    this.isDegraded = isDegraded;
    this.paint();
  }

  signInEnds(seconds) {
    this.endsAt = seconds === null ? null : performance.now() + seconds * 1000;
    this.paint();
  }

  paint() {
    const { name } = this.state;
    const isPassing = name === "connecting" || name === "reconnecting";
    const isBlip = isPassing && this.troubleSince !== null && performance.now() - this.troubleSince < BLIP_MS;
    const said = isBlip ? (this.said ?? this.quiet()) : this.words();
    if (!isBlip) this.said = said;
    this.pill.dataset.state = said.tone;
    setText(this.pillText, said.word);
    this.paintLine(said);
  }

  paintLine(said) {
    this.line.hidden = !said.sentence;
    this.line.dataset.tone = said.tone;
    if (!said.sentence) {
      this.shape = null;
      return;
    }
    // The button under somebody's finger stays the same from one attempt to the next.
    const shape = `${said.tone}|${said.action?.label}|${said.showsTrace && this.state.refusal?.trace}`;
    if (shape !== this.shape) {
      this.shape = shape;
      this.sentence = el("p", { class: "line-text" });
      const trace = said.showsTrace && this.state.refusal?.trace;
      this.line.replaceChildren(
        ...[
          icon(said.tone === "bad" ? "alert" : "plug"),
          this.sentence,
          trace ? el("code", { class: "line-trace" }, trace) : null,
          said.action ? action(said.action) : null,
        ].filter(Boolean),
      );
    }
    setText(this.sentence, said.sentence);
  }

  quiet() {
    return { tone: "wait", word: gettext("Connecting") };
  }

  /** `tone`: good, wait or bad; `word` for the header; `sentence` and `action` for the line. */
  words() {
    const { name, attempt, nextAt, refusal, isGoingAway } = this.state;
    const tryNow = { label: gettext("Try now"), run: this.onTryNow };
    switch (name) {
      case "live":
        return this.live();
      case "connecting":
        return {
          tone: "wait",
          word: gettext("Connecting"),
          sentence: attempt ? interpolate(gettext("Reconnecting, attempt %(attempt)s …"), { attempt }) : gettext("Connecting …"),
          action: attempt ? tryNow : undefined,
        };
      case "reconnecting": {
        const seconds = Math.max(0, Math.ceil((nextAt - performance.now()) / 1000));
        const next = interpolate(ngettext("next try in %(seconds)s second", "next try in %(seconds)s seconds", seconds), { seconds });
        const why = isGoingAway
          ? gettext("The server is restarting.")
          : refusal?.text || gettext("The connection was lost.");
        return {
          tone: "wait",
          word: gettext("Reconnecting"),
          sentence: interpolate(gettext("%(why)s Attempt %(attempt)s, %(next)s. Nothing is lost."), { why, attempt, next }),
          action: tryNow,
        };
      }
      case "offline":
        return {
          tone: "bad",
          word: gettext("Offline"),
          sentence: gettext("You are offline. What you send is kept and goes out when the network is back."),
          action: tryNow,
        };
      case "signed_out":
        return {
          tone: "bad",
          word: gettext("Signed out"),
          sentence: gettext("Your sign-in has ended. Sign in again to go on; your draft is kept."),
          action: { label: gettext("Sign in"), href: this.signInUrl },
        };
      case "idle":
        return { tone: "wait", word: gettext("Resting"), sentence: gettext("Nothing was said for a long time. It connects again when you go on."), action: tryNow };
      case "deleted":
        return { tone: "bad", word: gettext("Deleted"), sentence: gettext("This chat was deleted.") };
      case "refused":
        if (refusal?.code === "flow_offline") return this.flowOffline(refusal, { ...tryNow, label: gettext("Look again") });
        return {
          tone: "bad",
          word: gettext("Not connected"),
          sentence: refusal?.text || interpolate(gettext("The server refused the connection (%(code)s)."), { code: refusal?.code ?? "" }),
          action: tryNow,
          showsTrace: true,
        };
      default:
        return this.quiet();
    }
  }

  /** Nothing is out of order: somebody took the flow offline, and who may publishes it. */
  flowOffline({ text }, lookAgain) {
    const action = this.editUrl ? { label: gettext("Open in the editor"), href: this.editUrl } : lookAgain;
    return { tone: "wait", word: gettext("Flow offline"), sentence: text, action };
  }

  live() {
    if (this.isDegraded) {
      return { tone: "wait", word: gettext("Delayed"), sentence: gettext("The server has trouble with its storage. New text may come late; nothing is lost.") };
    }
    if (this.endsAt) {
      const seconds = Math.max(0, Math.round((this.endsAt - performance.now()) / 1000));
      return {
        tone: "wait",
        word: gettext("Live"),
        sentence: interpolate(ngettext("Your sign-in ends in %(seconds)s second.", "Your sign-in ends in %(seconds)s seconds.", seconds), { seconds }),
        action: { label: gettext("Sign in"), href: this.signInUrl },
      };
    }
    return { tone: "good", word: gettext("Live") };
  }
}

function action({ label, run, href }) {
  return href ? el("a", { class: "button small", href }, label) : el("button", { type: "button", class: "button small", onclick: run }, label);
}
