export { EditorState, EditorSelection, Annotation, Compartment, StateEffect, Transaction } from "@codemirror/state";
export {
  EditorView, keymap, lineNumbers, highlightActiveLine, highlightActiveLineGutter, drawSelection, placeholder, tooltips,
} from "@codemirror/view";
export {
  defaultKeymap, history, historyKeymap, undo, redo, undoDepth, redoDepth, isolateHistory,
} from "@codemirror/commands";
export {
  HighlightStyle, syntaxHighlighting, bracketMatching, foldGutter, foldKeymap, indentUnit, indentOnInput,
} from "@codemirror/language";
export { autocompletion, completionKeymap, closeBrackets, closeBracketsKeymap, startCompletion, completionStatus } from "@codemirror/autocomplete";
export { setDiagnostics, lintGutter, lintKeymap, nextDiagnostic } from "@codemirror/lint";
export { search, searchKeymap, highlightSelectionMatches } from "@codemirror/search";
export { json } from "@codemirror/lang-json";
export { tags } from "@lezer/highlight";
