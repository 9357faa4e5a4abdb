// Draws loss and utilisation of one training task, and looks again every few seconds until the adapter is published.
"use strict";

const EVERY_MS = 3000;
const WIDTH = 760, HEIGHT = 180, LEFT = 56, BOTTOM = 24, TOP = 8;
const CHARTS = [
  ["loss", "Loss", "nats per token"],
  ["tokens_per_second", "Speed", "tokens per second"],
  ["mfu", "Model FLOPs utilisation", "share of the peak, without what a frozen base saves"],
  ["tflops_per_device", "Operations", "TFLOP/s of each device"],
  ["gpu_percent", "GPU", "percent busy"],
  ["gpu_memory_gib", "GPU memory", "GiB, highest so far"],
  ["cpu_cores", "CPU", "cores busy"],
  ["memory_gib", "Memory", "GiB, highest so far"],
];

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function chart(steps, key, title) {
  const points = steps.filter(step => Number.isFinite(step[key]));
  const values = points.map(step => step[key]);
  const most = Math.max(...values), least = Math.min(0, ...values);
  const first = points[0].step, last = points[points.length - 1].step;
  const x = step => LEFT + (step - first) / Math.max(last - first, 1) * (WIDTH - LEFT - 8);
  const y = value => HEIGHT - BOTTOM - (value - least) / (most - least || 1) * (HEIGHT - BOTTOM - TOP);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} by step` });
  svg.append(
    drawn("line", { x1: LEFT, y1: y(least), x2: WIDTH - 8, y2: y(least) }),
    drawn("polyline", { points: points.map(step => `${x(step.step)},${y(step[key])}`).join(" ") }),
    drawn("text", { x: LEFT - 6, y: y(most) + 10, "text-anchor": "end" }, most.toPrecision(3)),
    drawn("text", { x: LEFT - 6, y: y(least), "text-anchor": "end" }, least.toPrecision(1)),
    drawn("text", { x: LEFT, y: HEIGHT - 6 }, `step ${first}`),
    drawn("text", { x: WIDTH - 8, y: HEIGHT - 6, "text-anchor": "end" }, `step ${last}`),
  );
  return svg;
}

function show(found) {
  const { steps } = found;
  const last = steps[steps.length - 1];
  const state = found.done ? "Published" : "Not published yet";
  document.getElementById("said").textContent = steps.length
    ? `${state}: adapter ${found.name}, version ${found.version}, step ${last.step}`
    : found.sentence;
  document.getElementById("progress").textContent = found.progress;
  const parts = CHARTS.filter(([key]) => steps.some(step => Number.isFinite(step[key]))).flatMap(([key, title, unit]) => {
    const heading = document.createElement("h2");
    const detail = document.createElement("span");
    const now = steps.findLast(step => Number.isFinite(step[key]))[key];
    detail.textContent = `${unit}, now ${now.toPrecision(4)}`;
    heading.append(`${title} `, detail);
    return [heading, chart(steps, key, title)];
  });
  document.getElementById("charts").replaceChildren(...parts);
}

async function look() {
  let again = true;
  try {
    const answer = await fetch(`steps${location.search}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const found = await answer.json();
    show(found);
    again = !found.done;
  } catch (error) {
    document.getElementById("said").textContent = `The steps could not be read (${error.message}); trying again.`;
  }
  if (again) setTimeout(look, EVERY_MS);
}

look();
