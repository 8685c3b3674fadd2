// Cancels what is still queued of a message or a run, once the user has confirmed it.

import { post, remove } from "./api.js";
import { make } from "./dom.js";
import { count } from "./format.js";

export const cancelMessage = (uuid) => cancelButton("Cancel this message?", () => remove(`sms/${encodeURIComponent(uuid)}`));

export const cancelRun = (run) => cancelButton(
  `Cancel all queued messages of ${run}? No more can be published in it.`,
  () => post(`runs/${encodeURIComponent(run)}/cancel`),
);

// `cancel()` asks the gateway, and gives how many messages were canceled.
function cancelButton(question, cancel) {
  const button = make("button", { type: "button", class: "quiet cancel" }, "Cancel");
  button.addEventListener("click", async () => {
    if (!confirm(question)) return;
    button.disabled = true;
    try {
      const { canceled } = await cancel();
      button.title = `${count(canceled)} canceled`;
    } catch (error) {
      button.title = error.message;
      button.textContent = "Not canceled: try again";
    }
    button.disabled = false;
  });
  return button;
}
