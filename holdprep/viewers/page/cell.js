// One picture of a result: over the camera's picture, in 3D, or from the side. Colours of hands, object and contacts.
"use strict";
const CELLS = { picture: "picture", space: "3D", side: "from the side" };
const COLORS = { right: [0.24, 0.71, 0.31], left: [0.16, 0.59, 0.86], object: [0.86, 0.3, 0.25], guess: [0.62, 0.62, 0.66],
  truth: [0.85, 0.68, 0.2], contact: [1, 0.2, 0.85], frustum: [0.5, 0.55, 0.6] };
const CONTACT_M = 0.002;

// from blue by way of green and yellow to red
function heat(share) {
  const s = Math.min(1, Math.max(0, share));
  return [Math.min(1, Math.max(0, 2 * s - 0.4)), s < 0.5 ? 0.35 + 1.1 * s : 1.8 * (1 - s), Math.max(0, 0.9 - 2 * s)];
}

// inside red, on the surface white, away blue
function signedColor(metres) {
  const s = Math.min(1, Math.abs(metres) / 0.02);
  return metres < 0 ? [1, 1 - s, 1 - s] : [1 - 0.8 * s, 1 - 0.6 * s, 1];
}

class Cell {
  constructor(kind, app) {
    this.kind = kind;
    this.app = app;
    this.box = document.createElement("div");
    this.box.className = "cell";
    this.flat = this.box.appendChild(document.createElement("canvas"));
    this.deep = this.box.appendChild(document.createElement("canvas"));
    this.caption = this.box.appendChild(document.createElement("span"));
    this.caption.className = "cell-name";
    this.painter = new Gl.Painter(this.deep);
    if (!this.painter.gl) {
      this.deep.remove();
      const note = this.box.appendChild(document.createElement("span"));
      note.className = "cell-note";
      note.textContent = "This browser has no WebGL 2: meshes are not shown.";
    }
    this.deep.setAttribute("role", "img");
    if (kind !== "picture") this.orbits();
  }

  show(result) {
    this.result = result;
    const name = result ? result.title : "picture";
    this.caption.textContent = `${name}, ${CELLS[this.kind]}`;
    this.deep.setAttribute("aria-label", this.caption.textContent);
  }

  orbits() {
    const view = this.app.view;
    let last = null;
    this.deep.classList.add("orbits");
    this.deep.title = "drag: turn; shift-drag: move; wheel: zoom; double click: reset";
    this.deep.onpointerdown = (e) => { last = [e.clientX, e.clientY]; this.deep.setPointerCapture(e.pointerId); };
    this.deep.onpointerup = this.deep.onpointercancel = () => { last = null; };
    this.deep.onpointermove = (e) => {
      if (!last) return;
      const dx = (e.clientX - last[0]) / this.deep.clientHeight, dy = (e.clientY - last[1]) / this.deep.clientHeight;
      last = [e.clientX, e.clientY];
      if (e.shiftKey) { view.shift[0] += dx; view.shift[1] += dy; }
      else if (this.kind === "space") { view.yaw += 3 * dx; view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch - 3 * dy)); }
      this.app.redraw();
    };
    this.deep.onwheel = (e) => { e.preventDefault(); view.zoom *= Math.exp(e.deltaY / 600); this.app.redraw(); };
    this.deep.ondblclick = () => { Object.assign(view, defaultView()); this.app.redraw(); };
  }

  size() {
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const [w, h] = this.app.scene.size;
    this.box.style.aspectRatio = `${w} / ${h}`;
    const width = Math.max(1, Math.round(this.box.clientWidth * ratio)), height = Math.max(1, Math.round(this.box.clientHeight * ratio));
    for (const canvas of [this.flat, this.deep])
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    return ratio;
  }

  draw(frame) {
    const ratio = this.size(), { scene, shows } = this.app, flat = this.flat.getContext("2d");
    flat.clearRect(0, 0, this.flat.width, this.flat.height);
    const picture = scene.picture(frame), mask = shows.masks ? scene.mask(frame) : null;
    if (this.kind === "picture") {
      for (const entry of [picture, mask])
        if (entry && entry.bitmap) flat.drawImage(entry.bitmap, 0, 0, this.flat.width, this.flat.height);
    }
    for (const entry of [picture, mask]) if (entry && !entry.bitmap) entry.ready.then(() => this.app.redraw());
    if (!this.painter.gl || !this.result) return;
    const world = this.app.world === "object" && this.kind !== "picture" ? "object" : "camera";
    const camera = this.camera(world, frame);
    this.painter.begin(camera.clip, camera.turn, this.kind === "picture" ? [0, 0, 0, 0] : this.app.background);
    const pose = this.result.obj ? M4.rows(this.result.obj.poses, 12 * frame) : null;
    const fromCamera = world === "object" && pose ? M4.inverseRigid(pose) : M4.identity;
    const fromObject = world === "object" ? M4.identity : pose;
    if (this.kind === "space" && shows.camera) this.frustum(picture, fromCamera);
    if (this.result.obj) this.object(frame, fromObject, ratio);
    for (const hand of this.result.hands) this.hand(hand, frame, fromCamera, ratio);
  }

  camera(world, frame) {
    const [w, h] = this.app.scene.size;
    if (this.kind === "picture") return { clip: M4.pinhole(this.result.K, w, h, 0.02, 20), turn: M4.identity };
    const extent = this.app.extent(this.result, world), { view } = this.app;
    const side = this.kind === "side", distance = extent.radius * view.zoom * (side ? 1.9 : 2.3);
    const found = M4.orbit(extent.centre, side ? Math.PI / 2 : view.yaw, side ? 0 : view.pitch, distance, this.deep.width / this.deep.height, side);
    for (let c = 0; c < 4; c++) {  // moves the picture, by shares of its height
      found.clip[4 * c] += 2 * view.shift[0] * found.clip[4 * c + 3];
      found.clip[4 * c + 1] -= 2 * view.shift[1] * found.clip[4 * c + 3];
    }
    return found;
  }

  frustum(picture, model) {
    const K = this.result.K, [w, h] = this.app.scene.size, depth = 0.6 * this.app.extent(this.result, "camera").depth;
    const corner = (u, v) => [(u - K[2]) / K[0] * depth, (v - K[5]) / K[4] * depth, depth];
    const corners = [corner(-0.5, -0.5), corner(w - 0.5, -0.5), corner(-0.5, h - 0.5), corner(w - 0.5, h - 0.5)];
    if (picture && picture.bitmap) this.painter.picture(new Float32Array(corners.flat()), picture.bitmap, model);
    const [a, b, c, d] = corners, o = [0, 0, 0];
    this.painter.lines(new Float32Array([o, a, o, b, o, c, o, d, a, b, b, d, d, c, c, a].flat()), COLORS.frustum, model);
  }

  object(frame, model, ratio) {
    const { obj, name } = this.result, { shows } = this.app;
    const plain = this.app.frameColor(obj, frame, "object") || (name === "truth" ? COLORS.truth : COLORS.object);
    const faint = obj.registered[frame] ? 1 : 0.35;
    if (shows.surface && obj.surface) {
      const colors = new Float32Array(obj.surface.vertices.length);
      for (let i = 0; i < colors.length / 3; i++) colors.set(obj.surface.observed[i] ? plain : COLORS.guess, 3 * i);
      this.painter.mesh(obj.surface.vertices, obj.surface.faces, colors, model, (this.kind === "picture" ? 0.45 : 0.8) * faint);
    }
    if (shows.cloud && obj.points)
      this.painter.dots(obj.points, Gl.repeated(plain, obj.points.length / 3), model, 2.5 * ratio, faint);
  }

  hand(hand, frame, model, ratio) {
    const { shows } = this.app, at = hand.vertices(frame);
    if (!at) return;
    const count = at.length / 3;
    const plain = this.app.frameColor(hand, frame, "hand") || (this.result.name === "truth" ? COLORS.truth : COLORS[hand.side]);
    const colors = Gl.repeated(plain, count), near = [];
    if (hand.distance) {
      for (let i = 0; i < count; i++) {
        const metres = hand.distance.step * hand.distance.values[frame * count + i];
        if (this.app.color === "distance") colors.set(signedColor(metres), 3 * i);
        if (metres <= CONTACT_M) near.push(at[3 * i], at[3 * i + 1], at[3 * i + 2]);
      }
    }
    if (shows.hands) this.painter.mesh(at, hand.faces, colors, model, hand.valid[frame] ? (this.kind === "picture" ? 0.75 : 1) : 0.35);
    if (shows.contacts && near.length)
      this.painter.dots(new Float32Array(near), Gl.repeated(COLORS.contact, near.length / 3), model, 3.5 * ratio, 1);
  }
}

const defaultView = () => ({ yaw: 0.6, pitch: -0.25, zoom: 1, shift: [0, 0] });

