"""Joint orders and special vertices of MANO's layout."""

from itertools import pairwise

import numpy as np

MANO21_NAMES = (
    *("wrist", "index1", "index2", "index3", "middle1", "middle2", "middle3", "little1", "little2", "little3"),
    *("ring1", "ring2", "ring3", "thumb1", "thumb2", "thumb3", "thumb_tip", "index_tip", "middle_tip", "ring_tip", "little_tip"),
)
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
# fingertips are vertices: thumb, index, middle, ring, little = joints 16-20
MANO21_TIP_VERTICES = (744, 320, 443, 554, 671)
# the open wrist, in order around it
WRIST_RING = (108, 79, 78, 121, 214, 215, 279, 239, 234, 92, 38, 122, 118, 117, 119, 120)
# openpose = mano21[OPENPOSE_FROM_MANO21]: wrist, thumb, index, middle, ring, little, four joints each (METRO, HaMeR, MediaPipe)
OPENPOSE_FROM_MANO21 = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
MANO21_FROM_OPENPOSE = tuple(int(i) for i in np.argsort(OPENPOSE_FROM_MANO21))
# from palm to tip: index, middle, little, ring, thumb
FINGERS = ((1, 2, 3, 17), (4, 5, 6, 18), (7, 8, 9, 20), (10, 11, 12, 19), (13, 14, 15, 16))
MIDDLE_FINGER = (0, *FINGERS[1])
# the next joint towards the tip, which defines a bone's direction
CHILD = {joint: child for finger in FINGERS for joint, child in pairwise(finger)}
PALM = (0, 1, 4, 7, 10, 13)
BONES_MANO21 = tuple(bone for finger in FINGERS for bone in zip((0, *finger[:-1]), finger, strict=True))


def to_mano21(openpose: np.ndarray) -> np.ndarray:
    """Joints (..., 21, D) from OpenPose's order to MANO-21's."""
    return openpose[..., MANO21_FROM_OPENPOSE, :]
