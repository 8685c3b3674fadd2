// The dashboard: events come in, the models keep what they say, and the views are drawn from the models.

import { get } from "./api.js";
import { Charts } from "./charts.js";
import { Connection } from "./connection.js";
import { byId, say } from "./dom.js";
import { drawFigures } from "./figures.js";
import { startForms } from "./forms.js";
import { History } from "./history.js";
import { askForKey, startKeys, tellOfKeys } from "./key.js";
import { startLayout } from "./layout.js";
import { follow } from "./live.js";
import { COUNTED, Log } from "./log.js";
import { Messages } from "./messages.js";
import { painter } from "./paint.js";
import { drawQueues } from "./queues.js";
import { ASKED, Runs } from "./runs.js";
import { drawSenders } from "./senders.js";

const CHECK_MS = 3_000;
const CHECKS = 5;
const LIST_MS = 1_500;

startLayout();
const connection = new Connection();
const messages = new Messages();
const history = new History();
const charts = new Charts(history);
const log = new Log(messages, whyNoMessages);
let statistics = null;
let about = null;
let listing = false;

const paintRuns = painter(() => {
  runs.draw(connection.unknown());
  forms.drawStarted();
});
const runs = new Runs(paintRuns, (run) => log.showRun(run));
const forms = startForms(messages, runs, (accepted) => {
  const run = accepted.uuid.slice(0, accepted.uuid.lastIndexOf("."));
  messages.learn({ ...accepted, run, attempts: 0, steps: [] });
  paintMessages();
});
const paintSent = painter(forms.drawSent);
const paintStatistics = painter(() => {
  if (!statistics) return;
  drawFigures(statistics);
  drawSenders(statistics);
  drawQueues(statistics.depths);
  charts.draw();
});

function paintMessages() {
  log.paint();
  paintSent();
}

function whyNoMessages() {
  if (!statistics && !connection.live) return connection.unknown();
  const none = !statistics || statistics.published ? "None since this page was opened" : "No messages yet";
  return `${none}: send one here, or with POST /sms. ${COUNTED}`;
}

const takers = {
  message: (event) => { messages.take(event); paintMessages(); },
  run: (event) => { if (runs.take(event)) listSoon(); paintRuns(); },
  statistics: (event) => { statistics = event; history.take(event); paintStatistics(); },
};

async function check() {
  try {
    statistics = await get("stats");
  } catch (error) {
    if (error.status !== 403) throw error;
    await get("runs?limit=1"); // this key may see its own messages and runs, or nothing
    statistics = null;
  }
  paintStatistics();
}

async function list() {
  runs.list((await get(`runs?limit=${ASKED}`)).runs);
  paintRuns();
}

// Only the gateway knows the order in which runs began.
function listSoon() {
  if (listing) return;
  listing = true;
  setTimeout(() => {
    listing = false;
    list().catch(() => { /* the next unknown run asks again */ });
  }, LIST_MS);
}

// What was told while nobody listened here.
async function catchUp() {
  messages.doubtAll();
  try {
    await list();
    // A stand-in keeps what was sent of late: a page that is loaded again doesn't begin with an empty log.
    if (!(await described()).paths["/inbox"]) return;
    for (const { uuid, to, text, sent_at } of (await get("inbox?limit=100")).messages) {
      if (!messages.find(uuid)) messages.take({ uuid, run: uuid.split(".")[0], status: "sent", attempt: 1, at: sent_at, number: to, text });
    }
    paintMessages();
  } catch { /* the next events say as much */ }
}

// What kind of gateway this is. Anybody may know that, without a key.
async function described() {
  about ??= await get("openapi.json");
  say(byId("version"), about.info.version);
  tellOfKeys("/inbox" in about.paths);
  return about;
}

// Events may be missed; the ledger knows.
setInterval(async () => {
  if (!connection.live || document.hidden) return;
  for (const { uuid } of messages.doubtful(CHECKS)) {
    try { messages.learn(await get(`sms/${encodeURIComponent(uuid)}`)); } catch { /* asked again later */ }
  }
  paintMessages();
}, CHECK_MS);

function tell(how) {
  if (connection.live && how.state !== "live") { history.gap(); paintStatistics(); }
  connection.tell(how, statistics !== null);
  if (connection.live) forms.reconnected();
  paintRuns();
  log.paint();
}

const again = follow({
  check, opened: catchUp, tell,
  take: (events) => { for (const event of events) takers[event.type]?.(event); },
});
byId("try-now").addEventListener("click", async () => {
  if (connection.standing !== "locked" || (await askForKey())) again();
});
startKeys(again);
paintRuns();
described().catch(() => { /* asked again once there is a connection */ });
