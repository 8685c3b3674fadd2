// A form. What is wrong is said at its field: what can be seen from here before anything is sent, and else what the
// gateway says; what belongs to no field is said at the form.

import { byId, make, say } from "./dom.js";
import { count } from "./format.js";

export class Form {
  #outcome;
  #said = "";
  #busy = false;
  #unanswered = false;

  constructor(id) {
    this.form = byId(id);
    this.#outcome = this.form.querySelector(".outcome");
    for (const field of this.form.querySelectorAll(".field input, .field textarea")) {
      const problem = make("span", { class: "problem", id: `${field.id}-problem` });
      field.after(problem);
      field.setAttribute("aria-describedby", problem.id);
      field.addEventListener("input", () => mark(field, ""));
    }
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
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
        this.#check();
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
    this.#unanswered = false;
    this.#outcome.classList.remove("problem");
    this.#outcome.replaceChildren(...parts);
  }

  // The gateway answers again: that it did not is no longer so.
  reconnected() {
    if (this.#unanswered) this.outcome("");
  }

  #clear() {
    for (const field of this.form.querySelectorAll("[aria-invalid=true]")) mark(field, "");
    this.outcome("");
  }

  #check() {
    const errors = [...this.form.elements]
      .map((field) => ({ where: field.name, what: errorIn(field) }))
      .filter(({ what }) => what);
    if (errors.length) throw Object.assign(new Error(), { errors });
  }

  #fail(error) {
    const rest = [];
    let first = null;
    for (const { where, what } of error.errors ?? []) {
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
      this.#unanswered = error.status === 0;
    }
  }
}

// What is wrong with a field, in words; "" if nothing is. Its `data-rule` says what it accepts.
function errorIn({ value, validity, dataset }) {
  if (!validity) return "";
  if (validity.valueMissing && !validity.badInput) return "This is needed.";
  if (!validity.valid) return dataset.rule;
  // As the gateway counts them, in code points, which `maxlength` does not.
  return [...value].length > dataset.longest ? `At most ${count(Number(dataset.longest))} characters.` : "";
}

function mark(field, problem) {
  field.setAttribute("aria-invalid", String(problem !== ""));
  say(byId(`${field.id}-problem`), problem);
}
