/**
 * What a chat shows, made from the frames that tell of it. Pure: no DOM, no socket, no clock.
 *
 * `apply` follows the wire's rules: a snapshot replaces the view; a turn_start replaces what is shown of its turn;
 * events of a turn that has ended are ignored; an id that is known is not added twice. Positions are `wire.js`'s.
 */

/** Frames that make a part longer and move no message: what was looked up stays true. */
const GROWTH = new Set(["delta", "part", "part_end", "node", "progress", "status"]);
const NONE = [];

export class View {
  constructor() {
    this.isClosed = false; // nothing more can be said here
    this.flow = null;
    this.user = null;
    this.limits = { text_chars: 32000 };
    this.chat = { id: null, rev: 0, title: "", head: null, deleted: false };
    this.messages = new Map(); // id -> Message as stored
    this.below = null; // parent -> its messages, oldest first: made when it is asked for
    this.more = false; // older messages exist that are not here
    this.turns = new Map(); // unended ones: id -> Turn
    this.ended = new Set();
    this.ends = new Map(); // answer id -> what the stored message does not say: error, usage, steps
    this.parts = new Map(); // part id -> its turn and part, for deltas
    this.pending = []; // own commands that have no trace in the chat yet: say, edit, regenerate
    this.answering = new Map(); // question id -> own answer on its way
    this.secrets = new Set(); // ids of the questions whose answers are kept nowhere, closed ones too
    this.stopping = new Map(); // turn id, or "" for whichever runs -> the command's id
  }

  apply(frame) {
    const rule = RULES[frame.type];
    if (!GROWTH.has(frame.type)) this.below = null;
    if (rule) rule(this, frame);
    if (frame.type !== "delta") this.settle();
  }

  // ------------------------------------------------------------------ what is asked of it

  /** The running or waiting turn, or null. */
  get active() {
    for (const turn of this.turns.values()) if (turn.state !== "queued") return turn;
    return null;
  }

  get queued() {
    return [...this.turns.values()].filter((t) => t.state === "queued").sort((a, b) => a.place - b.place);
  }

  /** Whether a command answers a secret question: it is kept nowhere but in memory. */
  isSecret(command) {
    return command.type === "answer" && this.secrets.has(command.question);
  }

  /** The secret question that is open, or null. */
  get openSecret() {
    const question = this.active?.question;
    return question?.secret ? question : null;
  }

  /** `idle`, `starting` (said, not yet begun), `running` or `waiting` (for the answer to a question). */
  get state() {
    const turn = this.active;
    if (turn) return turn.state;
    return this.pending.some((p) => !p.error) ? "starting" : "idle";
  }

  /**
   * What is to be painted, in order. An item's `key` stays the same from the first letter to the stored message;
   * `follows` is the key of the own command that it takes the place of.
   */
  items() {
    const items = [];
    for (const node of this.path()) {
      const cut = this.pending.find((p) => p.target === node.id);
      if (cut) {
        items.push(pendingItem(cut));
        if (cut.type === "regenerate") items.push(startingItem(cut));
        return items.filter((item) => item.type !== "regenerate");
      }
      items.push(node.turn_state ? liveItem(node, this) : storedItem(node, this));
      for (const notice of this.noticesAfter(node.id)) items.push(storedItem(notice, this));
    }
    const shown = new Set(items.map((item) => item.key));
    for (const turn of this.queued) {
      if (!shown.has(turn.message.id)) items.push(queuedItem(turn, this));
    }
    for (const command of this.pending) {
      if (command.type === "say") items.push(pendingItem(command));
    }
    const last = this.pending.at(-1);
    if (last && last.type === "say" && !last.error && this.state === "starting") items.push(startingItem(last));
    return items;
  }

  /** The messages from the root to the leaf that is shown; the answer being written is its last. */
  path() {
    const path = [];
    let node = this.node(this.leaf());
    const seen = new Set();
    while (node && !seen.has(node.id)) {
      seen.add(node.id);
      path.push(node);
      node = this.node(node.parent);
    }
    return path.reverse();
  }

  /** The head, or, where that is a question asked, its newest answer. */
  leaf() {
    const head = this.chat.head;
    for (const turn of this.turns.values()) {
      if (turn.state !== "queued" && turn.message.id === head) return turn.answer;
    }
    if (this.messages.get(head)?.role !== "user") return head;
    return this.children(head).findLast((m) => m.role === "assistant")?.id ?? head;
  }

  /** A stored message, or the answer that a turn is writing. */
  node(id) {
    if (!id) return null;
    const stored = this.messages.get(id);
    if (stored) return stored;
    for (const turn of this.turns.values()) {
      if (turn.answer === id && turn.state !== "queued") return liveNode(turn);
    }
    return null;
  }

  /** The ids of a message and its siblings, oldest first. */
  siblings(node) {
    const role = node.role;
    const result = this.children(node.parent)
      .filter((m) => m.role === role && !this.isWaiting(m.id))
      .map((message) => message.id);
    if (role === "assistant") {
      for (const turn of this.turns.values()) {
        if (turn.state !== "queued" && turn.message.id === node.parent && !result.includes(turn.answer)) {
          result.push(turn.answer);
        }
      }
    }
    return result;
  }

  /** The newest leaf below a message: what a switch to that branch shows. */
  newestLeaf(id) {
    let at = id;
    for (;;) {
      const children = this.children(at).filter((m) => m.role !== "notice" && !this.isWaiting(m.id));
      const live = [...this.turns.values()].find((t) => t.state !== "queued" && t.message.id === at);
      if (live) return live.answer;
      if (!children.length) return at;
      at = children.at(-1).id;
    }
  }

  noticesAfter(id) {
    return this.children(id).filter((message) => message.role === "notice" && this.chat.head !== message.id);
  }

  /** The messages whose parent it is, oldest first. */
  children(parent) {
    if (!this.below) {
      this.below = new Map();
      for (const message of this.messages.values()) {
        const known = this.below.get(message.parent);
        if (known) known.push(message);
        else this.below.set(message.parent, [message]);
      }
      for (const messages of this.below.values()) messages.sort(byTime);
    }
    return this.below.get(parent) ?? NONE;
  }

  isWaiting(messageId) {
    for (const turn of this.turns.values()) if (turn.state === "queued" && turn.message.id === messageId) return true;
    return false;
  }

  // ------------------------------------------------------------------ own commands

  /** A command of ours is on its way: show it at once. */
  sent(command) {
    const { id, type } = command;
    if (type === "say" || type === "edit" || type === "regenerate") {
      const known = this.pending.find((p) => p.id === id);
      if (known) known.error = null;
      else {
        this.pending.push({
          id, type, text: command.text ?? "", target: command.message ?? null, attached: command.attached ?? [], reply: null, error: null,
        });
      }
    } else if (type === "answer") {
      this.answering.set(command.question, { id, action: command.action ?? "accept", value: command.value, error: null });
    } else if (type === "stop") {
      this.stopping.set(command.turn ?? "", id);
    }
  }

  /** The server's `ok` or `error` to it. */
  replied(command, reply) {
    const { id, type } = command;
    if (type === "answer") {
      const answering = this.answering.get(command.question);
      if (!answering || answering.id !== id) return;
      if (reply.type === "error") answering.error = reply;
    } else if (type === "stop") {
      if (reply.type === "error") this.stopping.delete(command.turn ?? "");
    } else {
      const pending = this.pending.find((p) => p.id === id);
      if (!pending) return;
      if (reply.type === "error") pending.error = reply;
      else if (reply.question) this.drop(id); // it was the answer to a question: no message is stored
      else pending.reply = reply;
    }
    this.settle();
  }

  /** Takes back a command that failed. Returns its text. */
  drop(id) {
    const pending = this.pending.find((p) => p.id === id);
    this.pending = this.pending.filter((p) => p.id !== id);
    return pending ? pending.text : "";
  }

  /** Own commands whose effect is in the chat by now are shown by it alone. */
  settle() {
    if (this.pending.length) {
      const clients = new Set();
      for (const message of this.messages.values()) if (message.client_id) clients.add(message.client_id);
      this.pending = this.pending.filter((p) => {
        if (p.type !== "regenerate" && clients.has(p.id)) return false;
        if (!p.reply) return true;
        return !(this.turns.has(p.reply.turn) || this.ended.has(p.reply.turn));
      });
    }
    const active = this.active;
    for (const question of this.answering.keys()) {
      if (!active || !active.question || active.question.question !== question) this.answering.delete(question);
    }
    for (const turn of this.stopping.keys()) {
      if (turn ? !this.turns.has(turn) : !active && !this.pending.length) this.stopping.delete(turn);
    }
  }

  /** Older messages, read by REST. */
  addOlder(messages, more) {
    for (const message of messages) this.addMessage(message);
    this.more = more;
  }

  /** A turn's steps as REST tells them; what this page has seen of one itself is newer. */
  addSteps(answer, nodes) {
    const turn = [...this.turns.values()].find((t) => t.answer === answer);
    const own = turn ? turn.steps : (this.ends.get(answer)?.steps ?? []);
    const steps = new Map(nodes.map(stepOf).map((step) => [step.key, step]));
    for (const step of own) {
      const known = steps.get(step.key);
      if (!known || known.state === "start") steps.set(step.key, step);
    }
    const all = [...steps.values()];
    if (turn) {
      turn.steps = all;
      turn.rev += 1;
    } else this.ends.set(answer, { error: null, usage: null, ...this.ends.get(answer), steps: all });
  }

  addMessage(message) {
    if (this.messages.has(message.id)) return;
    this.messages.set(message.id, message);
    this.below = null;
  }
}

// ------------------------------------------------------------------ rules, one a frame

const RULES = {
  welcome(view, frame) {
    view.flow = frame.flow;
    view.user = frame.user;
    view.limits = frame.limits;
    view.chat.id = frame.chat;
  },

  snapshot(view, frame) {
    view.chat = { deleted: false, ...frame.chat };
    view.messages = new Map(frame.messages.map((message) => [message.id, message]));
    view.more = frame.more;
    view.parts = new Map();
    const before = view.turns;
    view.turns = new Map();
    for (const open of frame.turns) {
      view.addMessage(open.message);
      const turn = newTurn(open, open.state);
      turn.place = open.place ?? 0;
      ask(view, turn, open.question);
      turn.steps = before.get(open.turn)?.steps ?? [];
      view.turns.set(turn.id, turn);
      for (const part of open.parts) addPart(view, turn, part, true);
      view.ended.delete(turn.id);
    }
    for (const message of frame.messages) {
      if (message.role === "assistant" && message.turn && !view.turns.has(message.turn)) view.ended.add(message.turn);
    }
  },

  message(view, frame) {
    view.addMessage(frame.message);
  },

  turn_start(view, frame) {
    if (view.ended.has(frame.turn)) return;
    view.addMessage(frame.message);
    const before = view.turns.get(frame.turn);
    const turn = newTurn(frame, "running");
    if (before) {
      forgetParts(view, before);
      turn.steps = before.steps;
      turn.rev = before.rev + 1;
    }
    view.turns.set(turn.id, turn);
    for (const part of frame.parts) addPart(view, turn, part, false);
    // Head moves when a turn begins to run: to the question asked, or, where it has an answer already, to the new one.
    if (frame.attempt > 0 && (!before || before.state === "queued")) view.chat.head = frame.answer;
  },

  turn_queued(view, frame) {
    if (view.ended.has(frame.turn)) return;
    view.addMessage(frame.message);
    const turn = view.turns.get(frame.turn);
    if (!turn) {
      const queued = newTurn({ ...frame, answer: null, attempt: 0 }, "queued");
      queued.place = frame.place;
      view.turns.set(frame.turn, queued);
    } else if (turn.state === "queued" && frame.place < turn.place) {
      turn.place = frame.place;
      turn.rev += 1;
    }
  },

  node(view, frame) {
    const turn = view.turns.get(frame.turn);
    if (!turn) return;
    const now = stepOf(frame);
    const step = turn.steps.find((s) => s.key === now.key);
    if (step) Object.assign(step, now);
    else turn.steps.push(now);
    turn.rev += 1;
  },

  part(view, frame) {
    const turn = view.turns.get(frame.turn);
    if (!turn || view.parts.has(frame.part)) return;
    addPart(view, turn, { id: frame.part, kind: frame.kind, text: "", data: frame.data ?? null, node: frame.node ?? null }, true);
    turn.activity = null;
    turn.rev += 1;
  },

  delta(view, frame) {
    const place = view.parts.get(frame.part);
    if (!place) return;
    place.part.text += frame.text;
    place.turn.rev += 1;
  },

  part_end(view, frame) {
    const place = view.parts.get(frame.part);
    if (!place) return;
    place.part.open = false;
    if (frame.data != null) place.part.data = frame.data;
    place.turn.rev += 1;
  },

  progress: activity,
  status: activity,

  question(view, frame) {
    const turn = view.turns.get(frame.turn);
    if (!turn) return;
    turn.state = "waiting";
    ask(view, turn, frame);
    turn.activity = null;
    turn.rev += 1;
  },

  answered(view, frame) {
    const turn = view.turns.get(frame.turn);
    if (!turn) return;
    const part = turn.parts.find((p) => p.kind === "question" && p.data?.question === frame.question);
    if (part) {
      const label = (part.data.options ?? []).find((o) => o.id === frame.value)?.label;
      part.data = { ...part.data, action: frame.action, value: frame.value, by: frame.by, ...(label ? { label } : {}) };
    }
    turn.state = "running";
    turn.question = null;
    turn.rev += 1;
  },

  turn_end(view, frame) {
    if (view.ended.has(frame.turn)) return;
    const turn = view.turns.get(frame.turn);
    view.ended.add(frame.turn);
    view.turns.delete(frame.turn);
    const shown = (turn?.parts ?? []).map(({ open, ...part }) => part);
    const message = { ...frame.message, parts: frame.message.parts ?? shown };
    view.messages.set(message.id, message);
    view.ends.set(message.id, {
      error: frame.error ?? null,
      usage: frame.usage ?? null,
      // A turn of which only the end was seen: its steps are asked for.
      steps: turn ? turn.steps.map((s) => (s.state === "start" ? { ...s, state: "end" } : s)) : null,
    });
    if (turn) forgetParts(view, turn);
    // Unless the next turn has begun already, and the head with it.
    const isShown = view.chat.head === message.id || view.chat.head === message.parent;
    if (turn && turn.attempt > 0 && isShown) view.chat.head = message.id;
  },

  notification(view, frame) {
    view.addMessage(frame.message);
  },

  chat(view, frame) {
    if (frame.rev < view.chat.rev) return;
    view.chat.rev = frame.rev;
    if (frame.title != null) view.chat.title = frame.title;
    if (frame.head != null) view.chat.head = frame.head;
    if (frame.deleted) view.chat.deleted = true;
  },
};

/** A `node` event, or REST's row of one, as a step is shown. */
function stepOf({ node, visit, kind, title, state, ms, output, error }) {
  return { key: `${node}#${visit}`, kind, title: title || node, state, ms: ms ?? null, output: output ?? null, error: error ?? null };
}

function ask(view, turn, question) {
  turn.question = question;
  if (question?.secret) view.secrets.add(question.question);
}

function activity(view, frame) {
  const turn = view.turns.get(frame.turn);
  if (!turn) return;
  turn.activity = frame.text || null;
  turn.rev += 1;
}

// ------------------------------------------------------------------ shapes

function byTime(a, b) {
  return a.created < b.created ? -1 : a.created > b.created ? 1 : 0;
}

function newTurn(frame, state) {
  return {
    id: frame.turn,
    message: frame.message,
    answer: frame.answer,
    state,
    place: 0,
    attempt: frame.attempt,
    parts: [],
    steps: [],
    question: null,
    activity: null,
    rev: 1,
  };
}

/** `open`: more of it may come. */
function addPart(view, turn, part, open) {
  const own = { text: "", data: null, ...part, open };
  turn.parts.push(own);
  view.parts.set(own.id, { turn, part: own });
}

function forgetParts(view, turn) {
  for (const part of turn.parts) view.parts.delete(part.id);
}

function liveNode(turn) {
  return { id: turn.answer, role: "assistant", parent: turn.message.id, turn_state: turn.state, live: turn };
}

function liveItem(node, view) {
  const turn = node.live;
  return {
    key: turn.answer,
    follows: `starting-${turn.message.client_id}`,
    role: "assistant",
    status: turn.state,
    turn: turn.id,
    parts: turn.parts,
    steps: turn.steps,
    activity: turn.activity,
    question: turn.question,
    answering: turn.question ? (view.answering.get(turn.question.question) ?? null) : null,
    stopping: view.stopping.has(turn.id) || view.stopping.has(""),
    siblings: view.siblings(node),
    rev: turn.rev,
  };
}

function storedItem(message, view) {
  const end = view.ends.get(message.id);
  return {
    key: message.id,
    follows: `pending-${message.client_id}`,
    role: message.role,
    status: message.status,
    turn: message.turn,
    parts: message.parts ?? [],
    steps: end?.steps ?? null,
    error: end?.error ?? null,
    usage: end?.usage ?? null,
    created: message.created,
    feedback: message.feedback ?? null,
    isClosed: view.isClosed,
    siblings: message.role === "notice" ? [] : view.siblings(message),
    rev: 0,
  };
}

function queuedItem(turn, view) {
  return {
    key: turn.message.id,
    follows: `pending-${turn.message.client_id}`,
    role: "user",
    status: "queued",
    turn: turn.id,
    place: turn.place,
    parts: turn.message.parts ?? [],
    steps: [],
    stopping: view.stopping.has(turn.id),
    siblings: [],
    rev: turn.rev,
  };
}

function pendingItem(command) {
  return {
    key: `pending-${command.id}`,
    type: command.type,
    role: "user",
    status: command.error ? "failed" : "sending",
    command: command.id,
    parts: [
      { id: command.id, kind: "text", text: command.text, data: null },
      ...command.attached.map((file) => ({ id: file.id, kind: "data", text: "", data: { ...file, file: file.id } })),
    ],
    steps: [],
    error: command.error,
    siblings: [],
    rev: 0,
  };
}

function startingItem(command) {
  return { key: `starting-${command.id}`, role: "assistant", status: "starting", parts: [], steps: [], siblings: [], rev: 0 };
}

/** The plain text of a message: what is copied, edited, said again. */
export function textOf(parts) {
  return (parts ?? [])
    .filter((part) => part.kind === "text")
    .map((part) => part.text)
    .join("\n\n");
}
