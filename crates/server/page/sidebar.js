// The list of conversations, and what can be done with each.

import { readConversation, titleOf } from "./conversation.js";
import { askForName, askToDelete } from "./dialogs.js";
import { announce } from "./announce.js";
import { button, byId, download, el, setText } from "./dom.js";
import { plural } from "./format.js";

const FORMAT = "hadal.conversations/1";
/** Room between a menu and the edge of the window. */
const MARGIN = 8;

/** Draws the list and wires the buttons below it. `chat` is told of a deletion. */
export class Sidebar {
  #library;
  #chat;
  #list = byId("list");
  #note = byId("list-note");

  constructor(library, chat) {
    this.#library = library;
    this.#chat = chat;
    byId("export-all").addEventListener("click", () => exportThese(this.#library.all, "hadal-conversations"));
    const file = byId("import-file");
    byId("import").addEventListener("click", () => file.click());
    file.addEventListener("change", async () => {
      if (file.files.length > 0) await this.#import(file.files[0]);
      file.value = "";
    });
  }

  update() {
    // The list changes once an open menu is closed, not under it.
    const open = this.#list.querySelector(":popover-open");
    if (open !== null) {
      open.addEventListener("toggle", () => this.update(), { once: true });
      return;
    }
    const current = this.#chat.current;
    const items = this.#library.all.map((conversation) => this.#item(conversation, conversation.id === current.id));
    const focused = this.#list.contains(document.activeElement) ? document.activeElement.dataset.for : null;
    this.#list.replaceChildren(...items);
    if (focused) this.#list.querySelector(`[data-for="${focused}"]`)?.focus();
    byId("export-all").disabled = items.length === 0;
    this.#showNote();
  }

  #item(conversation, isCurrent) {
    const title = titleOf(conversation);
    const id = conversation.id;
    const link = el(
      "a",
      { href: `#c/${id}`, "aria-current": isCurrent ? "page" : null, dir: "auto", title, "data-for": `open-${id}` },
      title,
    );
    const menu = el(
      "div",
      { class: "menu", popover: "auto", role: "group", "aria-label": title },
      button("Rename", () => this.#rename(conversation, menu)),
      button("Export", () => {
        menu.hidePopover();
        exportThese([conversation], `hadal-${id}`);
      }),
      button("Delete", () => this.#delete(conversation, menu), { class: "danger" }),
    );
    const more = button("⋯", () => openBelow(menu, more), {
      class: "more",
      "aria-label": `More for ${title}`,
      "aria-haspopup": "true",
      "data-for": `more-${id}`,
    });
    const live = this.#chat.isRunning(conversation) ? el("span", { class: "live", title: "Answering" }) : null;
    return el("li", { class: isCurrent ? "current" : null }, link, live, more, menu);
  }

  async #rename(conversation, menu) {
    menu.hidePopover();
    const name = await askForName(conversation.title || titleOf(conversation));
    if (name === null) return;
    conversation.title = name;
    this.#library.save(conversation);
  }

  async #delete(conversation, menu) {
    menu.hidePopover();
    if (!(await askToDelete(titleOf(conversation)))) return;
    this.#chat.forget(conversation);
    this.#library.remove(conversation);
    announce("Deleted.");
  }

  /** Takes conversations of an export. One that is here already stays as it is. */
  async #import(file) {
    let value;
    try {
      value = JSON.parse(await file.text());
    } catch {
      this.#say(`${file.name} is not JSON, so nothing was imported.`);
      return;
    }
    if (value?.format !== FORMAT || !Array.isArray(value.conversations)) {
      this.#say(`${file.name} is no export of this page: its \`format\` is not ${FORMAT}.`);
      return;
    }
    let [taken, known] = [0, 0];
    const refused = [];
    value.conversations.forEach((each, index) => {
      try {
        const conversation = readConversation(each);
        if (this.#library.get(conversation.id) === null) {
          this.#library.save(conversation);
          taken += 1;
        } else {
          known += 1;
        }
      } catch (error) {
        refused.push(`number ${index + 1}: ${error.message}`);
      }
    });
    const parts = [`${plural(taken, "conversation")} imported`];
    if (known > 0) parts.push(`${known} here already`);
    if (refused.length > 0) parts.push(`${refused.length} refused (${refused[0]})`);
    this.#say(`${parts.join(", ")}.`);
  }

  #showNote() {
    const { damaged, hasRoom } = this.#library;
    if (!hasRoom) {
      this.#say("The browser's storage is full: the latest changes are not kept. Export and delete some conversations.");
    } else if (damaged > 0) {
      this.#say(`${plural(damaged, "stored conversation")} cannot be read and was left as it is.`);
    }
  }

  #say(text) {
    this.#note.hidden = false;
    setText(this.#note, text);
    announce(text);
  }
}

function exportThese(conversations, name) {
  download(`${name}.json`, { format: FORMAT, conversations });
}

/** Opens a menu under its button, or over it where there is no room. */
function openBelow(menu, opener) {
  menu.showPopover();
  const { bottom, top, right } = opener.getBoundingClientRect();
  const { offsetHeight: height, offsetWidth: width } = menu;
  menu.style.left = `${Math.max(MARGIN, right - width)}px`;
  menu.style.top = `${bottom + height + MARGIN > innerHeight ? top - height : bottom}px`;
  menu.querySelector("button").focus();
}
