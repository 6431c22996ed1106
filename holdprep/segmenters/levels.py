"""Masks from pictures of any kind: which of their values are the mask is decided for all pictures of a clip at once.

A mask may lie in the alpha channel, be 0/1, 0/255 or black at 16, be soft, or have a colour of its own. Pictures of several labels need the
label's number. What may be either is refused, in every kind of picture alike.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from holdprep.errors import HoldprepError

FEW = 64  # distinct values up to which they are looked at one by one
NEAR = 0.1  # share of the range that is taken as its end, where the range has WIDE values or more
WIDE = 64
MIDDLE = 0.2  # share of the range, from either end, outside of which a value counts as in between
SOLID_SHARE, SOLID_PX = 0.003, 4  # of the foreground: areas of one value, which edges do not have
FLAT_SHARE = 0.03  # of the foreground: areas in between, which soft edges do not have
GREY = 12  # levels by which channels of a grey pixel differ at most
MOST_BETWEEN = 0.7  # of the foreground: more than the soft edges of a mask have
SAME_HUE = 0.97  # cosine of the angle between colours
NAMED = 5
ADVICE = "set the label of each entity (segmenter.values.object=, .right=, .left=)"


@dataclass(frozen=True)
class Picture:
    """Pixels (H, W), or (H, W, 3) RGB; `index` (H, W) of a palette picture and `alpha` (H, W) where there are any."""

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    index: np.ndarray | None = None
    is_lossy: bool = False


Read = Callable[[int], Picture]


def masks(source: str, count: int, read: Read, value: int | None) -> tuple[list[np.ndarray], list[str]]:
    """Masks (H, W) bool of `count` pictures, which `read` gives (it may be called twice for each), and notes on what was assumed.

    With `value` the pixels of that label: palette index, grey level, or number of DAVIS's colour. Raises HoldprepError where the values do
    not say what the mask is.
    """
    if value is not None:
        return [_labelled(source, read(i), value) for i in range(count)], []
    channel = _Channels(source, count, read).chosen()
    pictures = (read(i) for i in range(count))
    grey, is_exact = zip(*((channel.of(p), not p.is_lossy) for p in pictures), strict=True)
    cut, notes = _threshold(source, grey, channel.names)
    if all(is_exact):
        _require_alike(source, grey)
    found = [g > cut for g in grey]
    _require_upright(source, found)
    return found, [*channel.notes, *notes]


def _require_alike(source: str, grey: Sequence[np.ndarray]) -> None:
    """Raise HoldprepError where some pictures are 0/1 and others 0/255: beside the others the former are black."""
    tops = np.array([float(g.max()) for g in grey])
    dim = [
        i for i in np.flatnonzero((tops > 0) & (tops <= NEAR * tops.max())).tolist() if grey[i].dtype.kind == "u" and _is_binary(grey[i])
    ]
    if dim:
        raise HoldprepError(
            f"{source}: the mask is {tops[dim[0]]:g} in {len(dim)} of {len(grey)} pictures (first: number {dim[0] + 1}) and up to "
            f"{tops.max():g} in others: export all alike"
        )


def _is_binary(grey: np.ndarray) -> bool:
    """Whether a picture is 0 and one value more, with solid areas of it."""
    return len(_counts(grey)) == 2 and int(cv2.erode((grey > 0).astype(np.uint8), np.ones((3, 3))).sum()) >= SOLID_PX


def _require_upright(source: str, masks: Sequence[np.ndarray]) -> None:
    """Raise HoldprepError where most masks hold the picture's four corners, as the background does."""
    inverted = sum(bool(m[[0, 0, -1, -1], [0, -1, 0, -1]].all()) for m in masks)
    if inverted > len(masks) / 2:
        raise HoldprepError(
            f"{source}: {inverted} of {len(masks)} masks hold the four corners of the picture, they look inverted: export the entity in "
            "white on black"
        )


def davis_colour(label: int) -> tuple[int, int, int]:
    """The colour of a label in the map of PASCAL VOC and DAVIS: bits of the label, three by three, from the highest bit of R, G, B on."""
    rgb = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            rgb[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
    return rgb[0], rgb[1], rgb[2]


def _labelled(source: str, picture: Picture, value: int) -> np.ndarray:
    if picture.is_lossy:
        raise HoldprepError(f"{source} is compressed with loss and has no exact labels: export PNG, or one mask per entity without a label")
    if picture.index is not None:
        return picture.index == value
    if picture.pixels.ndim == 2:
        return picture.pixels == value
    if not is_coloured(picture.pixels):
        return np.asarray(picture.pixels[..., 0] == value)
    return np.asarray((picture.pixels == davis_colour(value)).all(axis=2))


def is_coloured(pixels: np.ndarray) -> bool:
    """True for RGB pixels (H, W, 3) of which some are not grey."""
    if pixels.ndim == 2:
        return False
    r, g, b = cv2.split(pixels)
    spread = cv2.max(cv2.max(cv2.absdiff(r, g), cv2.absdiff(g, b)), cv2.absdiff(r, b))
    return bool((np.asarray(spread) > GREY).mean() > 1e-4)


@dataclass(frozen=True)
class _Channel:
    """How a picture becomes one number per pixel."""

    of: Callable[[Picture], np.ndarray]
    notes: list[str]
    names: Callable[[float], str]


class _Channels:
    """Chooses the channel of a clip's pictures: alpha, grey level, or the brightness of its one colour."""

    def __init__(self, source: str, count: int, read: Read) -> None:
        self._source = source
        self._has_alpha, self._is_coloured = False, False
        alphas: set[int] = set()
        colours: Counter[tuple[int, int, int]] = Counter()
        self._indices: dict[tuple[int, int, int], set[int]] = {}
        for i in range(count):
            picture = read(i)
            if picture.alpha is not None:
                alphas |= {int(picture.alpha.min()), int(picture.alpha.max())}
            coloured = picture.pixels.ndim == 3
            self._is_coloured |= coloured and is_coloured(picture.pixels)
            if coloured:
                self._count(picture, colours)
        self._has_alpha = len(alphas) > 1
        self._colours = colours
        self._agrees = not self._has_alpha or self._alpha_is_colour(count, read)

    def _count(self, picture: Picture, colours: Counter[tuple[int, int, int]]) -> None:
        """Add the colours of flat areas, of a palette those of all pixels, in steps of 8 levels."""
        spread = cv2.subtract(cv2.dilate(picture.pixels, np.ones((3, 3))), cv2.erode(picture.pixels, np.ones((3, 3))))
        r, g, b = (channel.astype(np.int32) >> 3 for channel in cv2.split(picture.pixels))
        packed = (r << 10) + (g << 5) + b
        counts = np.bincount(packed[_largest(spread) <= 8] if picture.index is None else packed.ravel(), minlength=1)
        colours.update({(c >> 10, c >> 5 & 31, c & 31): int(counts[c]) for c in np.flatnonzero(counts).tolist()})
        if picture.index is not None:
            pairs = np.flatnonzero(np.bincount((picture.index.astype(np.int64) << 15 | packed).ravel())).tolist()
            for p in pairs[:FEW]:
                self._indices.setdefault((p >> 10 & 31, p >> 5 & 31, p & 31), set()).add(p >> 15)

    def _alpha_is_colour(self, count: int, read: Read) -> bool:
        """False where the colours are black and one more, and say something else than the alpha channel."""
        bright = {c for c in self._colours if max(c) > 4}
        dark = {c for c in self._colours if max(c) <= 4}
        if not (bright and dark) or not self._one_hue(bright) or len({max(c) // 4 for c in bright}) > 1:
            return True
        differing, total = 0, 1
        for i in range(count):
            picture = read(i)
            if picture.alpha is not None and picture.pixels.ndim == 3:
                by_colour, by_alpha = _largest(picture.pixels) > 127, picture.alpha > 127
                differing += int((by_colour != by_alpha).sum())
                total += int(by_alpha.sum())
        return differing <= 0.02 * total

    def chosen(self) -> _Channel:
        if not self._agrees:
            raise HoldprepError(f"{self._source}: colours and alpha channel are two different masks: export one of them")
        if self._has_alpha:
            return _Channel(_alpha, [f"{self._source}: the mask is the alpha channel"], _number)
        if not self._is_coloured:
            return _Channel(_grey, [], self._label)
        bright = {c: n for c, n in self._colours.items() if max(c) > 4}
        if not bright or not self._one_hue(bright):
            raise HoldprepError(
                f"{self._source} holds {self._described(bright)}: {ADVICE}, or export masks of one entity in black and white"
            )
        return _Channel(_grey, [], self._label)

    def _one_hue(self, bright: "set[tuple[int, int, int]] | dict[tuple[int, int, int], int]") -> bool:
        weights = np.array([self._colours[c] for c in bright], float)
        directions = np.array(list(bright), float)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        same = directions @ directions[weights.argmax()] > SAME_HUE
        return bool(weights[same].sum() > (1 - SOLID_SHARE) * weights.sum())

    def _described(self, bright: dict[tuple[int, int, int], int]) -> str:
        if self._indices:
            return f"labels {', '.join(map(str, sorted(set().union(*self._indices.values()) - {0})[:NAMED]))}"
        common = sorted(bright, key=lambda c: -bright[c])[:NAMED]
        known = {tuple(v // 8 for v in davis_colour(label)): label for label in range(FEW)}
        if all(c in known for c in common):
            return f"labels {', '.join(str(known[c]) for c in sorted(common, key=lambda c: known[c]))} in DAVIS's colours"
        return f"{len(bright)} colours, which are no mask of one entity"

    def _label(self, level: float) -> str:
        """The palette index of a brightness if it has one, or the brightness."""
        found = [i for c, indices in self._indices.items() if max(c) == int(level) // 8 for i in indices]
        return str(found[0]) if len(found) == 1 else f"{level:g}"


def _number(level: float) -> str:
    return f"{level:g}"


def _alpha(picture: Picture) -> np.ndarray:
    return np.full(picture.pixels.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha


def _largest(pixels: np.ndarray) -> np.ndarray:
    """(H, W) of (H, W, 3)."""
    r, g, b = cv2.split(pixels)
    return np.asarray(cv2.max(cv2.max(r, g), b))


def _grey(picture: Picture) -> np.ndarray:
    return picture.pixels if picture.pixels.ndim == 2 else _largest(picture.pixels)


def _threshold(source: str, grey: Sequence[np.ndarray], name: Callable[[float], str]) -> tuple[float, list[str]]:
    """The value above which pixels are the mask, and notes."""
    if grey[0].dtype == bool:
        return 0.5, []
    low, high = float(min(g.min() for g in grey)), float(max(g.max() for g in grey))
    if not np.isfinite([low, high]).all():
        raise HoldprepError(f"{source} holds values that are not finite: export masks of 0 and 255")
    if low < 0 < high:
        return 0.0, [f"{source}: values {low:.3g} to {high:.3g} are taken as logits, cut at 0"]
    if low == high and low > 0:
        raise HoldprepError(f"{source} holds {name(low)} in every pixel of all {len(grey)} pictures: export masks of 0 and 255")
    levels: set[float] = set()
    for g in grey:
        levels |= set(_counts(g)) if len(levels) <= FEW else set()
    if len(levels) <= 2:
        return (low + high) / 2, _remarks(source, low, high, 0.0)
    if len(levels) <= FEW:
        return _of_few(source, grey, sorted(levels), name)
    return _of_many(source, grey, low, high)


def _counts(values: np.ndarray) -> dict[float, int]:
    """How often each value is there."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        counts = np.bincount(values.ravel(), minlength=1)
        return {float(v): int(counts[v]) for v in np.flatnonzero(counts).tolist()}
    found, numbers = np.unique(values, return_counts=True)
    return {float(v): int(n) for v, n in zip(found, numbers, strict=True)}


def _remarks(source: str, low: float, high: float, soft: float) -> list[str]:
    notes = [f"{source}: the background is {low:g}"] * (low > 0)
    if soft > 0.001:
        notes.append(f"{source}: {100 * soft:.1f} % of the pixels are between {low:g} and {high:g}: cut at half, {(low + high) / 2:g}")
    return notes


def _no_mask(source: str, between: float, low: float, high: float) -> HoldprepError:
    return HoldprepError(
        f"{source} holds a picture, or several labels: {100 * between:.0f} % of the foreground are between {low:g} and {high:g}; {ADVICE}, "
        "or export masks of 0 and 255"
    )


def _of_few(source: str, grey: Sequence[np.ndarray], levels: list[float], name: Callable[[float], str]) -> tuple[float, list[str]]:
    """Of at most FEW values: one with areas of its own is the mask, others are its edges; several are labels."""
    count, flat = Counter[float](), Counter[float]()
    for g in grey:
        values = g if g.dtype == np.uint8 else g.astype(np.float32)
        uniform = cv2.dilate(values, np.ones((3, 3))) == cv2.erode(values, np.ones((3, 3)))
        count.update(_counts(g))
        flat.update(_counts(g[uniform]))
    near = NEAR * (levels[-1] - levels[0]) if levels[-1] - levels[0] >= WIDE else 0.0
    low, high = levels[0], levels[-1]
    inside = [x for x in levels if x > low + near]
    foreground = sum(count[x] for x in inside)
    solid = [x for x in inside if flat[x] >= max(SOLID_PX, SOLID_SHARE * foreground)]
    if len([x for x in solid if x < high - near]) + any(x >= high - near for x in solid) > 1:
        raise HoldprepError(f"{source} holds labels {', '.join(name(x) for x in solid[:NAMED])}: {ADVICE}")
    top = max(solid, default=high)
    between = sum(count[x] for x in inside if x < top - near)
    if between > MOST_BETWEEN * foreground:
        raise _no_mask(source, between / foreground, low, top)
    return (low + top) / 2, _remarks(source, low, top, between / sum(count.values()))


def _of_many(source: str, grey: Sequence[np.ndarray], low: float, high: float) -> tuple[float, list[str]]:
    """Of many values: soft edges or noise about two peaks; areas in between are no mask."""
    bins = np.zeros(256, np.int64)
    for g in grey:
        bins += np.bincount(np.round((g.astype(np.float64) - low) * 255 / (high - low)).astype(int).ravel(), minlength=256)
    dark = int(np.searchsorted(np.cumsum(bins[:128]), 0.05 * bins[:128].sum()))
    bright = 128 + int(np.searchsorted(np.cumsum(bins[128:]), 0.95 * bins[128:].sum()))
    at = [low + b * (high - low) / 255 for b in (dark, bright)]
    span = at[1] - at[0]
    flat, between, foreground = 0, 0, 0
    for g in grey:
        values = g.astype(np.float32)
        is_flat = cv2.dilate(values, np.ones((5, 5))) - cv2.erode(values, np.ones((5, 5))) <= 0.04 * span
        is_between = (values > at[0] + MIDDLE * span) & (values < at[1] - MIDDLE * span)
        flat += int((is_flat & is_between).sum())
        between += int(is_between.sum())
        foreground += int((values > at[0] + MIDDLE * span).sum())
    if flat > FLAT_SHARE * foreground or between > MOST_BETWEEN * foreground:
        raise _no_mask(source, between / foreground, *at)
    soft = 1 - bins[[*range(dark + 13), *range(max(bright - 12, 0), 256)]].sum() / bins.sum()
    return float(sum(at) / 2), _remarks(source, at[0], at[1], float(soft))
