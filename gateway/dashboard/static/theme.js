// Light or dark. A plain script, run before the page is drawn, so that a remembered choice never flashes.
// What is remembered is only a choice against the system's; choosing what the system says follows it again.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const KEY = "smsim.theme";

  const remembered = () => {
    try { return localStorage.getItem(KEY); } catch { return null; }
  };
  const remember = (theme) => {
    try { theme ? localStorage.setItem(KEY, theme) : localStorage.removeItem(KEY); } catch { /* private mode: for this page only */ }
  };
  const systems = () => (system.matches ? "dark" : "light");
  const set = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    root.dispatchEvent(new CustomEvent("theme"));
  };

  set(remembered());
  system.addEventListener("change", () => root.dispatchEvent(new CustomEvent("theme")));
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const next = (root.dataset.theme ?? systems()) === "dark" ? "light" : "dark";
      const choice = next === systems() ? null : next;
      remember(choice);
      set(choice);
    });
  });
})();
