// The two forms: to send a message, and to start a simulated run. Each goes on to say what became of it.

import { post } from "./api.js";
import { byId, make, say } from "./dom.js";
import { Form } from "./form.js";
import { count, percent, took } from "./format.js";
import { segments } from "./segments.js";

// `accepted(answer)`: a message was accepted. Returns `drawSent` and `drawStarted`, to be called when messages or runs
// have moved, and `reconnected`.
export function startForms(messages, runs, accepted) {
  const send = new Form("send");
  const simulate = new Form("simulate");
  // One key for what is in the form: pressing Send again after a lost answer sends nothing twice.
  let sendingKey = null;
  let sent = null;
  let started = null;
  let seen = false;

  send.form.addEventListener("input", () => { sendingKey = null; });
  // What became of the last one is no news any more once another is tried.
  send.form.addEventListener("submit", () => { if (sent) messages.pin(sent, false); sent = null; });
  simulate.form.addEventListener("submit", () => { started = null; });
  byId("send-text").addEventListener("input", () => drawSegments(byId("send-text").value));
  drawSegments(byId("send-text").value);

  send.onSubmit(async () => {
    const { number, text, urgent, callback_url } = send.values();
    const body = { number, text, ...(urgent && { priority: "urgent" }), ...(callback_url && { callback_url }) };
    sendingKey ??= randomKey();
    const answer = await post("sms", body, { "Idempotency-Key": sendingKey });
    sendingKey = null;
    messages.pin((sent = answer.uuid), true);
    accepted(answer);
  });

  simulate.onSubmit(async () => {
    const { num_messages, batch_size, run, urgent } = simulate.values();
    const body = { num_messages: Number(num_messages), ...(batch_size && { batch_size: Number(batch_size) }) };
    started = await post("runs", { ...body, ...(run && { run }), ...(urgent && { priority: "urgent" }) });
    seen = false;
    drawStarted();
  });

  // How the message sent last stands, as the events tell of it.
  function drawSent() {
    const message = sent && messages.find(sent);
    if (!message) return;
    const time = message.took == null ? "" : ` in ${took(message.took)}`;
    send.outcome(make("span", { class: `status ${message.status}` }, message.status), `${time} `, make("code", {}, message.uuid));
  }

  function drawStarted() {
    if (!started) return;
    const run = runs.find(started.run);
    // Forgotten by the gateway: there is nothing more to say of it.
    if (seen && !run) simulate.outcome("");
    else simulate.outcome(make("code", {}, started.run), ` ${stage(started.num_messages, run)}`);
    seen ||= run !== undefined;
  }

  return { drawSent, drawStarted, reconnected: () => { send.reconnected(); simulate.reconnected(); } };
}

function stage(all, run) {
  if (run?.over) return `is over: ${count(run.sent)} sent, ${count(run.failed)} failed.`;
  if (run && run.published >= all) return `is published, ${percent(run.progress)} of it sent or failed.`;
  return `is being published: ${count(all)} messages.`;
}

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function drawSegments(text) {
  const { encoding, units, segments: made, alone, joined } = segments(text);
  const room = made === 1 ? alone : made * joined;
  const all = text ? made : 0;
  say(byId("send-segments"), `${count(all)} ${all === 1 ? "segment" : "segments"} · ${encoding} · ${count(units)} of ${count(room)}`);
}
