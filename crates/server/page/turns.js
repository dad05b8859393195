// How turns look. A view shows a turn and what is going on with it; it decides nothing and tells `actions` what was pressed.

import { button, copy, el, isTouch, setText } from "./dom.js";
import { count, duration, percent, plural, rate } from "./format.js";
import { readingState } from "./answer.js";
import { MarkdownView } from "./render.js";

/** Longer questions are folded. */
const LONG = { characters: 1500, lines: 16 };

const FINISHES = {
  stopped: "Stopped.",
  length: "The answer reached its greatest length. “Longest answer” in the settings sets it.",
  content_filter: "The server withheld the rest.",
};

/** A question. `actions` has `edit(turn, text)` and `step(turn, by)`. */
export class QuestionView {
  #turn;
  #actions;
  #body = el("div", { class: "said", dir: "auto" });
  #unfold = button("Show all", () => this.#fold(this.#unfold.ariaExpanded === "true"), { class: "quiet unfold" });
  #steps;
  #tools;

  constructor(turn, actions) {
    this.#turn = turn;
    this.#actions = actions;
    this.#steps = new Steps((by) => actions.step(turn, by));
    setText(this.#body, turn.content);
    this.#unfold.hidden = turn.content.length < LONG.characters && turn.content.split("\n").length < LONG.lines;
    if (!this.#unfold.hidden) this.#fold(true);
    this.#tools = el(
      "div",
      { class: "tools" },
      this.#steps.root,
      button("Copy", (event) => copy(turn.content, event.currentTarget), { class: "quiet" }),
      button("Edit", () => this.#edit(), { class: "quiet" }),
    );
    this.root = el(
      "article",
      { class: "turn question" },
      el("h2", { class: "unseen" }, "Your message"),
      this.#body,
      this.#unfold,
      this.#tools,
    );
  }

  update({ place, busy }) {
    this.#steps.update(place, busy);
    for (const tool of this.#tools.querySelectorAll("button")) {
      if (tool.textContent === "Edit") tool.disabled = busy;
    }
  }

  #fold(folded) {
    this.#body.classList.toggle("folded", folded);
    this.#unfold.ariaExpanded = String(!folded);
    setText(this.#unfold, folded ? "Show all" : "Show less");
  }

  #edit() {
    const field = el("textarea", { rows: "3", dir: "auto", "aria-label": "Edit your message" });
    field.value = this.#turn.content;
    const close = () => {
      form.replaceWith(this.#body);
      this.#unfold.classList.remove("away");
      this.#tools.hidden = false;
    };
    const cancel = () => {
      close();
      this.#tools.lastElementChild.focus();
    };
    const send = (event) => {
      event.preventDefault();
      if (field.value.trim() === "") return;
      close();
      this.#actions.edit(this.#turn, field.value);
    };
    const form = el(
      "form",
      { class: "edit", onsubmit: send },
      field,
      el("div", {}, button("Cancel", cancel, { class: "quiet" }), el("button", { class: "main" }, "Send")),
    );
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        // Only the edit ends, not an answer.
        event.stopPropagation();
        cancel();
      } else if (sends(event) && event.target === field) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.#body.replaceWith(form);
    this.#unfold.classList.add("away");
    this.#tools.hidden = true;
    grow(field);
    field.addEventListener("input", () => grow(field));
    field.focus();
  }
}

/** An answer. `actions` has `retry(turn)`, `again(turn)`, `wait(turn)` (cancel the countdown) and `step(turn, by)`. */
export class AnswerView {
  #turn;
  #reasoning = el("div", { class: "prose", dir: "auto" });
  #reasoningMarkdown = new MarkdownView(this.#reasoning);
  #summary = el("summary");
  #details = el("details", { class: "reasoning", hidden: true }, this.#summary, this.#reasoning);
  #bar = el("progress", { max: "1", "aria-label": "Prompt read" });
  #state = el("p");
  #progress = el("div", { class: "progress", hidden: true }, this.#state, this.#bar);
  #prose = el("div", { class: "prose", dir: "auto" });
  #markdown = new MarkdownView(this.#prose);
  #note = el("p", { class: "note", hidden: true });
  // The message alone is an alert: a countdown inside it would be read out every second.
  #failure = el("p", { class: "message", role: "alert" });
  #countdown = el("p", { class: "countdown", hidden: true });
  #request = el("p", { class: "request", hidden: true });
  #cancel;
  #error;
  #stats = el("p", { class: "stats" });
  #depth = el("p", { class: "depth", hidden: true });
  #again;
  #copy;
  #steps;

  constructor(turn, actions) {
    this.#turn = turn;
    this.#steps = new Steps((by) => actions.step(turn, by));
    this.#cancel = button("Do not wait", () => actions.wait(turn), { class: "quiet", hidden: true });
    const retry = button("Try again", () => actions.retry(turn), { class: "retry" });
    this.#error = el(
      "div",
      { class: "error", hidden: true },
      this.#failure,
      this.#countdown,
      this.#request,
      el("div", { class: "tools" }, retry, this.#cancel),
    );
    this.#again = button("Answer again", () => actions.again(turn), { class: "quiet" });
    this.#copy = button("Copy", (event) => copy(turn.content, event.currentTarget), {
      class: "quiet",
      "aria-label": "Copy answer",
    });
    // Unfolding renders what came while it was folded.
    this.#details.addEventListener("toggle", () => this.#unfoldReasoning());
    this.root = el(
      "article",
      { class: "turn answer" },
      el("h2", { class: "unseen" }, "Answer"),
      this.#depth,
      this.#details,
      this.#prose,
      this.#progress,
      this.#note,
      this.#error,
      el("div", { class: "foot" }, el("div", { class: "tools" }, this.#steps.root, this.#copy, this.#again), this.#stats),
    );
  }

  /**
   * `run` is the answer that is coming, or null; `waits` is whether it will be tried again at `error.retryAt`; `limit` is
   * the model's context in tokens, or null.
   */
  update({ place, busy, run, waits, limit }) {
    const turn = this.#turn;
    this.root.ariaBusy = String(run !== null);
    this.root.classList.toggle("running", run !== null);
    this.#markdown.update(turn.content);
    this.#showReasoning(run);
    this.#showProgress(run);
    this.#note.hidden = run !== null || FINISHES[turn.finish] === undefined;
    setText(this.#note, FINISHES[turn.finish] ?? "");
    this.#showError(waits);
    this.#showStats(run, limit);
    this.#copy.hidden = turn.content === "";
    this.#again.hidden = run !== null || turn.error !== null;
    this.#again.disabled = busy;
    this.#steps.update(place, busy);
  }

  /** The seconds until the next attempt, once a second. */
  tick() {
    const left = Math.max(0, Math.ceil((this.#turn.error.retryAt - Date.now()) / 1000));
    setText(this.#countdown, `Trying again in ${left} s.`);
  }

  #showReasoning(run) {
    const { reasoning, stats } = this.#turn;
    this.#details.hidden = reasoning === "";
    if (reasoning === "") return;
    const time = stats?.reasoning === undefined ? "" : ` for ${duration(stats.reasoning)}`;
    const tokens = stats?.reasoningTokens ? `, ${plural(stats.reasoningTokens, "token")}` : "";
    setText(this.#summary, run?.phase === "reasoning" ? "Thinking…" : `Thought${time}${tokens}`);
    this.#unfoldReasoning();
  }

  #unfoldReasoning() {
    if (this.#details.open) this.#reasoningMarkdown.update(this.#turn.reasoning);
  }

  #showProgress(run) {
    const shown = run?.phase === "waiting" || run?.phase === "reading";
    this.#progress.hidden = !shown;
    if (!shown) return;
    this.#bar.hidden = run.phase === "waiting";
    if (run.phase === "waiting") {
      setText(this.#state, "Waiting for the server…");
      return;
    }
    const { total, processed, cache } = run.progress;
    const state = readingState(run.progress);
    this.#bar.value = state.share;
    const parts = [`Reading the prompt: ${count(processed)} of ${plural(total, "token")}`];
    if (cache > 0) parts.push(`${count(cache)} cached`);
    if (state.rate !== null) parts.push(rate(state.rate), `${duration(state.left)} left`);
    setText(this.#state, parts.join(" · "));
  }

  #showError(waits) {
    const { error } = this.#turn;
    this.#error.hidden = error === null;
    if (error === null) return;
    setText(this.#failure, error.message);
    this.#countdown.hidden = !waits;
    this.#cancel.hidden = !waits;
    if (waits) this.tick();
    this.#request.hidden = error.requestId === null;
    setText(this.#request, `Request ${error.requestId}`);
  }

  #showStats(run, limit) {
    const { stats } = this.#turn;
    const parts = [];
    if (run !== null) {
      if (run.rate !== null) parts.push(`about ${rate(run.rate)}`);
    } else if (stats !== null) {
      const about = stats.isEstimate ? "about " : "";
      if (stats.firstToken !== undefined) parts.push(`${duration(stats.firstToken)} to the first token`);
      if (stats.rate !== undefined) parts.push(about + rate(stats.rate));
      parts.push(about + plural(stats.tokens, "token"));
      if (stats.prompt > 0) parts.push(`${percent(stats.cached / stats.prompt)} of the prompt cached`);
    }
    setText(this.#stats, parts.join(" · "));

    this.#depth.hidden = stats?.context === undefined;
    if (this.#depth.hidden) return;
    setText(this.#depth, count(stats.context));
    const of = limit === null ? "" : ` of ${count(limit)}`;
    this.#depth.title = `The context is ${count(stats.context)}${of} tokens deep after this answer`;
  }
}

/** `‹ 2 / 3 ›`: the versions of a turn. */
class Steps {
  #back;
  #on;
  #place = el("span");

  constructor(step) {
    this.#back = button("‹", () => step(-1), { class: "quiet", "aria-label": "Earlier version" });
    this.#on = button("›", () => step(1), { class: "quiet", "aria-label": "Later version" });
    this.root = el("span", { class: "steps", hidden: true }, this.#back, this.#place, this.#on);
  }

  update({ index, total }, busy) {
    this.root.hidden = total < 2;
    setText(this.#place, `${index + 1} / ${total}`);
    this.#back.disabled = busy || index === 0;
    this.#on.disabled = busy || index === total - 1;
  }
}

/** Whether a key press in a text field sends it. Where there is no keyboard, Enter is the only way to a new line. */
export function sends(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && !isTouch();
}

/** Makes a text field as high as its text; the style sheet has the limit. */
export function grow(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}
