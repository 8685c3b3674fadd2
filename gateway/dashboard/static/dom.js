// Elements. Text only ever goes in as text, never as markup: what others wrote can't become part of the page.

export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Leaves the element alone where it says so already: most of the page stays the same from one redraw to the next.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Brings the children of `parent` to `wanted`, in order, and moves none that are in place: focus and scroll stay.
export function arrange(parent, wanted) {
  const kept = new Set(wanted);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const child of wanted) {
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
}
