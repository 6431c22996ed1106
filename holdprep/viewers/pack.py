"""A scene as one JSON value for the page: arrays reduced to small integers and compressed, pictures as JPEG, masks as PNG.

The page (`page/scene.js`) reads it with what a browser has; nothing is fetched from elsewhere.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from holdprep.viewers.scene import HandTrack, ObjectTrack, ResultTrack, Scene
from holdprep.viz.overlay import COLORS

FINEST_M = 5e-5  # step of packed vertices, or coarser where the range needs it
DISTANCE_STEP_M = 2e-4  # of packed distances, which are cut at 127 steps
SIDES_PX = (960, 800, 640, 480, 360, 240)  # longest sides of pictures, the largest that fits is used
JPEG_QUALITY = 72
TRIED = 6  # pictures that are encoded to estimate the size of all
POINTS = 4000  # most points of a cloud


@dataclass
class Store:
    """Arrays in one compressed block; equal ones are stored once."""

    arrays: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)
    _size: int = 0

    def add(self, array: np.ndarray, kind: str, step: float = 1.0, low: float = 0.0) -> int:
        """The number of an array of `kind` u8, i8, u16, u32, f32, or d16 (u16 differences along the first axis, low bytes first)."""
        shape = list(array.shape)
        if kind == "d16":
            flat = array.reshape(len(array), -1).astype(np.uint16)
            flat[1:] = flat[1:] - flat[:-1]
            data = flat.ravel().view(np.uint8).reshape(-1, 2).T.tobytes()
        else:
            types = {"u8": np.uint8, "i8": np.int8, "u16": np.uint16, "u32": np.uint32, "f32": np.float32}
            data = np.ascontiguousarray(array, types[kind]).tobytes()
        key = kind.encode() + repr((shape, step, low)).encode() + data
        if key not in self._known:
            self._known[key] = len(self.arrays)
            data += b"\0" * (-len(data) % 4)
            self.arrays.append({"kind": kind, "shape": shape, "at": self._size, "step": step, "low": low})
            self.blocks.append(data)
            self._size += len(data)
        return self._known[key]

    def positions(self, values: np.ndarray) -> int:
        """Positions in metres, as 16-bit numbers; 65535 is NaN."""
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        step = max(FINEST_M, (high - low) / 65000)
        steps = np.where(np.isfinite(values), np.round((np.nan_to_num(values) - low) / step), 65535)
        return self.add(steps, "d16" if values.ndim == 3 else "u16", step, low)

    def numbers(self, values: np.ndarray | None) -> int | None:
        """Plain numbers as float32, None for None."""
        return None if values is None else self.add(np.asarray(values, float), "f32")

    def block(self) -> str:
        """All arrays, compressed, as text."""
        return base64.b64encode(zlib.compress(b"".join(self.blocks), 6)).decode()


def packed(scene: Scene, picture_bytes: float) -> dict[str, Any]:
    """The scene for the page; its pictures have about `picture_bytes` at most."""
    store = Store()
    height_limit = _side(scene.images, picture_bytes)
    results = [_result(store, result) for result in scene.results]
    pictures = Pictures()
    masks = Pictures()
    for t in range(len(scene.names)):
        image = _reduced(scene.images[t], height_limit)
        pictures.add(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if scene.masks:
            masks.add(_tinted({e: m[t] for e, m in scene.masks.items()}, image.shape[1::-1]), ".png", [cv2.IMWRITE_PNG_COMPRESSION, 2])
    return {
        "seq": scene.seq,
        "names": list(scene.names),
        "frames": scene.frames.tolist(),
        "total": scene.total,
        "size": list(scene.image_size),
        "notes": list(scene.notes),
        "results": results,
        "arrays": store.arrays,
        "block": store.block(),
        "pictures": pictures.packed(),
        "masks": masks.packed() if scene.masks else None,
    }


def as_script(value: Any) -> str:
    """JSON that is safe inside of a <script> element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@dataclass
class Pictures:
    """Encoded pictures one after the other."""

    data: list[bytes] = field(default_factory=list)

    def add(self, picture: np.ndarray, suffix: str, options: list[int]) -> None:
        """Encode one picture."""
        self.data.append(cv2.imencode(suffix, picture, options)[1].tobytes())

    def packed(self) -> dict[str, Any]:
        """Where each picture begins and ends, and all of them as text."""
        ends = np.cumsum([0, *(len(d) for d in self.data)])
        return {"ends": ends.tolist(), "block": base64.b64encode(b"".join(self.data)).decode()}


def _result(store: Store, result: ResultTrack) -> dict[str, Any]:
    return {
        "name": result.name,
        "title": result.title,
        "unit": result.unit,
        "K": np.asarray(result.K, float).ravel().tolist(),
        "hands": [_hand(store, hand) for hand in result.hands],
        "obj": None if result.obj is None else _object(store, result.obj),
    }


def _hand(store: Store, hand: HandTrack) -> dict[str, Any]:
    distance = None
    if hand.distance_m is not None:
        steps = np.clip(np.round(np.nan_to_num(hand.distance_m, nan=1.0) / DISTANCE_STEP_M), -127, 127)
        distance = store.add(steps, "i8", DISTANCE_STEP_M)
    return {
        "side": hand.side,
        "vertices": store.positions(hand.vertices_m),
        "faces": store.add(hand.faces, "u16"),
        "valid": store.add(hand.is_valid, "u8"),
        "error": store.numbers(hand.error),
        "confidence": store.numbers(hand.confidence),
        "distance": distance,
    }


def _object(store: Store, obj: ObjectTrack) -> dict[str, Any]:
    points = obj.points_m
    if len(points) > POINTS:
        points = points[np.linspace(0, len(points) - 1, POINTS).astype(int)]
    surface = obj.surface
    return {
        "poses": store.add(obj.T_cam_obj[:, :3].reshape(len(obj.T_cam_obj), 12), "f32"),
        "points": store.positions(points),
        "registered": store.add(obj.is_registered, "u8"),
        "error": store.numbers(obj.error),
        "confidence": store.numbers(obj.confidence),
        "surface": None
        if surface is None
        else {
            "vertices": store.positions(surface.vertices_m),
            "faces": store.add(surface.faces, "u32"),
            "observed": store.add(surface.observed, "u8"),
        },
    }


def _side(images: Sequence[np.ndarray], budget: float) -> int:
    """The longest side in px with which all pictures need about `budget` bytes."""
    some = [images[int(t)] for t in np.unique(np.linspace(0, len(images) - 1, TRIED).round().astype(int))]
    for side in SIDES_PX[:-1]:
        sizes = [len(cv2.imencode(".jpg", _reduced(i, side), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]) for i in some]
        if float(np.mean(sizes)) * len(images) <= budget:
            return side
    return SIDES_PX[-1]


def _reduced(image: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _tinted(masks: Mapping[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The masks of a frame as a transparent picture (h, w, 4), each in its colour, with an outline."""
    out = np.zeros((size[1], size[0], 4), np.uint8)
    for entity, mask in masks.items():
        small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        out[small > 0] = (*COLORS[entity], 70)
        contours, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(out, contours, -1, (*COLORS[entity], 255), 1)
    return out
