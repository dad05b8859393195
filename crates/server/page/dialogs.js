// The dialogs of index.html. They close with Esc, as the browser has it, with a press beside them, or with a button.

import { key } from "./api.js";
import { byId, setText } from "./dom.js";

/** Shows a dialog and resolves, when it closes, to whether it was confirmed. */
function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  });
}

/** Lets a press beside a dialog, and its button marked `data-cancel`, close it. */
export function closesEasily(dialog) {
  dialog.addEventListener("pointerdown", (event) => {
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    const { clientX: x, clientY: y } = event;
    if (event.target === dialog && (x < left || x > right || y < top || y > bottom)) dialog.close();
  });
  dialog.querySelector("[data-cancel]")?.addEventListener("click", () => dialog.close());
}

let asking = null;

/** Asks for the API key, once for all who need it at this moment. Resolves to whether there is a new one. */
export function askForKey(reason) {
  asking ??= (async () => {
    const field = byId("key-field");
    setText(byId("key-reason"), reason);
    field.value = "";
    const confirmed = await ask(byId("key-dialog"));
    if (confirmed) key.set(field.value.trim());
    field.value = "";
    asking = null;
    return confirmed;
  })();
  return asking;
}

/** Asks for a name. Resolves to it, which may be empty, or to null. */
export async function askForName(name) {
  const field = byId("rename-field");
  field.value = name;
  const answer = ask(byId("rename-dialog"));
  field.select();
  return (await answer) ? field.value.trim() : null;
}

/** Asks whether to delete what is called `name`. */
export function askToDelete(name) {
  setText(byId("delete-name"), name);
  return ask(byId("delete-dialog"));
}

for (const dialog of document.querySelectorAll("dialog.small")) closesEasily(dialog);
