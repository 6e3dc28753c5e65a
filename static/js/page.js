/** What every page has: the choices of look and language, and the drawer on narrow screens. */

import { notice } from "./dialog.js";
import { icon } from "./dom.js";
import { gettext } from "./i18n.js";
import { keep } from "./kept.js";
import { menuOf } from "./menu.js";
import { Rest } from "./rest.js";

const node = document.getElementById("config");

/** What the server says of this page and its user; null for one who is not signed in. */
export const config = node && JSON.parse(node.textContent);
export const rest = config && new Rest(config);

const LOOKS = {
  system: { next: "light", icon: "system", label: () => gettext("Look: as the system") },
  light: { next: "dark", icon: "sun", label: () => gettext("Look: light") },
  dark: { next: "system", icon: "moon", label: () => gettext("Look: dark") },
};

function chooseLook(button) {
  const root = document.documentElement;
  const paint = () => {
    const look = LOOKS[root.dataset.theme ?? "system"];
    button.replaceChildren(icon(look.icon));
    button.title = look.label();
    button.setAttribute("aria-label", look.label());
  };
  button.addEventListener("click", () => {
    const { next } = LOOKS[root.dataset.theme ?? "system"];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    keep(localStorage, "headrace.theme", next === "system" ? null : next);
    rest?.call("PATCH", "me/", { theme: next === "system" ? "" : next }, true).catch(() => {}); // it is kept here too
    paint();
  });
  paint();
}

/** The user's own language, kept with him: pages, and sentences from the server, speak it from then on. */
function chooseLanguage(button) {
  const choose = async (locale) => {
    languageCookie("");
    try {
      await rest.call("PATCH", "me/", { locale });
      location.reload();
    } catch (error) {
      notice(error.message);
    }
  };
  const chosen = config.user.locale;
  menuOf(button, () => [
    { label: gettext("As the browser says"), isChecked: !chosen, run: () => choose("") },
    ...config.languages.map(([code, name]) => ({ label: name, isChecked: chosen === code, run: () => choose(code) })),
  ]);
}

/** Before the log-in: as long as the browser is open, in the cookie that the server's pages look at. */
function chooseLanguageHere(button) {
  const chosen = document.cookie.match(/(?:^|; )django_language=([^;]+)/)?.[1];
  const choose = (locale) => {
    languageCookie(locale);
    location.assign(location.href); // and no reload, which would send the form once more
  };
  menuOf(button, () => [
    { label: gettext("As the browser says"), isChecked: !chosen, run: () => choose("") },
    ...JSON.parse(button.dataset.languages).map(([code, name]) => ({
      label: name,
      isChecked: chosen === code,
      run: () => choose(code),
    })),
  ]);
}

function languageCookie(locale) {
  document.cookie = `django_language=${locale}; path=/; samesite=lax${locale ? "" : "; max-age=0"}`;
}

function drawer(side, opener) {
  const backdrop = document.querySelector("[data-backdrop]");
  const narrow = matchMedia("(max-width: 767px)");
  const move = (isOpen) => {
    side.classList.toggle("open", isOpen);
    backdrop.hidden = !isOpen;
    opener.setAttribute("aria-expanded", String(isOpen));
    side.inert = narrow.matches && !isOpen;
    if (isOpen) side.querySelector("a, button")?.focus();
  };
  opener.addEventListener("click", () => move(!side.classList.contains("open")));
  side.querySelector("[data-close]")?.addEventListener("click", () => {
    move(false);
    opener.focus();
  });
  backdrop.addEventListener("click", () => move(false));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !side.classList.contains("open")) return;
    event.stopImmediatePropagation();
    move(false);
    opener.focus();
  });
  narrow.addEventListener("change", () => move(false));
  move(false);
}

/** Text areas grow by style where the browser can, else by hand. */
function growByHand() {
  document.addEventListener("input", ({ target }) => {
    if (!target.matches("textarea")) return;
    target.style.height = "auto";
    target.style.height = `${target.scrollHeight + target.offsetHeight - target.clientHeight}px`;
  });
}

if (!CSS.supports("field-sizing", "content")) growByHand();
for (const button of document.querySelectorAll("[data-look]")) chooseLook(button);
for (const button of document.querySelectorAll("[data-language]")) {
  if (config) chooseLanguage(button);
  else if (button.dataset.languages) chooseLanguageHere(button);
  else button.hidden = true;
}
const side = document.querySelector("[data-drawer]");
if (side) drawer(side, document.querySelector("[data-open-drawer]"));
