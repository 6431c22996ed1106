"""The hand that holds the object, read from a sequence for sources of object poses that follow it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdprep.backend import External

if TYPE_CHECKING:
    import numpy as np

    from holdprep.hand.model import Side
    from holdprep.hand.trackers.tracks import VertexTrack
    from holdprep.object.option import PoseTask
    from holdprep.object.palm_motion import PalmMotion
    from holdprep.sequence import Sequence

HANDS: "tuple[Side, ...]" = ("right", "left")


def files_of_hands(seq: "Sequence") -> External:
    """The hand tracker's result and the hands' masks, which poses that follow the hand depend on."""
    masks: External = {f"masks of {side}": seq.path(f"masks_{side}") for side in HANDS}
    return masks | {"hands": seq.path("v3d"), "keypoints": seq.path("j2d")}


@dataclass(frozen=True)
class HoldingHand:
    """The palm's motion of the hand that holds the object, and the frames (T,) bool in which it is found and, by the masks, touches the object."""

    palm: "PalmMotion"
    touches: "np.ndarray"


def holding_hand(task: "PoseTask", K: "np.ndarray") -> HoldingHand:
    """The hand that is found, and touches the object, in most frames, under the camera `K` (3, 3).

    `touches` are the frames in which it is found where it has no masks. Needs `v3d`. Raises HoldprepError where the hand is found in too few.
    """
    from holdprep.hand.trackers import trackfile
    from holdprep.object import palm_motion

    track = trackfile.read(task.seq.path("v3d").parent, task.seq.frame_names())
    touches = {side: _touching(task.seq, track, side) for side in track.vertices_m}
    side = max(touches, key=lambda each: int(touches[each].sum()))
    return HoldingHand(palm_motion.of_track(track, side, task.hand_model(side), K), touches[side])


def _touching(seq: "Sequence", track: "VertexTrack", side: "Side") -> "np.ndarray":
    """(T,) bool: frames in which a hand is found and touches the object; those in which it is found where it has no masks."""
    from holdprep.quality.metrics import touching_frames

    found: np.ndarray = track.found(side)
    return found & touching_frames(seq.masks(side), seq.masks("object")) if seq.has(f"masks_{side}") else found
