"""Normals of triangle meshes."""

import numpy as np
from scipy.sparse import csr_matrix


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(..., F, 3) normals of the triangles `faces` (F, 3) of `vertices` (..., V, 3); their norm is twice the triangle's area."""
    corners = vertices[..., faces, :]
    return np.cross(corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :])


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(..., V, 3) unit normals of `vertices` (..., V, 3): the area-weighted mean over a vertex's triangles; 0 for unused vertices."""
    normals = face_normals(vertices, faces)
    rows, columns = faces.ravel(), np.repeat(np.arange(len(faces)), 3)
    adjacency = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(vertices.shape[-2], len(faces)))
    by_face = np.moveaxis(normals, -2, 0)
    summed = np.moveaxis((adjacency @ by_face.reshape(len(faces), -1)).reshape(vertices.shape[-2], *by_face.shape[1:]), 0, -2)
    return np.asarray(summed / (np.linalg.norm(summed, axis=-1, keepdims=True) + 1e-12))
