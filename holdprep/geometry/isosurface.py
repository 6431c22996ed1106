"""The zero level of a signed distance on a grid as a triangle mesh, by surface nets (Gibson 1998)."""

import numpy as np

CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(CORNERS[a] - CORNERS[b]).sum() == 1]


def zero_level(values: np.ndarray, origin: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and faces (F, 3), oriented outwards, of the zero level of `values` (X, Y, Z), negative inside, at origin + step (i, j, k).

    A cell that the level crosses has one vertex, the centroid of the crossings of its edges; a grid edge that it crosses has a quad of the
    four cells around it. Where the level leaves the grid the mesh is open.
    """
    shape = np.array(values.shape) - 1
    corner = np.stack([values[tuple(slice(c, c + n) for c, n in zip(at, shape, strict=True))] for at in CORNERS], axis=-1)
    inside = corner < 0
    crossed = inside.any(axis=-1) & ~inside.all(axis=-1)
    cells = np.argwhere(crossed)
    at = corner[crossed]
    total, count = np.zeros((len(cells), 3)), np.zeros(len(cells))
    for a, b in EDGES:
        met = (at[:, a] < 0) != (at[:, b] < 0)
        share = at[met, a] / (at[met, a] - at[met, b])
        total[met] += CORNERS[a] + share[:, None] * (CORNERS[b] - CORNERS[a])
        count[met] += 1
    vertices = origin + step * (cells + total / np.maximum(count, 1)[:, None])
    number = np.full(shape, -1)
    number[crossed] = np.arange(len(cells))
    faces = [_quads(values, number, axis) for axis in range(3)]
    return vertices, np.concatenate(faces)


def _quads(values: np.ndarray, number: np.ndarray, axis: int) -> np.ndarray:
    """The triangles of the quads around crossed grid edges along one axis."""
    v = np.moveaxis(values, axis, 0)
    cell = np.moveaxis(number, axis, 0)
    start, end = v[:-1, 1:-1, 1:-1] < 0, v[1:, 1:-1, 1:-1] < 0
    crossed = start != end
    around = np.stack([cell[:, :-1, :-1], cell[:, 1:, :-1], cell[:, 1:, 1:], cell[:, :-1, 1:]], axis=-1)[crossed]
    flip = ~start[crossed]  # the axes after moveaxis keep their sense for x and z, and change it for y
    flip = ~flip if axis == 1 else flip
    around[flip] = around[flip][:, ::-1]
    return np.concatenate([around[:, [0, 1, 2]], around[:, [0, 2, 3]]])
