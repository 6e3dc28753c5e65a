/** The page of a flow's editor: joins the draft's text, the form, the picture, faults, builds, debug runs, versions. */

import { notice } from "./dialog.js";
import { el, setText } from "./dom.js";
import { Cards, adder } from "./editor/cards.js";
import { ask, difference, sideBySide } from "./editor/dialogs.js";
import { Faults } from "./editor/faults.js";
import { FlowRest } from "./editor/flow.js";
import { addNode, duplicate, format, indexOf, read, removeEdge, removeNode, rename, setEdge, setField, setFieldTree, setKind, setTitle } from "./editor/graph.js";
import { find, parse } from "./editor/json.js";
import { Local } from "./editor/local.js";
import { Panels } from "./editor/panels.js";
import { Picture } from "./editor/picture.js";
import { nodeAt } from "./editor/places.js";
import { Source } from "./editor/source.js";
import { Trial } from "./editor/trial.js";
import { Versions } from "./editor/versions.js";
import { W } from "./editor/words.js";
import { interpolate } from "./i18n.js";
import { menuOf } from "./menu.js";
import { config } from "./page.js";

const POLL_MS = 200;
const LONG_S = 20;
const $ = (name) => document.querySelector(`[data-${name}]`);

const rest = new FlowRest(config);
const local = new Local(config.user.id, config.flow.id, localStorage);
const world = { kinds: new Map(), providers: config.providers };
const panels = new Panels($("panels"));

let graph = read("{}"); // the draft as it stands
let whole = graph; // the last one that was JSON: what form and picture show
let saved = { text: null, revision: 0 }; // what the server has
let builtText = null; // what the last successful build was made of
let isSaving = null;
let isFlowOnline = false;

const source = new Source($("source"), {
  label: $("source").dataset.label,
  world,
  graph: () => graph,
  on: { change: changed, cursor: (position) => select(nodeAt(graph, position), { scrolls: true }) },
});
const faults = new Faults($("faults"), rest, { graph: () => graph, lineOf: (at) => source.lineOf(at), onFaults: marked, onGo: go });
const cards = new Cards($("cards"), world, {
  set: (index, path, value) => source.edit(setField(whole, index, path, value)),
  setTree: (index, path, tree) => source.edit(setFieldTree(whole, index, path, tree)),
  setTitle: (index, title) => source.edit(setTitle(whole, index, title)),
  setKind: (index, kind) => source.edit(setKind(whole, index, kind)),
  rename(index, id) {
    source.edit(rename(whole, index, id));
    select(id);
  },
  setEdge: (from, branch, to) => source.edit(setEdge(whole, from, branch, to)),
  removeEdge: (index) => source.edit(removeEdge(whole, index)),
  add: insert,
  duplicate(index) {
    const { id, changes } = duplicate(whole, index);
    source.edit(changes);
    select(id, { opens: true, focuses: true });
  },
  remove(index) {
    const next = whole.nodes[index + 1] ?? whole.nodes[index - 1];
    source.edit(removeNode(whole, index));
    if (next) select(next.id, { opens: true, focuses: true });
  },
  select: (id) => select(id),
});
const picture = new Picture($("picture"), {
  kinds: world.kinds,
  onSelect(id) {
    panels.showIfAlone("form");
    select(id, { scrolls: true, opens: true });
  },
});
const trial = new Trial($("trial"), config, {
  ready: built,
  forgotten: () => (builtText = null),
  graph: () => whole,
  kinds: world.kinds,
  select: (id) => select(id, { scrolls: true }),
  ran(trace) {
    cards.ran(trace);
    picture.ran(trace);
  },
});
const versions = new Versions($("versions"), rest, {
  draftText: () => formatted(graph.root),
  format: formatted,
  restore,
  failed: told,
});

// ------------------------------------------------------------------ one document, three views

function changed(text) {
  graph = read(text);
  if (graph.isWhole) {
    whole = graph;
    cards.update(whole);
    picture.update(whole);
  }
  $("not-json").hidden = graph.isWhole;
  $("cards").inert = !graph.isWhole;
  $("picture").inert = !graph.isWhole;
  if (saved.text !== null) {
    if (isDirty()) local.keepSoon(text, saved.revision);
    else local.forget();
    if (builtText !== null && text !== builtText) trial.changed();
    faults.checkSoon();
  }
  paint();
}

function isDirty() {
  return saved.text !== null && source.text !== saved.text;
}

function formatted(tree) {
  return format(tree, world.kinds);
}

/** One node is the selected one, in the form, in the picture, in the text. */
function select(id, { scrolls = false, opens = false, focuses = false } = {}) {
  if (!id) return;
  if (opens) cards.reveal(id, { focus: focuses });
  else cards.select(id);
  if (scrolls && !opens) cards.cardOf(id)?.node.scrollIntoView({ block: "nearest" });
  picture.select(id);
  picture.reveal(id);
  showText(id);
}

/** The text follows the form and the picture, unless one writes in it. */
function showText(id) {
  if (document.activeElement === $("source") || !graph.isWhole) return;
  const tree = find(graph.root, ["nodes", indexOf(graph, id)]);
  if (tree) source.reveal({ from: tree.from, to: tree.from });
}

function insert(kind, after = null) {
  const node = whole.nodes.find((one) => one.id === after);
  const branch = node ? (whole.edges.find((edge) => edge.from === after)?.branch ?? firstBranch(node)) : null;
  const { id, changes } = addNode(whole, kind, { after, branch });
  source.edit(changes);
  select(id, { opens: true, focuses: true });
}

/** A node without an edge that must choose: its first branch. */
function firstBranch(node) {
  const select = cards.cardOf(node.id)?.node.querySelector("[data-branch]");
  return select?.dataset.branch || null;
}

function marked(list) {
  source.mark(list.map(({ range, text }) => ({ ...range, message: text })));
  cards.mark(list.filter((one) => one.fault).map((one) => one.fault));
  const byNode = new Map();
  for (const { node } of list) if (node) byNode.set(node, (byNode.get(node) ?? 0) + 1);
  picture.mark(byNode);
  const count = $("fault-count");
  count.hidden = !list.length;
  setText(count, String(list.length));
}

/** To the node and field of a fault; to the text where it is the text's. */
function go({ target, range }) {
  source.reveal(range);
  const node = target && whole.nodes[target.index];
  if (!node || !graph.isWhole) {
    panels.showIfAlone("json");
    source.reveal(range, true);
    return;
  }
  panels.showIfAlone("form");
  picture.select(node.id);
  picture.reveal(node.id);
  cards.reveal(node.id, target);
}

function paint() {
  const state = isSaving ? W.saving : isDirty() ? W.unsaved : W.saved;
  setText($("save-state"), saved.text === null ? "" : state);
  $("save-state").dataset.state = isSaving ? "saving" : isDirty() ? "unsaved" : "saved";
  $("save-state").title = isDirty() ? W.unsavedHint : "";
  $("save").disabled = !isDirty() || Boolean(isSaving) || !graph.isWhole;
  $("undo").disabled = !source.canUndo;
  $("redo").disabled = !source.canRedo;
  $("build").disabled = !graph.isWhole || isBuilding;
  $("publish").disabled = !graph.isWhole || isBuilding;
  if (!isBuilding) setText($("build-state"), builtText === null ? W.notBuilt : builtText === source.text ? W.built : W.buildOld);
}

// ------------------------------------------------------------------ saving

function told(error) {
  notice(interpolate(W.failed, { why: error.message }), null, LONG_S);
  if (error.faults) faults.show(error.faults);
}

/** Saves what stands here. True where the server has it afterwards. */
async function save() {
  if (isSaving) return isSaving;
  if (!isDirty()) return true;
  isSaving = saveNow(source.text, saved.revision).finally(() => {
    isSaving = null;
    paint();
  });
  paint();
  return isSaving;
}

async function saveNow(text, revision) {
  try {
    const { flow } = await rest.save(text, revision);
    accepted(flow, text);
    return true;
  } catch (error) {
    if (error.code === "conflict") return settle(text);
    notice(interpolate(W.saveFailed, { why: error.message }), null, LONG_S);
    if (error.faults) faults.show(error.faults);
    return false;
  }
}

function accepted(flow, text) {
  saved = { text, revision: flow.revision };
  toldOf(flow);
  if (source.text === text) local.forget();
  else local.keepSoon(source.text, saved.revision);
  paint();
}

/** Somebody saved meanwhile: both are shown, nothing is lost until one of them is chosen. */
async function settle(mine) {
  const { flow, draft } = await rest.load();
  const theirs = formatted(draft);
  const { root, errors } = parse(mine);
  const choice = await ask({
    title: W.conflict,
    hint: W.conflictHint,
    body: sideBySide(theirs, errors.length ? mine : formatted(root), { theirs: W.theirs, mine: W.mine }),
    isWide: true,
    actions: [
      { value: "later", label: W.goOn, look: "small quiet" },
      { value: "theirs", label: W.takeTheirs, look: "small" },
      { value: "mine", label: W.keepMine },
    ],
  });
  if (choice === "mine") return saveNow(mine, flow.revision);
  if (choice !== "theirs") return false;
  saved = { text: theirs, revision: flow.revision };
  toldOf(flow);
  source.replace(theirs);
  local.forget();
  paint();
  return true;
}

/** What the server says of the flow beside its draft. */
function toldOf(flow) {
  const isOnline = flow.status === "online";
  setText($("status"), isOnline ? interpolate(W.isOnline, { number: flow.version }) : W.isOffline);
  $("status").classList.toggle("online", isOnline);
  isFlowOnline = isOnline;
  versions.told(flow);
}

// ------------------------------------------------------------------ building, publishing, going back

let isBuilding = false;

/** Saves and builds the draft as it stands. True where it is built then. */
async function built() {
  if (!(await save())) return false;
  if (builtText === source.text) return true;
  const text = source.text;
  isBuilding = true;
  progress({ status: "started", progress: 0 });
  paint();
  try {
    const build = await followed((await rest.startBuild()).build);
    if (build.status === "success") builtText = text;
    else failedBuild(build);
    return build.status === "success";
  } catch (error) {
    told(error);
    return false;
  } finally {
    isBuilding = false;
    $("progress").hidden = true;
    paint();
  }
}

/** Looks at the build until it has ended. */
async function followed(id) {
  for (;;) {
    const build = await rest.build();
    progress(build);
    if (build.build !== id || build.status === "success" || build.status === "failure") return build;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function progress({ status, progress: done }) {
  $("progress").hidden = false;
  $("progress").value = done;
  setText($("build-state"), W.buildStates[status]);
}

function failedBuild(build) {
  faults.show(build.faults);
  panels.show("faults");
  notice(build.faults.length ? interpolate(W.trialNeedsBuild, { text: build.faults[0].text }) : W.buildFailed, null, LONG_S);
}

async function publish() {
  if (!(await built())) return;
  const online = await versions.online();
  const draft = formatted(graph.root);
  const note = el("textarea", { rows: "2", class: "grows", maxlength: "2000", id: "publish-note" });
  const title = online ? interpolate(W.sinceOnline, { number: online.number }) : W.firstVersion;
  const isSame = online?.text === draft;
  const choice = await ask({
    title: W.publish,
    isWide: true,
    body: el(
      "div",
      { class: "publish" },
      el("div", { class: "field" }, el("label", { for: "publish-note" }, $("publish").dataset.note), note),
      el("h3", {}, title),
      isSame ? el("p", { class: "hint" }, W.nothingNew) : online ? difference(online.text, draft) : null,
    ),
    actions: [
      { value: null, label: W.cancel, look: "small quiet" },
      { value: "publish", label: W.publish },
    ],
  });
  if (choice !== "publish") return;
  const version = await rest.publish(note.value.trim());
  await refreshed();
  notice(interpolate(W.published, { number: version.number }), { label: W.chatWithIt, run: openChat });
}

function openChat() {
  location.href = `/f/${config.flow.slug}/`;
}

async function offline() {
  const choice = await ask({
    title: W.askOffline,
    hint: W.offlineHint,
    actions: [
      { value: null, label: W.cancel, look: "small quiet" },
      { value: "offline", label: W.takeOffline },
    ],
  });
  if (choice !== "offline") return;
  toldOf(await rest.offline());
  versions.paint();
  notice(W.takenOffline);
}

async function refreshed() {
  const { flow } = await rest.load();
  toldOf(flow);
  await versions.refresh();
}

async function restore(number) {
  const hints = [interpolate(W.restoreHint, { number }), isDirty() ? W.restoreLoses : null].filter(Boolean).join(" ");
  const choice = await ask({
    title: interpolate(W.restoreVersion, { number }),
    hint: hints,
    actions: [
      { value: null, label: W.cancel, look: "small quiet" },
      { value: "restore", label: W.restore },
    ],
  });
  if (choice !== "restore") return;
  try {
    const { flow, draft } = await rest.restore(number, saved.revision);
    const text = formatted(draft);
    accepted(flow, text);
    source.replace(text);
    notice(interpolate(W.restoredVersion, { number }));
  } catch (error) {
    if (error.code === "conflict") await settle(source.text);
    else told(error);
  }
}

// ------------------------------------------------------------------ the page's own life

function act(name, run) {
  $(name).addEventListener("click", () => Promise.resolve(run()).catch(told));
}

act("save", save);
act("build", async () => {
  if ((await built()) && !$("build-state").offsetParent) notice(W.built); // elsewhere it stands beside the button
});
act("publish", publish);
act("undo", () => source.undo());
act("redo", () => source.redo());
act("format", () => {
  if (graph.isWhole) source.replace(formatted(graph.root));
});
menuOf($("more"), () => [
  isFlowOnline ? { label: W.chatWithIt, icon: "chat", run: openChat } : null,
  { label: W.exportIt, icon: "download", run: () => (location.href = `${config.api}flows/${config.flow.id}/export/`) },
  config.admin ? { label: W.admin, icon: "cog", run: () => (location.href = config.admin) } : null,
  isFlowOnline ? { label: W.takeOffline, icon: "plug", run: () => offline().catch(told), isGrave: true } : null,
]);
act("zoom-in", () => picture.zoom(1.25));
act("zoom-out", () => picture.zoom(0.8));
act("zoom-fit", () => picture.fit());

document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || document.querySelector("dialog[open]")) return;
  const key = event.key.toLowerCase();
  const isInText = event.target === $("source");
  if (key === "s") save();
  else if (key === "z" && !isInText && !isPlainText(event.target)) event.shiftKey ? source.redo() : source.undo();
  else if (key === "y" && !isInText && !isPlainText(event.target)) source.redo();
  else return;
  event.preventDefault();
});

/** Fields that are not of the draft have an undo of their own. */
function isPlainText(target) {
  return target.matches("input, textarea") && !$("cards").contains(target);
}

addEventListener("pagehide", () => local.keep());
addEventListener("beforeunload", () => local.keep());

async function begin() {
  const [{ flow, draft }, kinds] = await Promise.all([rest.load(), rest.kinds()]);
  for (const kind of kinds) world.kinds.set(kind.kind, kind);
  $("adder").append(adder(world.kinds, W.addNode, (kind) => insert(kind, cards.selected)));
  const text = formatted(draft);
  source.begin(text);
  saved = { text, revision: flow.revision };
  toldOf(flow);
  bringBack();
  changed(source.text);
  const first = whole.nodes[0]?.id;
  if (first) select(first, { opens: true });
  document.body.dataset.ready = "true";
  versions.refresh();
}

/** What was written here and never saved is put over the draft; where somebody saved since then, both are shown. */
function bringBack() {
  const kept = local.read();
  if (!kept || kept.text === saved.text) return;
  const isStale = kept.revision !== saved.revision;
  saved = { text: saved.text, revision: kept.revision };
  source.replace(kept.text);
  if (isStale) settle(kept.text).catch(told);
  else notice(W.restored, { label: W.discard, run: () => discard().catch(told) }, LONG_S);
}

async function discard() {
  local.forget();
  const { flow, draft } = await rest.load();
  const text = formatted(draft);
  accepted(flow, text);
  source.replace(text);
}

begin().catch((error) => {
  setText($("save-state"), "");
  notice(interpolate(W.loadFailed, { why: error.message }), null, LONG_S);
});
