// The three charts, drawn by uPlot. Their colours are those of the style sheet, read off the legend's swatches.

import { byId, make, say } from "./dom.js";
import { clock, count, rate, tick, took } from "./format.js";

const { uPlot } = globalThis;
const LEAST_S = 60;
const MOST_S = 300;
// Of what is counted there are no fractions.
const WHOLE = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].flatMap((n) => [n, 2 * n, 5 * n]);

const CHARTS = [
  { id: "chart-rate", columns: [1, 2], least: 1, steps: WHOLE, axis: count, value: rate, series: [
    { name: "settled", fill: true }, { name: "failed" }] },
  { id: "chart-depth", columns: [3, 4], least: 1, steps: WHOLE, axis: count, value: count, series: [
    { name: "queued", fill: true, title: "messages that wait for a sender" },
    { name: "sending", title: "messages in flight" }] },
  { id: "chart-latency", columns: [5, 6, 7], least: 0.01, axis: tick, value: took, series: [
    { name: "p50" }, { name: "p95" }, { name: "p99" }] },
];

export class Charts {
  #charts;

  constructor(history) {
    this.#charts = CHARTS.map((plan) => new Chart(plan, history));
    document.documentElement.addEventListener("theme", () => this.draw());
  }

  draw() {
    for (const chart of this.#charts) chart.draw();
  }
}

class Chart {
  #plan;
  #history;
  #values = [];
  #swatches = [];
  #plot;
  #box;

  constructor(plan, history) {
    this.#plan = plan;
    this.#history = history;
    const panel = byId(plan.id);
    this.#box = panel.querySelector(".plot");
    for (const { name, title } of plan.series) panel.querySelector(".legend").append(this.#entry(name, title));
    this.#plot = new uPlot(this.#options(), this.#data(), this.#box);
    new ResizeObserver(() => this.#plot.setSize(this.#size())).observe(this.#box);
  }

  draw() {
    this.#plot.setData(this.#data());
    this.#legend();
  }

  #entry(name, title) {
    const swatch = make("i", { class: `swatch ${name}` });
    const value = make("dd", {}, "–");
    this.#swatches.push(swatch);
    this.#values.push(value);
    return make("div", title ? { title } : {}, make("dt", {}, swatch, name), value);
  }

  #data() {
    return [0, ...this.#plan.columns].map((k) => this.#history.columns[k]);
  }

  #size() {
    return { width: this.#box.clientWidth, height: this.#box.clientHeight };
  }

  #options() {
    const axis = { stroke: () => getComputedStyle(this.#box).color, font: "11px Inter, system-ui, sans-serif",
      grid: { stroke: () => getComputedStyle(this.#box).borderTopColor, width: 1 }, ticks: { show: false } };
    return {
      ...this.#size(),
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "charts" }, points: { size: 7 } },
      scales: {
        x: { time: true, range: () => span(this.#history.columns[0]) },
        y: { range: (_plot, _low, high) => [0, Math.max(this.#plan.least, (high ?? 0) * 1.1)] },
      },
      axes: [
        { ...axis, size: 24, gap: 4, space: 70, values: times },
        { ...axis, size: room, gap: 6, space: 34, values: (_plot, ticks) => ticks.map(this.#plan.axis),
          ...(this.#plan.steps && { incrs: this.#plan.steps }) },
      ],
      series: [{}, ...this.#plan.series.map((series, k) => this.#series(series, k))],
      hooks: { setCursor: [() => this.#legend()] },
    };
  }

  #series({ fill }, k) {
    const colour = () => getComputedStyle(this.#swatches[k]).color;
    return {
      stroke: colour, width: 1.5, points: { show: false },
      ...(fill && { fill: () => colour().replace("rgb(", "rgba(").replace(")", ", 0.14)") }),
    };
  }

  // The values under the cursor, else the newest.
  #legend() {
    const { columns, value, series } = this.#plan;
    const length = this.#history.columns[0].length;
    const at = this.#plot?.cursor.idx ?? length - 1;
    const texts = columns.map((k) => value(this.#history.columns[k][at]));
    texts.forEach((text, k) => say(this.#values[k], text));
    this.#box.setAttribute("aria-label", length ? `Chart. Now ${series.map(({ name }, k) => `${name} ${texts[k]}`).join(", ")}` : "Chart. No data yet");
  }
}

// A minute at first, growing with what there is to show.
function span(times) {
  const now = times.at(-1) ?? Date.now() / 1000;
  return [now - Math.min(MOST_S, Math.max(LEAST_S, now - (times[0] ?? now))), now];
}

// How wide an axis has to be for its labels.
function room(_plot, labels) {
  return 14 + 7 * Math.max(3, ...(labels ?? []).map((label) => label.length));
}

// Times of day along the axis, but for one that would be cut off at its end.
function times(plot, ticks) {
  const end = plot.over.clientWidth - 20;
  return ticks.map((time) => (plot.valToPos(time, "x") > end ? "" : clock(new Date(time * 1000)).slice(0, 8)));
}
