"""Videos and image folders become frames; what cannot be read is named and nothing is lost."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from holdprep.errors import HoldprepError
from holdprep.io import pictures
from holdprep.sequence import Sequence
from tests.kinds import films
from tests.running import run


def write_video(path: Path, count: int = 10) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for t in range(count):
        writer.write(np.full((48, 64, 3), 20 * t, np.uint8))
    writer.release()


def write_folder(folder: Path, names: list[str], size: tuple[int, int] = (48, 64)) -> None:
    folder.mkdir()
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((*size, 3), 10 * i, np.uint8))


def test_video_frames_keep_their_numbers_and_times(tmp_path: Path):
    write_video(tmp_path / "clip.avi")
    metrics = run(
        tmp_path / "data", tmp_path / "run", "stage=create", "seq=a", f"video={tmp_path / 'clip.avi'}", "create.stride=3", "on_fail=warn"
    )
    assert metrics["create"]["metrics"]["frames"] == 4
    folder = tmp_path / "data" / "a"
    assert [p.name for p in sorted((folder / "images").iterdir())] == ["0000.jpg", "0003.jpg", "0006.jpg", "0009.jpg"]
    assert abs(int(cv2.imread(str(folder / "images" / "0003.jpg")).mean()) - 60) <= 3
    assert len(list((folder / "processed" / "raw_images").iterdir())) == 10
    times = json.loads((folder / "processed" / "frames.json").read_text())["times_s"]
    assert times["0006"] == pytest.approx(0.6, abs=1e-3)
    again = run(tmp_path / "data", tmp_path / "run2", "stage=create", "seq=a", "create.stride=3", "on_fail=warn")
    assert again["create"]["status"] == "skipped"  # the video lies in the sequence now


def test_one_unreadable_picture_is_named_and_the_rest_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_folder(tmp_path / "in", [f"{i}.png" for i in (1, 2, 10)])
    (tmp_path / "in" / "2.png").write_bytes(b"broken")
    metrics = run(tmp_path / "data", tmp_path / "run", "stage=create", "seq=a", f"video={tmp_path / 'in'}", "on_fail=warn")["create"][
        "metrics"
    ]
    assert (metrics["frames"], metrics["unreadable_frames"]) == (2, 1)
    assert sorted(p.stem for p in (tmp_path / "data" / "a" / "images").iterdir()) == ["1", "10"]
    assert "2.png" in caplog.text


def test_a_phones_picture_tells_the_focal_length(tmp_path: Path):
    """26 mm on 36 x 24 mm, whose diagonal is that of the image of 400 x 300: 500 px."""
    told = Image.Exif()
    told.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 26
    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(tmp_path / "in" / f"{i}.jpg", exif=told)
    focal_px = 26 / np.hypot(36, 24) * 500
    options = ("stage=create", "seq=a", f"video={tmp_path / 'in'}", "on_fail=warn")
    for change, scale in ((), 1.0), (("create.max_side=100",), 0.25), (("create.crop=[10,10,200,100]", "create.max_side=100"), 0.5):
        run(tmp_path / "data", tmp_path / "run", *options, *change)
        assert Sequence(tmp_path / "data", "a").read_frames()["focal_px"] == pytest.approx(scale * focal_px)
    write_folder(tmp_path / "plain", [f"{i}.png" for i in range(3)])
    run(tmp_path / "data", tmp_path / "run", "stage=create", "seq=b", f"video={tmp_path / 'plain'}", "on_fail=warn")
    assert Sequence(tmp_path / "data", "b").read_frames()["focal_px"] is None


@pytest.mark.parametrize("case", ["missing", "empty", "text", "sizes"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, case: str):
    source = tmp_path / "in"
    if case == "empty":
        source.mkdir()
    elif case == "text":
        source.write_text("not a video")
    elif case == "sizes":
        write_folder(source, ["0.png"])
        cv2.imwrite(str(source / "1.png"), np.zeros((50, 64, 3), np.uint8))
    with pytest.raises(HoldprepError) as error:
        run(tmp_path / "data", tmp_path / "run", "stage=create", "seq=a", f"video={source}")
    assert "\n" not in str(error.value)
    words = {
        "missing": "does not exist",
        "empty": "holds no images",
        "text": "cannot be decoded",
        "sizes": "1 of 2 frames are not of the size",
    }
    assert words[case] in str(error.value)
    assert not (tmp_path / "data" / "a" / "images").exists()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]["create"]["status"] == "failed"


def test_crop_and_reduction():
    image = np.zeros((100, 200, 3), np.uint8)
    image[10:20, 30:50] = 255
    assert pictures.fit(image, (30, 10, 20, 10), 2000).min() == 255
    assert pictures.fit(image, None, 100).shape == (50, 100, 3)
    with pytest.raises(HoldprepError, match="200 x 100"):
        pictures.fit(image, (190, 0, 20, 10), 2000)


def refusal(tmp_path: Path, source: Path) -> str:
    with pytest.raises(HoldprepError) as error:
        run(tmp_path / "data", tmp_path / "run", "stage=create", "seq=a", f"video={source}")
    assert "\n" not in str(error.value) and not (tmp_path / "data" / "a" / "images").exists()
    return str(error.value)


def test_odd_sizes_are_counted(tmp_path: Path):
    write_folder(tmp_path / "in", [f"{i}.png" for i in range(7)])
    for i in (2, 5):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), np.zeros((64, 48, 3), np.uint8))
    assert "2 of 7 frames are not of the size of the others, 64 x 48: frame 2 is 48 x 64" in refusal(tmp_path, tmp_path / "in")


def test_two_files_of_one_number_and_pictures_that_are_not_read(tmp_path: Path):
    write_folder(tmp_path / "in", ["1.png", "2.png", "01.png"])
    assert "several images of one frame: 1.png and 01.png" in refusal(tmp_path, tmp_path / "in").replace(
        "01.png and 1.png", "1.png and 01.png"
    )
    write_folder(tmp_path / "phone", ["1.png"])
    (tmp_path / "phone" / "IMG_2.DNG").write_bytes(b"x")
    assert "1 pictures" in refusal(tmp_path, tmp_path / "phone") and "raw pictures: develop" in refusal(tmp_path, tmp_path / "phone")


def test_a_damaged_video_is_counted_and_judged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    whole = films.write(tmp_path / "w.mp4", [films.picture(t) for t in range(40)])
    path = films.damaged(whole, 12, 1)
    outcome = run(tmp_path / "data", tmp_path / "run", "stage=create", "seq=a", f"video={path}", "create.stride=1", "on_fail=warn")[
        "create"
    ]
    metrics = outcome["metrics"]
    assert 0 < metrics["unreadable_frames"] <= 10 and metrics["frames"] == 40 - metrics["unreadable_frames"]
    assert {"dark_pct", "flat_pct", "repeated_pct"} <= metrics.keys()
    assert "cannot be decoded and is left out" in caplog.text


@pytest.mark.parametrize("wrong", ["dark_pct", "flat_pct", "repeated_pct"])
def test_pictures_that_show_nothing_stop_the_run(tmp_path: Path, wrong: str):
    rng = np.random.default_rng(0)
    clean = [np.clip(rng.normal(films.picture(t), 3), 0, 255).astype(np.uint8) for t in range(12)]
    change = {"dark_pct": lambda i, t: i // 16, "flat_pct": lambda i, t: i * 0 + 90 + t, "repeated_pct": lambda i, t: clean[t // 4]}[wrong]
    (tmp_path / "in").mkdir()
    for t, image in enumerate(clean):
        cv2.imwrite(str(tmp_path / "in" / f"{t}.png"), change(image, t))
    with pytest.raises(HoldprepError, match=f"{wrong} is"):
        run(
            tmp_path / "data",
            tmp_path / "run",
            "stage=create",
            "seq=a",
            f"video={tmp_path / 'in'}",
            "gates={create.width:[1,1],create.height:[1,1]}",
        )


def test_a_video_of_interlaced_frames_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    path = films.write(tmp_path / "i.mp4", [films.picture(t) for t in range(12)], options={"x264-params": "interlaced=1:tff=1"})
    run(tmp_path / "data", tmp_path / "run", "stage=create", "seq=a", f"video={path}", "on_fail=warn")
    assert "i.mp4: interlaced" in caplog.text
