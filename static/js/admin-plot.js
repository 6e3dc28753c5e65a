/** The plot of a session: bytes and frames over time, from its samples, while it lives. uPlot is a global. */

import { ask, repeat } from "./admin-live.js";

const HEIGHT = 260;
const BYTES = ["B", "KB", "MB", "GB", "TB"];

function bytes(value) {
  let unit = 0;
  let left = value;
  while (Math.abs(left) >= 1024 && unit < BYTES.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${Number(left.toFixed(left < 10 && unit ? 1 : 0))} ${BYTES[unit]}`;
}

const count = (value) => value.toLocaleString();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** light-dark() is no colour that a canvas knows: the browser resolves it on an element. */
function resolved(name) {
  const probe = document.createElement("span");
  probe.style.color = colour(name) || "currentColor";
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function options(holder) {
  const names = holder.dataset;
  const stepped = window.uPlot.paths.stepped({ align: 1 });
  const series = (label, stroke, scale, dash) => ({
    label,
    stroke: resolved(stroke),
    scale,
    width: 2,
    dash,
    paths: stepped,
    points: { show: false },
    value: (_, value) => (value == null ? "–" : scale === "bytes" ? bytes(value) : count(value)),
  });
  const axis = (more) => ({ stroke: resolved("--ink-soft"), grid: { stroke: resolved("--line"), width: 1 }, ticks: { stroke: resolved("--line") }, ...more });
  return {
    width: holder.clientWidth,
    height: HEIGHT,
    scales: { bytes: { range: (_, __, most) => [0, Math.max(most, 1)] }, frames: { range: (_, __, most) => [0, Math.max(most, 1)] } },
    series: [
      { label: names.time },
      series(names.bytesSent, "--accent", "bytes"),
      series(names.bytesReceived, "--brass", "bytes"),
      series(names.framesSent, "--accent", "frames", [2, 4]),
      series(names.framesReceived, "--brass", "frames", [2, 4]),
    ],
    axes: [
      axis({}),
      axis({ scale: "bytes", size: 72, values: (_, ticks) => ticks.map(bytes) }),
      axis({ scale: "frames", side: 1, size: 60, grid: { show: false }, values: (_, ticks) => ticks.map(count) }),
    ],
  };
}

function columns({ started, points }) {
  return [
    points.map((point) => started + point[0]),
    points.map((point) => point[1]),
    points.map((point) => point[3]),
    points.map((point) => point[2]),
    points.map((point) => point[4]),
  ];
}

async function plot(holder) {
  const read = async () => (await ask(holder.dataset.plot)).json();
  let shown = await read();
  let chart;
  const draw = () => {
    chart?.destroy();
    chart = new window.uPlot(options(holder), columns(shown), holder);
  };
  draw();
  holder.dataset.drawn = "yes";
  new ResizeObserver(() => chart.setSize({ width: holder.clientWidth, height: HEIGHT })).observe(holder);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  if (!shown.is_live) return;
  repeat(Number(holder.dataset.every), async () => {
    shown = await read();
    chart.setData(columns(shown));
    return shown.is_live;
  });
}

document.querySelectorAll("[data-plot]").forEach(plot);
