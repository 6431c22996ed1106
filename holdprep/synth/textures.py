"""Procedural images, BGR uint8: textures of objects, and backgrounds. Deterministic by seed."""

from collections.abc import Callable

import cv2
import numpy as np

SIDE = 1024  # texels
FONTS = (cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)
SYLLABLES = ["ba", "co", "di", "fe", "go", "hu", "ka", "li", "mo", "nu", "pe", "qui", "ra", "so", "ti", "vu", "wa", "xo", "ya", "ze"]


def make_texture(kind: str, seed: int) -> np.ndarray:
    """(1024, 1024, 3) uint8 BGR: `label` (a texture with many SIFT features), `plain`, `repeat` (one small motif tiled) or `bands`
    (rings along v).
    """
    return KINDS[kind](np.random.default_rng(seed))


def smooth_noise(rng: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    """(height, width) noise of unit variance, enlarged from a smaller image if it is smooth."""
    step = max(1, int(sigma / 2))
    small = rng.standard_normal((height // step + 8, width // step + 8)).astype(np.float32)
    field = cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / step), (width, height), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / field.std()


def _colour(rng: np.random.Generator, saturation: tuple[float, float] = (70, 230)) -> tuple[float, float, float]:
    hsv = np.array([[[rng.uniform(0, 180), rng.uniform(*saturation), rng.uniform(60, 250)]]], np.uint8)
    b, g, r = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return b, g, r


def _label(rng: np.random.Generator) -> np.ndarray:
    """A package label: colour panels, text, bar codes, ellipses, and wear."""
    image = np.full((SIDE, SIDE, 3), 235, np.uint8)
    for row in np.array_split(np.arange(SIDE), 4):
        for column in np.array_split(np.arange(SIDE), rng.integers(3, 6)):
            _panel(image[row[0] : row[-1] + 1, column[0] : column[-1] + 1], rng)
    for _ in range(60):
        centre = tuple(int(v) for v in rng.integers(0, SIDE, 2))
        axes = tuple(int(v) for v in rng.integers(6, 40, 2))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, _colour(rng), -1, cv2.LINE_AA)
    wear = 8 * smooth_noise(rng, SIDE, SIDE, 60) + 4 * smooth_noise(rng, SIDE, SIDE, 2)
    return np.clip(image + wear[..., None], 0, 255).astype(np.uint8)


def _panel(area: np.ndarray, rng: np.random.Generator) -> None:
    """Draw one panel in place."""
    height, width = area.shape[:2]
    area[:] = _colour(rng)
    ink = _colour(rng)
    if rng.random() < 0.25:
        bars = np.repeat(rng.integers(0, 2, 60), rng.integers(1, 5, 60))[: width - 20]
        area[height // 3 : 2 * height // 3, 10 : 10 + len(bars)] = np.where(bars[None, :, None], 20, 240)
    y = 10
    while y < height - 14:
        size = float(rng.choice([0.4, 0.5, 0.6, 1.2, 2.0], p=[0.3, 0.25, 0.2, 0.15, 0.1]))
        y += int(34 * size)
        words = " ".join("".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(int(width / (40 * size)) + 1))
        text = words.upper() if rng.random() < 0.4 else words
        at = (int(rng.integers(0, 20)), y)
        cv2.putText(area, text, at, int(rng.choice(FONTS)), size, ink, max(1, round(2 * size)), cv2.LINE_AA)


def _plain(rng: np.random.Generator) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), _colour(rng), np.uint8)


def _repeat(rng: np.random.Generator) -> np.ndarray:
    """One motif of 64 texels, sixteen times across."""
    motif = np.full((64, 64, 3), _colour(rng), np.uint8)
    cv2.circle(motif, (20, 22), 11, _colour(rng), -1, cv2.LINE_AA)
    cv2.rectangle(motif, (36, 34), (56, 54), _colour(rng), -1)
    cv2.line(motif, (4, 58), (30, 44), _colour(rng), 3, cv2.LINE_AA)
    return np.tile(motif, (SIDE // 64, SIDE // 64, 1))


def _bands(rng: np.random.Generator) -> np.ndarray:
    """Rings of colour that depend on v only: the same from every side."""
    colours = np.array([_colour(rng) for _ in range(24)], np.uint8)
    edges = np.sort(rng.uniform(0, SIDE, 23))
    return np.repeat(colours[np.searchsorted(edges, np.arange(SIDE))][:, None], SIDE, axis=1)


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {"label": _label, "plain": _plain, "repeat": _repeat, "bands": _bands}


def make_room(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: a blurred wall with shelves, books and pictures above a wooden table."""
    image: np.ndarray = np.empty((height, width, 3), np.float32)
    horizon = int(height * rng.uniform(0.55, 0.7))
    dull = (10.0, 90.0)  # lower saturation than textures
    image[:] = np.array(_colour(rng, dull), np.float32) * 0.4 + 90
    unit = width / 24
    for shelf in (0.18, 0.42):
        base, x = int(horizon * (shelf + 0.3)), 0.0
        while x < width:
            book, tall = unit * rng.uniform(0.3, 1.2), unit * rng.uniform(2, 4)
            if rng.random() < 0.8:
                cv2.rectangle(image, (int(x), int(base - tall)), (int(x + book), base), _colour(rng, dull), -1)
            x += book
        cv2.rectangle(image, (0, base), (width, int(base + unit / 3)), (60, 80, 105), -1)
    for _ in range(4):
        x, y = rng.uniform(0, width), rng.uniform(0, horizon)
        for grow, colour in ((1.0, _colour(rng, dull)), (0.85, _colour(rng, dull)), (0.4, _colour(rng, dull))):
            half = (grow * unit * 1.6, grow * unit * 1.2)
            cv2.rectangle(image, (int(x - half[0]), int(y - half[1])), (int(x + half[0]), int(y + half[1])), colour, -1)
    image = cv2.GaussianBlur(image, (0, 0), width / 220)
    rows, columns = height - horizon, width
    grain = smooth_noise(rng, rows, columns // 8 + 1, 2.5)
    wood = cv2.resize(grain, (columns, rows), interpolation=cv2.INTER_CUBIC)[..., None]
    image[horizon:] = np.array([70, 105, 150], np.float32) + 14 * wood + 10 * smooth_noise(rng, rows, columns, 40)[..., None]
    image = image * (1 + 0.12 * smooth_noise(rng, height, width, width / 5)[..., None])
    return np.clip(image + 3 * rng.standard_normal(image.shape), 0, 255).astype(np.uint8)
