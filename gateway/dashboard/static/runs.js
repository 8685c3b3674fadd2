// The runs, newest first, with their progress.

import { arrange, byId, make, say } from "./dom.js";
import { compact, count, lasting, percent, rate } from "./format.js";

const FEW = 8;
const MOST = 50;

export class Runs {
  #runs = new Map();
  #rows = new Map();
  #all = false;

  constructor(paint) {
    byId("runs-all").addEventListener("click", () => {
      this.#all = !this.#all;
      byId("runs-all").setAttribute("aria-expanded", String(this.#all));
      paint();
    });
  }

  // GET /runs, newest first; what is known besides is older, or was forgotten.
  list(runs) {
    this.#runs = new Map(runs.map((run) => [run.run, run]));
  }

  // A run event: of a run that is known, or of the newest.
  take(run) {
    if (!this.#runs.has(run.run)) this.#runs = new Map([[run.run, run], ...this.#runs]);
    else this.#runs.set(run.run, run);
    if (this.#runs.size > MOST) this.#runs.delete([...this.#runs.keys()].at(-1));
  }

  draw() {
    const runs = [...this.#runs.values()];
    const shown = this.#all ? runs : runs.slice(0, FEW);
    const rows = shown.map((run) => this.#row(run));
    arrange(byId("runs").tBodies[0], rows.map((row) => row.item));
    for (const name of this.#rows.keys()) if (!this.#runs.has(name)) this.#rows.delete(name);
    byId("runs").hidden = !runs.length;
    byId("runs-empty").hidden = runs.length > 0;
    byId("runs-all").hidden = runs.length <= FEW;
    say(byId("runs-all"), this.#all ? "Show fewer" : `Show all ${runs.length}`);
    const going = runs.filter((run) => !run.over && run.total > 0).length;
    say(byId("runs-count"), going ? `${going} going on` : "");
  }

  #row(run) {
    let row = this.#rows.get(run.run);
    if (!row) this.#rows.set(run.run, (row = newRow(run.run)));
    const settled = run.sent + run.failed;
    const open = !run.over && !run.total;
    row.item.dataset.over = run.over;
    row.bar.value = run.progress;
    // The failed part of the bar, in its colour.
    row.bar.style.setProperty("--failed-part", settled ? `${(100 * run.failed) / settled}%` : "0%");
    say(row.percent, percent(run.progress));
    say(row.of, `${count(settled)} of ${count(Math.max(run.total, run.published))}${run.failed ? `, ${count(run.failed)} failed` : ""}`);
    say(row.sent, compact(run.sent));
    say(row.failed, compact(run.failed));
    say(row.rate, `${rate(run.rate_per_s)}/s`);
    say(row.eta, run.over ? `done in ${lasting(run.elapsed_s)}` : open ? "open" : lasting(run.eta_s));
    return row;
  }
}

function newRow(name) {
  const cell = (kind) => make("td", { class: kind });
  const row = { sent: cell("number wide"), failed: cell("number wide"), rate: cell("number rate"), eta: cell("number eta") };
  row.bar = make("progress", { max: "1", "aria-label": `Progress of ${name}` });
  row.percent = make("span", { class: "percent" });
  row.of = make("small", {});
  const progress = make("td", { class: "progress" }, make("div", {}, row.bar, row.percent), row.of);
  row.item = make("tr", {}, make("th", { scope: "row", title: name }, name), progress, row.sent, row.failed, row.rate, row.eta);
  row.item.dataset.run = name;
  return row;
}
