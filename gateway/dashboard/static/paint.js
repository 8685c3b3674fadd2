// Redrawing: at most ten times a second, and at most a fifth of the time, however fast the events come.

const LEAST_MS = 100;
const SHARE = 5;

export function painter(draw) {
  let waiting = false;
  let next = 0;

  const paint = () => {
    waiting = false;
    const began = performance.now();
    draw();
    next = began + Math.max(LEAST_MS, SHARE * (performance.now() - began));
  };

  return () => {
    if (waiting) return;
    waiting = true;
    // A hidden page has no frames: it is drawn once, when it is seen again.
    setTimeout(() => requestAnimationFrame(paint), Math.max(0, next - performance.now()));
  };
}
