// Reading of a packed scene: see holdprep/viewers/pack.py, which writes it.
"use strict";
const readScene = (() => {
  const TYPES = { u8: Uint8Array, i8: Int8Array, u16: Uint16Array, u32: Uint32Array, f32: Float32Array };
  const MISSING = 65535;

  const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  async function inflated(text) {
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // d16: differences of 16-bit numbers along the first axis, all low bytes first
  function undone(bytes, rows, width) {
    const n = rows * width, out = new Uint16Array(n);
    for (let i = 0; i < n; i++) {
      const difference = bytes[i] | (bytes[n + i] << 8);
      out[i] = i < width ? difference : (out[i - width] + difference) & 0xffff;
    }
    return out;
  }

  function arrayReader(arrays, block) {
    const known = new Map();
    return (id) => {
      if (id === null || id === undefined) return null;
      if (!known.has(id)) {
        const { kind, shape, at, step, low } = arrays[id];
        const count = shape.reduce((a, b) => a * b, 1);
        let values;
        if (kind === "d16") values = undone(block.subarray(at, at + 2 * count), shape[0], count / shape[0]);
        else values = new TYPES[kind](block.buffer, block.byteOffset + at, count);
        known.set(id, { values, shape, step, low });
      }
      return known.get(id);
    };
  }

  // Positions (V * 3) in metres of one frame, or of an array without frames; null where there is no hand.
  function positions(array, frame) {
    const width = array.shape.length === 3 ? array.shape[1] * 3 : array.values.length;
    const first = array.shape.length === 3 ? frame * width : 0;
    if (width === 0 || array.values[first] === MISSING) return null;
    const out = new Float32Array(width);
    for (let i = 0; i < width; i++) out[i] = array.low + array.step * array.values[first + i];
    return out;
  }

  // Pictures, decoded when requested; the last ones are kept.
  function pictureReader(packed, type) {
    if (!packed) return () => null;
    const data = bytesOf(packed.block), cache = new Map();
    return (t) => {
      if (!cache.has(t)) {
        if (cache.size > 60) cache.delete(cache.keys().next().value);
        const blob = new Blob([data.subarray(packed.ends[t], packed.ends[t + 1])], { type });
        const entry = { bitmap: null, ready: null };
        entry.ready = createImageBitmap(blob).then((bitmap) => { entry.bitmap = bitmap; });
        cache.set(t, entry);
      }
      return cache.get(t);
    };
  }

  return async (pack) => {
    const array = arrayReader(pack.arrays, await inflated(pack.block));
    const perFrame = (id) => { const a = array(id); return a ? a.values : null; };
    const results = pack.results.map((r) => ({
      ...r,
      hands: r.hands.map((h) => ({
        side: h.side, faces: array(h.faces).values, vertices: (t) => positions(array(h.vertices), t),
        valid: perFrame(h.valid), error: perFrame(h.error), confidence: perFrame(h.confidence), distance: array(h.distance),
      })),
      obj: r.obj && {
        poses: array(r.obj.poses).values, points: positions(array(r.obj.points), 0), registered: perFrame(r.obj.registered),
        error: perFrame(r.obj.error), confidence: perFrame(r.obj.confidence),
        surface: r.obj.surface && {
          vertices: positions(array(r.obj.surface.vertices), 0), faces: array(r.obj.surface.faces).values,
          observed: array(r.obj.surface.observed).values,
        },
      },
    }));
    return { ...pack, results, picture: pictureReader(pack.pictures, "image/jpeg"), mask: pictureReader(pack.masks, "image/png") };
  };
})();
