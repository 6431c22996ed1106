"""Files as people have them, one function a kind: it makes the file, reads it, and asserts what is right.

`tests/test_kinds.py` runs them all; `python -m tests.benchmarks --kinds` prints how many pass.
"""

from tests.kinds import frames, hands, masks, names, poses, videos
from tests.kinds.registry import KINDS

__all__ = ["KINDS", "frames", "hands", "masks", "names", "poses", "videos"]
