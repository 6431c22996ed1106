"""A rasteriser with shadows on OpenGL (moderngl, EGL; Mesa's software driver will do): pictures, depth and who is seen at each pixel.

Cameras are the project's: K, OpenCV axes, pixel centres at whole numbers; row 0 of every array is the picture's top.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from holdprep.errors import HoldprepError

NEAR_M, FAR_M = 0.02, 20.0
SHADOW_SIDE = 1024
SAMPLES = 4
LIGHT = np.array([-0.45, -0.75, -0.5]) / np.linalg.norm([-0.45, -0.75, -0.5])  # towards the light, camera axes: above, left, before

VERTEX = """
#version 330
in vec3 position; in vec3 normal; in vec2 uv; in vec3 colour; in vec3 rest;
uniform mat4 projection; uniform mat4 shadow;
out vec3 v_position; out vec3 v_normal; out vec2 v_uv; out vec3 v_colour; out vec3 v_rest; out vec4 v_shadow;
void main() {
    v_position = position; v_normal = normal; v_uv = uv; v_colour = colour; v_rest = rest;
    v_shadow = shadow * vec4(position, 1.0);
    gl_Position = projection * vec4(position, 1.0);
}
"""
# Lambert, a sky from above, a little gloss (Blinn-Phong); albedo is the vertex colour times a texture or a mottle like skin's
FRAGMENT = """
#version 330
in vec3 v_position; in vec3 v_normal; in vec2 v_uv; in vec3 v_colour; in vec3 v_rest; in vec4 v_shadow;
uniform sampler2D picture; uniform sampler2D lightmap; uniform float textured; uniform vec3 light; uniform float gloss;
out vec4 result;
float hash(vec3 p) { p = fract(p * 0.3183099 + 0.1); p *= 17.0; return fract(p.x * p.y * p.z * (p.x + p.y + p.z)); }
float grain(vec3 x) {
    vec3 i = floor(x), f = fract(x); f = f * f * (3.0 - 2.0 * f);
    return mix(mix(mix(hash(i), hash(i + vec3(1,0,0)), f.x), mix(hash(i + vec3(0,1,0)), hash(i + vec3(1,1,0)), f.x), f.y),
               mix(mix(hash(i + vec3(0,0,1)), hash(i + vec3(1,0,1)), f.x), mix(hash(i + vec3(0,1,1)), hash(i + vec3(1,1,1)), f.x), f.y), f.z);
}
float lit() {
    vec3 at = v_shadow.xyz * 0.5 + 0.5;
    float open = 0.0;
    for (int i = -3; i <= 3; i++) for (int j = -3; j <= 3; j++)
        open += step(at.z - 0.004, texture(lightmap, at.xy + vec2(i, j) * 0.0022).r);
    return open / 49.0;
}
void main() {
    vec3 n = normalize(v_normal), view = normalize(-v_position);
    if (dot(n, view) < 0.0) n = -n;
    vec3 mottle = 1.0 + vec3(0.10, 0.16, 0.18) * (grain(v_rest * 90.0) + 0.6 * grain(v_rest * 330.0) + 0.4 * grain(v_rest * 1100.0) - 1.0);
    vec3 albedo = v_colour * mix(mottle, pow(texture(picture, v_uv).rgb, vec3(2.2)), textured);
    float open = lit();
    float direct = max(dot(n, light), 0.0) * open;
    float sky = 0.42 + 0.18 * (-n.y);
    float spark = gloss * pow(max(dot(n, normalize(light + view)), 0.0), 40.0) * open;
    result = vec4(pow(clamp(albedo * (direct + sky) + spark, 0.0, 1.0), vec3(1.0 / 2.2)), 1.0);
}
"""
FACTS = """
#version 330
in vec3 v_position; uniform float entity;
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
    """What is drawn: `vertices_m` (V, 3) in the camera frame, `faces` (F, 3), `entity` a number from 1 to 255.

    `colour` (V, 3) linear RGB in 0..1 is multiplied by the BGR `texture` at `uv` (V, 2), or by a mottle fixed to `rest_m` (V, 3).
    """

    vertices_m: np.ndarray
    faces: np.ndarray
    entity: int
    colour: np.ndarray
    uv: np.ndarray | None = None
    texture: str | None = None
    rest_m: np.ndarray | None = None
    gloss: float = 0.05


@dataclass(frozen=True)
class Rendered:
    """`image` (H, W, 4) uint8 BGR and coverage, `depth_m` (H, W) float32 with infinity where nothing is, `entity` (H, W) uint8."""

    image: np.ndarray
    depth_m: np.ndarray
    entity: np.ndarray


class Renderer:
    """Pictures of one size; a context manager, as it holds an OpenGL context. `textures` (H, W, 3) uint8 BGR by name."""

    def __init__(self, width: int, height: int, textures: Mapping[str, np.ndarray] | None = None) -> None:
        self.width, self.height = width, height
        self._gl = _context()
        gl = self._gl
        self._colour = gl.program(VERTEX, FRAGMENT)
        self._facts = gl.program(VERTEX, FACTS)
        self._shadow = gl.program(SHADOW, "#version 330\nvoid main() {}")
        size = (width, height)
        self._many = gl.framebuffer([gl.renderbuffer(size, 4, samples=SAMPLES)], gl.depth_renderbuffer(size, samples=SAMPLES))
        self._flat = gl.framebuffer([gl.renderbuffer(size, 4)])
        self._exact = gl.framebuffer([gl.renderbuffer(size, 2, dtype="f4")], gl.depth_renderbuffer(size))
        self._lightmap = gl.depth_texture((SHADOW_SIDE, SHADOW_SIDE))
        self._lightmap.compare_func = ""
        self._lightmap.repeat_x = self._lightmap.repeat_y = False
        self._light = gl.framebuffer(depth_attachment=self._lightmap)
        self._textures = {name: self._upload(picture) for name, picture in (textures or {}).items()}
        gl.enable(gl.DEPTH_TEST)

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._gl.release()

    def render(self, K: np.ndarray, meshes: Sequence[Mesh], facts: bool = True) -> Rendered:
        """One frame; without `facts`, depth and entity are left empty (for the sub-frames of a blurred picture)."""
        projection = projection_matrix(K, self.width, self.height)
        shadow = _shadow_matrix(np.concatenate([m.vertices_m for m in meshes]))
        buffers = [(mesh, *self._buffers(mesh)) for mesh in meshes]
        self._light.use()
        self._light.clear(depth=1.0)
        self._shadow["shadow"].write(_bytes(shadow))
        for _, vertices, faces in buffers:
            self._draw(self._shadow, vertices, faces)
        self._many.use()
        self._many.clear()
        self._textures_and_light(projection, shadow)
        for mesh, vertices, faces in buffers:
            self._colour["textured"].value = float(mesh.texture is not None)
            self._colour["gloss"].value = mesh.gloss
            if mesh.texture is not None:
                self._textures[mesh.texture].use(0)
            self._draw(self._colour, vertices, faces)
        self._gl.copy_framebuffer(self._flat, self._many)
        image = np.frombuffer(self._flat.read(components=4), np.uint8).reshape(self.height, self.width, 4)[..., [2, 1, 0, 3]]
        depth, entity = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.uint8)
        if facts:
            depth, entity = self._render_facts(projection, buffers)
        for _, vertices, faces in buffers:
            vertices.release()
            faces.release()
        return Rendered(image, depth, entity)

    def _render_facts(self, projection: np.ndarray, buffers: list) -> tuple[np.ndarray, np.ndarray]:
        self._exact.use()
        self._exact.clear()
        self._facts["projection"].write(_bytes(projection))
        for mesh, vertices, faces in buffers:
            self._facts["entity"].value = float(mesh.entity)
            self._draw(self._facts, vertices, faces)
        facts = np.frombuffer(self._exact.read(components=2, dtype="f4"), np.float32).reshape(self.height, self.width, 2)
        entity = facts[..., 1].round().astype(np.uint8)
        return np.where(entity > 0, facts[..., 0], np.inf).astype(np.float32), entity

    def _textures_and_light(self, projection: np.ndarray, shadow: np.ndarray) -> None:
        self._colour["projection"].write(_bytes(projection))
        self._colour["shadow"].write(_bytes(shadow))
        self._colour["light"].value = tuple(LIGHT)
        self._colour["picture"].value, self._colour["lightmap"].value = 0, 1
        self._lightmap.use(1)

    def _buffers(self, mesh: Mesh) -> tuple[Any, Any]:
        none = np.zeros((len(mesh.vertices_m), 3))
        uv = none[:, :2] if mesh.uv is None else mesh.uv
        rest = none if mesh.rest_m is None else mesh.rest_m
        packed = np.concatenate([mesh.vertices_m, vertex_normals(mesh.vertices_m, mesh.faces), uv, mesh.colour, rest], axis=1)
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
        texture.anisotropy = 8.0
        return texture


def projection_matrix(K: np.ndarray, width: int, height: int) -> np.ndarray:
    """(4, 4) clip coordinates of camera-frame points, without OpenGL's flip: the first row that is read back is the picture's top.

    Window coordinates put pixel centres at halves, hence the 0.5.
    """
    P = np.zeros((4, 4))
    for axis, size in ((0, width), (1, height)):
        P[axis, :3] = 2 * K[axis] / size
        P[axis, 2] += 1 / size - 1
    P[2, 2], P[2, 3] = (FAR_M + NEAR_M) / (FAR_M - NEAR_M), -2 * FAR_M * NEAR_M / (FAR_M - NEAR_M)
    P[3, 2] = 1
    return P


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals, each face weighing by its area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    normals = np.stack([np.bincount(faces.ravel(), np.repeat(cross[:, i], 3), minlength=len(vertices)) for i in range(3)], axis=1)
    return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)


def _shadow_matrix(points: np.ndarray) -> np.ndarray:
    """(4, 4) the scene as the light sees it, an orthographic view that just holds all points (N, 3)."""
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
