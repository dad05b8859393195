// The models of the server, and the choice among them.

import { ApiError, models } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { plural } from "./format.js";

export class Models {
  #list = [];
  #isStale = true;
  #onload;
  #select = byId("model");

  /** `onload()` is called whenever the list came anew. */
  constructor(onload) {
    this.#onload = onload;
  }

  /** Asks the server. Throws what it answers. */
  async load() {
    const list = await models();
    if (list.length === 0) throw new ApiError("The server has no model ready. It may still be loading one.");
    this.#list = list;
    this.#isStale = false;
    this.#onload();
  }

  /** After an error the server may be another one, with other models. */
  doubt() {
    this.#isStale = true;
  }

  /** The id to ask for: the wished one if the server has it, or else its first. */
  async idFor(wished) {
    if (this.#isStale) await this.load();
    return this.#find(wished).id;
  }

  /** The context of a model in tokens, or null if it is not known. */
  limit(wished) {
    return this.#find(wished)?.max_model_len ?? null;
  }

  /** Shows the choice for a conversation. With one model there is none. */
  draw(wished) {
    const model = this.#find(wished);
    this.#select.replaceChildren(...this.#list.map(({ id }) => el("option", { value: id }, id)));
    this.#select.hidden = this.#list.length < 2;
    if (model !== null) this.#select.value = model.id;
    setText(byId("empty-model"), model?.id ?? "Hadal");
    const limit = this.limit(wished);
    setText(byId("empty-about"), limit === null ? "" : `Remembers ${plural(limit, "token")} of a conversation.`);
  }

  /** Calls back with the id that was chosen. */
  onchoice(callback) {
    this.#select.addEventListener("change", () => callback(this.#select.value));
  }

  #find(wished) {
    return this.#list.find(({ id }) => id === wished) ?? this.#list[0] ?? null;
  }
}
