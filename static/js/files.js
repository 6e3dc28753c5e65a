/**
 * Files beside a message: chosen, dropped or pasted, sent up at once, each with its progress, its error and a way to
 * take it away. What is too large is said before anything is sent.
 */

import { el, icon, iconButton, setText } from "./dom.js";
import { gettext, interpolate } from "./i18n.js";

/** What the server says of a file that it would never take, however often it is sent. */
const REFUSED = new Set(["file_too_large", "file_type_not_allowed", "bad_filename", "empty_file", "file_decompression_limit"]);

export class Files {
  /**
   * @param tray where the files are shown
   * @param rest knows the address and the token
   * @param onChange called whenever a file comes, goes or is whole
   */
  constructor(tray, rest, onChange) {
    this.tray = tray;
    this.rest = rest;
    this.onChange = onChange;
    this.limit = Infinity; // bytes of one file
    this.most = Infinity; // files of one message
    this.list = [];
  }

  get isBusy() {
    return this.list.some((file) => file.state === "going");
  }

  get hasFailed() {
    return this.list.some((file) => file.state === "failed");
  }

  /** Whether one of those that failed may go another time. */
  get mayGoAgain() {
    return this.list.some((file) => file.state === "failed" && !file.again.hidden);
  }

  /** Whether all of them are such as are never taken: then they are nothing to send. */
  get areRefused() {
    return this.list.every((file) => file.state === "failed" && file.again.hidden);
  }

  get whole() {
    return this.list.filter((file) => file.state === "whole").map((file) => file.stored);
  }

  add(chosen) {
    for (const one of chosen) {
      const file = this.row(one);
      this.list.push(file);
      this.tray.append(file.node);
      if (this.list.length > this.most) this.fail(file, interpolate(gettext("A message takes %(count)s files at most."), { count: this.most }));
      else if (one.size > this.limit) this.fail(file, interpolate(gettext("Too large: %(size)s; %(limit)s at most."), { size: sizeOf(one.size), limit: sizeOf(this.limit) }));
      else if (!one.size) this.fail(file, gettext("The file is empty."));
      else this.send(file);
    }
    this.changed();
  }

  row(one) {
    const file = { one, state: "going", stored: null };
    file.said = el("span", { class: "file-said" }, sizeOf(one.size));
    file.bar = el("progress", { max: "1", value: "0", "aria-label": interpolate(gettext("Sending %(name)s"), { name: one.name }) });
    file.again = iconButton("redo", interpolate(gettext("Send %(name)s again"), { name: one.name }), () => this.send(file));
    file.again.hidden = true;
    file.node = el(
      "li",
      { class: "file" },
      icon(one.type.startsWith("image/") ? "image" : "file"),
      el("span", { class: "file-name", title: one.name }, one.name),
      file.said,
      file.bar,
      file.again,
      iconButton("close", interpolate(gettext("Remove %(name)s"), { name: one.name }), () => this.remove(file)),
    );
    return file;
  }

  send(file) {
    file.state = "going";
    file.again.hidden = true;
    file.bar.hidden = false;
    file.node.classList.remove("failed");
    const request = (file.request = new XMLHttpRequest()); // fetch tells no progress of what goes up
    request.open("POST", `${this.rest.api}files/`);
    request.setRequestHeader("X-CSRFToken", this.rest.csrf);
    request.setRequestHeader("Accept", "application/json");
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => (file.bar.value = total ? loaded / total : 0);
    request.onload = () => {
      if (request.status === 201 && request.response?.id) this.done(file, request.response);
      else {
        const error = request.response?.error;
        this.fail(file, error?.text ?? gettext("The server did not take it."), !REFUSED.has(error?.code));
      }
      this.changed();
    };
    request.onerror = () => {
      this.fail(file, gettext("The connection was lost."), true);
      this.changed();
    };
    const body = new FormData();
    body.append("file", file.one, file.one.name);
    request.send(body);
    this.changed();
  }

  done(file, stored) {
    file.state = "whole";
    file.stored = stored;
    file.bar.hidden = true;
    setText(file.said, sizeOf(stored.bytes ?? file.one.size));
  }

  fail(file, sentence, mayWork = false) {
    file.state = "failed";
    file.bar.hidden = true;
    file.again.hidden = !mayWork;
    file.node.classList.add("failed");
    setText(file.said, sentence);
  }

  remove(file) {
    file.request?.abort();
    this.list = this.list.filter((one) => one !== file);
    file.node.remove();
    if (file.stored) this.rest.call("DELETE", `files/${file.stored.id}/`).catch(() => {}); // it goes by itself later
    this.changed();
  }

  /** What is whole now belongs to the message that was sent with it. */
  take() {
    const taken = this.whole;
    this.list = [];
    this.tray.replaceChildren();
    this.changed();
    return taken;
  }

  changed() {
    this.tray.hidden = !this.list.length;
    this.onChange();
  }
}

/** Takes files that are dropped anywhere on `area` or pasted into `input`. */
export function takeFiles(area, input, files) {
  let depth = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const show = (isOver) => area.classList.toggle("dropping", isOver);
  area.addEventListener("dragenter", (event) => hasFiles(event) && show((depth += 1) > 0));
  area.addEventListener("dragleave", (event) => hasFiles(event) && show((depth -= 1) > 0));
  area.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  area.addEventListener("drop", (event) => {
    depth = 0;
    show(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    files.add(event.dataTransfer.files);
  });
  input.addEventListener("paste", (event) => {
    const pasted = event.clipboardData?.files ?? [];
    if (!pasted.length) return;
    event.preventDefault();
    files.add(pasted);
  });
}

export function sizeOf(bytes) {
  const [unit, step] = bytes >= 1024 * 1024 ? ["MiB", 1024 * 1024] : bytes >= 1024 ? ["KiB", 1024] : ["B", 1];
  const number = new Intl.NumberFormat(document.documentElement.lang || undefined, { maximumFractionDigits: 1 });
  return `${number.format(bytes / step)} ${unit}`;
}
