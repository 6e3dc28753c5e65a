/** Translations: Django's catalogue where the page has loaded it, else the English source. */

export const gettext = (text) => (globalThis.gettext ? globalThis.gettext(text) : text);

export const ngettext = (one, many, count) =>
  globalThis.ngettext ? globalThis.ngettext(one, many, count) : count === 1 ? one : many;

export function interpolate(text, values) {
  return text.replace(/%\((\w+)\)s/g, (all, name) => values[name] ?? all);
}
