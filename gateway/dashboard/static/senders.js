// The senders and the share that each has in what is settled.

import { arrange, byId, make, say } from "./dom.js";
import { compact, count, percent } from "./format.js";

const MOST = 20;
const rows = new Map();

export function drawSenders({ shares, senders: running, queued }) {
  const shown = [...shares].sort((a, b) => b.share - a.share || (a.sender < b.sender ? -1 : 1)).slice(0, MOST);
  arrange(byId("senders").tBodies[0], shown.map(row));
  const names = new Set(shown.map(({ sender }) => sender));
  for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
  byId("senders").hidden = !shares.length;
  say(byId("senders-count"), `${count(running)} running${shares.length > MOST ? `, the busiest ${MOST} shown` : ""}`);
  byId("senders-empty").hidden = running > 0;
  say(byId("senders-empty"), `No sender is running${queued ? `: ${count(queued)} messages wait for one` : ""}.`);
}

function row(sender) {
  let known = rows.get(sender.sender);
  if (!known) rows.set(sender.sender, (known = newRow(sender.sender)));
  say(known.flight, `${count(sender.in_flight)}/${count(sender.slots)}`);
  say(known.settled, compact(sender.sent + sender.failed));
  known.settled.title = `${count(sender.sent)} sent, ${count(sender.failed)} failed`;
  say(known.percent, percent(sender.share));
  known.bar.style.setProperty("--share", `${100 * (sender.share ?? 0)}%`);
  return known.item;
}

function newRow(name) {
  const cell = (kind) => make("td", { class: kind });
  const made = { flight: cell("number"), settled: cell("number"), percent: cell("number"), bar: make("i", { class: "share" }) };
  made.item = make("tr", {}, make("th", { scope: "row", title: name }, name, made.bar), made.flight, made.settled, made.percent);
  return made;
}
