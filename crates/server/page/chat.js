// The conversation that is shown, and the answers that are coming, there and in conversations behind it.

import { Run, describe } from "./answer.js";
import { Speaker, announce } from "./announce.js";
import { addTurn, choose, newConversation, parentOf, path, siblings, titleOf } from "./conversation.js";
import { askForKey } from "./dialogs.js";
import { byId, setText } from "./dom.js";
import { count } from "./format.js";
import { loadSettings } from "./store.js";
import { AnswerView, QuestionView, grow, sends } from "./turns.js";

/** How often an answer is tried again by itself when the server is busy. */
const MAX_ATTEMPTS = 3;
/** An answer that is coming is kept this often, so that a closed tab loses little. */
const KEEP_MS = 1500;
/** Nearer to the end of the page than this, the page follows the answer. */
const NEAR_END = 80;

export class Chat {
  current = newConversation(loadSettings());
  #library;
  #models;
  /** Answers that are coming: turn to `{run, speaker, kept}`. */
  #runs = new Map();
  /** Answers that will be tried again: turn to `{timer, attempts}`; without a timer only the attempts count. */
  #waits = new Map();
  #views = new Map();
  #drafts = new Map();
  #frame = null;
  #drawMs = 0;
  #turns = byId("turns");
  #prompt = byId("prompt");

  /** `models` lists the server's models (see models.js); `library` keeps conversations. */
  constructor(library, models) {
    this.#library = library;
    this.#models = models;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (!sends(event)) return;
      event.preventDefault();
      this.#submit();
    });
    this.#prompt.addEventListener("input", () => grow(this.#prompt));
    byId("stop").addEventListener("click", () => this.stop());
    byId("latest").addEventListener("click", () => {
      this.#scrollToEnd();
      this.#prompt.focus();
    });
    addEventListener("scroll", () => this.#showLatest(), { passive: true });
    // A closed tab ends its answers; what came is kept.
    addEventListener("pagehide", () => {
      for (const { conversation } of this.#runs.values()) this.#library.keep(conversation);
    });
  }

  /** Shows a conversation, or a new one for null. */
  open(conversation) {
    this.#drafts.set(this.current.id, this.#prompt.value);
    this.current = conversation ?? newConversation(loadSettings());
    this.#prompt.value = this.#drafts.get(this.current.id) ?? "";
    this.#views.clear();
    this.#turns.replaceChildren();
    this.draw();
    grow(this.#prompt);
    this.#scrollToEnd();
  }

  /** Shows what another tab made of this conversation. */
  reload() {
    const stored = this.#library.get(this.current.id);
    if (stored === null || stored === this.current || this.isRunning(this.current)) return;
    this.open(stored);
  }

  /** Ends what goes on in a conversation that is to be deleted. */
  forget(conversation) {
    for (const [turn, { run, conversation: of }] of this.#runs) {
      if (of !== conversation) continue;
      run.stop();
      this.#runs.delete(turn);
    }
    for (const turn of conversation.turns) this.#cancelWait(turn);
    if (conversation === this.current) location.hash = "";
  }

  isRunning(conversation) {
    return conversation.turns.some((turn) => this.#runs.has(turn));
  }

  /** Stops the answer of this conversation, or else the countdown to its next attempt. True if there was one. */
  stop() {
    const running = this.current.turns.find((turn) => this.#runs.has(turn));
    if (running !== undefined) {
      this.#runs.get(running).run.stop();
      return true;
    }
    const waiting = this.current.turns.filter((turn) => this.#waits.get(turn)?.timer);
    for (const turn of waiting) this.#cancelWait(turn);
    if (waiting.length > 0) this.draw();
    return waiting.length > 0;
  }

  focus() {
    this.#prompt.focus();
  }

  /** Brings the page up to date with the conversation. */
  draw() {
    const began = performance.now();
    const follows = this.#isNearEnd();
    const conversation = this.current;
    const shown = path(conversation);
    const busy = this.isRunning(conversation);
    const limit = this.#models.limit(conversation.model);
    this.#placeViews(shown);
    for (const turn of shown) {
      const among = siblings(conversation, turn);
      const place = { index: among.indexOf(turn), total: among.length };
      const waits = Boolean(this.#waits.get(turn)?.timer);
      this.#views.get(turn).update({ place, busy, limit, waits, run: this.#runs.get(turn)?.run ?? null });
    }
    setText(byId("title"), titleOf(conversation));
    byId("empty").hidden = shown.length > 0;
    const system = conversation.system.trim();
    byId("system-line").hidden = system === "";
    setText(byId("system-line"), `System: ${system.slice(0, 160)}`);
    byId("send").hidden = busy;
    byId("stop").hidden = !busy;
    this.#showContext(shown, limit);
    if (follows) this.#scrollToEnd();
    this.#showLatest();
    this.#drawMs = performance.now() - began;
  }

  #placeViews(shown) {
    for (const [turn, view] of this.#views) {
      if (shown.includes(turn)) continue;
      view.root.remove();
      this.#views.delete(turn);
    }
    const actions = {
      edit: (turn, text) => this.#ask(parentOf(this.current, turn), text),
      again: (turn) => this.#answer(parentOf(this.current, turn)),
      retry: (turn) => this.#retry(turn),
      wait: (turn) => {
        this.#cancelWait(turn);
        this.draw();
      },
      step: (turn, by) => this.#step(turn, by),
    };
    shown.forEach((turn, index) => {
      if (!this.#views.has(turn)) {
        this.#views.set(turn, new (turn.role === "user" ? QuestionView : AnswerView)(turn, actions));
      }
      const { root } = this.#views.get(turn);
      if (this.#turns.children[index] !== root) this.#turns.insertBefore(root, this.#turns.children[index] ?? null);
    });
  }

  #submit() {
    const text = this.#prompt.value;
    if (text.trim() === "" || this.isRunning(this.current)) return;
    this.#prompt.value = "";
    grow(this.#prompt);
    this.#ask(path(this.current).at(-1) ?? null, text);
  }

  #ask(parent, text) {
    if (this.isRunning(this.current)) return;
    for (const turn of this.current.turns) this.#cancelWait(turn);
    const question = addTurn(this.current, parent, "user", text);
    this.#answer(question);
    this.#scrollToEnd();
  }

  /** A new answer behind a question. */
  #answer(question) {
    if (this.isRunning(this.current)) return;
    this.#start(this.current, addTurn(this.current, question, "assistant", ""));
  }

  /** The same answer again, if it had not begun; else a new one beside it. */
  #retry(turn) {
    if (this.isRunning(this.current)) return;
    this.#cancelWait(turn);
    if (turn.content !== "" || turn.reasoning !== "") this.#answer(parentOf(this.current, turn));
    else this.#start(this.current, turn);
    this.#prompt.focus({ preventScroll: true });
  }

  async #start(conversation, turn) {
    const isNew = this.#library.get(conversation.id) === null;
    const run = new Run(conversation, turn, () => this.#changed(conversation, turn));
    this.#runs.set(turn, { run, conversation, speaker: new Speaker(), kept: performance.now() });
    this.#library.save(conversation);
    if (isNew) history.replaceState(null, "", `#c/${conversation.id}`);
    this.draw();

    let model = null;
    try {
      model = await this.#models.idFor(conversation.model);
    } catch (error) {
      turn.error = describe(error);
    }
    if (model !== null) await run.finish(model);

    const entry = this.#runs.get(turn);
    // Deleted meanwhile.
    if (entry === undefined) return;
    this.#runs.delete(turn);
    if (turn.error !== null) this.#models.doubt();
    this.#library.save(conversation);
    if (conversation === this.current) {
      const outcome = turn.error?.message ?? (turn.finish === "stopped" ? "Stopped." : "End of the answer.");
      entry.speaker.end(turn.content, outcome);
    }
    this.#afterwards(conversation, turn);
    if (conversation === this.current) this.draw();
  }

  /** After an answer: a busy server is asked again when it said, and a key is asked for where one is missing. */
  #afterwards(conversation, turn) {
    const attempts = this.#waits.get(turn)?.attempts ?? 0;
    if (turn.error === null) {
      this.#waits.delete(turn);
    } else if (turn.error.retryAt && attempts < MAX_ATTEMPTS) {
      const timer = setInterval(() => {
        if (Date.now() < turn.error.retryAt) {
          this.#views.get(turn)?.tick();
          return;
        }
        clearInterval(timer);
        this.#waits.set(turn, { timer: null, attempts: attempts + 1 });
        if (this.isRunning(conversation)) return;
        this.#start(conversation, turn);
      }, 250);
      this.#waits.set(turn, { timer, attempts });
    } else if (turn.error.status === 401) {
      askForKey(turn.error.message).then((given) => {
        if (given && conversation === this.current) this.#retry(turn);
      });
    }
  }

  #cancelWait(turn) {
    clearInterval(this.#waits.get(turn)?.timer);
    this.#waits.delete(turn);
  }

  #changed(conversation, turn) {
    const entry = this.#runs.get(turn);
    if (entry === undefined) return;
    const now = performance.now();
    if (now - entry.kept > KEEP_MS) {
      entry.kept = now;
      this.#library.keep(conversation);
    }
    if (conversation !== this.current) return;
    entry.speaker.hear(turn.content);
    this.#drawSoon();
  }

  /** At most once a frame, and a long conversation takes no more than a quarter of the time. */
  #drawSoon() {
    this.#frame ??= setTimeout(() => requestAnimationFrame(() => {
      this.#frame = null;
      this.draw();
    }), 3 * this.#drawMs);
  }

  #step(turn, by) {
    const among = siblings(this.current, turn);
    const to = among[among.indexOf(turn) + by];
    choose(this.current, to);
    this.#library.keep(this.current);
    this.draw();
    const { root } = this.#views.get(to);
    // The same arrow again, or the other one at the end of the row.
    const arrows = [...root.querySelectorAll(".steps button")];
    (by < 0 ? arrows : arrows.reverse()).find((arrow) => !arrow.disabled)?.focus();
    announce(`Version ${among.indexOf(to) + 1} of ${among.length}`);
  }

  #showContext(shown, limit) {
    const context = shown.findLast((turn) => turn.stats?.context !== undefined)?.stats.context;
    const place = byId("context");
    place.hidden = context === undefined;
    if (context === undefined) return;
    const [bar, text] = place.children;
    bar.hidden = limit === null;
    if (limit !== null) bar.value = Math.min(1, context / limit);
    setText(text, limit === null ? `${count(context)} tokens deep` : `${count(context)} of ${count(limit)} tokens deep`);
  }

  #isNearEnd() {
    return innerHeight + scrollY >= document.documentElement.scrollHeight - NEAR_END;
  }

  #showLatest() {
    byId("latest").hidden = this.#views.size === 0 || this.#isNearEnd();
  }

  #scrollToEnd() {
    scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  }
}
