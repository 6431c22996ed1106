"""Which frames of a long video are mapped: those between are found afterwards, each from a model that is whole already.

Mapping costs the more the more frames a model holds, and frames that look like their neighbours add little to it. The others are solved
against the model as lost frames are, and all are adjusted together.
"""

from collections.abc import Sequence

from holdprep.object.colmap import Features

_WANTED = 200  # frames of a model, where the video allows it
_MAX_STEP = 4  # frames from one to the next, as far as resection reaches
_KEEPS, _LEAST = 0.5, 60  # matches with the frame mapped last: of those that its next frame has, and in number


def key_frames(names: Sequence[str], features: Features) -> list[str]:
    """The frames to map, in the order of `names`, which is that of time: all of a short video, about 200 of a longer one.

    Between two of them lie at most three others, and fewer where the picture changes so fast that they would have too few matches.
    """
    step = min(-(-len(names) // _WANTED), _MAX_STEP)
    at = [0]
    while at[-1] < len(names) - 1:
        last = at[-1]
        enough = max(_LEAST, _KEEPS * _matches(names, features, last, last + 1))
        near = range(last + 2, min(last + step, len(names) - 1) + 1)
        at.append(next((t for t in reversed(near) if _matches(names, features, last, t) >= enough), last + 1))
    return [names[t] for t in at]


def _matches(names: Sequence[str], features: Features, a: int, b: int) -> int:
    return len(features.matches.get(names[a], {}).get(names[b], ()))
