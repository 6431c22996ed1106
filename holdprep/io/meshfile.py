"""Vertices of mesh files in the file's order: Wavefront .obj, and .ply by trimesh after a check of its declared sizes."""

from pathlib import Path

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.io.bounded import read_bytes

MAX_BYTES = 64 << 20


def read_vertices(path: Path) -> np.ndarray:
    """Vertices (N, 3) of an .obj or .ply. Raises HoldprepError in one line where it is missing, damaged or too large."""
    content = read_bytes(path, MAX_BYTES)
    return _ply(path, content) if path.suffix.lower() == ".ply" else _obj(path, content)


def _obj(path: Path, content: bytes) -> np.ndarray:
    lines = [line.split()[1:4] for line in content.splitlines() if line[:2] in (b"v ", b"v\t")]
    try:
        return np.array(lines, dtype=np.float64).reshape(-1, 3)
    except ValueError:
        wrong = next((i for i, line in enumerate(lines) if len(line) < 3 or not all(map(_is_number, line))), 0)
        raise HoldprepError(f"{path} is not a readable mesh: vertex {wrong} is no three numbers; is it truncated?") from None


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ply(path: Path, content: bytes) -> np.ndarray:
    import trimesh

    header = content[: content.find(b"end_header") + 1 or 65536].decode("latin1")
    counts = [line.split()[2:3] for line in header.splitlines() if line.startswith("element ")]
    declared = sum(int(count[0]) if count and count[0].isdecimal() and len(count[0]) < 12 else len(content) + 1 for count in counts)
    if declared > len(content):  # an element has a byte at least
        raise HoldprepError(f"{path} is not a readable mesh: it declares {declared} elements in {len(content)} bytes; is it truncated?")
    try:
        mesh = trimesh.load(path, file_type="ply", process=False, maintain_order=True, skip_materials=True)
        return np.asarray(getattr(mesh, "vertices", np.zeros((0, 3))), dtype=np.float64).reshape(-1, 3)
    except Exception as error:  # readers of damaged files raise anything
        line = " ".join(str(error).split())[:120]
        raise HoldprepError(f"{path} is not a readable mesh ({type(error).__name__}: {line}); is it truncated?") from error
