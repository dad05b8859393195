// Conversations in the browser's own storage, one entry each, so that two tabs do not overwrite each other's.

import { readConversation } from "./conversation.js";

const PREFIX = "hadal.conversation.";
const SETTINGS = "hadal.settings";

/** All conversations, the latest first, each in an entry of its own. */
export class Library {
  #onchange;
  all = [];
  /** Entries that could not be read. They are left as they are. */
  damaged = 0;
  /** Whether the last conversation could be kept. */
  hasRoom = true;

  /** `onchange(conversation)` is called after every change; null stands for a change of all, made by another tab. */
  constructor(onchange) {
    this.#onchange = onchange;
    this.#load();
    addEventListener("storage", ({ key }) => {
      if (key !== null && !key.startsWith(PREFIX)) return;
      this.#load();
      this.#onchange(null);
    });
  }

  get(id) {
    return this.all.find((conversation) => conversation.id === id) ?? null;
  }

  /** Keeps a conversation and moves it to the front. */
  save(conversation) {
    conversation.updated = Date.now();
    this.keep(conversation);
    this.all = [conversation, ...this.all.filter((other) => other.id !== conversation.id)];
    this.#onchange(conversation);
  }

  /** Keeps a conversation at its place and tells nobody: for an answer that is coming. */
  keep(conversation) {
    this.hasRoom = write(PREFIX + conversation.id, conversation);
  }

  remove(conversation) {
    localStorage.removeItem(PREFIX + conversation.id);
    this.all = this.all.filter((other) => other.id !== conversation.id);
    this.#onchange(conversation);
  }

  #load() {
    const before = new Map(this.all.map((conversation) => [conversation.id, conversation]));
    this.all = [];
    this.damaged = 0;
    for (let index = 0; index < localStorage.length; index += 1) {
      const name = localStorage.key(index);
      if (!name.startsWith(PREFIX)) continue;
      try {
        const read = readConversation(JSON.parse(localStorage.getItem(name)));
        const known = before.get(read.id);
        // An object that did not change stays the same one, for whoever holds it.
        this.all.push(known !== undefined && known.updated >= read.updated ? known : read);
      } catch {
        this.damaged += 1;
      }
    }
    this.all.sort((a, b) => b.updated - a.updated);
  }
}

/** What a new conversation begins with: the settings that were changed last. */
export function loadSettings() {
  try {
    const { model, system, thinking, sampling } = JSON.parse(localStorage.getItem(SETTINGS));
    // Held to the same rules as those of a conversation.
    return readConversation({ id: "0".repeat(16), turns: [], model, system, thinking, sampling });
  } catch {
    return {};
  }
}

export function saveSettings({ model, system, thinking, sampling }) {
  return write(SETTINGS, { model, system, thinking, sampling });
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch (error) {
    if (error.name === "QuotaExceededError") return false;
    throw error;
  }
}
