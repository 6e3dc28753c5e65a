/**
 * One chat's socket: opens it, keeps its position, resumes after a cut, acknowledges, sends commands until each has
 * its reply. No DOM: the page says when it wakes; sockets, timers and chance are given, so that tests own them.
 *
 * Promises: `onFrame` gets each event of an epoch once and in order, a snapshot where that cannot be had; each
 * command is sent again after every reconnect until `ok` or `error` answered its id.
 */

export const TIMES = {
  firstRetryMs: 400,
  maxRetryMs: 20000,
  openMs: 12000, // to `welcome`
  quietMs: 20000, // without any frame: ask with a ping
  pongMs: 6000, // without a reply to it: the line is dead
  wakePongMs: 3000, // the same when the page was just woken
  ackEvery: 32,
  ackSpacingMs: 50,
  ackMs: 250,
  steadyMs: 5000, // live for so long: the next cut is a new one
};

/** Refusals that another attempt would only repeat. */
const FINAL = new Set([
  "forbidden", "flow_not_found", "skill_not_found", "version_not_found", "chat_not_found", "bad_request",
  "not_supported", "flow_offline", "session_closed", "too_many_errors",
]);

export class Wire {
  /**
   * @param {(position: {epoch: string, seq: number} | null) => string} url of the socket
   * @param handlers `onFrame(frame)`, `onReply(command, frame)`, `onState(state)`, `onOutbox(commands)`
   * @param world `Socket`, `clock` ({now, setTimeout, clearTimeout}), `random`, `isOnline`, `isSeen`
   */
  constructor(url, handlers, world = {}) {
    this.url = url;
    this.handlers = handlers;
    this.Socket = world.Socket ?? globalThis.WebSocket;
    this.clock = world.clock ?? {
      now: () => performance.now(),
      setTimeout: (fn, ms) => setTimeout(fn, ms),
      clearTimeout: (timer) => clearTimeout(timer),
    };
    this.random = world.random ?? Math.random;
    this.isOnline = world.isOnline ?? (() => globalThis.navigator?.onLine !== false);
    this.isSeen = world.isSeen ?? (() => globalThis.document?.visibilityState !== "hidden");
    this.position = null;
    this.outbox = new Map(); // id -> command without a reply
    this.state = { name: "closed", attempt: 0 };
    this.socket = null;
    this.attempt = 0;
    this.refusal = null; // the last error frame that was about the connection
    this.retryAfterMs = 0;
    this.unacked = 0;
    this.received = 0; // the last position of this socket
    this.timers = {};
    this.trace = null;
  }

  open() {
    this.stopTimers();
    this.abandon();
    this.refusal = null;
    this.move({ name: "connecting", attempt: this.attempt });
    let socket;
    try {
      socket = new this.Socket(this.url(this.position), ["headrace.v1"]);
    } catch {
      this.lost();
      return;
    }
    this.socket = socket;
    this.isWelcome = false;
    this.unacked = 0;
    socket.onmessage = (event) => this.socket === socket && this.heard(event.data);
    socket.onclose = (event) => this.socket === socket && this.closed(event.code, event.reason);
    this.timer("open", TIMES.openMs, () => this.cut());
  }

  /** Ends it for good. */
  close() {
    this.stopTimers();
    this.abandon();
    this.move({ name: "closed", attempt: 0 });
  }

  /** Now, not at the next try. */
  tryNow() {
    this.retryAfterMs = 0;
    this.open();
  }

  /** The page is seen again, has focus, or the network is back: trust nothing. */
  wake() {
    const name = this.state.name;
    if (name === "live") {
      if (this.clock.now() - this.lastHeard > 2000) this.probe(TIMES.wakePongMs);
    } else if (name === "reconnecting" || name === "offline" || name === "idle" || name === "signed_out") {
      this.tryNow();
    }
  }

  /** The browser says that there is no network. */
  wentOffline() {
    if (this.state.name === "reconnecting") this.move({ ...this.state, name: "offline" });
    else if (this.state.name === "live") this.probe(TIMES.wakePongMs);
  }

  /** Sends a command, now or once there is a line. Returns its id. */
  send(type, fields = {}, id = newId()) {
    const command = { type, id, ...fields };
    this.outbox.set(id, command);
    this.handlers.onOutbox?.([...this.outbox.values()]);
    if (this.state.name === "live") this.write(command);
    else if (this.state.name === "idle") this.tryNow();
    return id;
  }

  /** Commands of an earlier life of the page; they are sent once the line stands. */
  restore(commands) {
    for (const command of commands) this.outbox.set(command.id, command);
  }

  // ------------------------------------------------------------------ in

  heard(data) {
    this.lastHeard = this.clock.now();
    if (typeof data !== "string") return;
    const frame = JSON.parse(data);
    this.watch();
    if (frame.seq !== undefined && frame.type !== "welcome" && frame.type !== "snapshot") {
      this.event(frame);
    } else if (frame.type === "welcome") {
      this.welcome(frame);
    } else if (frame.type === "snapshot") {
      this.position = { epoch: frame.epoch, seq: frame.seq };
      this.handlers.onFrame(frame);
    } else if (frame.type === "ok" || (frame.type === "error" && frame.id)) {
      this.reply(frame);
    } else if (frame.type === "error") {
      this.refusal = frame;
      this.refusedAt = this.clock.now();
      this.handlers.onFrame(frame);
    } else if (frame.type === "going_away") {
      this.retryAfterMs = (frame.retry_after ?? 0) * 1000;
      this.isGoingAway = true;
      this.handlers.onFrame(frame);
    } else if (frame.type !== "pong") {
      this.handlers.onFrame(frame);
    }
  }

  welcome(frame) {
    this.clear("open");
    this.isWelcome = true;
    this.isGoingAway = false;
    this.trace = frame.trace;
    this.timer("steady", TIMES.steadyMs, () => (this.attempt = 0));
    this.handlers.onFrame(frame);
    this.move({ name: "live", attempt: 0 });
    for (const command of this.outbox.values()) this.write(command);
  }

  /** An event that is the next one is applied, one that was had is not, one too far ahead means a lost one. */
  event(frame) {
    if (!this.position || frame.seq > this.position.seq + 1) {
      this.cut();
      return;
    }
    if (frame.seq === this.position.seq + 1) {
      this.position = { epoch: this.position.epoch, seq: frame.seq };
      this.handlers.onFrame(frame);
    }
    this.received = frame.seq;
    this.unacked += 1;
    if (this.unacked === 1) this.timer("ack", TIMES.ackMs, () => this.ack());
    else if (this.unacked === TIMES.ackEvery) {
      const wait = (this.lastAck ?? -Infinity) + TIMES.ackSpacingMs - this.clock.now();
      if (wait <= 0) this.ack();
      else this.timer("ack", wait, () => this.ack());
    }
  }

  reply(frame) {
    const command = this.outbox.get(frame.id);
    if (!command) return;
    this.outbox.delete(frame.id);
    this.handlers.onOutbox?.([...this.outbox.values()]);
    this.handlers.onReply(command, frame);
  }

  // ------------------------------------------------------------------ out

  write(frame) {
    if (this.socket && this.isWelcome && this.socket.readyState === 1) this.socket.send(JSON.stringify(frame));
  }

  ack() {
    this.clear("ack");
    if (!this.unacked) return;
    this.unacked = 0;
    this.lastAck = this.clock.now();
    this.write({ type: "ack", seq: this.received });
  }

  /**
   * No frame for a while: ask, and give the line up if nothing answers. A half-open socket raises no error. A page
   * that nobody sees asks nothing: it does so when it wakes, and may rest until then.
   */
  watch() {
    this.clear("pong");
    this.timer("quiet", TIMES.quietMs, () => (this.isSeen() ? this.probe(TIMES.pongMs) : this.watch()));
  }

  probe(patienceMs) {
    this.write({ type: "ping", t: Math.round(this.clock.now()) });
    this.timer("pong", patienceMs, () => this.cut());
  }

  // ------------------------------------------------------------------ its end, and the next try

  closed(code, reason) {
    this.socket = null;
    this.stopTimers();
    const refusal = this.refusalOf(reason);
    const name = refusal?.code;
    if (name === "unauthorized") this.move({ name: "signed_out", attempt: 0, refusal });
    else if (name === "idle") this.move({ name: "idle", attempt: 0, refusal });
    else if (name === "chat_deleted") this.move({ name: "deleted", attempt: 0, refusal });
    else if (FINAL.has(name)) this.move({ name: "refused", attempt: 0, refusal });
    else this.lost(refusal ?? (code === 1012 ? { code: "going_away", text: "" } : null));
  }

  /** The error frame that came before the close, or what the close itself says. An old frame is about something else. */
  refusalOf(reason) {
    const isFresh = this.refusal && (this.refusal.code === reason || this.clock.now() - this.refusedAt < 3000);
    if (isFresh) return this.refusal;
    return reason && /^[a-z_]+$/.test(reason) ? { code: reason, text: "" } : null;
  }

  /** Gives up this socket without waiting for its close, which may never come. */
  cut() {
    this.stopTimers();
    this.abandon();
    this.lost();
  }

  lost(refusal = null) {
    this.attempt += 1;
    if (refusal?.retry_after) this.retryAfterMs = refusal.retry_after * 1000;
    const backoff = Math.min(TIMES.maxRetryMs, TIMES.firstRetryMs * 2 ** (this.attempt - 1));
    const delay = Math.max(this.retryAfterMs, backoff) * (0.5 + this.random() / 2);
    this.retryAfterMs = 0;
    this.move({
      name: this.isOnline() ? "reconnecting" : "offline",
      attempt: this.attempt,
      nextAt: this.clock.now() + delay,
      refusal,
      isGoingAway: Boolean(this.isGoingAway) || refusal?.code === "going_away",
    });
    this.timer("retry", delay, () => this.open());
  }

  abandon() {
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }

  move(state) {
    this.state = state;
    this.handlers.onState?.(state);
  }

  // ------------------------------------------------------------------ timers, by name: a new one replaces its like

  timer(name, ms, fn) {
    this.clear(name);
    this.timers[name] = this.clock.setTimeout(() => {
      delete this.timers[name];
      fn();
    }, ms);
  }

  clear(name) {
    if (this.timers[name] === undefined) return;
    this.clock.clearTimeout(this.timers[name]);
    delete this.timers[name];
  }

  stopTimers() {
    for (const name of Object.keys(this.timers)) this.clear(name);
  }
}

/** A UUIDv4; `crypto.randomUUID` is there in secure contexts only, and a page may be served over plain http. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
