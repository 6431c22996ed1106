// Drawing with WebGL 2: meshes with light, points, lines and the camera's picture. Axes are OpenCV's: x right, y down, z forward.
"use strict";
const Gl = (() => {
  const MESH = [`#version 300 es
    in vec3 position, normal, color; uniform mat4 clip; uniform mat3 turn; out vec3 vColor; out vec3 vNormal;
    void main() { gl_Position = clip * vec4(position, 1.0); vColor = color; vNormal = turn * normal; }`,
  `#version 300 es
    precision mediump float; in vec3 vColor, vNormal; uniform float alpha; out vec4 result;
    void main() { float lit = 0.4 + 0.6 * abs(dot(normalize(vNormal), normalize(vec3(0.3, -0.5, -0.8))));
      result = vec4(vColor * lit * alpha, alpha); }`];
  const DOTS = [`#version 300 es
    in vec3 position, color; uniform mat4 clip; uniform float size; out vec3 vColor;
    void main() { gl_Position = clip * vec4(position, 1.0); gl_PointSize = size; vColor = color; }`,
  `#version 300 es
    precision mediump float; in vec3 vColor; uniform float alpha; out vec4 result;
    void main() { result = vec4(vColor * alpha, alpha); }`];
  const PICTURE = [`#version 300 es
    in vec3 position; in vec2 uv; uniform mat4 clip; out vec2 vUv;
    void main() { gl_Position = clip * vec4(position, 1.0); vUv = uv; }`,
  `#version 300 es
    precision mediump float; in vec2 vUv; uniform sampler2D picture; out vec4 result;
    void main() { result = texture(picture, vUv); }`];

  function program(gl, [vertex, fragment]) {
    const made = gl.createProgram();
    for (const [type, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, text.trim());
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    const found = { made, attributes: {}, uniforms: {} };
    for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_ATTRIBUTES); i++) {
      const { name } = gl.getActiveAttrib(made, i);
      found.attributes[name] = gl.getAttribLocation(made, name);
    }
    for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(made, i);
      found.uniforms[name] = gl.getUniformLocation(made, name);
    }
    return found;
  }

  function normalsOf(positions, faces) {
    const out = new Float32Array(positions.length);
    for (let f = 0; f < faces.length; f += 3) {
      const a = 3 * faces[f], b = 3 * faces[f + 1], c = 3 * faces[f + 2];
      const ux = positions[b] - positions[a], uy = positions[b + 1] - positions[a + 1], uz = positions[b + 2] - positions[a + 2];
      const vx = positions[c] - positions[a], vy = positions[c + 1] - positions[a + 1], vz = positions[c + 2] - positions[a + 2];
      const x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
      for (const i of [a, b, c]) { out[i] += x; out[i + 1] += y; out[i + 2] += z; }
    }
    return out;
  }

  class Painter {
    constructor(canvas) {
      const gl = canvas.getContext("webgl2", { alpha: true, antialias: true });
      this.gl = gl;
      if (!gl) return;
      this.mesh_ = program(gl, MESH);
      this.dots_ = program(gl, DOTS);
      this.picture_ = program(gl, PICTURE);
      this.buffers = {};
      this.texture = gl.createTexture();
      this.bitmap = null;
    }

    begin(clip, turn, background) {
      const gl = this.gl;
      gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
      gl.clearColor(...background);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.enable(gl.DEPTH_TEST);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      this.clip = clip;
      this.turn = turn;
    }

    use(prog, model, alpha) {
      const gl = this.gl;
      gl.useProgram(prog.made);
      gl.uniformMatrix4fv(prog.uniforms.clip, false, M4.times(this.clip, model || M4.identity));
      if (prog.uniforms.alpha !== undefined) gl.uniform1f(prog.uniforms.alpha, alpha);
    }

    attribute(prog, name, values, width) {
      const gl = this.gl, at = prog.attributes[name];
      if (at === undefined || at < 0) return;
      this.buffers[name] = this.buffers[name] || gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STREAM_DRAW);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, width, gl.FLOAT, false, 0, 0);
    }

    mesh(positions, faces, colors, model, alpha) {
      const gl = this.gl;
      this.use(this.mesh_, model, alpha);
      gl.uniformMatrix3fv(this.mesh_.uniforms.turn, false, M4.rotation(M4.times(this.turn, model || M4.identity)));
      this.attribute(this.mesh_, "position", positions, 3);
      this.attribute(this.mesh_, "normal", normalsOf(positions, faces), 3);
      this.attribute(this.mesh_, "color", colors, 3);
      this.elements = this.elements || gl.createBuffer();
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.elements);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STREAM_DRAW);
      const draw = () => gl.drawElements(gl.TRIANGLES, faces.length, faces instanceof Uint32Array ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT, 0);
      if (alpha < 1) {  // of a transparent mesh only the nearest surface is seen
        gl.colorMask(false, false, false, false);
        draw();
        gl.colorMask(true, true, true, true);
        gl.depthFunc(gl.LEQUAL);
      }
      draw();
      gl.depthFunc(gl.LESS);
    }

    dots(positions, colors, model, size, alpha) {
      this.use(this.dots_, model, alpha);
      this.gl.uniform1f(this.dots_.uniforms.size, size);
      this.attribute(this.dots_, "position", positions, 3);
      this.attribute(this.dots_, "color", colors, 3);
      this.gl.drawArrays(this.gl.POINTS, 0, positions.length / 3);
    }

    lines(positions, color, model) {
      this.use(this.dots_, model, 1);
      this.attribute(this.dots_, "position", positions, 3);
      this.attribute(this.dots_, "color", Gl.repeated(color, positions.length / 3), 3);
      this.gl.drawArrays(this.gl.LINES, 0, positions.length / 3);
    }

    picture(corners, bitmap, model) {
      const gl = this.gl;
      gl.bindTexture(gl.TEXTURE_2D, this.texture);
      if (this.bitmap !== bitmap) {
        gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
        this.bitmap = bitmap;
      }
      this.use(this.picture_, model, 1);
      this.attribute(this.picture_, "position", corners, 3);
      this.attribute(this.picture_, "uv", new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), 2);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
  }

  function repeated(color, count) {
    const out = new Float32Array(3 * count);
    for (let i = 0; i < count; i++) out.set(color, 3 * i);
    return out;
  }

  return { Painter, repeated };
})();

// 4 x 4 matrices, column after column.
const M4 = (() => {
  const identity = new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
  const times = (a, b) => {
    const out = new Float32Array(16);
    for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++)
      for (let k = 0; k < 4; k++) out[4 * c + r] += a[4 * k + r] * b[4 * c + k];
    return out;
  };
  const rotation = (m) => new Float32Array([m[0], m[1], m[2], m[4], m[5], m[6], m[8], m[9], m[10]]);
  const rows = (v, at) => new Float32Array([v[at], v[at + 4], v[at + 8], 0, v[at + 1], v[at + 5], v[at + 9], 0,
    v[at + 2], v[at + 6], v[at + 10], 0, v[at + 3], v[at + 7], v[at + 11], 1]);  // of a (3, 4) matrix
  const inverseRigid = (m) => {
    const out = new Float32Array([m[0], m[4], m[8], 0, m[1], m[5], m[9], 0, m[2], m[6], m[10], 0, 0, 0, 0, 1]);
    for (let r = 0; r < 3; r++) out[12 + r] = -(out[r] * m[12] + out[4 + r] * m[13] + out[8 + r] * m[14]);
    return out;
  };
  const apply = (m, p) => [0, 1, 2].map((r) => m[r] * p[0] + m[4 + r] * p[1] + m[8 + r] * p[2] + m[12 + r]);
  // a pinhole camera of K (rows of 3 x 3) for pictures of w x h px, pixel centres at integers
  const pinhole = (K, w, h, near, far) => {
    const out = new Float32Array(16);
    out[0] = 2 * K[0] / w; out[5] = -2 * K[4] / h;
    out[8] = 2 * (K[2] + 0.5) / w - 1; out[9] = 1 - 2 * (K[5] + 0.5) / h;
    out[10] = (far + near) / (far - near); out[14] = -2 * far * near / (far - near); out[11] = 1;
    return out;
  };
  // looks along z at `distance` from the target, turned by yaw and pitch; flat: without perspective
  const orbit = (target, yaw, pitch, distance, aspect, flat) => {
    const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
    const turn = new Float32Array([cy, sp * sy, -cp * sy, 0, 0, cp, sp, 0, sy, -sp * cy, cp * cy, 0, 0, 0, 0, 1]);
    const moved = apply(turn, target);
    const view = Float32Array.from(turn);
    view[12] = -moved[0]; view[13] = -moved[1]; view[14] = distance - moved[2];
    const f = 1.6, projection = new Float32Array(16), near = distance / 100, far = distance * 20;
    projection[0] = f / aspect; projection[5] = -f;
    if (flat) {
      projection[0] /= distance; projection[5] /= distance;
      projection[10] = 1 / (10 * distance); projection[14] = -0.1; projection[15] = 1;
    } else {
      projection[10] = (far + near) / (far - near); projection[14] = -2 * far * near / (far - near); projection[11] = 1;
    }
    return { clip: times(projection, view), turn };
  };
  return { identity, times, rotation, rows, inverseRigid, apply, pinhole, orbit };
})();
