// The figures of all messages together: the strip at the top, and the bar that shows where they stand.

import { byId, say } from "./dom.js";
import { compact, count, percent, rate, took } from "./format.js";

const STATES = ["sent", "failed", "sending", "queued"];

export function drawFigures(now) {
  const settled = now.sent + now.failed;
  say(byId("f-rate"), `${rate(now.rate_per_s)}/s`);
  for (const name of ["published", "queued", "sending", "sent", "failed"]) {
    const figure = byId(`f-${name}`);
    say(figure, compact(now[name]));
    figure.title = count(now[name]);
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
