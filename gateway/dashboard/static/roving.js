// A long list is one stop of Tab, not hundreds: one of its elements at a time can be tabbed to, and the arrow keys go
// from one to the next.

const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };

// Makes a list such a one; `selector` names its elements. Returns what is to be called after each redraw.
export function roving(list, selector) {
  const rove = (element) => {
    if (!element) return;
    for (const other of list.querySelectorAll(`${selector}[tabindex="0"]`)) if (other !== element) other.tabIndex = -1;
    element.tabIndex = 0;
  };

  list.addEventListener("focusin", (event) => rove(event.target.closest(selector)));
  list.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step === undefined || !event.target.matches(selector)) return;
    event.preventDefault();
    const all = [...list.querySelectorAll(selector)];
    const to = all.indexOf(event.target) + step;
    all[Math.min(Math.max(to, 0), all.length - 1)].focus();
  });

  return () => {
    if (!list.querySelector(`${selector}[tabindex="0"]`)) rove(list.querySelector(selector));
  };
}
