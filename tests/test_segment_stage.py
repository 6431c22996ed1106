"""The mask stage as a whole: clicks by the page, labels of one folder, weights; what runs again and what does not."""

import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from holdprep.errors import HoldprepError
from tests.running import run
from tests.synthetic import SyntheticSequence, make_sequence

FRAMES, SIZE = 6, (320, 240)
NAMES = [f"{t:04d}" for t in range(FRAMES)]
TOKEN = "the-token-of-this-run"


@pytest.fixture(autouse=True)
def known_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The click page's token, which a user reads on the screen."""
    monkeypatch.setattr("holdprep.ui.server.secrets.token_urlsafe", lambda _: TOKEN)


@pytest.fixture(scope="module")
def seq() -> SyntheticSequence:
    """The first half of a rendered clip."""
    whole = make_sequence(("right",), frames=2 * FRAMES, size=SIZE, degrees=20)
    return replace(whole, images=whole.images[:FRAMES], masks={e: m[:FRAMES] for e, m in whole.masks.items()})


@pytest.fixture
def root(seq, tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "box" / "images"
    folder.mkdir(parents=True)
    for name, image in zip(NAMES, seq.images, strict=True):
        cv2.imwrite(str(folder / f"{name}.png"), image)
    return tmp_path


def segment(root: Path, *told: str) -> dict:
    return run(root / "data", root / "run", "stage=segment", "seq=box", "on_fail=warn", *told)["segment"]


def masks(root: Path, entity: str) -> np.ndarray:
    folder = root / "data" / "box" / "processed" / "sam" / entity / "masks_processed"
    return np.stack([cv2.imread(str(folder / f"{name}.png"), 0) > 0 for name in NAMES])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def box_of(mask: np.ndarray) -> list[float]:
    ys, xs = np.nonzero(mask)
    return [float(v) for v in (xs.min(), ys.min(), xs.max(), ys.max())]


def free_port() -> int:
    """Below those that the system gives away, and of this process alone when several run tests."""
    first = 20_000 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


def post(port: int, what: str, **body: object) -> None:
    """One call to the page, which may still be starting."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/{what}?token={TOKEN}", data, headers)
    for _ in range(1200):
        try:
            return urllib.request.urlopen(request, timeout=20).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            time.sleep(0.05)
    raise AssertionError("the page never came")


def test_clicks_on_the_page_make_the_masks(seq, root):
    port = free_port()

    def user() -> None:
        for entity in ("object", "right"):
            post(port, "edit", frame=0, entity=entity, action="box", at=box_of(seq.masks[entity][0]))
        post(port, "edit", frame=FRAMES - 1, entity="object", action="box", at=box_of(seq.masks["object"][-1]))
        post(port, "done")

    person = threading.Thread(target=user)
    person.start()
    found = segment(root, "segmenter.ui=true", f"segmenter.port={port}")
    person.join()
    assert found["status"] == "done"
    assert min(iou(masks(root, e), seq.masks[e]) for e in ("object", "right")) > 0.6
    assert segment(root)["status"] == "skipped"  # that there was a page changes nothing


def test_suspect_frames_are_recorded_and_noted(seq, root):
    for entity, truth in seq.masks.items():
        folder = root / entity
        folder.mkdir()
        for t, name in enumerate(NAMES):
            lost = entity == "object" and t == 3
            cv2.imwrite(str(folder / f"{name}.png"), (truth[t] & (not lost)).astype(np.uint8))
    found = segment(root, "segmenter=import", f"segmenter.object={root / 'object'}", f"segmenter.right={root / 'right'}")
    assert found["metrics"]["object.empty_frames"] == found["metrics"]["reclick_frames"] == 1
    assert next(g for g in found["gates"] if g["metric"] == "reclick_frames")["status"] == "warn"
    record = json.loads((root / "data/box/processed/.holdprep/segment.json").read_text())
    assert record["curves"]["reclick"] == [0, 0, 0, 1, 0, 0]
    assert any("masks look wrong: 0003 (object: mask gone" in note for note in record["notes"])
    assert not any("click" in line for line in [*record["notes"], *(g["advice"] for g in found["gates"])])
    run(root / "data", root / "run", "stage=report", "seq=box", "segmenter=import")
    page = (root / "data" / "box" / "report.html").read_text()
    assert "frames whose masks look wrong: 0003 (object: mask gone" in page


def test_one_folder_of_labels_holds_several_entities(seq, root):
    folder = root / "davis"
    folder.mkdir()
    for t, name in enumerate(NAMES):
        cv2.imwrite(
            str(folder / f"{name}.png"), np.where(seq.masks["object"][t], 7, np.where(seq.masks["right"][t], 2, 0)).astype(np.uint8)
        )
    told = [f"segmenter.{e}={folder}" for e in ("object", "right")]
    segment(root, "segmenter=import", *told, "segmenter.values.object=7", "segmenter.values.right=2")
    for entity, truth in seq.masks.items():
        np.testing.assert_array_equal(masks(root, entity), truth)


def test_a_changed_mask_file_runs_the_stage_again(seq, root):
    folder = root / "data" / "box"
    for entity in ("object", "right"):
        cv2.imwrite(str(folder / f"{entity}.png"), seq.masks[entity][0].astype(np.uint8))
    (folder / "prompts.yaml").write_text("frames: {'0000': {object: {mask: object.png}, right: {mask: right.png}}}\n")
    assert segment(root)["status"] == "done"
    assert segment(root)["status"] == "skipped"
    cv2.imwrite(str(folder / "right.png"), np.roll(seq.masks["right"][0], 30, axis=0).astype(np.uint8))
    assert segment(root)["status"] == "done"
    (folder / "right.png").unlink()
    with pytest.raises(HoldprepError, match=r"frame 0000, right: .*right\.png is not a mask image"):
        segment(root)


def test_without_clicks_or_weights_one_line_says_what_to_do(root):
    with pytest.raises(HoldprepError, match=r"prompts\.yaml does not exist: click with segmenter\.ui=true"):
        segment(root)
    (root / "data" / "box" / "prompts.yaml").write_text("frames: {'0000': {object: {box: [10, 10, 90, 90]}}}\n")
    with pytest.raises(HoldprepError, match=r"segmenter\.weights is not set: get it with `hf download facebook/sam2"):
        segment(root, "segmenter=sam2")


def test_the_page_opens_on_frames_that_were_chosen_anew(seq, root):
    """Masks and clicks are those of other frames than images/ has now: the page is where that is put right."""
    folder = root / "data" / "box"
    for entity, truth in seq.masks.items():
        (root / entity).mkdir()
        for t, name in enumerate(NAMES):
            cv2.imwrite(str(root / entity / f"{name}.png"), truth[t].astype(np.uint8))
    segment(root, "segmenter=import", f"segmenter.object={root / 'object'}", f"segmenter.right={root / 'right'}")
    (folder / "images" / "0005.png").rename(folder / "images" / "0009.png")  # masks lack it
    box = [round(v) for v in box_of(seq.masks["object"][0])]
    clicks = f"image_size: [320, 240]\nframes:\n  '0005':\n    object: {{box: {box}}}\n"
    (folder / "prompts.yaml").write_text(clicks)
    port = free_port()

    def user() -> None:
        for entity in ("object", "right"):
            post(port, "edit", frame=0, entity=entity, action="box", at=box_of(seq.masks[entity][0]))
        post(port, "done")

    person = threading.Thread(target=user)
    person.start()
    found = segment(root, "segmenter=classical", "segmenter.ui=true", f"segmenter.port={port}")
    person.join()
    assert found["status"] == "done"
    assert (folder / "prompts.before.yaml").read_text() == clicks  # what a person clicked is kept
    assert "0005" not in (folder / "prompts.yaml").read_text()
    assert (folder / "processed" / "sam" / "object" / "masks_processed" / "0009.png").is_file()
