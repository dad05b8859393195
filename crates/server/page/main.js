// The page: its parts, its addresses (`#`, `#c/ID`, `#status`) and its keys.

import { Chat } from "./chat.js";
import { askForKey } from "./dialogs.js";
import { byId, isTouch, setText } from "./dom.js";
import { Models } from "./models.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Status } from "./status.js";
import { Library, saveSettings } from "./store.js";
import { titleOf } from "./conversation.js";

const models = new Models(() => {
  byId("page-error").hidden = true;
  models.draw(chat.current.model);
  chat.draw();
});
const library = new Library((changed) => {
  if (changed === null) chat.reload();
  else if (changed === chat.current) chat.draw();
  sidebar.update();
  showTitle();
});
const chat = new Chat(library, models);
const sidebar = new Sidebar(library, chat);
const status = new Status();
const settings = new Settings({ onchange: remember, onkey: loadModels });

/** Keeps a changed setting, for this conversation if it has begun and for the next one. */
function remember(conversation) {
  saveSettings(conversation);
  if (library.get(conversation.id) !== null) library.keep(conversation);
  models.draw(conversation.model);
  chat.draw();
}

async function loadModels() {
  try {
    await models.load();
  } catch (error) {
    if (error.status === 401 && (await askForKey(error.message))) return loadModels();
    setText(byId("page-error").querySelector(".message"), error.message);
    byId("page-error").hidden = false;
  }
}

function route() {
  const hash = location.hash;
  const isStatus = hash === "#status";
  byId("status").hidden = !isStatus;
  byId("chat").hidden = isStatus;
  setText(byId("skip"), isStatus ? "Skip to the status" : "Skip to the message");
  if (isStatus) {
    status.start();
  } else {
    status.stop();
    const wanted = hash.startsWith("#c/") ? library.get(hash.slice(3)) : null;
    // One that has not begun is still there after a look at the status, with what was typed.
    if (wanted === null ? chat.current.turns.length > 0 : wanted !== chat.current) chat.open(wanted);
    if (wanted === null) history.replaceState(null, "", location.pathname + location.search);
    models.draw(chat.current.model);
    if (!isTouch()) chat.focus();
  }
  byId("leave-status").setAttribute("href", library.get(chat.current.id) ? `#c/${chat.current.id}` : "#");
  openSide(false);
  sidebar.update();
  showTitle();
}

function showTitle() {
  const isStatus = location.hash === "#status";
  document.title = `${isStatus ? "Status" : titleOf(chat.current)} · Hadal`;
  for (const link of document.querySelectorAll(".side-foot a")) link.ariaCurrent = isStatus ? "page" : null;
}

// On a narrow window the list of conversations lies over the page.

const narrow = matchMedia("(max-width: 56rem)");

function openSide(open) {
  const covers = narrow.matches && open;
  byId("side").classList.toggle("open", covers);
  byId("side").inert = narrow.matches && !open;
  byId("shade").hidden = !covers;
  for (const main of document.querySelectorAll("main")) main.inert = covers;
  for (const opener of document.querySelectorAll("[data-opens-side]")) opener.ariaExpanded = String(covers);
  if (covers) byId("close-side").focus();
}

function closeSide() {
  openSide(false);
  document.querySelector("main:not([hidden]) [data-opens-side]").focus();
}

for (const opener of document.querySelectorAll("[data-opens-side]")) {
  opener.addEventListener("click", () => openSide(true));
}
byId("close-side").addEventListener("click", closeSide);
byId("shade").addEventListener("click", closeSide);
narrow.addEventListener("change", () => openSide(false));

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  if (location.hash === "#status") document.querySelector("#status h1").focus();
  else chat.focus();
});
for (const link of [byId("new"), document.querySelector(".mark")]) {
  link.addEventListener("click", (event) => {
    // A link to where one is changes no address; a new conversation is meant all the same.
    event.preventDefault();
    history.pushState(null, "", "#");
    if (chat.current.turns.length > 0) chat.open(null);
    route();
  });
}
byId("open-settings").addEventListener("click", () => settings.open(chat.current));
byId("system-line").addEventListener("click", () => settings.open(chat.current));
byId("page-error").querySelector(".retry").addEventListener("click", loadModels);
models.onchoice((id) => {
  chat.current.model = id;
  remember(chat.current);
});

addEventListener("keydown", (event) => {
  // An open dialog or menu has the keys for itself.
  if (document.querySelector("dialog[open], :popover-open")) return;
  const typing = event.target.closest("input, textarea, select") !== null;
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey && !byId("chat").hidden) {
    event.preventDefault();
    chat.focus();
  } else if (event.key === "Escape") {
    if (byId("side").classList.contains("open")) closeSide();
    else if (!byId("chat").hidden) chat.stop();
  }
});
addEventListener("hashchange", route);

route();
models.draw(null);
chat.draw();
loadModels();
