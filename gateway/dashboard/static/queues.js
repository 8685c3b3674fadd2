// The queues and how many batches (AMQP messages) wait in each. Retry queues are shown while something is in them.

import { arrange, byId, make, say } from "./dom.js";
import { count } from "./format.js";

const rows = new Map();

export function drawQueues(depths) {
  const shown = Object.entries(depths ?? {}).filter(([name, depth]) => depth > 0 || !name.includes(".retry")).sort();
  arrange(byId("queues").tBodies[0], shown.map(row));
  byId("queues").hidden = !shown.length;
  byId("queues-empty").hidden = depths != null;
  say(byId("queues-empty"), "The broker does not answer.");
}

function row([name, depth]) {
  let known = rows.get(name);
  if (!known) {
    known = { depth: make("td", { class: "number" }) };
    known.item = make("tr", {}, make("th", { scope: "row", title: name }, name), known.depth);
    rows.set(name, known);
  }
  say(known.depth, count(depth));
  return known.item;
}
