/** Paints the items of a view. A row lives as long as its key, a text as long as its part: nothing is painted twice. */

import { copyButton, el, icon, iconButton, setText } from "./dom.js";
import { Feedback } from "./feedback.js";
import { sizeOf } from "./files.js";
import { gettext, interpolate, ngettext } from "./i18n.js";
import { Growing } from "./markdown.js";
import { QuestionCard } from "./questions.js";
import { Steps } from "./steps.js";
import { localTimes } from "./times.js";
import { textOf } from "./view.js";

export class Messages {
  /** `actions`: answer, regenerate, edit, goOn, rate, switchTo, resend, takeBack, unqueue, trace, causeOf, stepsOf, linkTo. */
  constructor(list, actions) {
    this.list = list;
    this.actions = actions;
    this.rows = new Map();
  }

  paint(items) {
    let cursor = this.list.firstElementChild;
    const keys = new Set();
    items.forEach((item, index) => {
      const row = this.rowOf(item);
      keys.add(item.key);
      if (row.node === cursor) cursor = cursor.nextElementSibling;
      else this.list.insertBefore(row.node, cursor);
      row.node.classList.toggle("last", index === items.length - 1);
      row.update(item);
    });
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.node.remove();
      this.rows.delete(key);
    }
  }

  /** Opens the newest message of the user for editing. Returns whether there is one. */
  editLast() {
    const rows = [...this.rows.values()].filter((row) => row.role === "user" && row.node.isConnected);
    const last = rows.sort((a, b) => (a.node.compareDocumentPosition(b.node) & 2 ? 1 : -1)).at(-1);
    if (!last || last.item.status !== "done" || last.item.isClosed) return false;
    last.edit();
    return true;
  }

  rowOf(item) {
    const known = this.rows.get(item.key);
    if (known) return known;
    const before = this.rows.get(item.follows);
    const row = before && before.role === item.role ? before : item.role === "user" ? new Said(this.actions) : new Answer(this.actions, item.role);
    this.rows.delete(item.follows);
    this.rows.set(item.key, row);
    row.node.id = `m-${item.key}`;
    return row;
  }
}

/** What of an item can change without its `rev`. */
function signature(item) {
  const { answering } = item;
  return [
    item.key, item.rev, item.status, item.siblings.join(), item.stopping, item.place, item.error?.code, item.question?.question,
    answering?.id, answering?.error?.code, item.isClosed, item.steps?.length, item.feedback?.value, item.feedback?.comment,
  ].join("|");
}

// ------------------------------------------------------------------ the user's

class Said {
  role = "user";

  constructor(actions) {
    this.actions = actions;
    this.text = el("p", { class: "said" });
    this.pictures = el("ul", { class: "said-files" });
    this.files = el("ul", { class: "said-files" });
    this.bubble = el("div", { class: "bubble" }, this.text, this.pictures, this.files);
    this.state = el("p", { class: "message-state" });
    this.under = el("div", { class: "under" });
    this.problem = el("div", {});
    this.node = el("li", { class: "message user" }, el("h2", { class: "visually-hidden" }, gettext("You")), this.bubble, this.state, this.problem, this.under);
  }

  update(item) {
    const now = signature(item);
    if (now === this.signature) return;
    this.signature = now;
    this.item = item;
    this.node.dataset.status = item.status;
    if (!this.isEditing) setText(this.text, textOf(item.parts));
    const files = item.parts.filter((part) => part.data?.file).map(fileOf);
    const arePictures = (isPicture) => files.filter((file) => file.matches(".picture") === isPicture).map((file) => el("li", {}, file));
    this.pictures.replaceChildren(...arePictures(true));
    this.files.replaceChildren(...arePictures(false));
    setText(this.state, STATES[item.status]?.(item) ?? "");
    this.problem.replaceChildren(...(item.status === "failed" ? [this.failure(item)] : []));
    showTools(this.under, item, () => this.tools(item));
  }

  tools(item) {
    if (item.status === "queued") {
      return [button(gettext("Take back"), () => this.actions.unqueue(this.item), item.stopping)];
    }
    if (item.status !== "done") return [];
    return [
      ...branches(item, this.actions),
      item.isClosed ? null : iconButton("pencil", gettext("Edit"), () => this.edit()),
      copyButton(() => textOf(this.item.parts), gettext("Copy message")),
      copyButton(() => this.actions.linkTo(this.item), gettext("Copy the message's address"), "link"),
    ].filter(Boolean);
  }

  failure(item) {
    return problem(item.error, this.actions.trace(item.error), [
      button(gettext("Send again"), () => this.actions.resend(item)),
      button(gettext("Take back"), () => this.actions.takeBack(item), false, "quiet"),
    ]);
  }

  /** Edits in place; sending makes a new branch. */
  edit() {
    if (this.isEditing) return;
    this.isEditing = true;
    const area = el("textarea", { class: "grows", rows: "2", "aria-label": gettext("Edit your message"), maxlength: this.actions.textLimit() });
    area.value = textOf(this.item.parts);
    const done = () => {
      this.isEditing = false;
      form.replaceWith(this.text);
      this.node.classList.remove("editing");
      setText(this.text, textOf(this.item.parts));
    };
    const form = el(
      "form",
      { class: "edit-form" },
      area,
      el(
        "div",
        { class: "form-end" },
        button(gettext("Cancel"), done, false, "quiet"),
        el("button", { type: "submit", class: "button small" }, gettext("Send")),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = area.value.trim();
      if (!text) return;
      const isSame = text === textOf(this.item.parts);
      done();
      if (!isSame) this.actions.edit(this.item, text);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        done();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.node.classList.add("editing");
    this.text.replaceWith(form);
    area.focus();
  }
}

const STATES = {
  sending: () => gettext("Sending …"),
  failed: () => gettext("Not sent"),
  queued: (item) => interpolate(gettext("Waiting, number %(place)s in the queue"), { place: item.place }),
};

// ------------------------------------------------------------------ the answer

/** Errors whose own sentence says that the text was kept. */
const SAY_KEPT = new Set(["provider_cut", "answer_too_long", "turn_timeout"]);

class Answer {
  constructor(actions, role) {
    this.role = role;
    this.actions = actions;
    this.parts = new Map(); // part id -> painter
    this.mark = el("div", { class: "mark", "aria-hidden": "true" }, icon("wheel", "wheel"));
    this.steps = new Steps((item) => actions.stepsOf(item));
    this.feedback = new Feedback((feedback) => actions.rate(this.item, feedback));
    this.partList = el("div", { class: "parts" });
    this.state = el("p", { class: "message-state" });
    this.problem = el("div", {});
    this.under = el("div", { class: "under" });
    this.node = el(
      "li",
      { class: `message ${role}` },
      el("h2", { class: "visually-hidden" }, role === "notice" ? gettext("Notice") : gettext("Answer")),
      this.mark,
      el("div", { class: "body" }, this.steps.node, this.partList, this.state, this.problem, this.under, this.feedback.form),
    );
  }

  update(item) {
    const now = signature(item);
    if (now === this.signature) return;
    this.signature = now;
    this.item = item;
    const isLive = item.status === "running" || item.status === "starting";
    this.node.dataset.status = item.status;
    this.mark.classList.toggle("turning", isLive);
    this.steps.update(item, isLive);
    this.paintParts(item, isLive);
    setText(this.state, this.stateText(item));
    this.paintProblem(item);
    this.feedback.update(item.feedback ?? null);
    showTools(this.under, item, () => this.tools(item));
  }

  paintParts(item, isLive) {
    const parts = withQuestion(item);
    const ids = new Set();
    let cursor = this.partList.firstElementChild;
    for (const part of parts) {
      ids.add(part.id);
      let painter = this.parts.get(part.id);
      if (!painter || painter.kind !== part.kind) {
        painter?.node.remove();
        painter = makePart(part, this.actions);
        painter.kind = part.kind;
        this.parts.set(part.id, painter);
      }
      if (painter.node === cursor) cursor = cursor.nextElementSibling;
      else this.partList.insertBefore(painter.node, cursor);
      painter.update(part, item, isLive && part.open !== false);
    }
    for (const [id, painter] of this.parts) {
      if (ids.has(id)) continue;
      painter.node.remove();
      this.parts.delete(id);
    }
  }

  stateText(item) {
    const isEmpty = !item.parts.length;
    if (item.stopping && item.status !== "done") return gettext("Stopping …");
    if (item.status === "stopped") return isEmpty ? gettext("Stopped before anything was written") : gettext("Stopped");
    if (item.status === "done" && isEmpty) return gettext("The flow ended without an answer.");
    return "";
  }

  paintProblem(item) {
    if (item.status !== "error") {
      this.problem.replaceChildren();
      return;
    }
    const error = item.error ?? this.actions.causeOf(item);
    this.problem.replaceChildren(
      problem(
        error ?? { text: gettext("This answer ended with an error.") },
        this.actions.trace(error, item),
        item.isClosed ? [] : [button(gettext("Try again"), () => this.actions.regenerate(item))],
        item.parts.length > 0 && !SAY_KEPT.has(error?.code),
      ),
    );
  }

  tools(item) {
    if (!["done", "stopped", "error"].includes(item.status)) return branches(item, this.actions);
    const tools = branches(item, this.actions);
    if (textOf(item.parts)) tools.push(copyButton(() => textOf(this.item.parts), gettext("Copy answer")));
    tools.push(copyButton(() => this.actions.linkTo(this.item), gettext("Copy the message's address"), "link"));
    if (item.role !== "assistant") return tools;
    if (!item.isClosed) tools.push(iconButton("redo", gettext("Answer anew"), () => this.actions.regenerate(item)));
    if (this.actions.rate) tools.push(...this.feedback.buttons);
    const wasCut = item.status === "stopped" && textOf(item.parts) && !item.isClosed;
    if (wasCut) tools.push(button(gettext("Go on"), () => this.actions.goOn(), false, "last-only"));
    return tools;
  }
}

/** A question whose part has not come (or never does) is shown all the same. */
function withQuestion(item) {
  const { question, parts } = item;
  if (!question || parts.some((part) => part.kind === "question" && part.data?.question === question.question)) return parts;
  return [...parts, { id: `question-${question.question}`, kind: "question", data: question }];
}

function makePart(part, actions) {
  if (part.kind === "text") return new TextPart();
  if (part.kind === "reasoning") return new ReasoningPart();
  if (part.kind === "question") return new QuestionPart(actions);
  if (part.data?.file) return new FilePart();
  return new DataPart();
}

class TextPart {
  constructor() {
    this.node = el("div", { class: "prose", dir: "auto" });
    this.growing = new Growing(this.node);
  }

  update(part, item, isOpen) {
    this.node.classList.toggle("open", isOpen);
    if (isOpen) this.growing.update(part.text ?? "");
    else this.growing.finish(part.text ?? "");
  }
}

class ReasoningPart {
  constructor() {
    this.label = el("span", {});
    this.prose = el("div", { class: "prose" });
    this.growing = new Growing(this.prose);
    this.node = el("details", { class: "fold" }, el("summary", {}, icon("chevron"), this.label), this.prose);
  }

  update(part, item, isOpen) {
    setText(this.label, isOpen ? gettext("Thinking …") : gettext("Thought"));
    if (isOpen) this.growing.update(part.text ?? "");
    else this.growing.finish(part.text ?? "");
  }
}

class QuestionPart {
  constructor(actions) {
    this.actions = actions;
    this.card = new QuestionCard((answer) => actions.answer(this.question, answer));
    this.node = this.card.node;
  }

  update(part, item) {
    const data = part.data ?? {};
    const isOpen = item.question && item.question.question === data.question;
    this.question = data.question;
    this.card.update(data, isOpen ? item.question : null, item.answering ?? null, this.actions.me);
  }
}

class FilePart {
  node = el("div", { class: "shown-file" });

  update(part) {
    if (this.file === part.data.file) return;
    this.file = part.data.file;
    this.node.replaceChildren(fileOf(part));
  }
}

/** Tools, data and what else a handler shows: one line that opens. */
class DataPart {
  constructor() {
    this.label = el("span", {});
    this.body = el("pre", { tabindex: "0" });
    this.node = el("details", { class: "fold" }, el("summary", {}, icon("chevron"), this.label), this.body);
  }

  update(part) {
    const name = part.data?.name;
    setText(this.label, part.kind === "tool" ? interpolate(gettext("Tool: %(name)s"), { name: name ?? "" }) : part.text || gettext("Data"));
    setText(this.body, JSON.stringify(part.data ?? null, null, 2));
  }
}

// ------------------------------------------------------------------ pieces of both

/** Made anew only where they differ: who has the focus on one, or a finger, keeps it while the text grows. */
function showTools(node, item, make) {
  const shape = [item.key, item.status, item.stopping, item.isClosed, item.siblings.join(), item.parts.some((part) => part.text)].join("|");
  if (node.shape === shape) return;
  node.shape = shape;
  node.replaceChildren(...make());
}

function button(label, onclick, isDisabled = false, look = "") {
  return el("button", { type: "button", class: `button small ${look}`.trim(), onclick, disabled: isDisabled }, label);
}

/** "2 / 3" with arrows, where a message has siblings. */
function branches(item, actions) {
  const { siblings } = item;
  if (siblings.length < 2) return [];
  const at = siblings.indexOf(item.key);
  const to = (step, name, label) => {
    const arrow = iconButton(name, label, () => actions.switchTo(siblings[at + step]));
    arrow.disabled = !siblings[at + step];
    return arrow;
  };
  const place = interpolate(gettext("%(at)s of %(count)s"), { at: at + 1, count: siblings.length });
  return [
    el(
      "span",
      { class: "branches", role: "group", "aria-label": gettext("Versions of this message") },
      to(-1, "left", gettext("Earlier version")),
      el("span", { class: "branch-place", "aria-label": place }, `${at + 1}/${siblings.length}`),
      to(1, "right", gettext("Later version")),
    ),
  ];
}

/** An error where it happened: what, what was kept, what to do, and the trace to give to an operator. */
function problem(error, trace, buttons, keepsText = false) {
  return el(
    "div",
    { class: "problem" },
    icon("alert"),
    el(
      "div",
      { class: "problem-body" },
      el("p", { class: "problem-text" }, localTimes(error?.text || gettext("Something went wrong."))),
      keepsText ? el("p", { class: "hint" }, gettext("What was written so far is kept.")) : null,
      error?.retry_after && error.code !== "quota_exceeded" ? el("p", { class: "hint" }, again(error.retry_after)) : null,
      el("div", { class: "problem-end" }, ...buttons, trace ? traceOf(trace, error?.code) : null),
    ),
  );
}

function again(seconds) {
  const count = Math.max(1, Math.ceil(seconds));
  return interpolate(ngettext("You can try again in %(count)s second.", "You can try again in %(count)s seconds.", count), { count });
}

/** A file of ours: a picture is shown, anything else is a line to download. What is no id of ours is only named. */
function fileOf({ data }) {
  const name = data.name || gettext("File");
  const mime = data.mime ?? "";
  if (!/^[0-9a-f-]{36}$/.test(data.file)) return el("span", { class: "file" }, icon("file"), el("span", { class: "file-name" }, name));
  const address = `/api/files/${data.file}/`;
  const isPicture = /^image\/(png|jpeg|gif|webp|avif)$/.test(mime);
  return el(
    "a",
    { class: isPicture ? "picture" : "file", href: address, download: name, title: name },
    isPicture ? el("img", { src: address, alt: name, loading: "lazy" }) : icon("file"),
    isPicture ? null : el("span", { class: "file-name" }, name),
    isPicture || !data.bytes ? null : el("span", { class: "file-said" }, sizeOf(data.bytes)),
  );
}

function traceOf(trace, code) {
  return el("span", { class: "trace" }, code ? `${code} · ` : "", el("code", {}, trace), copyButton(() => [code, trace].filter(Boolean).join(" "), gettext("Copy trace")));
}
