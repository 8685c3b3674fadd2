// The messages of the log: the newest 500, each as far on as anything has told of it.

const MOST = 500;
const MOST_DROPPED = 20_000;
const FIRST_CHECK_MS = 5_000;
const LONGEST_CHECK_MS = 300_000;

export const settled = (status) => ["sent", "failed", "canceled"].includes(status);

// Steps come in any order. A message goes queued (attempt 0), sending (1), and then sent or failed, or it is canceled; or, where another
// attempt follows, queued (1), sending (2), and so on.
export function place(status, attempt) {
  if (settled(status)) return Infinity;
  return 2 * (attempt ?? 0) + (status === "queued" ? 1 : 0);
}

export class Messages {
  #all = new Map();
  #pinned = new Set();
  // Of messages that were dropped for newer ones, later steps are none of the log's: they would come back as new.
  #dropped = new Set();

  // A step, as WS /events tells it. Null where the message was dropped.
  take({ uuid, run, status, attempt, at, number, text, time_s }) {
    if (this.#dropped.has(uuid)) return null;
    const message = this.#of(uuid, run);
    message.number ??= number;
    message.text ??= text;
    if (!message.at || at < message.at) message.at = at;
    message.steps.set(`${status} ${attempt}`, { status, attempt, at, time_s });
    this.#move(message, status, attempt, time_s);
    return message;
  }

  // The answer of GET /sms/{uuid}: the truth at that moment, which may be past by now.
  learn(view) {
    this.#dropped.delete(view.uuid);
    const message = this.#of(view.uuid, view.run);
    Object.assign(message, { number: view.number, text: view.text, priority: view.priority });
    message.at = view.accepted_at ?? message.at;
    for (const step of view.steps) message.steps.set(`${step.status} ${step.attempt}`, step);
    this.#move(message, view.status, view.attempts, view.steps.findLast((step) => step.status === view.status)?.time_s);
    return message;
  }

  find(uuid) {
    return this.#all.get(uuid);
  }

  newestFirst() {
    return [...this.#all.values()].reverse();
  }

  get size() {
    return this.#all.size;
  }

  // A pinned message is not dropped for newer ones: it is being read.
  pin(uuid, pinned) {
    if (pinned) this.#pinned.add(uuid);
    else this.#pinned.delete(uuid);
  }

  // Messages that have stood still for so long that a step may have been missed: some, each ever more rarely.
  doubtful(most) {
    const now = performance.now();
    const some = [...this.#all.values()].filter((m) => !settled(m.status) && now > m.checkAt).slice(0, most);
    for (const message of some) {
      message.checkMs = Math.min(message.checkMs * 2, LONGEST_CHECK_MS);
      message.checkAt = now + message.checkMs;
    }
    return some;
  }

  doubtAll() {
    for (const message of this.#all.values()) message.checkAt = 0;
  }

  #of(uuid, run) {
    const known = this.#all.get(uuid);
    if (known) return known;
    const message = {
      uuid, run, status: null, attempt: 0, place: -1, at: null, took: null, steps: new Map(), words: null,
      checkMs: FIRST_CHECK_MS, checkAt: performance.now() + FIRST_CHECK_MS,
    };
    this.#all.set(uuid, message);
    if (this.#all.size > MOST) this.#drop();
    return message;
  }

  #move(message, status, attempt, time_s) {
    const to = place(status, attempt);
    if (to < message.place) return;
    // A send that failed and is followed by another took a while, too, but the message isn't through.
    Object.assign(message, { status, attempt, place: to, took: settled(status) ? (time_s ?? message.took) : null });
  }

  #drop() {
    for (const uuid of this.#all.keys()) {
      if (this.#pinned.has(uuid)) continue;
      this.#all.delete(uuid);
      this.#dropped.add(uuid);
      if (this.#dropped.size > MOST_DROPPED) this.#dropped.delete(this.#dropped.values().next().value);
      return;
    }
  }
}

const OF_RUN = "run:";

// What to search for to find the messages of a run.
export const ofRun = (run) => OF_RUN + run;

// Whether every word is found in a message, in any case. The word run:NAME is found in those of this run.
export function matcher(query, status) {
  const all = query.toLowerCase().split(/\s+/).filter(Boolean);
  const runs = all.filter((word) => word.startsWith(OF_RUN)).map((word) => word.slice(OF_RUN.length));
  const words = all.filter((word) => !word.startsWith(OF_RUN));
  return (message) => {
    if (status && message.status !== status) return false;
    if (!runs.every((run) => message.run === run)) return false;
    if (!words.length) return true;
    message.words ??= `${message.uuid} ${message.number ?? ""} ${message.text ?? ""}`.toLowerCase();
    return words.every((word) => message.words.includes(word));
  };
}
