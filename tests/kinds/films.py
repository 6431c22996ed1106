"""Small videos with known frames, written by PyAV."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from holdprep.io.video import Frame, Video

SIZE = (96, 128)  # height, width


def picture(t: int) -> np.ndarray:
    """BGR frame `t`: a smooth ramp, a bright square in the upper left corner, and a box that moves 4 px a frame."""
    width = SIZE[1]
    image = np.zeros((*SIZE, 3), np.uint8)
    image[..., 1] = np.linspace(60, 160, width)
    image[:16, :32] = (0, 0, 230)
    image[40:72, 8 + 4 * (t % 20) : 32 + 4 * (t % 20)] = (230, 60, 60)
    return image


def write(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264:yuv420p",
    *,
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    adjust: Callable[[Any], None] = lambda stream: None,
    tag: Callable[[av.VideoFrame], av.VideoFrame] = lambda frame: frame,
) -> Path:
    """A video of BGR pictures at 30 frames a second, or at `times` in 1/30 s.

    `codec` is an encoder with its pixel format; `adjust` sets the stream's metadata, `tag` a frame's.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec.partition(":")[0], rate=30, options={"g": "10", **(options or {})})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = codec.partition(":")[2]
        adjust(stream)
        for t, image in enumerate(frames):
            frame = tag(av.VideoFrame.from_ndarray(image, format="bgr24"))
            frame.pts, frame.time_base = (times[t] if times else t), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path: Path) -> tuple[list[Frame], list[str], Video]:
    """Decoded frames, names of those that cannot be decoded, and the video."""
    video = Video(path)
    found = list(video.frames())
    return [f for f in found if isinstance(f, Frame)], [f for f in found if isinstance(f, str)], video


def off(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean difference in grey levels; a picture of another frame has 5 and more."""
    assert image.shape == truth.shape
    return float(np.abs(image.astype(int) - truth).mean())


def damaged(path: Path, packet: int, seed: int) -> Path:
    """A copy in which half of the bytes of one packet are others."""
    positions = [(p.pos, p.size) for p in _packets(path)]
    start, size = positions[packet]
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for k in rng.choice(np.arange(start + size // 8, start + size), size // 2, replace=False):
        data[k] ^= int(rng.integers(1, 256))
    copy = path.with_name(f"damaged_{packet}_{seed}{path.suffix}")
    copy.write_bytes(data)
    return copy


def _packets(path: Path) -> Iterator[av.Packet]:
    with av.open(str(path)) as container:
        yield from [packet for packet in container.demux(video=0) if packet.size]
