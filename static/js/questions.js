/** A question of the flow as a card: options as buttons, a free text, or a form made from its schema. */

import { el, icon, setText } from "./dom.js";
import { gettext, interpolate } from "./i18n.js";
import { localTimes, timeOf } from "./times.js";

const RADIOS = 4; // so many choices are shown at once, more go into a list

let count = 0;

export class QuestionCard {
  /** `onAnswer({value} | {action: "decline"})` sends. */
  constructor(onAnswer) {
    this.onAnswer = onAnswer;
    this.node = el("section", { class: "question" });
    this.shown = null;
  }

  /**
   * @param data the part's: question, text, options, schema, and once answered action, value, label
   * @param open the question's event while it waits, else null
   * @param answering own answer on its way: {value, action, error}
   * @param me the user's id
   */
  update(data, open, answering, me) {
    this.me = me;
    const mode = open ? `open ${open.question}` : data.action ? `closed ${data.action}` : "gone";
    if (mode !== this.shown) {
      this.shown = mode;
      if (open) this.ask({ ...data, ...open });
      else this.close(data);
    }
    if (open) this.tell(answering);
  }

  ask(question) {
    const name = `question-${(count += 1)}`;
    const hasOptions = question.options?.length > 0;
    this.node.className = "question open";
    this.node.setAttribute("aria-labelledby", name);
    this.error = el("p", { class: "field-error", role: "alert" });
    this.fields = null;
    const body = hasOptions
      ? this.optionButtons(question)
      : question.schema
        ? this.form(question.schema)
        : this.textField(question, name);
    this.decline = el("button", { type: "button", class: "button quiet", onclick: () => this.send({ action: "decline" }) }, gettext("Decline"));
    const end = [this.decline, deadline(question.expires)].filter(Boolean);
    body.querySelector(".form-end")?.append(...end);
    this.end = el("div", { class: "question-end" }, ...(hasOptions ? end : []));
    this.node.replaceChildren(el("p", { class: "question-text", id: name }, question.text), body, this.end);
    this.markField(null, "");
    this.takeFocus(body);
  }

  /** The next question is under the hands of who has just answered the one before; who writes elsewhere is left alone. */
  takeFocus(body) {
    const focused = document.activeElement;
    if (focused && focused !== document.body) return;
    requestAnimationFrame(() => body.querySelector("button, input, textarea, select")?.focus());
  }

  optionButtons(question) {
    const group = el("div", { class: "options", role: "group", "aria-label": question.text });
    for (const option of question.options) {
      group.append(
        el("button", { type: "button", class: "option", onclick: () => this.send({ value: option.id }), "data-value": option.id }, option.label),
      );
    }
    return group;
  }

  textField(question, labelledBy) {
    const input = question.secret
      ? el("input", { type: "password", autocomplete: "off", required: true, "aria-labelledby": labelledBy })
      : el("textarea", { rows: "1", required: true, "aria-labelledby": labelledBy, class: "grows" });
    const form = this.formOf([input], () => ({ value: input.value }), () => (input.value.trim() ? null : "value"));
    this.fields = new Map([["value", input]]);
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    return form;
  }

  form(schema) {
    const fields = fieldsOf(schema);
    this.fields = new Map(fields.map((field) => [field.name, field.input]));
    return this.formOf(
      fields.map((field) => field.node),
      () => ({ value: valueOf(fields) }),
      () => fields.find((field) => !field.isValid())?.name ?? null,
    );
  }

  formOf(nodes, value, firstFault) {
    const form = el(
      "form",
      { class: "question-form", novalidate: true },
      ...nodes,
      el("div", { class: "form-end" }, el("button", { type: "submit", class: "button" }, gettext("Answer"))),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const fault = firstFault();
      if (fault === null) this.send(value());
      else this.markField(fault, this.fields.get(fault)?.validationMessage || gettext("Please fill this in."));
    });
    return form;
  }

  send(answer) {
    this.markField(null, "");
    this.onAnswer(answer);
  }

  /** Sending, refused, or ready. */
  tell(answering) {
    const isBusy = Boolean(answering && !answering.error);
    this.node.setAttribute("aria-busy", String(isBusy));
    for (const control of this.node.querySelectorAll("button, input, textarea, select")) control.disabled = isBusy;
    for (const option of this.node.querySelectorAll(".option")) {
      option.classList.toggle("chosen", isBusy && answering.value === option.dataset.value);
    }
    if (answering?.error && answering.error !== this.told) {
      this.told = answering.error;
      this.markField(answering.error.field ?? null, localTimes(answering.error.text));
    }
  }

  /** The sentence stands at its field, or above the buttons where there is none. */
  markField(name, sentence) {
    setText(this.error, sentence);
    const input = this.fields?.get(name);
    for (const [key, one] of this.fields ?? []) one.toggleAttribute("aria-invalid", key === name && Boolean(sentence));
    const field = input?.closest(".field");
    if (field) field.append(this.error);
    else if (input) input.after(this.error);
    else (this.node.querySelector(".form-end") ?? this.end).before(this.error);
    input?.focus();
  }

  close(data) {
    if (this.node.contains(document.activeElement)) document.activeElement.blur();
    this.node.className = "question closed";
    this.node.removeAttribute("aria-busy");
    const said =
      data.action === "accept"
        ? answerText(data)
        : data.action === "decline"
          ? gettext("Declined")
          : data.action === "cancel"
            ? gettext("Not answered")
            : gettext("No longer open");
    this.node.replaceChildren(
      el("p", { class: "question-text" }, data.text ?? ""),
      el("p", { class: "answer-given" }, icon(data.action === "accept" ? "check" : "minus"), el("span", {}, said), this.whoSaid(data)),
    );
  }

  /** Who answered, where it was not oneself; a question whose time is over answers itself. */
  whoSaid(data) {
    if (!data.action || data.action === "cancel" || (data.by && data.by === this.me)) return null;
    return el("span", { class: "hint" }, data.by ? gettext("answered by somebody else") : gettext("by itself, as the time was over"));
  }
}

/** The answer that a typed text is to an open question, by the server's rule: free text, or an option's label or id. */
export function textAsAnswer(question, text) {
  if (question.schema) return null;
  if (!question.options?.length) return text;
  const wanted = text.trim().toLowerCase();
  return question.options.find(({ id, label }) => label.trim().toLowerCase() === wanted || id.toLowerCase() === wanted)?.id ?? null;
}

export function takesText(question, text) {
  return textAsAnswer(question, text) !== null;
}

/** An answer as a reader would say it. */
export function answerText(data) {
  if (data.label) return data.label;
  const { value, schema } = data;
  if (value === undefined || value === null) return gettext("Answered (kept secret)");
  if (typeof value !== "object") return String(value);
  const titles = schema?.properties ?? {};
  return Object.entries(value)
    .map(([name, one]) => {
      const title = titles[name]?.title ?? name;
      const said = one === true ? gettext("yes") : one === false ? gettext("no") : one;
      return `${title}${/[?:.!]$/.test(title) ? "" : ":"} ${said}`;
    })
    .join("\n");
}

// ------------------------------------------------------------------ fields of a schema

/** One field a property: `{name, node, input, read(), isValid()}`. */
export function fieldsOf(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, property]) => fieldOf(name, property, required.has(name)));
}

/** The form's object; what was left empty is left out. */
export function valueOf(fields) {
  const value = {};
  for (const field of fields) {
    const one = field.read();
    if (one !== undefined) value[field.name] = one;
  }
  return value;
}

function fieldOf(name, property, isRequired) {
  if (property.enum) return property.enum.length <= RADIOS ? radios(name, property, isRequired) : list(name, property, isRequired);
  if (property.type === "boolean") return checkbox(name, property);
  return line(name, property, isRequired);
}

function line(name, property, isRequired) {
  const isNumber = property.type === "number" || property.type === "integer";
  const input = el("input", {
    type: isNumber ? "number" : property.format === "password" ? "password" : property.format === "email" ? "email" : property.format === "date" ? "date" : "text",
    name,
    value: property.default ?? null,
    required: isRequired,
    step: property.type === "integer" ? "1" : isNumber ? "any" : null,
    min: property.minimum ?? null,
    max: property.maximum ?? null,
    minlength: property.minLength ?? null,
    maxlength: property.maxLength ?? null,
    inputmode: property.type === "integer" ? "numeric" : isNumber ? "decimal" : null,
    autocomplete: "off",
  });
  return {
    name,
    input,
    node: labelled(input, name, property, isRequired),
    read: () => (input.value === "" ? undefined : isNumber ? Number(input.value) : input.value),
    isValid: () => input.checkValidity(),
  };
}

function list(name, property, isRequired) {
  const input = el("select", { name, required: isRequired }, isRequired ? null : el("option", { value: "" }, "—"));
  property.enum.forEach((value, index) => input.append(el("option", { value: String(index), selected: value === property.default }, String(value))));
  return {
    name,
    input,
    node: labelled(input, name, property, isRequired),
    read: () => (input.value === "" ? undefined : property.enum[Number(input.value)]),
    isValid: () => input.checkValidity(),
  };
}

function radios(name, property, isRequired) {
  const group = `${name}-${(count += 1)}`;
  const inputs = property.enum.map((value, index) =>
    el("input", { type: "radio", name: group, value: String(index), required: isRequired, checked: value === property.default }),
  );
  const node = el(
    "fieldset",
    { class: "field choices" },
    el("legend", {}, titleOf(name, property, isRequired)),
    hint(property),
    el("div", { class: "choice-row" }, ...inputs.map((input, index) => el("label", { class: "choice" }, input, el("span", {}, String(property.enum[index]))))),
  );
  return {
    name,
    input: inputs[0],
    node,
    read: () => {
      const chosen = inputs.findIndex((input) => input.checked);
      return chosen < 0 ? undefined : property.enum[chosen];
    },
    isValid: () => inputs[0].checkValidity(),
  };
}

function checkbox(name, property) {
  const input = el("input", { type: "checkbox", name, checked: property.default === true });
  const node = el("div", { class: "field" }, el("label", { class: "choice" }, input, el("span", {}, property.title || name)), hint(property));
  return { name, input, node, read: () => input.checked, isValid: () => true };
}

function labelled(input, name, property, isRequired) {
  input.id = `field-${(count += 1)}`;
  return el("div", { class: "field" }, el("label", { for: input.id }, titleOf(name, property, isRequired)), hint(property), input);
}

function titleOf(name, property, isRequired) {
  const title = property.title || name;
  return isRequired ? title : interpolate(gettext("%(field)s (optional)"), { field: title });
}

function hint(property) {
  return property.description ? el("span", { class: "hint" }, property.description) : null;
}

function deadline(expires) {
  if (!expires) return null;
  const at = new Date(expires);
  if (Number.isNaN(at.valueOf())) return null;
  return el("p", { class: "hint deadline" }, interpolate(gettext("Open until %(time)s"), { time: timeOf(at) }));
}
