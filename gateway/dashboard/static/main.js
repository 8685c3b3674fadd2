// The dashboard: events come in, the models keep what they say, and the views are drawn from the models.

import { get } from "./api.js";
import { Charts } from "./charts.js";
import { byId, say } from "./dom.js";
import { drawFigures } from "./figures.js";
import { startForms } from "./forms.js";
import { History } from "./history.js";
import { startKeys } from "./key.js";
import { follow } from "./live.js";
import { Log } from "./log.js";
import { Messages } from "./messages.js";
import { painter } from "./paint.js";
import { drawQueues } from "./queues.js";
import { Runs } from "./runs.js";
import { drawSenders } from "./senders.js";

const CHECK_MS = 3_000;
const CHECKS = 5;

const messages = new Messages();
const history = new History();
const charts = new Charts(history);
const log = new Log(messages);
let statistics = null;
let live = false;
let about = null;

const paintRuns = painter(() => runs.draw());
const runs = new Runs(paintRuns);
const paintStatistics = painter(() => {
  drawFigures(statistics);
  drawSenders(statistics);
  drawQueues(statistics.depths);
  charts.draw();
});

const drawLastSent = startForms(messages, (accepted) => {
  const run = accepted.uuid.slice(0, accepted.uuid.lastIndexOf("."));
  messages.learn({ ...accepted, run, attempts: 0, steps: [] });
  paintMessages();
});
const paintLastSent = painter(drawLastSent);

function paintMessages() {
  log.paint();
  paintLastSent();
}

const takers = {
  message: (event) => { messages.take(event); paintMessages(); },
  run: (event) => { runs.take(event); paintRuns(); },
  statistics: (event) => { statistics = event; history.take(event); paintStatistics(); },
};

async function check() {
  statistics = await get("stats");
  paintStatistics();
}

// What was told while nobody listened here.
async function catchUp() {
  messages.doubtAll();
  try {
    runs.list((await get("runs?limit=50")).runs);
    paintRuns();
    about ??= await get("openapi.json");
    say(byId("version"), about.info.version);
    // A stand-in keeps what was sent of late: a page that is loaded again doesn't begin with an empty log.
    if (!about.paths["/inbox"]) return;
    for (const { uuid, to, text, sent_at } of (await get("inbox?limit=100")).messages) {
      if (!messages.find(uuid)) messages.take({ uuid, run: uuid.split(".")[0], status: "sent", attempt: 1, at: sent_at, number: to, text });
    }
    paintMessages();
  } catch { /* the next events say as much */ }
}

// Events may be missed; the ledger knows.
setInterval(async () => {
  if (!live || document.hidden) return;
  for (const { uuid } of messages.doubtful(CHECKS)) {
    try { messages.learn(await get(`sms/${encodeURIComponent(uuid)}`)); } catch { /* asked again later */ }
  }
  paintMessages();
}, CHECK_MS);

const PILLS = { live: "Live", offline: "Offline", connecting: "Connecting" };
let retryAt = 0;

function tell({ state, why, retryAt: at }) {
  if (live && state !== "live") { history.gap(); paintStatistics(); }
  live = state === "live";
  const pill = byId("connection");
  pill.dataset.state = state;
  say(pill, PILLS[state]);
  if (state === "connecting") return;
  byId("offline").hidden = live;
  document.body.classList.toggle("stale", !live);
  retryAt = at;
  byId("offline").dataset.why = why ?? "";
  drawOffline();
}

function drawOffline() {
  if (byId("offline").hidden) return;
  const s = Math.ceil((retryAt - Date.now()) / 1000);
  const next = retryAt === null ? "" : s > 0 ? `Trying again in ${s} s.` : "Trying again.";
  say(byId("offline-why"), `${byId("offline").dataset.why} What you see may be old. ${next}`);
}
setInterval(drawOffline, 1000);

const again = follow({
  check, opened: catchUp, tell,
  take: (events) => { for (const event of events) takers[event.type]?.(event); },
});
byId("try-now").addEventListener("click", again);
startKeys(again);
paintRuns();
