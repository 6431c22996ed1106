// The viewer: timeline, choices and cells, moved by one frame. Also the part of the report that shows the sequence.
"use strict";
const CHOICES = {
  shows: [["masks", "masks"], ["hands", "hands"], ["cloud", "cloud"], ["surface", "surface"], ["contacts", "contacts"], ["camera", "camera"]],
  world: [["camera", "the camera's world"], ["object", "the object's world"]],
  color: [["plain", "plain colours"], ["error", "colour by error"], ["confidence", "colour by confidence"], ["distance", "colour by distance"]],
};

const make = (tag, parent, properties = {}) => parent.appendChild(Object.assign(document.createElement(tag), properties));

class Viewer {
  constructor(root, scenes, options = {}) {
    this.root = root;
    this.scenes = scenes;
    this.view = defaultView();
    this.frame = 0;
    this.playing = null;
    this.listeners = [];
    this.kinds = options.kinds || ["picture", "space"];
    this.shows = { masks: false, hands: true, cloud: true, surface: false, contacts: true, camera: true, ...options.shows };
    this.world = options.world || "camera";
    this.color = options.color || "plain";
    this.single = Boolean(options.single);
    this.chosen = options.results || null;
    this.build();
    this.choose(0);
    this.keys(options.keys !== false);
    new ResizeObserver(() => this.redraw()).observe(this.cells);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  build() {
    this.root.classList.add("viewer");
    const timeline = make("div", this.root, { className: "timeline" });
    this.button = make("button", timeline, { type: "button", textContent: "\u25B6", title: "play or pause (space)" });
    this.button.setAttribute("aria-label", "play or pause");
    this.button.onclick = () => this.play();
    const track = make("div", timeline, { className: "track" });
    this.slider = make("input", track, { type: "range", min: 0, step: 1, title: "frame (arrow keys)" });
    this.slider.setAttribute("aria-label", "frame");
    this.slider.oninput = () => this.go(Number(this.slider.value));
    this.marks = make("canvas", track, { className: "marks", height: 4 });
    this.label = make("output", timeline, { className: "frame" });
    const bar = make("div", this.root, { className: "choices" });
    if (this.scenes.length > 1) {
      const select = make("select", bar, { onchange: () => this.choose(Number(select.value)) });
      select.setAttribute("aria-label", "sequence");
      this.scenes.forEach((scene, i) => make("option", select, { value: i, textContent: scene.seq }));
    }
    this.resultChoices = make("span", bar, { className: "group" });
    const kinds = make("span", bar, { className: "group" });
    for (const [kind, name] of Object.entries(CELLS))
      this.check(kinds, name, () => this.kinds.includes(kind), (on) => {
        this.kinds = Object.keys(CELLS).filter((k) => (k === kind ? on : this.kinds.includes(k)));
        this.layout();
      });
    for (const key of ["world", "color"]) {
      const select = make("select", bar, { onchange: () => { this[key] = select.value; this.redraw(); } });
      select.setAttribute("aria-label", key);
      for (const [value, textContent] of CHOICES[key]) make("option", select, { value, textContent });
      select.value = this[key];
      this[`${key}Select`] = select;
    }
    const shows = make("span", bar, { className: "group" });
    for (const [key, name] of CHOICES.shows)
      this.check(shows, name, () => this.shows[key], (on) => { this.shows[key] = on; this.redraw(); });
    this.legend = make("p", this.root, { className: "scale" });
    this.cells = make("div", this.root, { className: "cells" });
    this.note = make("p", this.root, { className: "soft" });
  }

  check(parent, name, get, set, type = "checkbox", group = "") {
    const label = make("label", parent), input = make("input", label, { type, name: group });
    label.append(name);
    input.checked = get();
    input.onchange = () => set(input.checked);
    return input;
  }

  choose(number) {
    this.scene = this.scenes[number];
    const { scene } = this;
    const names = scene.results.map((r) => r.name), wanted = (this.chosen || []).filter((n) => names.includes(n));
    const best = ["ho", "o", "h", "slerp", "init", "truth"].filter((n) => names.includes(n));
    this.results = wanted.length ? wanted : this.single ? best.slice(0, 1) : [...new Set([...best.slice(0, 1), ...best.filter((n) => n === "truth")])];
    this.resultChoices.replaceChildren();
    scene.results.forEach((r) => {
      const input = this.check(this.resultChoices, r.name, () => this.results.includes(r.name), (on) => {
        const keep = this.single ? [r.name] : scene.results.map((x) => x.name).filter((n) => (n === r.name ? on : this.results.includes(n)));
        this.results = keep;
        this.layout();
      }, this.single ? "radio" : "checkbox", this.single ? `result-${number}` : "");
      input.title = r.title;
    });
    this.slider.max = scene.names.length - 1;
    this.extents = new Map();
    this.ranges = new Map();
    this.note.textContent = scene.notes.join(" \u00B7 ");
    this.frame = Math.min(this.frame, scene.names.length - 1);
    this.layout();
  }

  layout() {
    this.cells.replaceChildren();
    const shown = this.results.length ? this.results.map((n) => this.scene.results.find((r) => r.name === n)) : [null];
    this.parts = shown.flatMap((result) => this.kinds.filter((k) => result || k === "picture").map((kind) => {
      const cell = new Cell(kind, this);
      cell.show(result);
      this.cells.append(cell.box);
      return cell;
    }));
    this.cells.classList.toggle("grouped", shown.length > 1 && this.kinds.length > 1);  // a row for each result
    this.cells.style.setProperty("--kinds", Math.max(1, this.kinds.length));
    this.drawMarks();
    this.go(this.frame);
  }

  // infilled frames under the slider
  drawMarks() {
    const count = this.scene.names.length, context = this.marks.getContext("2d");
    this.marks.width = Math.max(count, 1);
    context.fillStyle = getComputedStyle(this.root).getPropertyValue("--warn") || "orange";
    const result = this.scene.results.find((r) => r.name === this.results[0]);
    if (!result) return;
    for (let t = 0; t < count; t++)
      if (result.hands.some((h) => !h.valid[t]) || (result.obj && !result.obj.registered[t])) context.fillRect(t, 0, 1, 4);
  }

  go(frame) {
    this.frame = Math.max(0, Math.min(this.scene.names.length - 1, frame));
    this.slider.value = this.frame;
    this.label.textContent = `${this.scene.names[this.frame]} (${this.scene.frames[this.frame] + 1} of ${this.scene.total})`;
    for (const listener of this.listeners) listener(this.scene.frames[this.frame], this);
    this.redraw();
  }

  // the shown frame nearest to a frame of the sequence
  goTo(number) {
    const { frames } = this.scene;
    let best = 0;
    frames.forEach((f, i) => { if (Math.abs(f - number) < Math.abs(frames[best] - number)) best = i; });
    this.go(best);
  }

  play() {
    if (this.playing) { clearInterval(this.playing); this.playing = null; }
    else this.playing = setInterval(() => this.go((this.frame + 1) % this.scene.names.length), 80);
    this.button.textContent = this.playing ? "\u275A\u275A" : "\u25B6";
  }

  keys(enabled) {
    if (!enabled) return;
    document.addEventListener("keydown", (e) => {
      if (e.ctrlKey || e.metaKey || e.altKey || ["SELECT", "TEXTAREA"].includes(e.target.tagName)) return;
      const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
      if (e.key in moves && e.target.type !== "range") this.go(this.frame + moves[e.key]);
      else if (e.key === " " && !["BUTTON", "INPUT", "SUMMARY", "A"].includes(e.target.tagName)) this.play();
      else if (e.key === "w") this.cycle("world");
      else if (e.key === "c") this.cycle("color");
      else return;
      if (e.key === " " || e.key.startsWith("Arrow")) e.preventDefault();
    });
  }

  cycle(key) {
    const values = CHOICES[key].map(([value]) => value);
    this[key] = values[(values.indexOf(this[key]) + 1) % values.length];
    this[`${key}Select`].value = this[key];
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      const style = getComputedStyle(this.root), rgb = style.getPropertyValue("--canvas").trim().match(/[0-9a-f]{2}/gi) || ["ff", "ff", "ff"];
      this.background = [...rgb.slice(0, 3).map((v) => parseInt(v, 16) / 255), 1];
      for (const cell of this.parts) cell.draw(this.frame);
      this.explain();
    });
  }

  explain() {
    const unit = (this.scene.results.find((r) => r.name === this.results[0]) || {}).unit || "";
    this.legend.textContent = {
      plain: "right hand green, left hand blue, object red, its guessed surface grey, contacts magenta, pale: infilled, or a pose that was not measured",
      error: `error: blue 0, red ${(this.range("hand") || 0).toPrecision(2)} ${unit} (hands), ${(this.range("object") || 0).toPrecision(2)} px (object); grey: unknown`,
      confidence: "confidence: red none, blue full; grey: unknown",
      distance: "hand to object: blue 2 cm away, white on the surface, red 2 cm inside",
    }[this.color];
  }

  // the 95th percentile of the errors of the shown results
  range(kind) {
    const key = `${kind} ${this.results.join()}`;
    if (!this.ranges.has(key)) {
      const results = this.scene.results.filter((r) => this.results.includes(r.name));
      const parts = kind === "hand" ? results.flatMap((r) => r.hands) : results.map((r) => r.obj).filter(Boolean);
      const values = parts.flatMap((p) => (p.error ? [...p.error].filter(Number.isFinite) : [])).sort((a, b) => a - b);
      this.ranges.set(key, values.length ? values[Math.floor(0.95 * (values.length - 1))] : 0);
    }
    return this.ranges.get(key);
  }

  frameColor(part, frame, kind) {
    if (this.color !== "error" && this.color !== "confidence") return null;
    const values = part[this.color], value = values ? values[frame] : NaN;
    if (!Number.isFinite(value)) return [0.6, 0.6, 0.6];
    return heat(this.color === "error" ? value / (this.range(kind) || 1) : 1 - value);
  }

  // what a 3D cell shows: centre and radius of hands and object, their depth
  extent(result, world) {
    const key = `${result.name} ${world}`;
    if (!this.extents.has(key)) {
      const points = [];
      const count = this.scene.names.length;
      for (let t = 0; t < count; t += Math.max(1, Math.floor(count / 12))) {
        const pose = result.obj ? M4.rows(result.obj.poses, 12 * t) : null;
        const move = world === "object" && pose ? M4.inverseRigid(pose) : M4.identity;
        for (const hand of result.hands) {
          const at = hand.vertices(t);
          for (let i = 0; at && i < at.length; i += 120) points.push(M4.apply(move, [at[i], at[i + 1], at[i + 2]]));
        }
        const cloud = result.obj ? result.obj.points : [];
        for (let i = 0; cloud && i < cloud.length; i += 300)
          points.push(M4.apply(world === "object" ? M4.identity : pose, [cloud[i], cloud[i + 1], cloud[i + 2]]));
      }
      const middle = (k) => { const v = points.map((p) => p[k]).sort((a, b) => a - b); return v.length ? v[v.length >> 1] : 0; };
      const centre = [middle(0), middle(1), middle(2)];
      const away = points.map((p) => Math.hypot(p[0] - centre[0], p[1] - centre[1], p[2] - centre[2])).sort((a, b) => a - b);
      this.extents.set(key, { centre, radius: away.length ? Math.max(0.02, away[Math.floor(0.97 * (away.length - 1))]) : 0.2, depth: centre[2] || 0.5 });
    }
    return this.extents.get(key);
  }
}
