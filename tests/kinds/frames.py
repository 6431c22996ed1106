"""Names, numbers and pictures of frames."""

from collections.abc import Callable, Iterable
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from holdprep.errors import HoldprepError
from holdprep.io.bounded import reads_heic
from holdprep.io.matching import match, same_number
from holdprep.io.pictures import Folder, unread
from holdprep.io.video import Frame
from holdprep.sequence import image_files
from tests.kinds import films
from tests.kinds.registry import kind

NAMES = [f"{t:04d}" for t in range(12)]


def _named(numbers: Iterable[int], form: str = "{:04d}") -> list[str]:
    return [form.format(n) for n in numbers]


@kind("frames: the same number in other names")
def same_numbers(folder: Path) -> None:
    for form in ("{:05d}", "{}", "clip_{:012d}", "my frame {:03d}", "IMG ({})", "手{:02d}", "v2_take3_{:04d}_mask"):
        found = match("it", _named(reversed(range(12)), form), NAMES)
        assert found.of_frame == list(reversed(range(12))) and not found.notes
    assert match("it", ["e\u0301 1", "e\u0301 2"], ["\xe9 1", "\xe9 2"]).of_frame == [0, 1]  # composed and decomposed
    assert match("it", _named([3, 7, 40]), NAMES).of_frame == [None] * 3 + [0, None, None, None, 1] + [None] * 4


@kind("frames: counted from elsewhere, in order with a note, or refused")
def shifted(folder: Path) -> None:
    for theirs, ours in (
        (range(1, 13), range(12)),
        (range(12), range(1, 13)),
        (range(12), range(0, 24, 2)),
        (range(12), range(50, 62)),
        (range(2, 26, 2), range(0, 24, 2)),
    ):
        found = match("it", _named(theirs, "{:05d}"), _named(ours))
        assert found.of_frame == list(range(12)) and "in order" in found.notes[0]
    dates = [f"IMG_20240101_1200{t:02d}_{(37 * t) % 100:02d}" for t in range(12)]
    assert match("it", NAMES, dates).of_frame == list(range(12))
    for theirs, ours in (
        ([n for n in range(1, 13) if n != 7], range(12)),
        ([n for n in range(12) if n != 7], range(1, 13)),
        (range(1, 30), range(12)),
        (range(1, 25), range(0, 24, 2)),
        (range(12), [0, 1, *range(3, 13)]),
    ):
        with pytest.raises(HoldprepError, match="give them the names of images/"):
            match("it", _named(theirs), _named(ours))
    assert "a frame late" in match("it", _named(range(1, 10)), NAMES).notes[0]


@kind("frames: two files of one number")
def twice(folder: Path) -> None:
    assert same_number(["1", "2", "001"]) == (0, 2)
    assert same_number(["IMG_1", "IMG_01"]) == (0, 1)
    assert same_number(["clip1_5", "clip2_5", "a"]) is None
    with pytest.raises(HoldprepError, match="two entries of one frame, 1 and 01"):
        match("it", ["0", "1", "01"], NAMES)


def _folder(folder: Path, pictures: dict[str, np.ndarray]) -> tuple[list[Frame], Folder]:
    folder.mkdir()
    for name, picture in pictures.items():
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, picture)[1].tobytes())
    opened = Folder(image_files(folder))
    return [f for f in opened.frames() if isinstance(f, Frame)], opened


@kind("frames: 10, 12, 14 and 16 bits, and floating point")
def depths(folder: Path) -> None:
    truth = [np.full((20, 30, 3), 40 * t, np.uint8) for t in range(1, 6)]
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        **{f"{bits}": lambda p, b=bits: p.astype(np.uint16) << (b - 8) for bits in (10, 12, 14, 16)},
        "float.tif": lambda p: p.astype(np.float32) / 255,
    }
    for name, change in changes.items():
        suffix = "tif" if name.endswith("tif") else "png"
        frames, opened = _folder(folder / name, {f"{t}.{suffix}": change(p) for t, p in enumerate(truth)})
        assert max(abs(float(f.image.mean()) - float(p.mean())) for f, p in zip(frames, truth, strict=True)) <= 2
        assert bool(opened.notes) == (name != "16")


@kind("frames: odd names keep their order and their numbers")
def order(folder: Path) -> None:
    names = ["my frame 9.png", "my frame 10.png", "my frame 100.png"]
    frames, _ = _folder(folder / "a", {n: np.zeros((8, 8, 3), np.uint8) for n in reversed(names)})
    assert [f.name for f in frames] == [Path(n).stem for n in names]
    frames, _ = _folder(folder / "b", {n: np.zeros((8, 8, 3), np.uint8) for n in ("x².png", "x³ [1].png")})
    assert len(frames) == 2


@kind("frames: HEIC without its package, and raw pictures, are refused with advice")
def refused(folder: Path) -> None:
    for name, word in (("IMG_1.HEIC", "pillow-heif"), ("a.jxl", "convert"), ("b.dng", "develop")):
        own = folder / name[0]
        own.mkdir()
        (own / name).write_bytes(b"x")
        with mock.patch("holdprep.io.pictures.reads_heic", return_value=False):
            assert word in str(unread(own)) and str(own) in str(unread(own))
    assert unread(folder) is None


@kind("frames: AVIF, and HEIC where pillow-heif is installed")
def still(folder: Path) -> None:
    """The picture, upright where an AVIF is turned; of HEIC libheif applies what turns it, and its EXIF data do not."""
    truth = films.picture(3)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # shown turned by 90 degrees to the right
    for suffix in ("avif", *(["heic"] if reads_heic() else [])):
        path = folder / f"0000.{suffix}"
        for turns, options in ((0, {}), (1, {"exif": exif}))[: 1 + (suffix == "avif")]:
            Image.fromarray(np.ascontiguousarray(np.rot90(truth, turns)[..., ::-1])).save(path, quality=95, **options)
            (frame,) = Folder([path]).frames()
            assert isinstance(frame, Frame) and films.off(frame.image, truth) < 4
        path.write_bytes(path.read_bytes()[:-400])
        assert list(Folder([path]).frames()) == [path.name]
