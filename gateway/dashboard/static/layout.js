// The order of the panels. It is that of the document, so that Tab and screen readers go as the eyes do; on a narrow
// screen what one came for is first, and what is seldom used is folded.

import { arrange, byId } from "./dom.js";

const NARROW = matchMedia("(max-width: 900px)");
const WIDE_ORDER = { main: ["now", "charts", "send-panel", "rest", "flow"], flow: ["runs-panel", "log-panel"] };
const NARROW_ORDER = { main: ["now", "send-panel", "flow", "charts", "rest"], flow: ["log-panel", "runs-panel"] };

export function startLayout() {
  const place = () => {
    for (const [parent, ids] of Object.entries(NARROW.matches ? NARROW_ORDER : WIDE_ORDER)) arrange(byId(parent), ids.map(byId));
    for (const fold of document.querySelectorAll(".fold")) fold.open = !NARROW.matches;
  };
  NARROW.addEventListener("change", place);
  place();
}
