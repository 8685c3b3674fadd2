// How the connection stands: the pill at the top of the page and, while there is none, the banner with the reason.

import { byId, say } from "./dom.js";

const PILLS = { live: "Live", offline: "Offline", locked: "Locked", connecting: "Connecting" };

export class Connection {
  // "live", "offline" or "locked" (the gateway wants another key): what the last attempt came to; null before the first.
  standing = null;
  #why = "";
  #retryAt = null;
  #seen = false;

  constructor() {
    setInterval(() => this.#draw(), 1000);
  }

  get live() {
    return this.standing === "live";
  }

  // `seen`: the page shows something, which may be old by now.
  tell({ state, why = "", retryAt = null }, seen) {
    byId("connection").dataset.state = state;
    say(byId("connection"), PILLS[state]);
    if (state === "connecting") return;
    [this.standing, this.#why, this.#retryAt, this.#seen] = [state, why, retryAt, seen];
    document.body.classList.toggle("stale", !this.live);
    const banner = byId("offline");
    banner.hidden = this.live;
    banner.dataset.state = state;
    say(banner.querySelector("strong"), `${PILLS[state]}.`);
    say(byId("try-now"), state === "locked" ? "Enter key" : "Try now");
    this.#draw();
  }

  // Why a list is empty while nothing is known of what would be in it.
  unknown() {
    if (this.standing === "locked") return "Shown once a key is given.";
    return this.standing === "offline" ? "Not known: the gateway can't be reached." : "Asking the gateway.";
  }

  #draw() {
    if (this.standing === null || this.live) return;
    const s = Math.ceil((this.#retryAt - Date.now()) / 1000);
    const next = this.#retryAt === null ? "" : s > 0 ? `Trying again in ${s} s.` : "Trying again.";
    say(byId("offline-why"), [this.#why, this.#seen && "What you see may be old.", next].filter(Boolean).join(" "));
  }
}
