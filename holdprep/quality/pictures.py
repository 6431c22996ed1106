"""Whether frames show anything: dark, flat and repeated pictures, as a decoder leaves them that has failed without an error."""

from hashlib import blake2b

import cv2
import numpy as np

DARK = 40  # grey level of 255 that the brightest twentieth of a picture should exceed
FLAT = 4.0  # standard deviation in grey levels of a picture that shows something
SIDE = 64  # of the reduced picture that is compared with the one before
SAME = 0.35  # grey levels: pixels of the reduced pictures differ by less where nothing has moved; sensor noise alone gives more


class PictureCheck:
    """Counts over the frames added, in their order."""

    def __init__(self) -> None:
        self._count = self._dark = self._flat = self._repeated = 0
        self._known: set[bytes] = set()
        self._before: np.ndarray | None = None

    def add(self, image: np.ndarray) -> None:
        """One frame (H, W, 3) BGR uint8."""
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        small = cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        digest = blake2b(image.tobytes(), digest_size=16).digest()
        is_same = self._before is not None and float(np.abs(small - self._before).max()) < SAME
        self._count += 1
        self._dark += bool(np.percentile(grey[::4, ::4], 95) < DARK)
        self._flat += bool(grey.std() < FLAT)
        self._repeated += is_same or digest in self._known
        self._known.add(digest)
        self._before = small

    def metrics(self) -> dict[str, float]:
        """Shares of the frames in percent: dark, flat, and like the one before or equal to any earlier one."""
        counts = {"dark_pct": self._dark, "flat_pct": self._flat, "repeated_pct": self._repeated}
        return {name: 100 * count / max(self._count, 1) for name, count in counts.items()}
