/**
 * Follows the end of a growing text while its reader is there, and lets go as soon as he moves away: by wheel, touch,
 * keys, scroll bar or selection, whatever the distance. A button brings him back; it says "New below" only where
 * text has come since he left.
 */

import { setText } from "./dom.js";
import { gettext } from "./i18n.js";

const AT_END_PX = 8;

export class Follow {
  constructor(scroller, content, button) {
    this.scroller = scroller;
    this.button = button;
    this.label = button.querySelector("[data-text]");
    this.isFollowing = true;
    this.hasNew = false;
    this.shown = "";
    this.top = 0;
    this.seenHeight = 0;
    scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this.release(), { passive: true });
    scroller.addEventListener("touchmove", () => this.release(), { passive: true });
    scroller.addEventListener("keydown", (event) => {
      if (["PageUp", "ArrowUp", "Home"].includes(event.key) && event.target === scroller) this.release();
    });
    scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    document.addEventListener("selectionchange", () => {
      const selection = document.getSelection();
      if (!selection.isCollapsed && content.contains(selection.anchorNode)) this.release();
    });
    button.addEventListener("click", () => this.toEnd());
    const resized = new ResizeObserver(() => this.grown());
    resized.observe(content);
    resized.observe(scroller);
  }

  /** A jump that the reader asked for; from here on the end is followed again. */
  toEnd() {
    this.isFollowing = true;
    this.hasNew = false;
    this.jump();
    this.tell();
  }

  release() {
    this.isFollowing = false;
    this.tell();
  }

  /** `shown` differs where text has come. */
  text(shown) {
    if (shown === this.shown) return;
    if (this.shown && !this.isFollowing && this.distance() > AT_END_PX * 3) this.hasNew = true;
    this.shown = shown;
    this.tell();
  }

  grown() {
    if (this.isFollowing) this.jump();
    this.tell();
  }

  jump() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.top = this.scroller.scrollTop;
  }

  /** Up without our doing (the scroll bar): let go. At the very end: follow again. */
  scrolled() {
    const { scrollTop } = this.scroller;
    if (this.distance() <= AT_END_PX) this.isFollowing = this.isFollowing || scrollTop >= this.top;
    else if (scrollTop < this.top - 1 && !this.isShrinking()) this.isFollowing = false;
    this.top = scrollTop;
    this.tell();
  }

  isShrinking() {
    const shrank = this.scroller.scrollHeight < this.seenHeight;
    this.seenHeight = this.scroller.scrollHeight;
    return shrank;
  }

  distance() {
    return this.scroller.scrollHeight - this.scroller.clientHeight - this.scroller.scrollTop;
  }

  tell() {
    this.seenHeight = this.scroller.scrollHeight;
    const isAtEnd = this.isFollowing || this.distance() <= AT_END_PX * 3;
    if (isAtEnd) this.hasNew = false;
    this.button.hidden = isAtEnd;
    this.button.classList.toggle("new", this.hasNew);
    setText(this.label, this.hasNew ? gettext("New below") : gettext("To the end"));
  }
}
