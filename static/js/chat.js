/** The chat page: joins the wire, the view and what paints it. */

import { Announcer } from "./announce.js";
import { Budgets } from "./budgets.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { notice } from "./dialog.js";
import { el, setText } from "./dom.js";
import { Files, takeFiles } from "./files.js";
import { history as readHistory } from "./history.js";
import { gettext, interpolate } from "./i18n.js";
import { keep, read } from "./kept.js";
import { listen, openPalette, showKeys } from "./keys.js";
import { ChatList } from "./list.js";
import { menuOf } from "./menu.js";
import { Messages } from "./messages.js";
import { config, rest } from "./page.js";
import { fieldsOf, takesText, textAsAnswer, valueOf } from "./questions.js";
import { Follow } from "./scroll.js";
import { View, textOf } from "./view.js";
import { Wire, newId } from "./wire.js";

const PAINT_MS = 50;
const AGAIN_MS = 3000;
const $ = (name) => document.querySelector(`[data-${name}]`);

const chat = config.chat ?? newChat();
let isNew = !config.chat;
const outboxKey = `headrace.outbox.${chat}`;

const view = new View();
const list = new ChatList($("chats"), $("search"), rest, { current: chat, userId: config.user.id, onBack });
const follow = new Follow($("scroller"), $("content"), $("to-end"));
const budgets = new Budgets($("budgets"), rest);
const announcer = new Announcer($("status"), $("read-out"));
const causes = new Map(); // answer id -> error, read by REST for answers that failed before this page was open
const asked = new Set(); // answers whose steps were asked for
let isPast = false; // shown as it was stored: the socket is refused
let params = null; // the flow's own fields beside the text

const wire = new Wire(socketUrl, {
  onFrame(frame) {
    view.apply(frame);
    AFTER[frame.type]?.(frame);
    paintSoon();
  },
  onReply(command, reply) {
    view.replied(command, reply);
    if (reply.type === "ok") settled();
    else if (command.type === "stop" && reply.code !== "turn_not_running") announcer.say(reply.text);
    paintSoon();
  },
  onState(state) {
    connection.move(state, wire.trace);
    if (state.name === "refused") readPast();
    if (state.name === "live") isPast = false;
    paintSoon();
  },
  onOutbox(commands) {
    const kept = commands.filter((command) => !view.isSecret(command));
    keep(sessionStorage, outboxKey, kept.length ? JSON.stringify(kept) : null);
  },
});

const connection = new Connection($("connection"), $("line"), {
  onTryNow: () => wire.tryNow(),
  signInUrl: `/login/?next=${encodeURIComponent(location.pathname)}`,
  editUrl: config.flow.editable ? `/edit/${config.flow.id}/` : null,
});

const files = new Files($("files"), rest, () => composer.changed());
const composer = new Composer($("composer"), { onSend: submitted, onStop: stop, onEditLast: () => messages.editLast(), doubt, files });

const messages = new Messages($("messages"), {
  me: config.user.id,
  answer: (question, answer) => send("answer", { question, ...answer }),
  regenerate: (item) => send("regenerate", { message: item.key }),
  edit: (item, text) => send("edit", { message: item.key, text }),
  goOn: () => say(gettext("Go on.")),
  rate,
  stepsOf: readSteps,
  linkTo: (item) => new URL(`/c/${chat}/#m-${item.key}`, location.href).href,
  unqueue(item) {
    composer.giveBack(textOf(item.parts));
    send("stop", { turn: item.turn });
  },
  resend(item) {
    const { id, type, text, target, attached } = view.pending.find((command) => command.id === item.command);
    send(type, target ? { message: target, text } : { text, ...extra(), ...filesOf(attached) }, { id, attached });
  },
  takeBack(item) {
    composer.giveBack(view.drop(item.command));
    paintSoon();
  },
  switchTo(id) {
    const before = view.chat.head;
    view.chat.head = view.newestLeaf(id);
    follow.release();
    paint();
    rest.call("PATCH", `chats/${chat}/`, { head: view.chat.head }).catch(() => {
      view.chat.head = before;
      paintSoon();
    });
  },
  trace: (error, item) => error?.trace || item?.turn || wire.trace,
  textLimit: () => view.limits.text_chars,
  causeOf,
});

/** What a frame means beyond the view. */
const AFTER = {
  welcome(frame) {
    composer.limit = frame.limits.text_chars;
    files.limit = frame.limits.file_bytes;
    files.most = frame.limits.files_per_say;
    connection.degraded(false);
    connection.signInEnds(null);
    paintParams(frame.flow.params);
    paintGreeting(frame.flow);
  },
  snapshot() {
    causes.clear();
    asked.clear();
    for (const turn of view.turns.values()) if (turn.state !== "queued") readSteps({ key: turn.answer, turn: turn.id });
  },
  degraded: () => connection.degraded(true),
  restored: () => connection.degraded(false),
  auth_expiring: (frame) => connection.signInEnds(frame.in),
  chats: (frame) => list.told(frame.chat),
  turn_end() {
    list.refresh();
    budgets.spent();
  },
};

// ------------------------------------------------------------------ commands

function send(type, fields, { id, attached } = {}) {
  const command = { id: id ?? newId(), type, ...fields };
  view.sent({ ...command, attached });
  wire.send(type, fields, command.id);
  paint();
  return command.id;
}

/** `secret`: the question for which it was written, which alone is told its answer: a message would be kept. */
function submitted(text, secret) {
  const value = secret && !files.list.length ? textAsAnswer(secret, text) : null;
  if (value === null) say(text);
  else send("answer", { question: secret.question, value });
}

function say(text) {
  follow.toEnd();
  const attached = files.take();
  const isAnswer = view.state === "waiting" && !attached.length && takesText(view.active.question, text);
  send("say", { text, ...(isAnswer ? {} : extra()), ...filesOf(attached) }, { attached });
}

function filesOf(attached) {
  return attached.length ? { files: attached.map((file) => file.id) } : {};
}

/** A message that the open question does not take ends what waits: nobody is to lose it without a word. */
function doubt(text) {
  if (view.state !== "waiting" || !view.active.question) return null;
  if (!files.list.length && takesText(view.active.question, text)) return null;
  return gettext("The flow waits for an answer to its question, and this is none. If you send it, the question ends unanswered.");
}

function extra() {
  return params?.length ? { params: valueOf(params) } : {};
}

function stop() {
  if (view.state === "idle" || view.stopping.size) return;
  const turn = view.active?.id;
  send("stop", turn ? { turn } : {});
}

/** After the first reply the chat exists: it gets its address. */
function settled() {
  if (!isNew) return;
  isNew = false;
  history.replaceState(null, "", `/c/${chat}/`);
  keep(sessionStorage, `headrace.new.${config.flow.slug}`, null);
  connection.signInUrl = `/login/?next=${encodeURIComponent(location.pathname)}`;
  composer.moveDraft(draftKey(chat));
  list.refresh(true);
}

// ------------------------------------------------------------------ painting

let timer = null;
let isFirst = true;

function paintSoon() {
  timer ??= setTimeout(paint, PAINT_MS);
}

function paint() {
  clearTimeout(timer);
  timer = null;
  const isClosed = view.chat.deleted || ["deleted", "refused"].includes(wire.state.name);
  view.isClosed = isClosed;
  const items = view.items();
  messages.paint(items);
  follow.text(textMark(items));
  const state = view.state;
  composer.standFor(view.openSecret);
  composer.update({ state, isStopping: view.stopping.size > 0, isClosed, placeholder: placeholder(state, isClosed) });
  $("welcome").hidden = items.length > 0 || wire.state.name === "refused" || !view.flow;
  $("older").hidden = !view.more;
  const title = view.chat.title || config.title || gettext("New chat");
  setText($("title"), title);
  document.title = `${title} · Headrace`;
  list.mark(chat, view.active?.state ?? null);
  $("messages").setAttribute("aria-busy", String(state === "running" || state === "starting"));
  if (wire.position || isPast) {
    announcer.update(state, items.at(-1), isFirst);
    if (isFirst && items.length) jumpToAnchor();
    isFirst = false;
  }
}

/** Differs where text has come: another message, or more of the last one. */
function textMark(items) {
  const chars = (items.at(-1)?.parts ?? []).reduce((sum, part) => sum + (part.text?.length ?? 0) + 1, 0);
  return `${items.length} ${chars}`;
}

function placeholder(state, isClosed) {
  if (isClosed) return gettext("Nothing can be sent here.");
  if (state === "waiting") return gettext("Answer, or write something else");
  if (state === "idle") return gettext("Write a message");
  return gettext("Write the next message");
}

function paintGreeting(flow) {
  setText($("greeting"), flow.greeting || gettext("What would you like to know?"));
  $("suggestions").replaceChildren(
    ...flow.suggestions.map((text) => el("li", {}, el("button", { type: "button", class: "suggestion", onclick: () => say(text) }, text))),
  );
}

/** The start node's own fields, made once; what was filled in stays over a reconnect. */
function paintParams(schema) {
  if (params || !schema?.properties || !Object.keys(schema.properties).length) return;
  params = fieldsOf(schema);
  const box = $("params");
  box.hidden = false;
  box.open = params.some((field) => !field.isValid());
  box.querySelector("[data-fields]").replaceChildren(...params.map((field) => field.node));
}

/** To the message of the address, on whichever branch and however far back it is. */
async function jumpToAnchor() {
  const id = /^#m-([0-9a-f-]{36})$/.exec(location.hash)?.[1];
  if (!id) return;
  follow.release();
  while (!view.messages.has(id) && view.more) if (!(await readOlder())) return;
  if (!view.messages.has(id)) return;
  if (!document.getElementById(`m-${id}`)) {
    view.chat.head = view.newestLeaf(id);
    paint();
  }
  const target = document.getElementById(`m-${id}`);
  if (!target) return;
  target.scrollIntoView({ block: "start" });
  target.classList.add("aimed");
}

/** A stored answer does not say why it failed; its turn does. */
function causeOf(item) {
  if (causes.has(item.key) || !item.turn) return causes.get(item.key) ?? null;
  causes.set(item.key, null);
  rest
    .get(`turns/${item.turn}/`)
    .then((turn) => {
      causes.set(item.key, turn.error);
      view.ends.set(item.key, { ...view.ends.get(item.key), usage: turn.usage ?? null, error: turn.error });
      view.addSteps(item.key, turn.nodes ?? []);
      paintSoon();
    })
    .catch(() => {});
  return null;
}

/** A stored answer has no steps; its turn does. Each is asked for once. */
async function readSteps(item) {
  if (asked.has(item.key) || !item.turn) return;
  asked.add(item.key);
  const turn = await rest.get(`turns/${item.turn}/`).catch(() => ({}));
  view.addSteps(item.key, turn.nodes ?? []);
  paintSoon();
}

/** Shown at once; where the server refuses, as it was. */
async function rate(item, feedback) {
  const message = view.messages.get(item.key);
  const before = message.feedback;
  message.feedback = feedback;
  paintSoon();
  try {
    await rest.call(feedback ? "PUT" : "DELETE", `messages/${item.key}/feedback/`, feedback ?? undefined);
    announcer.say(feedback ? gettext("Thank you.") : gettext("Taken back."));
  } catch (error) {
    message.feedback = before;
    notice(error.message);
    paintSoon();
  }
}

// ------------------------------------------------------------------ the past of a chat that cannot be entered

/** Its flow is offline or gone: what was said can be read all the same. */
async function readPast() {
  if (isPast || !config.chat) return;
  isPast = true;
  const frame = await readHistory(rest, chat).catch(() => null);
  if (!frame || wire.state.name === "live") {
    isPast = false;
    return;
  }
  view.apply(frame);
  paint();
  follow.toEnd();
  if (frame.isUnended) setTimeout(() => wire.state.name === "refused" && readAgain(), AGAIN_MS);
}

function readAgain() {
  isPast = false;
  readPast();
}

// ------------------------------------------------------------------ older messages

let olderUrl = null;

$("older").addEventListener("click", readOlder);

/** One more page; what is in sight stays where it is. Returns whether it came. */
async function readOlder() {
  const button = $("older");
  button.disabled = true;
  const scroller = $("scroller");
  const fromEnd = scroller.scrollHeight - scroller.scrollTop;
  try {
    const known = view.messages.size;
    let page = await rest.get(olderUrl ?? `chats/${chat}/messages/`);
    while (page.results.every((message) => view.messages.has(message.id)) && page.next) page = await rest.get(page.next);
    olderUrl = page.next;
    view.addOlder(page.results, Boolean(page.next));
    follow.release();
    paint();
    if (view.messages.size > known) scroller.scrollTop = scroller.scrollHeight - fromEnd;
    return true;
  } catch (error) {
    notice(error.message);
    return false;
  } finally {
    button.disabled = false;
  }
}

// ------------------------------------------------------------------ the page's own life

addEventListener("online", () => wire.wake());
addEventListener("offline", () => wire.wentOffline());
addEventListener("focus", () => wire.wake());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && wire.wake());
addEventListener("pageshow", (event) => event.persisted && wire.tryNow());
addEventListener("hashchange", jumpToAnchor);
listen({ stop, newChat: openNew, focusComposer: () => composer.area.focus(), palette });
menuOf($("chat-menu"), () => {
  const actions = list.actions(chat);
  return [
    ...actions.filter((action) => !action.isGrave),
    { label: gettext("Print"), icon: "print", run: () => print() },
    { label: gettext("Keys"), icon: "keys", run: showKeys },
    ...actions.filter((action) => action.isGrave),
  ];
});
$("find").addEventListener("click", palette);
$("attach").addEventListener("click", () => $("choose").click());
$("choose").addEventListener("change", () => {
  files.add($("choose").files);
  $("choose").value = "";
});
takeFiles(document.getElementById("main"), composer.area, files);

/** The chat was deleted and is back: it is entered as if for the first time. */
function onBack() {
  if (wire.state.name !== "deleted") return;
  wire.position = null;
  view.chat.deleted = false;
  wire.tryNow();
}

function openNew() {
  location.href = `/f/${config.flow.slug}/`;
}

function palette() {
  openPalette({
    actions: () => [
      { label: gettext("New chat"), icon: "plus", run: openNew },
      ...list.actions(chat).filter((action) => !action.isGrave),
      { label: gettext("All flows"), icon: "wheel", run: () => (location.href = "/") },
      { label: gettext("Keys"), icon: "keys", run: showKeys },
    ],
    async find(query) {
      const asking = encodeURIComponent(query);
      const [chats, flows] = await Promise.all([rest.get(`chats/?q=${asking}`), rest.get(`flows/?status=online&q=${asking}`).catch(() => ({ results: [] }))]);
      return [
        ...chats.results.map(({ id, title }) => ({ label: title || gettext("New chat"), icon: "chat", run: () => (location.href = `/c/${id}/`) })),
        ...flows.results.map(({ slug, name }) => ({
          label: interpolate(gettext("Chat with %(name)s"), { name }), icon: "wheel", run: () => (location.href = `/f/${slug}/`),
        })),
      ];
    },
  });
}

composer.useDraft(draftKey(config.chat ?? `new.${config.flow.slug}`));
restoreOutbox();
wire.open();
list.refresh();
paint();
if (matchMedia("(min-width: 768px)").matches) composer.area.focus();

function socketUrl(position) {
  const url = new URL(config.socket, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("chat_id", chat);
  if (position) {
    url.searchParams.set("epoch", position.epoch);
    url.searchParams.set("seq", String(position.seq));
  }
  return url.href;
}

function draftKey(what) {
  return `headrace.draft.${config.user.id}.${what}`;
}

/** Commands that had no reply when the page was left are sent again with their ids: done once, however often sent. */
function restoreOutbox() {
  const commands = JSON.parse(read(sessionStorage, outboxKey) ?? "[]");
  for (const command of commands) view.sent(command);
  wire.restore(commands);
}

/** The id of a chat that does not exist yet stays the same over a reload, so that what was sent is not sent elsewhere. */
function newChat() {
  const key = `headrace.new.${config.flow.slug}`;
  const id = read(sessionStorage, key) ?? newId();
  keep(sessionStorage, key, id);
  return id;
}
