"use strict";
// One page over the server's small API: GET state, image/<t>, overlay/<t>; POST edit, undo, propagate, save, done.

const $ = (id) => document.getElementById(id);
const view = $("view"), marks = $("marks"), scrub = $("scrub"), paint = view.getContext("2d");
const CLICK_PX = 5; // a drag shorter than this on the screen is a click

let state = null, frame = 0, entity = "object", showMasks = true, playing = null, drag = null, busy = 0;
let picture = null, overlay = null, wanted = 0, unsaved = false;

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch("api/" + path, options);
  } catch {
    throw new Error("the server does not answer: is the command still running?");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || answer.statusText);
  return found;
}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

async function guarded(work) {
  busy += 1;
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  } finally {
    busy -= 1;
  }
}

function load(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a frame cannot be loaded"));
    image.src = url;
  });
}

async function show(t, keepPicture = false) {
  frame = Math.max(0, Math.min(state.names.length - 1, t));
  const ticket = ++wanted;
  scrub.value = frame;
  const [image, tint] = await Promise.all([keepPicture ? picture : load("api/image/" + frame), load(`api/overlay/${frame}?${Date.now()}`)]);
  if (ticket !== wanted) return; // a later frame was asked for meanwhile
  [picture, overlay] = [image, tint];
  draw();
}

function draw() {
  const scale = devicePixelRatio || 1, room = view.parentElement;
  const fit = Math.min((room.clientWidth - 20) / state.width, (room.clientHeight - 20) / state.height);
  view.style.width = state.width * fit + "px";
  view.style.height = state.height * fit + "px";
  [view.width, view.height] = [Math.round(state.width * fit * scale), Math.round(state.height * fit * scale)];
  paint.setTransform(view.width / state.width, 0, 0, view.height / state.height, 0, 0);
  if (picture) paint.drawImage(picture, 0, 0, state.width, state.height);
  if (overlay && showMasks) paint.drawImage(overlay, 0, 0, state.width, state.height);
  for (const [name, prompt] of Object.entries(state.prompts[frame] || {})) drawPrompt(prompt, state.colors[name], name === entity);
  if (drag && drag.moved) drawBox([drag.x, drag.y, drag.toX, drag.toY], state.colors[entity]);
  describe();
  drawMarks();
}

function drawPrompt(prompt, color, isChosen) {
  paint.globalAlpha = isChosen ? 1 : 0.55;
  if (prompt.box.length) drawBox(prompt.box, color);
  for (const polygon of prompt.polygons) {
    paint.beginPath();
    polygon.forEach(([x, y]) => paint.lineTo(x + 0.5, y + 0.5));
    paint.closePath();
    stroke(color, [2, 4]);
  }
  for (const [x, y] of prompt.positive) drawClick(x, y, color, true);
  for (const [x, y] of prompt.negative) drawClick(x, y, color, false);
  paint.globalAlpha = 1;
}

function stroke(color, dash = []) {
  const px = state.width / view.clientWidth;
  paint.setLineDash(dash.map((d) => d * px));
  for (const [width, style] of [[4, "#000a"], [2, color]]) {
    paint.lineWidth = width * px;
    paint.strokeStyle = style;
    paint.stroke();
  }
  paint.setLineDash([]);
}

function drawBox([x1, y1, x2, y2], color) {
  paint.beginPath();
  paint.rect(Math.min(x1, x2) + 0.5, Math.min(y1, y2) + 0.5, Math.abs(x2 - x1), Math.abs(y2 - y1));
  stroke(color, [6, 4]);
}

function drawClick(x, y, color, isPositive) {
  const px = state.width / view.clientWidth, r = 7 * px;
  paint.beginPath();
  paint.arc(x + 0.5, y + 0.5, r, 0, 7);
  paint.fillStyle = isPositive ? color : "#fff";
  paint.fill();
  paint.lineWidth = 1.5 * px;
  paint.strokeStyle = isPositive ? "#fff" : color;
  paint.stroke();
  paint.beginPath();
  paint.moveTo(x + 0.5 - r / 2, y + 0.5);
  paint.lineTo(x + 0.5 + r / 2, y + 0.5);
  if (isPositive) {
    paint.moveTo(x + 0.5, y + 0.5 - r / 2);
    paint.lineTo(x + 0.5, y + 0.5 + r / 2);
  }
  paint.lineWidth = 2 * px;
  paint.stroke();
}

function drawMarks() {
  const scale = devicePixelRatio || 1, ink = marks.getContext("2d"), last = Math.max(state.names.length - 1, 1);
  [marks.width, marks.height] = [marks.clientWidth * scale, marks.clientHeight * scale];
  const at = (t) => (t / last) * (marks.width - 4 * scale) + 2 * scale;
  for (const t of Object.keys(state.again)) {
    ink.fillStyle = "#ff7b6b";
    ink.fillRect(at(t) - scale, 0, 2 * scale, marks.height);
  }
  for (const [t, prompts] of Object.entries(state.prompts)) {
    Object.keys(prompts).forEach((name, i) => {
      ink.fillStyle = state.colors[name];
      ink.beginPath();
      ink.arc(at(t), marks.height - (3 + 5 * i) * scale, 3 * scale, 0, 7);
      ink.fill();
    });
  }
}

function describe() {
  $("name").textContent = `${state.names[frame]}   ${frame + 1}/${state.names.length}`;
  const absent = Object.entries(state.prompts[frame] || {}).filter(([, p]) => p.absent).map(([name]) => `${name} is not here`);
  $("why").textContent = [...(state.again[frame] || []), ...absent].join(", ");
  for (const button of $("entities").children) button.setAttribute("aria-checked", button.dataset.entity === entity);
}

function choose(name) {
  entity = name;
  draw();
}

const edit = (action, at = []) => guarded(async () => {
  const started = performance.now();
  say("…");
  const t = frame;
  state = await ask("edit", { frame: t, entity, action, at });
  unsaved = true;
  if (t === frame) await show(frame, true);
  say(`mask in ${((performance.now() - started) / 1000).toFixed(2)} s`);
});

const undo = () => guarded(async () => {
  const { frame: t } = await ask("undo", {});
  state = await ask("state");
  unsaved ||= t !== null;
  say(t === null ? "nothing to undo" : "undone");
  if (t !== null) await show(t, t === frame);
});

const propagate = () => guarded(async () => {
  await ask("propagate", {});
  $("propagate").disabled = true;
  try {
    let progress;
    do {
      await new Promise((wake) => setTimeout(wake, 300));
      progress = (await ask("state")).progress;
      say(`propagating: ${Math.round(100 * progress.share)} %`);
    } while (progress.running);
    if (progress.error) throw new Error(progress.error);
    await show(frame, true);
    say("propagated: look through the frames, correct where it is wrong, propagate again");
  } finally {
    $("propagate").disabled = false;
  }
});

const save = () => guarded(async () => {
  say(`saved to ${(await ask("save", {})).path}`);
  unsaved = false;
});

const done = () => guarded(async () => {
  const { path } = await ask("done", {});
  unsaved = false;
  stop();
  document.querySelectorAll("button").forEach((button) => (button.disabled = true));
  say(`saved to ${path}; the command goes on, this page can be closed`);
});

function stop() {
  clearInterval(playing);
  playing = null;
}

function play() {
  if (playing) return stop();
  let loading = false;
  playing = setInterval(async () => {
    if (loading) return;
    if (frame >= state.names.length - 1) return stop();
    loading = true;
    await guarded(() => show(frame + 1));
    loading = false;
  }, 66);
}

function nextOf(frames) {
  const sorted = Object.keys(frames).map(Number).sort((a, b) => a - b);
  if (!sorted.length) return say("there is none");
  const next = sorted.find((t) => t > frame);
  guarded(() => show(next === undefined ? sorted[0] : next));
}

function where(event) {
  const box = view.getBoundingClientRect();
  const clamp = (value, size) => Math.max(0, Math.min(size - 1, value));
  return [
    clamp(((event.clientX - box.left) / box.width) * state.width - 0.5, state.width),
    clamp(((event.clientY - box.top) / box.height) * state.height - 0.5, state.height),
  ];
}

view.addEventListener("contextmenu", (event) => event.preventDefault());
view.addEventListener("pointerdown", (event) => {
  if (!state) return;
  stop();
  const [x, y] = where(event);
  drag = { x, y, toX: x, toY: y, fromX: event.clientX, fromY: event.clientY, isNegative: event.button === 2 || event.altKey, moved: false };
  view.setPointerCapture(event.pointerId);
});
view.addEventListener("pointermove", (event) => {
  if (!drag) return;
  [drag.toX, drag.toY] = where(event);
  drag.moved ||= Math.hypot(event.clientX - drag.fromX, event.clientY - drag.fromY) > CLICK_PX;
  if (drag.moved && !drag.isNegative) draw();
});
view.addEventListener("pointercancel", () => { drag = null; draw(); });
view.addEventListener("pointerup", () => {
  if (!drag) return;
  const { x, y, toX, toY, isNegative, moved } = drag;
  drag = null;
  if (moved && !isNegative) edit("box", [x, y, toX, toY]);
  else edit(isNegative ? "negative" : "positive", [x, y]);
});

scrub.addEventListener("input", () => { stop(); guarded(() => show(Number(scrub.value))); });
$("undo").onclick = undo;
$("propagate").onclick = propagate;
$("save").onclick = save;
$("done").onclick = done;
document.querySelectorAll("[data-action]").forEach((button) => (button.onclick = () => edit(button.dataset.action)));
addEventListener("beforeunload", (event) => unsaved && event.preventDefault());
new ResizeObserver(() => state && draw()).observe(view.parentElement);

const KEYS = {
  ArrowLeft: (event) => { stop(); guarded(() => show(frame - (event.shiftKey ? 10 : 1))); },
  ArrowRight: (event) => { stop(); guarded(() => show(frame + (event.shiftKey ? 10 : 1))); },
  " ": play,
  Enter: propagate,
  z: undo,
  s: save,
  a: () => edit("absent"),
  x: () => edit("clear"),
  k: () => nextOf(state.prompts),
  n: () => nextOf(state.again),
  m: () => { showMasks = !showMasks; draw(); },
  1: () => choose(state.entities[0]),
  2: () => choose(state.entities[1]),
  3: () => choose(state.entities[2]),
};
addEventListener("keydown", (event) => {
  const plainZ = event.key === "z" && !event.metaKey;
  if (!state || !(event.key in KEYS) || ((event.ctrlKey || event.metaKey) && !plainZ)) return;
  event.preventDefault();
  if (!event.repeat || event.key.startsWith("Arrow")) KEYS[event.key](event);
});

guarded(async () => {
  state = await ask("state");
  document.title = `${state.seq}: clicks`;
  $("seq").textContent = state.seq;
  scrub.max = state.names.length - 1;
  state.entities.forEach((name, i) => {
    const button = document.createElement("button");
    button.dataset.entity = name;
    button.setAttribute("role", "radio");
    button.style.setProperty("--color", state.colors[name]);
    button.innerHTML = `${name === "object" ? "object" : name + " hand"} <kbd>${i + 1}</kbd>`;
    button.onclick = () => choose(name);
    $("entities").append(button);
  });
  const first = Object.keys(state.again)[0] ?? Object.keys(state.prompts)[0] ?? 0;
  await show(Number(first));
  say(Object.keys(state.prompts).length ? "" : "drag a box around the object, then 1 or 2 and one around a hand");
});
