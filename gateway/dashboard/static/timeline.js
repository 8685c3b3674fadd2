// What became of one message, step by step: the inside of an opened row of the log.

import { cancelMessage } from "./cancel.js";
import { make } from "./dom.js";
import { clock, took } from "./format.js";
import { place } from "./messages.js";

const LABELS = { queued: "Queued", sending: "Sending", sent: "Sent", failed: "Failed", canceled: "Canceled" };

export function details(message) {
  const facts = make("dl", { class: "facts" });
  const fact = (name, value) => value != null && facts.append(make("div", {}, make("dt", {}, name), make("dd", {}, String(value))));
  fact("Message id", message.uuid);
  fact("Number", message.number);
  fact("Priority", message.priority);
  fact("Attempts", message.attempt || null);
  const text = make("p", { class: "full" }, message.text ?? "Its text is not known here.");
  const actions = message.status === "queued" ? [cancelMessage(message.uuid)] : [];
  return [text, facts, timeline(message), ...actions];
}

function timeline(message) {
  const steps = [...message.steps.values()].sort((a, b) => place(a.status, a.attempt) - place(b.status, b.attempt));
  if (!steps.length) return make("p", { class: "hint" }, "Of bulk messages the ledger keeps the status only, and no times.");
  const began = Date.parse(steps[0].at);
  return make("ol", { class: "timeline", "aria-label": "Timeline" }, ...steps.map((step) => {
    const since = (Date.parse(step.at) - began) / 1000;
    return make(
      "li", { class: step.status },
      make("span", { class: "what" }, label(step)),
      make("time", { datetime: step.at, title: step.at }, clock(step.at)),
      make("span", { class: "since" }, since > 0 ? `+${took(since)}` : ""),
      make("span", { class: "note" }, note(step)),
    );
  }));
}

function label({ status, attempt }) {
  return status === "queued" && attempt > 0 ? "To be tried again" : LABELS[status];
}

function note({ status, attempt, time_s }) {
  const parts = [];
  if (attempt > 1 || (status === "queued" && attempt > 0)) parts.push(`attempt ${attempt}`);
  if (time_s != null) parts.push(`the send took ${took(time_s)}`);
  return parts.join(", ");
}
