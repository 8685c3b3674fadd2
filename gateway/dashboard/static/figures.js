// The figures of all messages together: the strip at the top, and the bar that shows where they stand.

import { COUNTERS } from "./counters.js";
import { byId, make, say } from "./dom.js";
import { compact, count, percent, rate, took } from "./format.js";

const STATES = ["sent", "failed", "sending", "queued"];
// Counters without a place of their own in the page stay hidden while they are 0.
const OTHERS = COUNTERS.filter(({ name }) => !byId(`f-${name}`));
for (const { name, label } of OTHERS) {
  byId("other-figures").append(make("div", { hidden: "" }, make("dt", {}, label), make("dd", { id: `f-${name}` })));
}

export function drawFigures(now) {
  const settled = now.sent + now.failed;
  say(byId("f-rate"), `${rate(now.rate_per_s)}/s`);
  for (const name of ["published", "queued", "sending", "sent", "failed"]) {
    const figure = byId(`f-${name}`);
    say(figure, compact(now[name]));
    figure.title = count(now[name]);
  }
  for (const { name } of OTHERS) {
    const figure = byId(`f-${name}`);
    say(figure, count(now[name]));
    figure.parentElement.hidden = !now[name];
  }
  byId("f-failed").dataset.share = now.failed ? percent(now.failed / settled) : "";
  for (const name of ["p50", "p95", "p99"]) say(byId(`f-${name}`), took(now[`${name}_s`]));

  const balance = byId("balance");
  for (const name of STATES) {
    const part = balance.querySelector(`.${name}`);
    part.hidden = !now[name];
    part.style.flexGrow = now[name];
  }
  balance.setAttribute("aria-label", `${count(now.published)} published: ` + STATES.map((name) => `${count(now[name])} ${name}`).join(", "));
}
