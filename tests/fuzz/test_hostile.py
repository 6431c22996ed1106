"""Files that declare more than they hold, or that would block a reader: refused in one line, before anything is allocated."""

import contextlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.hand.model import load_hand_model
from holdprep.hand.trackers import checkpoint, keypoints, trackfile
from holdprep.io import bounded, meshfile, pictures, safeio
from holdprep.io.video import Video
from holdprep.object import colmap_sizes
from holdprep.quality.truth import load_truth, read_arctic
from holdprep.segmenters.foreign import read_masks
from holdprep.segmenters.prompts import read_indexed_prompts
from holdprep.sequence import image_files, read_image
from tests.fuzz.readers import arctic, colmap_binary, read_records, record
from tests.fuzz.valid import NAMES, SIZE
from tests.fuzz.valid import npy as npy_file

MOST = 64 << 20  # bytes that a refusal may take


def refused(read: Callable[[], object], name: str) -> str:
    """The message of a refusal, which takes little memory, is one line and has the file's name."""
    tracemalloc.start()
    try:
        with pytest.raises(HoldprepError) as error:
            read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    line = str(error.value)
    assert peak < MOST, f"{peak >> 20} MB"
    assert name in line and "\n" not in line and len(line) < 600, line
    return line


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (16, 16)).save(stream, "jpeg")
    data = stream.getvalue()
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize(("suffix", "make"), [("png", png), ("jpg", jpeg)])
def test_pictures_that_declare_sixty_thousand_pixels_a_side(tmp_path: Path, suffix: str, make: Callable[[int, int], bytes]):
    path = tmp_path / f"0000.{suffix}"
    path.write_bytes(make(60_000, 60_000))
    assert "million" in refused(lambda: read_image(path), path.name)
    refused(lambda: pictures.focal_px(path, None, SIZE), path.name)  # its EXIF data
    refused(lambda: list(pictures.Folder([path]).frames()), path.name)
    refused(lambda: read_masks(tmp_path, ["0000"], (24, 32)), path.name)
    clicks = tmp_path / "prompts.yaml"
    clicks.write_text(f"frames: {{'0000': {{object: {{mask: {path.name}}}}}}}")
    refused(lambda: read_indexed_prompts(clicks, ["0000"], (60_000, 60_000)), path.name)


def test_chunks_that_declare_more_than_their_file(tmp_path: Path):
    """Pillow reads the rest of a chunk at once, whatever length it declares."""
    path = tmp_path / "0000.png"
    path.write_bytes(png(*SIZE))
    whole = path.read_bytes()
    at = whole.index(b"IDAT") - 4
    path.write_bytes(whole[:at] + struct.pack(">I", 0x7FFFFFF0) + whole[at + 4 :])
    tracemalloc.start()
    for read in (lambda: read_masks(tmp_path, ["0000"], SIZE[::-1]), lambda: pictures.focal_px(path, None, SIZE)):
        with contextlib.suppress(HoldprepError):
            read()
    assert tracemalloc.get_traced_memory()[1] < MOST
    tracemalloc.stop()


def test_labels_of_thousands_of_digits_are_one_line(tmp_path: Path):
    path = tmp_path / "m.json"
    parts = [{"image_id": 1, "category_id": c, "segmentation": [[1, 1, 9, 1, 9, 9]]} for c in (1, int("9" * 4000))]
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "0000.png", "height": 24, "width": 32}], "annotations": parts}))
    refused(lambda: read_masks(path, ["0000"], (24, 32)), path.name)
    refused(lambda: read_masks(path, ["0000"], (24, 32), "8" * 4000), path.name)


def test_a_named_pipe_among_pictures_does_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "0001.png")
    (files,) = [image_files(tmp_path)]
    assert "named pipe" in refused(lambda: read_image(files[0]), "0001.png")
    refused(lambda: list(pictures.Folder(files).frames()), "0001.png")
    for name, read in (
        ("a.npy", safeio.load_npy), ("a.npz", safeio.load_npz), ("a.pkl", safeio.load_pickle), ("a.json", bounded.read_json),
        ("a.yaml", bounded.read_yaml), ("a.obj", meshfile.read_vertices), ("t.npz", load_truth), ("v.mp4", Video),
    ):  # fmt: skip
        os.mkfifo(tmp_path / name)
        refused(lambda read=read, name=name: read(tmp_path / name), name)


@pytest.mark.parametrize("counts", [[10**11], [0, 10**11], [10**40], [-1, 769], [768] * 3])
def test_run_lengths_that_do_not_fit(tmp_path: Path, counts: list[int]):
    path = tmp_path / "m.json"
    for size in ([24, 32], [[[]], 2**32], [10**6, 10**6], [10**5, 10**6 + sum(c for c in counts if c > 0) % 7]):
        path.write_text(json.dumps({n: {"size": size, "counts": counts} for n in NAMES}))
        refused(lambda: read_masks(path, NAMES, (24, 32)), path.name)
    images = [{"id": 1, "file_name": "0000.png", "height": 10**6, "width": 10**6}]
    path.write_text(json.dumps({"images": images, "annotations": []}))
    refused(lambda: read_masks(path, NAMES, (24, 32)), path.name)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("count", [4, 10**9, 2**63])
def test_colmap_counts_that_do_not_fit(tmp_path: Path, name: str, count: int):
    for file, data in colmap_binary(np.zeros((30, 3)), np.tile(np.eye(4), (3, 1, 1))).items():
        (tmp_path / file).write_bytes(data)
    colmap_sizes.check(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(struct.pack("<Q", count + 30) + content[8:])
    refused(lambda: colmap_sizes.check(tmp_path), name)
    if name != "cameras.bin":  # a count inside a record
        at = {"images.bin": 8 + 64 + len("0000.png") + 1, "points3D.bin": 8 + 43}[name]
        (tmp_path / name).write_bytes(content[:at] + struct.pack("<Q", min(count * 10, 2**64 - 1)) + content[at + 8 :])
        refused(lambda: colmap_sizes.check(tmp_path), name)


def npy(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize("shape", ["(100000000000,)", "(1000000, 1000000)", "(-1,)", "(9,)"])
def test_arrays_that_declare_more_than_their_file(tmp_path: Path, shape: str):
    (tmp_path / "a.npy").write_bytes(npy(shape) + b"\0" * 64)
    refused(lambda: safeio.load_npy(tmp_path / "a.npy"), "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("j2d.right.npy", npy(shape) + b"\0" * 64)
    refused(lambda: safeio.load_npz(tmp_path / "a.npz"), "a.npz")
    refused(lambda: keypoints.read(tmp_path / "a.npz", NAMES, SIZE), "a.npz")


def test_archives_that_grow(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(npy("(100000000,)"))
        for _ in range(100):
            member.write(b"\0" * 8_000_000)
    assert (tmp_path / "a.npz").stat().st_size < 2_000_000
    assert "at most 512 MB" in refused(lambda: safeio.load_npz(tmp_path / "a.npz"), "a.npz")
    (tmp_path / "a.npz").rename(tmp_path / "a.ckpt")
    refused(lambda: checkpoint.read(tmp_path / "a.ckpt", "get it"), "a.ckpt")


def test_members_that_declare_more_than_their_archive(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.ones(9))
    whole = (tmp_path / "a.npz").read_bytes()
    at = whole.index(b"PK\x01\x02") + 20  # of the central directory, the stored size
    (tmp_path / "a.npz").write_bytes(whole[:at] + struct.pack("<I", 2 << 30) + whole[at + 4 :])
    for read in (safeio.load_npz, lambda path: safeio.load_npz_array(path, "x")):
        assert "x.npy declares 2147483648 bytes, the file has" in refused(lambda read=read: read(tmp_path / "a.npz"), "a.npz")


PICKLES = {
    "bytes of a number": b"\x80\x02cbuiltins\nbytes\n\x8a\x05\x00\x00\x00\x00\x19\x85R.",
    "bytearray of a number": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x19\x85R.",
    "a place far out in the memo": b"\x80\x02]r\xff\xff\xff\xff.",
    "a length beyond the file": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "a bytearray beyond the file": b"\x80\x05\x96" + b"\x00" * 6 + b"\x01\x00.",
    "an empty text type repeated": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01\x8a\x05\x00\x00\x00\x00\x19"
    b"\x85cnumpy\ndtype\nU\x02S0K\x00K\x01\x87R\x89U\x00tb.",
    "frames in frames": b"\x80\x04" + 17 * (b"\x95\x30" + b"\x00" * 7 + b"]") + b".",
    "a tower of lists": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
}


@pytest.mark.parametrize("what", PICKLES)
def test_pickles_that_grow(tmp_path: Path, what: str):
    (tmp_path / "v3d.npy").write_bytes(npy("()", "|O") + PICKLES[what])
    (tmp_path / "j2d.full.npy").write_bytes(npy("()", "|O") + pickle.dumps({}))
    refused(lambda: trackfile.read(tmp_path, NAMES), "v3d.npy")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "{", "\ud800", '{"people": 3}', '{"people": [1, 2]}', "[]", "null"]
)
def test_json_that_is_none(tmp_path: Path, text: str):
    (tmp_path / "0000_keypoints.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(lambda: keypoints.read(tmp_path, NAMES, SIZE), "0000_keypoints.json")
    path = tmp_path / "0000_keypoints.json"
    refused(lambda: keypoints.read(path, NAMES, SIZE), path.name)
    refused(lambda: read_masks(path, NAMES, (24, 32)), path.name)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


NO_YAML = (
    LAUGHS, "[" * 20_000, "- " * 20_000, "{a: " * 20_000, "frames: !!set {a}", "frames: {2024-01-01: 2024-01-01}", "? [a]\n: b", "a: 1\na: 2",
    "\x00", "a: *b", "frames: {x: {object: {box: [" + "9" * 5000 + ", 1, 2, 3]}}}",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_YAML)
def test_yaml_that_is_none(tmp_path: Path, text: str):
    (tmp_path / "prompts.yaml").write_text(text)
    refused(lambda: read_indexed_prompts(tmp_path / "prompts.yaml", NAMES, SIZE), "prompts.yaml")


def test_prompts_of_twenty_thousand_frames_are_read_once_through(tmp_path: Path):
    """The time of a frame does not grow with their number: ten times the frames take ten times as many steps, not a hundred."""
    steps = []
    for count in (300, 3000):
        names = [f"{t:05d}" for t in range(count)]
        lines = "".join(f'  "{n}": {{right: {{negative: [[1, 1]]}}, object: {{box: [1, 2, 9, 9]}}}}\n' for n in names)
        (tmp_path / "prompts.yaml").write_text(f'frames:\n  "x": {{right: {{box: [1, 2, 9, 9]}}}}\n{lines}')

        class Counted(list):
            calls = 0

            def __iter__(self):
                Counted.calls += len(self)
                return super().__iter__()

            def __contains__(self, _: object) -> bool:
                raise AssertionError("a search through all names")

            index = __contains__

        found = read_indexed_prompts(tmp_path / "prompts.yaml", Counted(["x", *names]), SIZE)
        assert len(found) == count + 1
        steps.append(Counted.calls)
    assert steps[1] < 20 * steps[0]


@pytest.mark.parametrize("value", [1e300, np.inf, np.nan])
def test_coordinates_beyond_any_room(tmp_path: Path, value: float):
    content = arctic()
    content["cam_coord"]["kp3d"][1, 1, 2, 0] = value
    (tmp_path / "a.npy").write_bytes(npy_file(content))
    assert "damaged" in refused(lambda: read_arctic(tmp_path / "a.npy", 1, SIZE), "a.npy")


@pytest.mark.parametrize("name", ["a.npz", "a.ckpt", "MANO_RIGHT.npz"])
def test_archives_that_say_they_are_on_several_disks(tmp_path: Path, name: str):
    """Python's own check of such an archive fails instead of denying."""
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    end64 = struct.pack("<4sLQLLQQ", b"PK\x06\x07", 7, 0, 9, 0, 0, 0)[:20]
    whole = (tmp_path / "x.npz").read_bytes()
    at = whole.rindex(b"PK\x05\x06")
    (tmp_path / name).write_bytes(whole[:at] + end64 + whole[at:])
    for read in (keypoints_of, load_truth, lambda p: read_masks(p, NAMES, SIZE[::-1])):
        if name == "a.npz":
            refused(lambda read=read: read(tmp_path / name), name)
    if name == "a.ckpt":
        refused(lambda: checkpoint.read(tmp_path / name, "get it"), name)
    if name == "MANO_RIGHT.npz":
        refused(lambda: load_hand_model("right", tmp_path), name)


def keypoints_of(path: Path) -> object:
    return keypoints.read(path, NAMES, SIZE)


@pytest.mark.parametrize(
    "change", [{"seconds": 10**400}, {"seconds": np.nan}, {"metrics": {"frames": 10**400}}, {"metrics": {"frames": [1]}}]
)
def test_records_with_numbers_that_are_none_are_not_used(tmp_path: Path, change: dict[str, object], caplog: pytest.LogCaptureFixture):
    path = tmp_path / "box" / "processed" / ".holdprep" / "register.json"
    path.parent.mkdir(parents=True)
    for content, used in ((record(), True), (record() | change, False)):
        path.write_text(json.dumps(content))
        read_records(tmp_path)
        assert ("the record is not used" in caplog.text) is not used
