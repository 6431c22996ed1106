"""Frames of a video with their exact times, decoded by FFmpeg's libraries (PyAV); what was converted is noted.

Frames come upright, with square pixels, without interlacing and in 8-bit SDR colours. A frame that the decoder reports as damaged, and
those predicted from it, are named and never used.
"""

import re
import shlex
from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type

from holdprep.errors import HoldprepError
from holdprep.io import hdr
from holdprep.io.bounded import require_file

DEFINITE = 0.02  # share of a video's length that may be missing at its end before it counts as cut short
MOST_WAITING = 64  # decoded frames that are held
PLAYLISTS = ("hls", "concat", "dash", "imf")
UNSPECIFIED = 2  # transfer characteristics of a frame
NO_SDR_BASE = 15  # colour space ICtCp of Dolby Vision's profile 5, which has no picture that can be shown without its metadata


@dataclass(frozen=True)
class Frame:
    """A decoded frame: its number in the video (or its file's stem), its time in seconds (NaN for image folders), BGR pixels."""

    name: str
    time_s: float
    image: np.ndarray


@dataclass(frozen=True)
class Packets:
    """What the container holds, in the order of decoding: time stamp, key frame and, of what plays, the place in the order of display."""

    pts: list[int]
    is_key: list[bool]
    shown: list[int]  # time stamps of the frames that play, ascending
    unplayed: int  # frames that an edit list leaves out
    end_s: float  # end of the last frame, from the first one


class Video:
    """A video that can be decoded: frames per second and number of frames by its container, and its frames.

    Raises HoldprepError where the file is missing or holds no video that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise HoldprepError(f"video {path} does not exist: check video=")
        require_file(path)
        self.path = path
        self._done: dict[str, int] = {}  # what was converted, and in how many frames
        with self._opened() as container:
            stream = _stream(container, self)
            self.fps = float(stream.average_rate or 0)
            self._packets, count = _packets(container, stream)
            self.frame_count = len(self._packets.shown) or count
            self.missing_s = _missing_s(container, stream, self._packets)

    @property
    def notes(self) -> list[str]:
        """What is converted in the frames that have been read, and what is assumed."""
        found = [f"{text} ({count} frames)" for text, count in self._done.items()]
        if self._packets.unplayed:
            found.append(f"{self._packets.unplayed} frames that its edit list leaves out are not used")
        if not self._packets.pts:
            found.append(f"it has no time stamps: times are those of {self.fps:g} frames a second")
        return found

    def did(self, text: str) -> None:
        """Count one frame in which this was converted."""
        self._done[text] = self._done.get(text, 0) + 1

    def refused(self, cause: str) -> HoldprepError:
        """The error for a video that cannot be used, with a command that makes one that can."""
        command = f"ffmpeg -i {shlex.quote(str(self.path))} -c:v libx264 -crf 12 -pix_fmt yuv420p out.mp4"
        return HoldprepError(f"video {self.path} cannot be decoded ({cause}): is it a video file? re-encode it ({command})")

    def frames(self) -> Iterator[Frame | str]:
        """Every frame that plays, in order; the bare frame name where one cannot be decoded."""
        if not self.frame_count:
            raise self.refused("it holds no pictures")
        decoding = _Decoding(self._packets)
        with self._opened() as container:
            stream = _stream(container, self)
            stream.codec_context.thread_type = "AUTO"
            stream.codec_context.options = {"err_detect": "explode"}
            pixels = _Pixels(stream, self)
            for number, frame in pixels.straightened(decoding.run(container, stream)):
                yield f"{number:04d}" if frame is None else Frame(f"{number:04d}", self._time_s(number, frame), pixels.bgr(frame))

    def _time_s(self, number: int, frame: av.VideoFrame) -> float:
        if self._packets.pts and frame.pts is not None and frame.time_base is not None:
            return float((frame.pts - self._packets.shown[0]) * frame.time_base)
        return number / self.fps if self.fps else float("nan")

    def _opened(self) -> Any:
        try:
            return av.open(str(self.path), options={"protocol_whitelist": "file"})  # a playlist must not open anything elsewhere
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self.refused(_reason(error)) from None


def _stream(container: Any, video: Video) -> Any:
    """The video stream that players show; cover pictures of sound files are none."""
    if container.format.name in PLAYLISTS:
        raise video.refused("it is a playlist of other files")
    shown = [s for s in container.streams.video if not int(s.disposition) & av.stream.Disposition.attached_pic]
    if not shown:
        raise video.refused("it has no video stream")
    stream = max(shown, key=lambda s: (bool(int(s.disposition) & av.stream.Disposition.default), s is container.streams.best("video")))
    if stream.codec_context is None:
        raise video.refused("its codec is unknown")
    if stream.codec_context.colorspace == NO_SDR_BASE:
        raise video.refused("its colours are Dolby Vision's profile 5")
    return stream


def _packets(container: Any, stream: Any) -> tuple[Packets, int]:
    """The packets without decoding them, and their number. The lists are empty where time stamps are missing."""
    pictures: dict[int | None, tuple[bool, bool]] = {}  # packets of one time stamp are parts of one picture
    count, end = 0, 0
    try:
        for packet in container.demux(stream):
            if packet.size:
                is_key, plays = pictures.get(packet.pts, (False, False))
                pictures[packet.pts] = (is_key or bool(packet.is_keyframe), plays or not packet.is_discard)
                count += 1
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
    except av.FFmpegError:
        pass  # the file ends in the middle of a packet: what is missing is measured from the times
    pts = [p for p in pictures if p is not None]
    shown = sorted(p for p in pts if pictures[p][1])
    if None in pictures or not shown:
        return Packets([], [], [], 0, 0.0), count
    return Packets(pts, [pictures[p][0] for p in pts], shown, len(pts) - len(shown), float((end - shown[0]) * stream.time_base)), count


def _missing_s(container: Any, stream: Any, packets: Packets) -> float:
    """Seconds by which the last frame ends before the container says; 0 where it says nothing, or the difference is small."""
    if stream.duration is not None:
        length_s = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        length_s = container.duration / av.time_base
    else:
        return 0.0
    missing = length_s - packets.end_s
    frame_s = packets.end_s / max(len(packets.shown), 1)
    return missing if packets.pts and missing > max(DEFINITE * length_s, 2 * frame_s) else 0.0


class _Decoding:
    """Decoded frames in the order of display with their numbers, None for those that are damaged or predicted from a damaged one.

    A damaged frame spoils what is decoded after it, up to the next key frame; of that it spoils what is shown before the key frame. A frame is
    therefore held until all that is decoded before it has come out, or is known to be missing.
    """

    def __init__(self, packets: Packets) -> None:
        self._packets = packets
        self._rank = {pts: rank for rank, pts in enumerate(packets.pts)}  # place in the order of decoding
        self._keys = [rank for rank, key in enumerate(packets.is_key) if key]
        played = set(packets.shown)
        self._settled = {rank for rank, pts in enumerate(packets.pts) if pts not in played}  # has come out, is missing, or does not play
        self._first_open = 0  # the first rank that is not settled
        self._damaged: list[int] = []  # ranks, ascending
        self._waiting: dict[int, Any] = {}

    def run(self, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        yield from self._timed(container, stream) if self._packets.pts else self._counted(container, stream)

    def _outputs(self, container: Any, stream: Any) -> Iterator[Any]:
        """What the decoder gives: frames, and None for a packet that it refuses."""
        try:
            for packet in container.demux(stream):
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    yield None
        except av.FFmpegError:
            return  # the file is cut short

    def _timed(self, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        shown, passed, number = self._packets.shown, 0, 0
        for output in self._outputs(container, stream):
            if output is None:  # decoders in several threads report it late: the earliest that has not come out may be the one
                insort(self._damaged, self._first_open)
            elif output.pts in self._rank:
                while passed < len(shown) and shown[passed] < output.pts:
                    self._settle(shown[passed], is_missing=shown[passed] not in self._waiting)
                    passed += 1
                self._waiting[output.pts] = output
                self._settle(output.pts, is_missing=output.is_corrupt)
            while number < passed and (self._first_open > self._rank[shown[number]] or len(self._waiting) > MOST_WAITING):
                yield number, self._usable(shown[number])
                number += 1
        for pts in shown[number:]:
            self._settle(pts, is_missing=pts not in self._waiting)
        for rest in range(number, len(shown)):
            yield rest, self._usable(shown[rest])

    def _settle(self, pts: int, is_missing: bool) -> None:
        rank = self._rank[pts]
        if is_missing and rank not in self._settled:
            insort(self._damaged, rank)
        self._settled.add(rank)
        while self._first_open in self._settled:
            self._first_open += 1

    def _usable(self, pts: int) -> Any:
        """The frame unless it, or what it may be predicted from, is damaged."""
        frame, rank = self._waiting.pop(pts, None), self._rank[pts]
        before = bisect_right(self._damaged, rank)
        if frame is None or not before:
            return frame
        last = self._damaged[before - 1]
        if frame.is_corrupt:
            return None
        keys = self._keys[bisect_right(self._keys, last) : bisect_right(self._keys, rank)]
        return frame if any(self._packets.pts[key] <= pts for key in keys) else None

    def _counted(self, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        """Of a stream without time stamps: after a damaged frame nothing is used up to the next key frame."""
        is_good = True
        for number, output in enumerate(self._outputs(container, stream)):
            is_good = output is not None and not output.is_corrupt and (is_good or bool(output.key_frame))
            yield number, output if is_good else None


class _Pixels:
    """BGR pixels of decoded frames: without interlacing, upright, with square pixels, in SDR."""

    def __init__(self, stream: Any, video: Video) -> None:
        self._stream, self._video = stream, video
        self._aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        self._transfer = int(stream.codec_context.color_trc)  # by the container; a frame's own has priority
        self._graph: Any = None
        self._graph_kind: tuple[int, int, str] | None = None

    def straightened(self, frames: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """The same frames, each interlaced one filled from its fields and those of its neighbours; from the first interlaced one on."""
        numbers: list[tuple[int, Any]] = []  # those in the filter, with None for frames that are left out
        for number, frame in frames:
            kind = None if frame is None else (frame.width, frame.height, frame.format.name)
            if self._graph is not None and kind not in (None, self._graph_kind):
                yield from self._flushed(numbers)
            if frame is not None and self._graph is None and frame.interlaced_frame:
                self._graph, self._graph_kind = _deinterlacer(frame), kind
            if self._graph is None:
                yield number, frame
                continue
            numbers.append((number, frame))
            if frame is not None:
                if frame.interlaced_frame:
                    self._video.did("interlaced: the fields were separated and filled (bwdif)")
                self._graph.push(frame)
                yield from self._pulled(numbers)
        if self._graph is not None:
            yield from self._flushed(numbers)

    def _flushed(self, numbers: list[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """What is left in the filter, which ends with it; a frame that it did not give back cannot be used."""
        self._graph.push(None)
        yield from self._pulled(numbers)
        yield from ((number, None) for number, _ in numbers)
        numbers.clear()
        self._graph = None

    def _pulled(self, numbers: list[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        while True:
            try:
                filtered = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            while numbers:
                number, given = numbers.pop(0)
                if given is not None:
                    filtered.pts, filtered.time_base = given.pts, given.time_base
                    yield number, filtered
                    break
                yield number, None

    def bgr(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8."""
        try:
            transfer = self._transfer if int(frame.color_trc) == UNSPECIFIED else int(frame.color_trc)
            if hdr.is_hdr(transfer):
                self._video.did(f"{hdr.name(transfer)} (HDR): tone-mapped to SDR")
                image = hdr.to_sdr(frame.to_ndarray(format="rgb48le"), transfer)
            else:
                image = frame.to_ndarray(format="bgr24")
        except (av.FFmpegError, ValueError) as error:
            raise self._video.refused(f"pixel format {frame.format.name}: {_reason(error)}") from None
        return self._upright(self._square(image), frame)

    def _square(self, image: np.ndarray) -> np.ndarray:
        """Stretched along the side that is too short, so that no pixel is lost."""
        height, width = image.shape[:2]
        size = (round(width * self._aspect), height) if self._aspect > 1 else (width, round(height / self._aspect))
        if size == (width, height) or abs(self._aspect - 1) < 1e-3:
            return image
        self._video.did(f"its pixels are {self._stream.sample_aspect_ratio} wide: stretched to square ones, {size[0]} x {size[1]}")
        return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)

    def _upright(self, image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
        data: list[Any] = [d for d in frame.side_data if d.type == Type.DISPLAYMATRIX]  # type: ignore[attr-defined]
        matrix = np.frombuffer(bytes(data[0]), np.int32) if data else None
        if matrix is None:
            return image
        (a, b), (c, d) = matrix[[0, 1]], matrix[[3, 4]]  # x' = a x + c y, y' = b x + d y
        turned = abs(int(b)) + abs(int(c)) > abs(int(a)) + abs(int(d))
        across, down = (c, b) if turned else (a, d)
        if not turned and across > 0 and down > 0:
            return image
        self._video.did("turned or mirrored as its metadata say")
        image = image.transpose(1, 0, 2) if turned else image
        return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def _deinterlacer(frame: av.VideoFrame) -> Any:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"), graph.add("buffersink")).configure()
    return graph


def _reason(error: Exception) -> str:
    """FFmpeg's words without its numbers and the file's name."""
    text = getattr(error, "strerror", None) or str(error)
    return re.sub(r"\s+", " ", text)[:200]
