// The two forms. What the gateway finds wrong is shown at the field it names, else at the form.

import { post } from "./api.js";
import { byId, make, say } from "./dom.js";
import { count, took } from "./format.js";
import { segments } from "./segments.js";

export function startForms(messages, accepted) {
  const send = new Form("send");
  const simulate = new Form("simulate");
  // One key for what is in the form: pressing Send again after a lost answer sends nothing twice.
  let sendingKey = null;
  let last = null;

  send.form.addEventListener("input", () => { sendingKey = null; });
  byId("send-text").addEventListener("input", () => drawSegments(byId("send-text").value));
  drawSegments(byId("send-text").value);

  send.onSubmit(async () => {
    const { number, text, urgent, callback_url } = send.values();
    const body = { number, text, ...(urgent && { priority: "urgent" }), ...(callback_url && { callback_url }) };
    sendingKey ??= randomKey();
    const answer = await post("sms", body, { "Idempotency-Key": sendingKey });
    sendingKey = null;
    if (last) messages.pin(last, false);
    messages.pin((last = answer.uuid), true);
    accepted(answer);
  });

  simulate.onSubmit(async () => {
    const { num_messages, batch_size, run, urgent } = simulate.values();
    const body = { num_messages: asNumber(num_messages), ...(batch_size && { batch_size: asNumber(batch_size) }) };
    const answer = await post("runs", { ...body, ...(run && { run }), ...(urgent && { priority: "urgent" }) });
    simulate.outcome(`${answer.run} is being published: ${count(answer.num_messages)} messages.`);
  });

  // How the message sent last stands, as the events tell of it.
  return () => {
    const message = last && messages.find(last);
    if (!message) return;
    const time = message.took == null ? "" : ` in ${took(message.took)}`;
    send.outcome(make("span", { class: `status ${message.status}` }, message.status), `${time} `, make("code", {}, message.uuid));
  };
}

class Form {
  #outcome;
  #said = "";
  #busy = false;

  constructor(id) {
    this.form = byId(id);
    this.#outcome = this.form.querySelector(".outcome");
    for (const field of this.form.querySelectorAll(".field input, .field textarea")) {
      const problem = make("span", { class: "problem", id: `${field.id}-problem` });
      field.after(problem);
      field.setAttribute("aria-describedby", problem.id);
      field.addEventListener("input", () => mark(field, ""));
    }
  }

  values() {
    return Object.fromEntries([...new FormData(this.form)].map(([name, value]) => [name, value]));
  }

  onSubmit(submit) {
    this.form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (this.#busy) return;
      this.#busy = true;
      this.form.setAttribute("aria-busy", "true");
      this.#clear();
      try {
        this.#complete();
        await submit();
      } catch (error) {
        this.#fail(error);
      }
      this.#busy = false;
      this.form.removeAttribute("aria-busy");
    });
  }

  outcome(...parts) {
    const says = parts.map((part) => part.textContent ?? part).join("");
    if (says === this.#said) return;
    this.#said = says;
    this.#outcome.classList.remove("problem");
    this.#outcome.replaceChildren(...parts);
  }

  #clear() {
    for (const field of this.form.querySelectorAll("[aria-invalid=true]")) mark(field, "");
    this.outcome("");
  }

  #complete() {
    const missing = [...this.form.elements].filter((field) => field.required && !field.value);
    if (missing.length) throw Object.assign(new Error(), { flaws: missing.map(({ name }) => ({ where: name, what: "This is needed." })) });
  }

  #fail(error) {
    const rest = [];
    let first = null;
    for (const { where, what } of error.flaws ?? []) {
      const field = this.form.elements.namedItem(where.replace(/^body\.?/, ""));
      if (field) { mark(field, what); first ??= field; }
      else rest.push(where === "body" ? what : `${where}: ${what}`);
    }
    if (first) {
      const folded = first.closest("details");
      if (folded) folded.open = true;
      first.focus();
    }
    if (rest.length || !first) {
      this.outcome([rest.length && first ? "" : error.message, ...rest].filter(Boolean).join(" "));
      this.#outcome.classList.add("problem");
    }
  }
}

function mark(field, problem) {
  field.setAttribute("aria-invalid", String(problem !== ""));
  say(byId(`${field.id}-problem`), problem);
}

// What is no number goes as it is: the gateway says what is wrong with it.
function asNumber(text) {
  const number = Number(text);
  return text.trim() === "" || Number.isNaN(number) ? text : number;
}

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function drawSegments(text) {
  const { encoding, units, segments: made, alone, joined } = segments(text);
  const room = made === 1 ? alone : made * joined;
  say(byId("send-segments"), `${count(made)} ${made === 1 ? "segment" : "segments"} · ${encoding} · ${count(units)} of ${count(room)}`);
}
