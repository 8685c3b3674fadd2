// The API key: asked of the user where the gateway wants one, and kept for this tab.

import { byId, say } from "./dom.js";

const STORED = "smsim.key";
// What an HTTP header and a WebSocket subprotocol can carry.
const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/;

let current = stored();
let asking = null;

export const key = () => current;

// True once there is a new key, false when the user would rather not. `problem` says what was wrong with the last one.
export function askForKey(problem = "") {
  byId("change-key").hidden = false;
  asking ??= ask(problem).finally(() => { asking = null; });
  return asking;
}

export function startKeys(changed) {
  byId("change-key").hidden = !current;
  byId("change-key").addEventListener("click", async () => { if (await askForKey()) changed(); });
  byId("key-cancel").addEventListener("click", () => byId("key").close());
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = byId("key-value").value.trim();
    if (TOKEN.test(given)) byId("key").close(given);
    else wrong(given ? "A key has no spaces and only plain letters." : "Type or paste a key.");
  });
}

// Where keys come from. Those that `smsim keys` makes are kept in Redis, and a stand-in has none.
export function tellOfKeys(standIn) {
  byId("key-made").hidden = standIn;
  byId("key-given").hidden = !standIn;
}

async function ask(problem) {
  const dialog = byId("key");
  const input = byId("key-value");
  input.value = "";
  wrong(problem);
  dialog.returnValue = "";
  dialog.showModal();
  input.focus();
  // Escape and Cancel close it with no value.
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  const given = dialog.returnValue;
  dialog.returnValue = input.value = "";
  if (!given) return false;
  current = given;
  try { sessionStorage.setItem(STORED, given); } catch { /* private mode: for this page only */ }
  return true;
}

function wrong(problem) {
  say(byId("key-problem"), problem);
  byId("key-value").setAttribute("aria-invalid", String(problem !== ""));
}

function stored() {
  try { return sessionStorage.getItem(STORED) ?? ""; } catch { return ""; }
}
