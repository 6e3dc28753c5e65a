/**
 * The draft's text in CodeMirror: the one document and its one history, for the form too.
 *
 * It lives in a shadow root: there CodeMirror puts its styles into constructable style sheets, which the pages'
 * policy allows, instead of style elements, which it does not.
 */

import {
  EditorState, EditorView, HighlightStyle, autocompletion, bracketMatching, closeBrackets, closeBracketsKeymap,
  completionKeymap, defaultKeymap, drawSelection, foldGutter, foldKeymap, highlightActiveLine, highlightSelectionMatches,
  history, historyKeymap, indentUnit, json, keymap, lineNumbers, lintKeymap, redo, redoDepth, search, searchKeymap,
  setDiagnostics, syntaxHighlighting, tags, undo, undoDepth,
} from "../../vendor/codemirror-6.43.15/codemirror.esm.js";
import { complete } from "./complete.js";

const LOOK = EditorView.theme({
  "&": { height: "100%", color: "var(--ink)", backgroundColor: "var(--surface)", fontSize: "0.8125rem" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-2px" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.6", overflow: "auto" },
  ".cm-content": { caretColor: "var(--accent)", padding: "0.5rem 0" },
  ".cm-cursor": { borderLeftColor: "var(--accent)", borderLeftWidth: "2px" },
  ".cm-gutters": { color: "var(--ink-faint)", backgroundColor: "var(--surface)", border: "none" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "color-mix(in srgb, var(--accent-soft) 45%, transparent)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { background: "var(--accent-line)" },
  ".cm-matchingBracket, &.cm-focused .cm-matchingBracket": { backgroundColor: "var(--accent-soft)", outline: "1px solid var(--accent-line)" },
  ".cm-selectionMatch": { backgroundColor: "var(--brass-soft)" },
  ".cm-foldPlaceholder": { background: "var(--chip)", border: "none", color: "var(--ink-soft)", padding: "0 0.4em" },
  ".cm-tooltip": { background: "var(--raised)", border: "1px solid var(--line-strong)", borderRadius: "8px", overflow: "hidden", color: "var(--ink)" },
  ".cm-tooltip-autocomplete > ul": { fontFamily: "var(--mono)", maxHeight: "16em" },
  ".cm-tooltip-autocomplete > ul > li": { padding: "0.25em 0.6em" },
  ".cm-tooltip-autocomplete > ul > li[aria-selected]": { background: "var(--accent-fill)", color: "var(--on-accent)" },
  ".cm-completionDetail": { color: "inherit", opacity: "0.75", fontStyle: "normal", marginLeft: "0.8em" },
  ".cm-completionMatchedText": { textDecoration: "none", fontWeight: "700" },
  ".cm-diagnostic": { padding: "0.4em 0.7em", borderLeft: "4px solid var(--danger)", fontFamily: "var(--sans)", fontSize: "0.875rem" },
  ".cm-lintRange-error": { backgroundImage: "none", textDecoration: "underline wavy var(--danger) 1.5px", textUnderlineOffset: "3px", textDecorationSkipInk: "none" },
  ".cm-panels": { background: "var(--sunken)", color: "var(--ink)", borderColor: "var(--line)" },
  ".cm-textfield": { background: "var(--surface)", color: "var(--ink)", border: "1px solid var(--line-strong)", borderRadius: "6px", padding: "0.2em 0.5em" },
  ".cm-button": { background: "var(--surface)", color: "var(--ink)", border: "1px solid var(--line-strong)", borderRadius: "6px", backgroundImage: "none" },
});
const COLOURS = HighlightStyle.define([
  { tag: tags.propertyName, color: "var(--hl-keyword)" },
  { tag: tags.string, color: "var(--hl-string)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--hl-number)" },
]);

export class Source {
  /** `on`: change(text), cursor(position); `graph()`: the draft as read last. */
  constructor(box, { label, world, graph, on }) {
    this.root = box.attachShadow({ mode: "open" });
    this.on = on;
    const completing = (context) => {
      const found = complete(graph(), context.pos, world);
      if (!found || (!context.explicit && found.from === found.to && !/["{.\s]/.test(context.state.sliceDoc(context.pos - 1, context.pos)))) return null;
      const typed = context.state.sliceDoc(found.from, context.pos).replace(/^"/, "").toLowerCase();
      const fitting = found.options.filter(({ label }) => label.toLowerCase().includes(typed));
      return { from: found.from, to: found.to, filter: false, options: fitting.map(option) };
    };
    this.extensions = [
      lineNumbers(),
      foldGutter(),
      history(),
      drawSelection(),
      indentUnit.of("  "),
      json(),
      syntaxHighlighting(COLOURS),
      bracketMatching(),
      closeBrackets(),
      autocompletion({ override: [completing], icons: false }),
      highlightActiveLine(),
      highlightSelectionMatches(),
      search({ top: true }),
      keymap.of([...closeBracketsKeymap, ...defaultKeymap, ...searchKeymap, ...historyKeymap, ...foldKeymap, ...completionKeymap, ...lintKeymap]),
      EditorView.lineWrapping,
      EditorView.contentAttributes.of({ "aria-label": label, spellcheck: "false", autocapitalize: "off" }),
      EditorView.updateListener.of((update) => this.updated(update)),
      LOOK,
    ];
    this.view = new EditorView({ root: this.root, parent: this.root, state: EditorState.create({ extensions: this.extensions }) });
  }

  get text() {
    return this.view.state.doc.toString();
  }

  updated(update) {
    if (update.docChanged) this.on.change(this.text);
    const isByHand = update.transactions.some((one) => one.isUserEvent("select") || one.isUserEvent("input") || one.isUserEvent("delete"));
    if (isByHand && update.view.hasFocus) this.on.cursor(update.state.selection.main.head);
  }

  /** A small change made by the form: typing in one field is one step to undo. */
  edit(changes) {
    if (changes.length) this.view.dispatch({ changes, userEvent: "input.type" });
  }

  /** The whole text anew; what is the same at both ends is left alone, so that the history stays small. */
  replace(text) {
    const now = this.text;
    if (now === text) return;
    let from = 0;
    while (from < now.length && from < text.length && now[from] === text[from]) from += 1;
    let end = 0;
    while (end < now.length - from && end < text.length - from && now[now.length - 1 - end] === text[text.length - 1 - end]) end += 1;
    this.view.dispatch({ changes: { from, to: now.length - end, insert: text.slice(from, text.length - end) }, userEvent: "replace" });
  }

  /** The first text: nothing before it can be undone. */
  begin(text) {
    this.view.setState(EditorState.create({ doc: text, extensions: this.extensions }));
    this.on.change(text);
  }

  undo() {
    return undo(this.view);
  }

  redo() {
    return redo(this.view);
  }

  get canUndo() {
    return undoDepth(this.view.state) > 0;
  }

  get canRedo() {
    return redoDepth(this.view.state) > 0;
  }

  /** `[{from, to, message}]` */
  mark(list) {
    const length = this.view.state.doc.length;
    const fit = list.map(({ from, to, message }) => ({ from: Math.min(from, length), to: Math.min(Math.max(to, from), length), message, severity: "error" }));
    this.view.dispatch(setDiagnostics(this.view.state, fit));
  }

  lineOf(position) {
    return this.view.state.doc.lineAt(Math.min(position, this.view.state.doc.length)).number;
  }

  /** Shows a range; `focus`: and lets one write there. */
  reveal({ from, to }, focus = false) {
    const length = this.view.state.doc.length;
    const range = { anchor: Math.min(from, length), head: Math.min(to, length) };
    this.view.dispatch({ selection: range, effects: EditorView.scrollIntoView(range.anchor, { y: "center" }) });
    if (focus) this.view.focus();
  }
}

function option({ label, insert, detail, type }) {
  const inner = insert.endsWith('""') || insert.endsWith("{}") || insert.endsWith("[]") ? insert.length - 1 : insert.length;
  return {
    label,
    detail,
    type,
    apply: (view, completion, from, to) =>
      view.dispatch({ changes: { from, to, insert }, selection: { anchor: from + inner }, userEvent: "input.complete" }),
  };
}
