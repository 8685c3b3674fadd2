// The log: one row a message, newest first, which opens on its timeline. Arrow keys go from row to row.

import { get } from "./api.js";
import { arrange, byId, make, say } from "./dom.js";
import { clock, count, took } from "./format.js";
import { matcher, ofRun } from "./messages.js";
import { painter } from "./paint.js";
import { roving } from "./roving.js";
import { details } from "./timeline.js";

export const COUNTED = "Messages of large runs are counted, and not listed singly.";
const MESSAGE_ID = /^[a-z0-9-]{1,40}\.\d{1,13}$/;

export class Log {
  #messages;
  #rows = new Map();
  #frozen = null;
  #list = byId("log");
  #rove = roving(this.#list, "summary");
  #whyEmpty;

  // `whyEmpty()`: what to say while there is no message here at all.
  constructor(messages, whyEmpty) {
    this.#messages = messages;
    this.#whyEmpty = whyEmpty;
    this.paint = painter(() => this.#draw());
    byId("log-search").addEventListener("input", () => { say(byId("log-problem"), ""); this.paint(); });
    byId("log-search").addEventListener("keydown", (event) => { if (event.key === "Enter") this.#lookUp(); });
    byId("log-status").addEventListener("change", this.paint);
    byId("log-pause").addEventListener("click", () => this.#pause());
    this.paint();
  }

  // Shows the messages of one run.
  showRun(run) {
    byId("log-search").value = ofRun(run);
    byId("log-status").value = "";
    say(byId("log-problem"), "");
    this.#draw();
    byId("log-title").focus();
    byId("log-title").scrollIntoView({ block: "nearest" });
  }

  #draw() {
    const all = this.#frozen ?? this.#messages.newestFirst();
    const shown = all.filter(matcher(byId("log-search").value, byId("log-status").value));
    const rows = shown.map((message) => this.#row(message));
    arrange(this.#list, rows.map((row) => row.item));
    for (const [uuid, row] of this.#rows) if (!row.item.isConnected) { this.#rows.delete(uuid); this.#messages.pin(uuid, false); }
    this.#rove();
    say(byId("log-count"), all.length ? (shown.length < all.length ? `${count(shown.length)} of ${count(all.length)}` : count(all.length)) : "");
    say(byId("log-empty"), shown.length ? "" : all.length
      ? `No message here matches. Enter looks a message id up. ${COUNTED}`
      : this.#whyEmpty());
  }

  #row(message) {
    let row = this.#rows.get(message.uuid);
    if (!row) this.#rows.set(message.uuid, (row = this.#newRow(message)));
    if (row.place !== message.place || row.at !== message.at) {
      row.place = message.place;
      row.at = message.at;
      row.item.dataset.status = message.status;
      say(row.time, clock(message.at));
      say(row.status, message.status);
      say(row.number, message.number ?? "");
      say(row.text, message.text ?? "");
      say(row.took, message.took == null ? "" : took(message.took));
      if (row.opened.open) this.#tell(row, message);
    }
    return row;
  }

  #newRow(message) {
    const cell = (name) => make("span", { class: name });
    const row = { time: cell("time"), status: cell("status"), number: cell("number"), text: cell("text"), took: cell("took") };
    row.inside = make("div", { class: "inside" });
    row.opened = make("details", {},
      make("summary", { tabindex: "-1" }, row.time, row.status, row.number, row.text, row.took), row.inside);
    row.item = make("li", {}, row.opened);
    row.item.dataset.uuid = message.uuid;
    row.opened.addEventListener("toggle", () => {
      this.#messages.pin(message.uuid, row.opened.open);
      if (row.opened.open) this.#tell(row, message);
    });
    return row;
  }

  // Shows what is known, then what the gateway knows besides.
  async #tell(row, message) {
    row.inside.replaceChildren(...details(message));
    try {
      this.#messages.learn(await get(`sms/${encodeURIComponent(message.uuid)}`));
      row.inside.replaceChildren(...details(message));
    } catch (error) {
      row.inside.append(make("p", { class: "problem", role: "alert" }, error.message));
    }
    this.paint();
  }

  async #lookUp() {
    const uuid = byId("log-search").value.trim();
    if (!MESSAGE_ID.test(uuid)) return;
    try {
      this.#messages.learn(await get(`sms/${uuid}`));
    } catch (error) {
      say(byId("log-problem"), error.message);
      return;
    }
    if (this.#frozen) this.#frozen = this.#messages.newestFirst();
    this.#draw();
    const row = this.#rows.get(uuid);
    if (row) row.opened.open = true;
  }

  #pause() {
    this.#frozen = this.#frozen ? null : this.#messages.newestFirst();
    byId("log-pause").setAttribute("aria-pressed", String(this.#frozen !== null));
    this.paint();
  }
}
