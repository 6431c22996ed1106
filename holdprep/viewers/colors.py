"""Colours (R, G, B in 0..255) of hands and object in viewers: by kind, error, confidence, or distance of hand and object."""

from collections.abc import Sequence

import numpy as np

from holdprep.viewers.scene import HandTrack, ObjectTrack, ResultTrack
from holdprep.viz.overlay import COLORS

Color = tuple[int, int, int]
GUESS: Color = (158, 158, 168)  # parts of the surface that no picture shows
TRUTH: Color = (217, 173, 51)
CONTACTS: Color = (255, 51, 217)
UNKNOWN: Color = (153, 153, 153)
CONTACT_M = 0.002  # largest distance of hand and object in contact
FULL_M = 0.02  # distance of the strongest colour


def heat(share: float) -> Color:
    """From blue (0) by way of green and yellow to red (1)."""
    s = min(1.0, max(0.0, share))
    green = 0.35 + 1.1 * s if s < 0.5 else 1.8 * (1 - s)
    red, green, blue = (round(255 * min(1.0, max(0.0, v))) for v in (2 * s - 0.4, green, 0.9 - 2 * s))
    return red, green, blue


def frame_color(part: HandTrack | ObjectTrack, color: str, t: int, alike: Sequence[HandTrack | ObjectTrack]) -> Color | None:
    """The colour of a hand or object in frame t by `color` error or confidence; errors by the 95th percentile of `alike`."""
    if color not in ("error", "confidence"):
        return None
    values = part.error if color == "error" else part.confidence
    if values is None or not np.isfinite(values[t]):
        return UNKNOWN
    if color == "confidence":
        return heat(1 - float(values[t]))
    known = np.concatenate([p.error[np.isfinite(p.error)] for p in alike if p.error is not None])
    return heat(float(values[t]) / max(float(np.percentile(known, 95)), 1e-9))


def hand_color(result: ResultTrack, hand: HandTrack) -> Color:
    """The plain colour of a hand."""
    blue, green, red = COLORS[hand.side]
    return TRUTH if result.name == "truth" else (red, green, blue)


def object_color(result: ResultTrack, color: str, t: int) -> Color:
    """The colour of a result's object in frame t."""
    assert result.obj is not None
    blue, green, red = COLORS["object"]
    plain = TRUTH if result.name == "truth" else (red, green, blue)
    return frame_color(result.obj, color, t, [result.obj]) or plain


def vertex_colors(hand: HandTrack, t: int) -> np.ndarray | None:
    """(V, 3) uint8 by the distance to the object: white on the surface, red inside, blue away; None where it is unknown."""
    if hand.distance_m is None:
        return None
    metres = hand.distance_m[t][:, None]
    share = np.minimum(1, np.abs(metres) / FULL_M)
    inside, away = 1 - share * [0, 1, 1], 1 - share * [0.8, 0.6, 0]
    return np.round(255 * np.where(metres < 0, inside, away)).astype(np.uint8)
