"""Videos of overlays: H.264 by PyAV, which a browser and a phone play."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

QUALITY = "23"  # constant rate factor of x264
PRESET = "superfast"


def has_h264() -> bool:
    """Whether PyAV was built with an encoder of H.264."""
    return "libx264" in av.codecs_available


def write_movie(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write frames (H, W, 3) BGR uint8 as .mp4 and return their number; odd last rows and columns are cut. Needs `has_h264`."""
    count = 0
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = None
        for picture in frames:
            height, width = (n - n % 2 for n in picture.shape[:2])
            if stream is None:
                stream = container.add_stream("libx264", rate=max(1, round(fps)))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": QUALITY, "preset": PRESET}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="bgr24")
            container.mux(stream.encode(frame))
            count += 1
        if stream is not None:
            container.mux(stream.encode())
    return count
