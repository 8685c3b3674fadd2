// The runs, newest first, with their progress. A run's name shows its messages in the log.

import { cancelRun } from "./cancel.js";
import { arrange, byId, make, say } from "./dom.js";
import { compact, count, lasting, percent, rate } from "./format.js";
import { roving } from "./roving.js";

const FEW = 8;
// The gateway itself follows no more open runs than these at a time.
const MOST = 200;
// One more than are shown: whether there are others.
export const ASKED = MOST + 1;

export class Runs {
  // By name, newest first: {view, start}.
  #runs = new Map();
  #rows = new Map();
  #known = false;
  #more = false;
  #all = false;
  #rove = roving(byId("runs"), ".name");

  constructor(paint, show) {
    byId("runs-all").addEventListener("click", () => {
      this.#all = !this.#all;
      byId("runs-all").setAttribute("aria-expanded", String(this.#all));
      paint();
    });
    byId("runs").addEventListener("click", (event) => {
      const name = event.target.closest(".name");
      if (name) show(name.textContent);
    });
  }

  // GET /runs, newest first; what is known besides is older, or was forgotten.
  list(views) {
    const now = Date.now() / 1000;
    let start = Infinity;
    this.#runs = new Map();
    for (const view of views.slice(0, MOST)) {
      // How long a run that is over took says not when it began: no later, though, than the one listed before it.
      start = Math.min(start, now - view.elapsed_s);
      this.#runs.set(view.run, { view, start });
    }
    this.#more = views.length > MOST;
    this.#known = true;
  }

  // A run event. True where the run is new here: its place is only about right until the next list.
  take(view) {
    const known = this.#runs.get(view.run);
    if (known) {
      known.view = view;
      return false;
    }
    const start = Date.now() / 1000 - view.elapsed_s;
    const all = [...this.#runs];
    const at = all.findIndex(([, run]) => run.start <= start);
    all.splice(at < 0 ? all.length : at, 0, [view.run, { view, start }]);
    if (all.length > MOST) this.#more = true;
    this.#runs = new Map(all.slice(0, MOST));
    return this.#runs.has(view.run);
  }

  find(name) {
    return this.#runs.get(name)?.view;
  }

  // `unknown`: what to say while there was no list yet.
  draw(unknown) {
    const runs = [...this.#runs.values()].map(({ view }) => view);
    const shown = this.#all ? runs : runs.slice(0, FEW);
    const rows = shown.map((run) => this.#row(run));
    arrange(byId("runs").tBodies[0], rows.map((row) => row.item));
    for (const [name, row] of this.#rows) if (!row.item.isConnected) this.#rows.delete(name);
    this.#rove();
    byId("runs").hidden = !runs.length;
    byId("runs-empty").hidden = runs.length > 0 || !this.#known;
    say(byId("runs-unknown"), runs.length || this.#known ? "" : unknown);
    byId("runs-all").hidden = runs.length <= FEW;
    say(byId("runs-all"), this.#all ? "Show fewer" : this.#more ? `Show the latest ${MOST}` : `Show all ${runs.length}`);
    const going = runs.filter((run) => !run.over && run.total > 0).length;
    const latest = this.#more ? `latest ${MOST}` : "";
    say(byId("runs-count"), [latest, going && `${going} going on`].filter(Boolean).join(", "));
  }

  #row(run) {
    let row = this.#rows.get(run.run);
    if (!row) this.#rows.set(run.run, (row = newRow(run.run)));
    const settled = run.sent + run.failed;
    // Nobody said how many messages it will have: there is no share of them to tell.
    const open = !run.total || run.progress == null;
    const all = open ? `${count(run.published)} so far` : count(Math.max(run.total, run.published));
    row.item.dataset.over = run.over;
    row.bar.parentElement.hidden = open;
    row.bar.value = open ? 0 : run.progress;
    // The failed part of the bar, in its colour.
    row.bar.style.setProperty("--failed-part", settled ? `${(100 * run.failed) / settled}%` : "0%");
    say(row.percent, open ? "" : percent(run.progress));
    say(row.of, `${count(settled)} of ${all}${run.failed ? `, ${count(run.failed)} failed` : ""}`);
    say(row.sent, compact(run.sent));
    say(row.failed, compact(run.failed));
    say(row.rate, `${rate(run.rate_per_s)}/s`);
    row.cancel.hidden = run.over;
    say(row.eta, run.over ? `done in ${lasting(run.elapsed_s)}` : open ? "open" : lasting(run.eta_s));
    return row;
  }
}

function newRow(name) {
  const cell = (kind) => make("td", { class: kind });
  const row = { sent: cell("number wide"), failed: cell("number wide"), rate: cell("number rate"), eta: make("span", {}), cancel: cancelRun(name) };
  row.bar = make("progress", { max: "1", "aria-label": `Progress of ${name}` });
  row.percent = make("span", { class: "percent" });
  row.of = make("small", {});
  const shown = make("button", { type: "button", class: "name", tabindex: "-1", title: "Show its messages in the log" }, name);
  const progress = make("td", { class: "progress" }, make("div", {}, row.bar, row.percent), row.of);
  row.item = make("tr", {}, make("th", { scope: "row" }, shown), progress, row.sent, row.failed, row.rate,
    make("td", { class: "number eta" }, row.eta, row.cancel));
  row.item.dataset.run = name;
  return row;
}
