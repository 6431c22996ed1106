"""Keyframe selection: the frames of a long video that are mapped incrementally.

The cost of mapping grows with the number of frames, and frames similar to their neighbours add little. The other frames are
registered by PnP against the finished model, and bundle-adjusted with it.
"""

from collections.abc import Sequence

from holdprep.object.colmap import Features

NUM_KEYFRAMES = 200
_MAX_STEP = 4  # frames between keyframes, at most the neighbour gap of PnP
_MIN_MATCH_RATIO = 0.5  # matches with the previous keyframe, relative to those of the frame right after it
_MIN_MATCHES = 60  # matches with the previous keyframe


def select_keyframes(names: Sequence[str], features: Features, most: int = NUM_KEYFRAMES) -> list[str]:
    """The frames to map, out of `names` in temporal order: all of up to `most` frames, about half as many of a longer video.

    At most three frames are skipped between keyframes, fewer where the image changes so fast that too few matches remain.
    """
    step = 1 if len(names) <= most else min(-(-2 * len(names) // most), _MAX_STEP)
    keys = [0]
    while keys[-1] < len(names) - 1:
        last = keys[-1]
        needed = max(_MIN_MATCHES, _MIN_MATCH_RATIO * _num_matches(names, features, last, last + 1))
        candidates = range(last + 2, min(last + step, len(names) - 1) + 1)
        keys.append(next((t for t in reversed(candidates) if _num_matches(names, features, last, t) >= needed), last + 1))
    return [names[t] for t in keys]


def _num_matches(names: Sequence[str], features: Features, a: int, b: int) -> int:
    return len(features.matches.get(names[a], {}).get(names[b], ()))
