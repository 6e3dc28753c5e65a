/** The chat page: joins the wire, the view and what paints it. */

import { Announcer } from "./announce.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { el, setText } from "./dom.js";
import { gettext } from "./i18n.js";
import { ChatList } from "./list.js";
import { Messages } from "./messages.js";
import "./page.js";
import { fieldsOf, valueOf } from "./questions.js";
import { Rest } from "./rest.js";
import { Follow } from "./scroll.js";
import { View, textOf } from "./view.js";
import { Wire, newId } from "./wire.js";

const PAINT_MS = 50;
const config = JSON.parse(document.getElementById("config").textContent);
const $ = (name) => document.querySelector(`[data-${name}]`);

const chat = config.chat ?? newChat();
let isNew = !config.chat;
const outboxKey = `headrace.outbox.${chat}`;

const rest = new Rest(config);
const view = new View();
const list = new ChatList($("chats"), rest, chat);
const follow = new Follow($("scroller"), $("content"), $("to-end"));
const announcer = new Announcer($("status"), $("read-out"));
const causes = new Map(); // answer id -> error, read by REST for answers that failed before this page was open
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
    paintSoon();
  },
  onOutbox(commands) {
    const kept = commands.filter((command) => !view.isSecret(command));
    store(sessionStorage, outboxKey, kept.length ? JSON.stringify(kept) : null);
  },
});

const connection = new Connection($("connection"), $("line"), {
  onTryNow: () => wire.tryNow(),
  signInUrl: `/login/?next=${encodeURIComponent(location.pathname)}`,
});

const composer = new Composer($("composer"), { onSend: say, onStop: stop });

const messages = new Messages($("messages"), {
  answer: (question, answer) => send("answer", { question, ...answer }),
  regenerate: (item) => send("regenerate", { message: item.key }),
  edit: (item, text) => send("edit", { message: item.key, text }),
  unqueue(item) {
    composer.giveBack(textOf(item.parts));
    send("stop", { turn: item.turn });
  },
  resend(item) {
    const { id, type, text, target } = view.pending.find((command) => command.id === item.command);
    send(type, target ? { message: target, text } : { text, ...extra() }, id);
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
  trace: (error, item) => error?.trace || [wire.trace, item?.turn].filter(Boolean).join(" "),
  textLimit: () => view.limits.text_chars,
  causeOf,
});

/** What a frame means beyond the view. */
const AFTER = {
  welcome(frame) {
    composer.limit = frame.limits.text_chars;
    connection.degraded(false);
    connection.signInEnds(null);
    paintParams(frame.flow.params);
    paintGreeting(frame.flow);
  },
  snapshot: () => causes.clear(),
  degraded: () => connection.degraded(true),
  restored: () => connection.degraded(false),
  auth_expiring: (frame) => connection.signInEnds(frame.in),
  chats: (frame) => list.told(frame.chat),
  turn_end: () => list.refresh(),
};

// ------------------------------------------------------------------ commands

function send(type, fields, id) {
  const command = { id: id ?? newId(), type, ...fields };
  view.sent(command);
  wire.send(type, fields, command.id);
  paint();
  return command.id;
}

function say(text) {
  follow.toEnd();
  send("say", { text, ...extra() });
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
  store(sessionStorage, `headrace.new.${config.flow.slug}`, null);
  connection.signInUrl = `/login/?next=${encodeURIComponent(location.pathname)}`;
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
  const items = view.items();
  messages.paint(items);
  const state = view.state;
  const isClosed = view.chat.deleted || ["deleted", "refused"].includes(wire.state.name);
  composer.update({ state, isStopping: view.stopping.size > 0, isClosed, placeholder: placeholder(state, isClosed) });
  $("welcome").hidden = items.length > 0 || wire.state.name === "refused" || !view.flow;
  $("older").hidden = !view.more;
  const title = view.chat.title || config.title || gettext("New chat");
  setText($("title"), title);
  document.title = `${title} · Headrace`;
  list.mark(chat, view.active?.state ?? null);
  $("messages").setAttribute("aria-busy", String(state === "running" || state === "starting"));
  if (wire.position) {
    announcer.update(state, items.at(-1), isFirst);
    if (isFirst && items.length) jumpToAnchor();
    isFirst = false;
  }
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

function jumpToAnchor() {
  const target = location.hash.startsWith("#m-") && document.getElementById(location.hash.slice(1));
  if (!target) return;
  follow.release();
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
      view.ends.set(item.key, { ...view.ends.get(item.key), steps: [], usage: turn.usage ?? null, error: turn.error });
      paintSoon();
    })
    .catch(() => {});
  return null;
}

// ------------------------------------------------------------------ older messages

let olderUrl = null;

$("older").addEventListener("click", async () => {
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
  } catch (error) {
    announcer.say(error.message);
  } finally {
    button.disabled = false;
  }
});

// ------------------------------------------------------------------ the page's own life

addEventListener("online", () => wire.wake());
addEventListener("offline", () => wire.wentOffline());
addEventListener("focus", () => wire.wake());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && wire.wake());
addEventListener("pageshow", (event) => event.persisted && wire.tryNow());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && !event.isComposing) stop();
});

composer.useDraft(`headrace.draft.${config.user.id}.${config.chat ?? `new.${config.flow?.slug}`}`);
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
  store(sessionStorage, key, id);
  return id;
}

function read(storage, key) {
  try {
    return storage.getItem(key);
  } catch {
    return null;
  }
}

function store(storage, key, value) {
  try {
    if (value === null) storage.removeItem(key);
    else storage.setItem(key, value);
  } catch {
    // storage is full or forbidden: it lives as long as the page
  }
}
