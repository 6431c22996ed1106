"""A rasteriser with shadows on OpenGL (moderngl, EGL; Mesa's software driver suffices): images, depth and visible entity per pixel.

Cameras are the project's: K, OpenCV axes, pixel centres at integers; row 0 of every array is the image's top.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.geometry.normals import vertex_normals

NEAR_M, FAR_M = 0.02, 20.0
SHADOW_SIDE = 1024
SHADOW_SOFT_M, SHADOW_BIAS_M = 0.005, 0.003  # width of a shadow's edge; minimal distance of a surface that casts a shadow
SAMPLES = 4
LIGHT = np.array([-0.45, -0.75, -0.5]) / np.linalg.norm([-0.45, -0.75, -0.5])  # towards the light, camera axes: above, left, in front

VERTEX = """
#version 330
in vec3 position; in vec3 normal; in vec2 uv; in vec3 colour; in vec3 rest;
uniform mat4 projection; uniform mat4 shadow;
centroid out vec3 v_position, v_normal, v_colour, v_rest, v_shadow; centroid out vec2 v_uv;
void main() {
    v_position = position; v_normal = normal; v_uv = uv; v_colour = colour; v_rest = rest;
    v_shadow = (shadow * vec4(position, 1.0)).xyz * 0.5 + 0.5;
    gl_Position = projection * vec4(position, 1.0);
}
"""
# Lambert, a sky from above, a little gloss (Blinn-Phong), all in linear light; `albedo` comes with the kind of surface.
# Shadows: 16 places of a disc (Vogel's spiral), turned from pixel to pixel (Jimenez 2014, interleaved gradient noise).
SURFACE = """
#version 330
centroid in vec3 v_position, v_normal, v_colour, v_rest, v_shadow; centroid in vec2 v_uv;
uniform sampler2D lightmap; uniform vec3 soft; uniform vec3 light; uniform float gloss;
out vec4 result;
%s
float lit() {
    float turn = 6.2832 * fract(52.9829189 * fract(dot(gl_FragCoord.xy, vec2(0.06711056, 0.00583715))));
    vec2 way = vec2(cos(turn), sin(turn));
    float open = 0.0;
    for (int i = 0; i < 16; i++) {
        vec2 at = v_shadow.xy + soft.xy * sqrt((float(i) + 0.5) / 16.0) * way;
        open += step(v_shadow.z - soft.z, textureLod(lightmap, at, 0.0).r);
        way = mat2(-0.737369, 0.675490, -0.675490, -0.737369) * way;
    }
    return open / 16.0;
}
void main() {
    vec3 n = normalize(v_normal), view = normalize(-v_position);
    if (!gl_FrontFacing) n = -n;
    float open = lit();
    vec3 wrap = wrapping();
    vec3 direct = max(dot(n, light) + wrap, 0.0) / (1.0 + wrap) * open;
    float sky = 0.42 - 0.18 * n.y;
    float spark = gloss * pow(max(dot(n, normalize(light + view)), 0.0), 40.0) * open;
    result = vec4(albedo() * (direct + sky) + spark, 1.0);
}
"""
# Anisotropic filtering by hand: Mesa's own can take minutes over a triangle that is seen edge-on. Four places along the longer way of a
# pixel in the texture, each filtered over the shorter one.
PRINTED = """
uniform sampler2D picture;
vec3 wrapping() { return vec3(0.0); }
vec3 albedo() {
    vec2 x = dFdx(v_uv), y = dFdy(v_uv);
    vec2 longer = dot(x, x) > dot(y, y) ? x : y, shorter = dot(x, x) > dot(y, y) ? y : x;
    vec3 sum = vec3(0.0);
    for (int i = 0; i < 4; i++) sum += textureGrad(picture, v_uv + longer * (float(i) - 1.5) / 4.0, longer / 4.0, shorter).rgb;
    return v_colour * pow(sum / 4.0, vec3(2.2));
}
"""
# Skin: mottled at three scales in the rest shape, and red light that creeps around the edge of shade.
MOTTLED = """
vec3 wrapping() { return vec3(0.22, 0.10, 0.07); }
float hash(vec3 p) { p = fract(p * 0.3183099 + 0.1); p *= 17.0; return fract(p.x * p.y * p.z * (p.x + p.y + p.z)); }
float grain(vec3 x) {
    vec3 i = floor(x), f = fract(x); f = f * f * (3.0 - 2.0 * f);
    return mix(mix(mix(hash(i), hash(i + vec3(1,0,0)), f.x), mix(hash(i + vec3(0,1,0)), hash(i + vec3(1,1,0)), f.x), f.y),
               mix(mix(hash(i + vec3(0,0,1)), hash(i + vec3(1,0,1)), f.x), mix(hash(i + vec3(0,1,1)), hash(i + vec3(1,1,1)), f.x), f.y), f.z);
}
vec3 albedo() {
    float mottle = grain(v_rest * 90.0) + 0.6 * grain(v_rest * 330.0) + 0.4 * grain(v_rest * 1100.0) - 1.0;
    return v_colour * (1.0 + vec3(0.10, 0.16, 0.18) * mottle);
}
"""
FACTS = """
#version 330
centroid in vec3 v_position; uniform float entity;
out vec2 result;
void main() { result = vec2(v_position.z, entity); }
"""
SHADOW = """
#version 330
in vec3 position; uniform mat4 shadow;
void main() { gl_Position = shadow * vec4(position, 1.0); }
"""


@dataclass(frozen=True)
class Mesh:
    """A mesh to draw: `vertices_m` (V, 3) in the camera frame, `faces` (F, 3), `entity` a number from 1 to 255.

    `colour` (V, 3) linear RGB in 0..1 is multiplied by the BGR `texture` at `uv` (V, 2), or by a mottle fixed to `rest_m` (V, 3).
    `normals` (V, 3) are computed from the mesh if they are not given.
    """

    vertices_m: np.ndarray
    faces: np.ndarray
    entity: int
    colour: np.ndarray
    uv: np.ndarray | None = None
    texture: str | None = None
    rest_m: np.ndarray | None = None
    normals: np.ndarray | None = None
    gloss: float = 0.05


@dataclass(frozen=True)
class Rendered:
    """`image` (H, W, 4) float32: linear BGR times coverage, and coverage 0..1; `depth_m` (H, W) float32 with infinity where
    nothing is, `entity` (H, W) uint8. Depth and entity belong to pixel centres: nothing is averaged.
    """

    image: np.ndarray
    depth_m: np.ndarray
    entity: np.ndarray


class Renderer:
    """Renderer of images of one size; a context manager, since it holds an OpenGL context. `textures` (H, W, 3) uint8 BGR by name."""

    def __init__(self, width: int, height: int, textures: Mapping[str, np.ndarray] | None = None) -> None:
        self.width, self.height = width, height
        self._gl = _context()
        gl = self._gl
        self._printed = gl.program(VERTEX, SURFACE % PRINTED)
        self._mottled = gl.program(VERTEX, SURFACE % MOTTLED)
        self._facts = gl.program(VERTEX, FACTS)
        self._shadow = gl.program(SHADOW, "#version 330\nvoid main() {}")
        size = (width, height)
        self._many = gl.framebuffer([gl.renderbuffer(size, 4, samples=SAMPLES, dtype="f2")], gl.depth_renderbuffer(size, samples=SAMPLES))
        self._flat = gl.framebuffer([gl.renderbuffer(size, 4, dtype="f2")])
        self._exact = gl.framebuffer([gl.renderbuffer(size, 2, dtype="f4")], gl.depth_renderbuffer(size))
        self._lightmap = gl.depth_texture((SHADOW_SIDE, SHADOW_SIDE))
        self._lightmap.compare_func = ""
        self._lightmap.filter = (gl.NEAREST, gl.NEAREST)
        self._lightmap.repeat_x = self._lightmap.repeat_y = False
        self._light = gl.framebuffer(depth_attachment=self._lightmap)
        self._textures = {name: self._upload(picture) for name, picture in (textures or {}).items()}
        gl.front_face = "cw"  # outward faces: rows grow downwards here, upwards in OpenGL
        gl.enable(gl.DEPTH_TEST)

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._gl.release()

    def render(self, K: np.ndarray, meshes: Sequence[Mesh], facts: bool = True) -> Rendered:
        """One frame; without `facts`, depth and entity are left empty (for the sub-frames of a blurred image)."""
        projection = projection_matrix(K, self.width, self.height)
        with self._gl:
            buffers = [(mesh, *self._buffers(mesh)) for mesh in meshes]
            image = self._render_image(projection, buffers)
            depth, entity = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.uint8)
            if facts:
                depth, entity = self._render_facts(projection, buffers)
            for _, vertices, faces in buffers:
                vertices.release()
                faces.release()
        return Rendered(image, depth, entity)

    def _render_image(self, projection: np.ndarray, buffers: list[tuple[Mesh, Any, Any]]) -> np.ndarray:
        shadow = _shadow_matrix(np.concatenate([mesh.vertices_m for mesh, _, _ in buffers]))
        self._light.use()
        self._light.clear(depth=1.0)
        self._shadow["shadow"].write(_bytes(shadow))
        for _, vertices, faces in buffers:
            self._draw(self._shadow, vertices, faces)
        self._many.use()
        self._many.clear()
        self._lightmap.use(1)
        soft = np.linalg.norm(shadow[:3, :3], axis=1) / 2 * [SHADOW_SOFT_M, SHADOW_SOFT_M, SHADOW_BIAS_M]
        for program in (self._printed, self._mottled):
            program["projection"].write(_bytes(projection))
            program["shadow"].write(_bytes(shadow))
            program["light"].value, program["soft"].value, program["lightmap"].value = tuple(LIGHT), tuple(soft), 1
        for mesh, vertices, faces in buffers:
            program = self._mottled if mesh.texture is None else self._printed
            program["gloss"].value = mesh.gloss
            if mesh.texture is not None:
                self._textures[mesh.texture].use(0)
            self._draw(program, vertices, faces)
        self._gl.copy_framebuffer(self._flat, self._many)
        rgba = np.frombuffer(self._flat.read(components=4, dtype="f4"), np.float32).reshape(self.height, self.width, 4)
        return rgba[..., [2, 1, 0, 3]]

    def _render_facts(self, projection: np.ndarray, buffers: list[tuple[Mesh, Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
        self._exact.use()
        self._exact.clear()
        self._facts["projection"].write(_bytes(projection))
        for mesh, vertices, faces in buffers:
            self._facts["entity"].value = float(mesh.entity)
            self._draw(self._facts, vertices, faces)
        facts = np.frombuffer(self._exact.read(components=2, dtype="f4"), np.float32).reshape(self.height, self.width, 2)
        entity = facts[..., 1].round().astype(np.uint8)
        return np.where(entity > 0, facts[..., 0], np.inf).astype(np.float32), entity

    def _buffers(self, mesh: Mesh) -> tuple[Any, Any]:
        none = np.zeros((len(mesh.vertices_m), 3))
        uv = none[:, :2] if mesh.uv is None else mesh.uv
        rest = none if mesh.rest_m is None else mesh.rest_m
        normals = vertex_normals(mesh.vertices_m, mesh.faces) if mesh.normals is None else mesh.normals
        packed = np.concatenate([mesh.vertices_m, normals, uv, mesh.colour, rest], axis=1)
        return self._gl.buffer(packed.astype(np.float32).tobytes()), self._gl.buffer(mesh.faces.astype(np.int32).tobytes())

    def _draw(self, program: Any, vertices: Any, faces: Any) -> None:
        sizes = {"position": 3, "normal": 3, "uv": 2, "colour": 3, "rest": 3}
        layout = " ".join(f"{n}f" if name in program else f"{4 * n}x" for name, n in sizes.items())
        array = self._gl.vertex_array(program, [(vertices, layout, *[name for name in sizes if name in program])], faces)
        array.render()
        array.release()

    def _upload(self, picture: np.ndarray) -> Any:
        texture = self._gl.texture((picture.shape[1], picture.shape[0]), 3, np.ascontiguousarray(picture[..., ::-1]).tobytes())
        texture.build_mipmaps()
        texture.filter = (self._gl.LINEAR_MIPMAP_LINEAR, self._gl.LINEAR)
        return texture


def projection_matrix(K: np.ndarray, width: int, height: int) -> np.ndarray:
    """(4, 4) clip coordinates of camera-frame points, without OpenGL's flip: the first row that is read back is the image's top.

    Window coordinates put pixel centres at halves, hence the 0.5.
    """
    P = np.zeros((4, 4))
    for axis, size in ((0, width), (1, height)):
        P[axis, :3] = 2 * K[axis] / size
        P[axis, 2] += 1 / size - 1
    P[2, 2], P[2, 3] = (FAR_M + NEAR_M) / (FAR_M - NEAR_M), -2 * FAR_M * NEAR_M / (FAR_M - NEAR_M)
    P[3, 2] = 1
    return P


def _shadow_matrix(points: np.ndarray) -> np.ndarray:
    """(4, 4) orthographic projection from the light that contains all points (N, 3)."""
    side = np.cross(LIGHT, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    R = np.stack([side, np.cross(LIGHT, side), -LIGHT])
    seen = points @ R.T
    low, high = seen.min(axis=0) - 1e-3, seen.max(axis=0) + 1e-3
    M = np.eye(4)
    M[:3, :3] = R * (2 / (high - low))[:, None]
    M[:3, 3] = -(high + low) / (high - low)
    return M


def _bytes(matrix: np.ndarray) -> bytes:
    return matrix.T.astype(np.float32).tobytes()  # OpenGL stores columns


def _context() -> Any:
    try:
        import moderngl
    except ImportError:
        raise HoldprepError("source=synthetic needs moderngl: pip install 'holdprep[synth]'") from None
    try:
        return moderngl.create_context(standalone=True, backend="egl")  # type: ignore[arg-type]
    except Exception as error:
        # moderngl raises bare Exceptions
        raise HoldprepError(
            f"no OpenGL context ({' '.join(str(error).split())}): apt install libegl1 libgl1-mesa-dri, or set LIBGL_ALWAYS_SOFTWARE=1"
        ) from None
