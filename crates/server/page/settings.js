// The settings of the conversation that is shown.

import { key } from "./api.js";
import { SAMPLING } from "./conversation.js";
import { closesEasily } from "./dialogs.js";
import { byId, el, setText } from "./dom.js";

/** The dialog. `onchange()` is called after every valid change of the conversation, `onkey()` after one of the key. */
export class Settings {
  #dialog = byId("settings");
  #system = byId("system");
  #thinking = byId("thinking");
  #fields = SAMPLING.map(field);
  #key = byId("settings-key");
  #conversation = null;
  #onchange;

  constructor({ onchange, onkey }) {
    this.#onchange = onchange;
    byId("sampling").append(...this.#fields.map(({ root }) => root));
    closesEasily(this.#dialog);
    byId("close-settings").addEventListener("click", () => this.#dialog.close());
    byId("settings-form").addEventListener("submit", (event) => event.preventDefault());
    this.#system.addEventListener("input", () => this.#take());
    this.#thinking.addEventListener("change", () => this.#take());
    for (const { input } of this.#fields) input.addEventListener("input", () => this.#take());
    byId("reset").addEventListener("click", () => {
      for (const { input } of this.#fields) input.value = "";
      this.#thinking.value = "";
      this.#take();
    });
    this.#dialog.addEventListener("close", () => {
      const typed = this.#key.value.trim();
      this.#key.value = "";
      if (typed === key.get()) return;
      key.set(typed);
      onkey();
    });
  }

  open(conversation) {
    this.#conversation = conversation;
    this.#system.value = conversation.system;
    this.#thinking.value = conversation.thinking === null ? "" : String(conversation.thinking);
    for (const { input, setting } of this.#fields) input.value = conversation.sampling[setting.name] ?? "";
    this.#key.value = key.get();
    for (const each of this.#fields) showValidity(each);
    this.#dialog.showModal();
  }

  /** Writes what is valid into the conversation. An invalid field says why and keeps the value it had before. */
  #take() {
    const conversation = this.#conversation;
    conversation.system = this.#system.value;
    conversation.thinking = this.#thinking.value === "" ? null : this.#thinking.value === "true";
    for (const each of this.#fields) {
      if (!showValidity(each)) continue;
      const { input, setting } = each;
      if (input.value === "") delete conversation.sampling[setting.name];
      else conversation.sampling[setting.name] = input.valueAsNumber;
    }
    this.#onchange(conversation);
  }
}

function field(setting) {
  const { name, label, min, max, step, whole, hint } = setting;
  const input = el("input", {
    id: `sampling-${name}`,
    type: "number",
    // The arrow keys go by steps; any number between them may be typed.
    step: whole ? step : "any",
    min,
    max,
    placeholder: "default",
    inputmode: whole ? "numeric" : "decimal",
    autocomplete: "off",
    "aria-describedby": `sampling-${name}-hint`,
  });
  if (!whole) input.addEventListener("keydown", (event) => stepBy(event, input, setting));
  const about = el("p", { class: "hint", id: `sampling-${name}-hint` }, hint);
  const root = el("div", { class: "field" }, el("label", { for: input.id }, label), input, about);
  return { root, input, about, setting };
}

function stepBy(event, input, { min, max, step }) {
  const sign = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (sign === undefined) return;
  event.preventDefault();
  const from = Number.isNaN(input.valueAsNumber) ? 1 : input.valueAsNumber;
  // Rounded to the step, or 0.1 + 0.2 would be shown as what it is.
  const to = Math.round((from + sign * step) / step) * step;
  input.value = String(Number(Math.min(max, Math.max(min, to)).toFixed(4)));
  input.dispatchEvent(new Event("input"));
}

function showValidity({ input, about, setting }) {
  const valid = input.validity.valid;
  input.ariaInvalid = String(!valid);
  about.classList.toggle("bad", !valid);
  const { min, max, whole, hint } = setting;
  setText(about, valid ? hint : `${whole ? "A whole number" : "A number"} from ${min} to ${max}; not used as it is.`);
  return valid;
}
