/**
 * The panels of the page. On a wide screen form, text and picture stand together and one of the side panels beside
 * them; on a narrow one a single panel is shown. Buttons choose; the style sheet does the rest.
 */

const SIDE = ["try", "faults", "versions"];

export class Panels {
  constructor(bar) {
    this.buttons = [...bar.querySelectorAll("[data-show]")];
    for (const button of this.buttons) button.addEventListener("click", () => this.show(button.dataset.show));
    this.alone = matchMedia("(max-width: 1099px)");
    this.alone.addEventListener("change", () => this.paint());
    this.main = "form";
    this.side = "try";
    this.paint();
  }

  show(name) {
    this.main = name;
    if (SIDE.includes(name)) this.side = name;
    this.paint();
  }

  /** Where only one panel is shown: this one. */
  showIfAlone(name) {
    if (this.alone.matches) this.show(name);
  }

  paint() {
    document.body.dataset.main = this.main;
    document.body.dataset.side = this.side;
    for (const button of this.buttons) {
      const { show } = button.dataset;
      const isShown = this.alone.matches ? show === this.main : show === this.side;
      button.setAttribute("aria-pressed", String(isShown));
    }
  }
}
