// Numbers and times as people read them. Null and undefined are what can't be told yet: a dash.

export const DASH = "–";

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const count = (n) => (n == null ? DASH : whole.format(n));
// Exact for as long as there is room.
export const compact = (n) => (n == null ? DASH : n < 10_000_000 ? whole.format(n) : short.format(n));

// A rate is worth a decimal only while it is small.
export const rate = (perS) => (perS == null ? DASH : whole.format(perS < 10 ? Math.round(perS * 10) / 10 : Math.round(perS)));

// Rounded down: 100 % is said only of what is wholly done, and 0 % only where there is nothing.
export function percent(share) {
  if (share == null) return DASH;
  if (share > 0 && share < 0.001) return "<0.1 %";
  const tenths = Math.floor(share * 1000 + 1e-9) / 10;
  return `${tenths >= 10 || tenths === 0 ? Math.floor(tenths) : tenths} %`;
}

// How long a send took.
export function took(s) {
  if (s == null) return DASH;
  if (s < 0.001) return `${Math.round(s * 1e6)} µs`;
  if (s < 1) return `${+(s * 1000).toPrecision(3)} ms`;
  return `${s.toFixed(s < 100 ? 2 : 0)} s`;
}

// The same along an axis: as short as it can be said.
export const tick = (s) => (s === 0 ? "0" : s < 1 ? took(s) : `${+s.toFixed(2)} s`);

// How long something lasts or will last.
export function lasting(s) {
  if (s == null) return DASH;
  const all = Math.ceil(s);
  const [h, m] = [Math.floor(all / 3600), Math.floor((all % 3600) / 60)];
  if (h) return `${whole.format(h)} h ${String(m).padStart(2, "0")} min`;
  return m ? `${m} min ${String(all % 60).padStart(2, "0")} s` : `${all} s`;
}

const two = (n) => String(n).padStart(2, "0");

// The time of day, here, to the millisecond.
export function clock(iso) {
  const at = new Date(iso);
  if (iso == null || Number.isNaN(at.getTime())) return DASH;
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}
