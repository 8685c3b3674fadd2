// WS /events, for as long as the page is open: connects, and connects again, ever more slowly, when it is lost.

import { key } from "./key.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
// Statistics come each second: a connection that is silent for longer is dead, whatever it says.
const SILENCE_MS = 8_000;

// `check`: throws where the REST API can't be used (a browser isn't told why a WebSocket was refused).
// `opened`: a connection is there. `take(events)`: some have come. `tell({state, why, retryAt})`: how it
// stands; "locked" where the gateway wants a key, or another one.
// Returns what ends the present wait or connection: `again(reason)`.
export function follow({ check, opened, take, tell }) {
  let wake = () => {};
  let socket = null;

  (async () => {
    for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
      let why;
      let refused = false;
      try {
        await check();
        socket = new WebSocket(address(), key() ? ["smsim.v1", `key.${key()}`] : ["smsim.v1"]);
        why = await lasting(socket, take, () => {
          wait = FIRST_WAIT_MS;
          tell({ state: "live" });
          opened();
        });
      } catch (error) {
        why = error.status === 401 ? "This gateway asks for an API key." : error.message;
        refused = error.status === 401 || error.status === 403;
      }
      socket = null;
      // Spread, so that all pages don't come back at the same moment. Without a good key only the user can help.
      const pause = wait * (0.75 + Math.random() / 2);
      tell({ state: refused ? "locked" : "offline", why, retryAt: refused ? null : Date.now() + pause });
      await new Promise((done) => { wake = done; if (!refused) setTimeout(done, pause); });
      tell({ state: "connecting" });
    }
  })();

  const again = () => { socket?.close(); wake(); };
  addEventListener("online", again);
  return again;
}

function address() {
  const url = new URL("events", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return url;
}

// Resolves once the connection is over, with why.
function lasting(socket, take, opened) {
  return new Promise((over) => {
    let heard = performance.now();
    const watch = setInterval(() => {
      if (performance.now() - heard > SILENCE_MS) end("Nothing came for a while.");
    }, 1000);
    const end = (why) => {
      clearInterval(watch);
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
      over(why);
    };
    socket.onopen = () => { heard = performance.now(); opened(); };
    socket.onmessage = (message) => { heard = performance.now(); take(JSON.parse(message.data)); };
    socket.onclose = (event) => end(event.reason ? `The gateway closed the connection: ${event.reason}.` : "The connection was lost.");
  });
}
