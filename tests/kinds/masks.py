"""Masks as tools write them."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from holdprep.errors import HoldprepError
from holdprep.segmenters.foreign import read_masks
from holdprep.segmenters.levels import davis_colour
from holdprep.segmenters.polygons import fill
from tests.kinds import films
from tests.kinds.registry import kind

SIZE = (96, 128)
NAMES = [f"{t:04d}" for t in range(4)]
rows, columns = np.mgrid[:96, :128]
OBJECT = np.stack([(rows - 50) ** 2 + (columns - 40 - 3 * t) ** 2 < 24**2 for t in range(4)])
HAND = np.stack([(np.abs(rows - 40) < 22) & (np.abs(columns - 95 - 2 * t) < 14) & ~OBJECT[t] for t in range(4)])
PHOTO = np.random.default_rng(1).integers(30, 255, (96, 128, 3)).astype(np.uint8)
PHOTO = cv2.GaussianBlur(PHOTO, (9, 9), 0)


def _write(folder: Path, of: Callable[[int], Image.Image], suffix: str = "png") -> Path:
    folder.mkdir()
    for t, name in enumerate(NAMES):
        of(t).save(folder / f"{name}.{suffix}")
    return folder


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def _labels(t: int) -> np.ndarray:
    return OBJECT[t].astype(np.uint8) + 2 * HAND[t].astype(np.uint8)


def _iou(path: Path, truth: np.ndarray, value: int | str | None = None) -> float:
    found, _ = read_masks(path, NAMES, SIZE, value)
    return float((found & truth).sum() / (found | truth).sum())


def _soft(mask: np.ndarray, width: float) -> np.ndarray:
    u = mask.astype(np.uint8)
    inside = cv2.distanceTransform(u, 2, 5) - cv2.distanceTransform(1 - u, 2, 5)
    return 127.5 * (1 + np.tanh(inside / width / 2))


@kind("masks: alpha channel of white, cut-out, grey and palette pictures")
def alpha(folder: Path) -> None:
    def with_alpha(t: int) -> np.ndarray:
        return OBJECT[t].astype(np.uint8) * 255

    kinds: dict[str, Callable[[int], Image.Image]] = {
        "white": lambda t: Image.fromarray(np.dstack([np.full((*SIZE, 3), 255, np.uint8), with_alpha(t)])),
        "cutout": lambda t: Image.fromarray(np.dstack([PHOTO, with_alpha(t)])),
        "black": lambda t: Image.fromarray(np.dstack([np.where(OBJECT[t][..., None], PHOTO, 0).astype(np.uint8), with_alpha(t)])),
        "both": lambda t: Image.fromarray(np.dstack([with_alpha(t)] * 4)),
        "grey": lambda t: Image.fromarray(np.dstack([np.full(SIZE, 200, np.uint8), with_alpha(t)]), "LA"),
    }
    for name, make in kinds.items():
        assert _iou(_write(folder / name, make), OBJECT) == 1
    opaque = _write(folder / "opaque", lambda t: Image.fromarray(np.dstack([with_alpha(t)] * 3 + [np.full(SIZE, 255, np.uint8)])))
    assert _iou(opaque, OBJECT) == 1
    other = _write(folder / "two", lambda t: Image.fromarray(np.dstack([with_alpha(t)] * 3 + [HAND[t].astype(np.uint8) * 255])))
    with pytest.raises(HoldprepError, match="two different masks"):
        read_masks(other, NAMES, SIZE)


@kind("masks: soft, antialiased, JPEG, black at 16, 16 bits")
def soft(folder: Path) -> None:
    kinds: dict[str, tuple[Callable[[int], Image.Image], str]] = {
        "probability": (lambda t: _grey(_soft(OBJECT[t], 4)), "png"),
        "steep": (lambda t: _grey(_soft(OBJECT[t], 0.7)), "png"),
        "sixteen": (lambda t: _grey(np.where(OBJECT[t], 235, 16)), "png"),
        "antialiased": (lambda t: _grey(cv2.resize(cv2.resize(OBJECT[t] * 255.0, (64, 48), interpolation=3), (128, 96))), "png"),
        "lossy": (lambda t: _grey(OBJECT[t] * 255), "jpg"),
        "limited": (lambda t: _grey(np.where(OBJECT[t], 235, 16)), "jpg"),
        "deep": (lambda t: Image.fromarray(OBJECT[t].astype(np.uint16) * 65535), "png"),
        "float": (lambda t: Image.fromarray(OBJECT[t].astype(np.float32)), "tif"),
        "one": (lambda t: Image.fromarray(OBJECT[t]), "png"),
        "red": (lambda t: Image.fromarray(OBJECT[t][..., None] * np.array([200, 0, 0], np.uint8)), "png"),
    }
    for name, (make, suffix) in kinds.items():
        path = _write(folder / name, make, suffix)
        assert _iou(path, OBJECT) > 0.985, name
        _, notes = read_masks(path, NAMES, SIZE)
        expected = {"probability": "cut at half", "sixteen": "background is 16", "antialiased": "cut at half"}
        assert expected.get(name, "") in " ".join(notes)


@kind("masks: palettes in any order")
def palettes(folder: Path) -> None:
    def indexed(t: int, colours: list[int], labels: np.ndarray) -> Image.Image:
        image = Image.fromarray(labels.astype(np.uint8), "P")
        image.putpalette(colours)
        return image

    white_first = _write(folder / "w", lambda t: indexed(t, [255, 255, 255, 0, 0, 0], 1 - OBJECT[t]))
    assert _iou(white_first, OBJECT) == 1
    assert _iou(_write(folder / "d", lambda t: indexed(t, [0, 0, 0, 128, 0, 0], OBJECT[t])), OBJECT) == 1
    void = [(cv2.dilate(m.astype(np.uint8), np.ones((5, 5))) * 255 - m * 254).astype(np.uint8) for m in OBJECT]  # a border of label 255
    colours = [value for label in range(256) for value in davis_colour(label)]
    bordered = _write(folder / "v", lambda t: indexed(t, colours, void[t]))
    assert _iou(bordered, OBJECT, 1) == 1
    with pytest.raises(HoldprepError, match="holds labels 1, 255: set the label"):
        read_masks(bordered, NAMES, SIZE)
    dark = _write(folder / "dark", lambda t: indexed(t, [value for k in range(256) for value in (k, k, k)], _labels(t)))
    with pytest.raises(HoldprepError, match="holds labels 1, 2: set the label"):
        read_masks(dark, NAMES, SIZE)
    davis = _write(folder / "l", lambda t: indexed(t, [0, 0, 0, 128, 0, 0, 0, 128, 0], _labels(t)))
    for value, truth in ((1, OBJECT), (2, HAND)):
        assert _iou(davis, truth, value) == 1
    with pytest.raises(HoldprepError, match="holds labels 1, 2: set the label"):
        read_masks(davis, NAMES, SIZE)


@kind("masks: several labels are refused in every mode, and read by their number")
def labels(folder: Path) -> None:
    colours = np.array([davis_colour(k) for k in range(3)], np.uint8)
    assert colours.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    merged = np.array([0, 50, 150])
    kinds: dict[str, tuple[Callable[[int], Image.Image], str, dict[int, np.ndarray]]] = {
        "grey": (lambda t: _grey(_labels(t)), "png", {1: OBJECT, 2: HAND}),
        "hold": (lambda t: _grey(merged[_labels(t)]), "png", {50: OBJECT, 150: HAND}),
        "colour": (lambda t: Image.fromarray(colours[_labels(t)]), "png", {1: OBJECT, 2: HAND}),
        "alpha": (lambda t: Image.fromarray(np.dstack([colours[_labels(t)], np.full(SIZE, 255, np.uint8)])), "png", {1: OBJECT, 2: HAND}),
        "deep": (lambda t: Image.fromarray(_labels(t).astype(np.uint16)), "png", {1: OBJECT, 2: HAND}),
        "lossy": (lambda t: _grey(merged[_labels(t)]), "jpg", {}),
        "lossy_colour": (lambda t: Image.fromarray(colours[_labels(t)]), "jpg", {}),
        "photo": (lambda t: Image.fromarray(PHOTO), "png", {}),
        "grey_photo": (lambda t: Image.fromarray(PHOTO).convert("L"), "png", {}),
        "cutout": (lambda t: Image.fromarray(np.where(OBJECT[t][..., None], PHOTO, 0).astype(np.uint8)), "png", {}),
        "full": (lambda t: _grey(np.full(SIZE, 255)), "png", {}),
    }
    for name, (make, suffix, values) in kinds.items():
        path = _write(folder / name, make, suffix)
        with pytest.raises(HoldprepError, match="holds") as error:
            read_masks(path, NAMES, SIZE)
        assert "\n" not in str(error.value)
        for value, truth in values.items():
            assert _iou(path, truth, value) == 1
    with pytest.raises(HoldprepError, match="no exact labels"):
        read_masks(folder / "lossy", NAMES, SIZE, 50)


@kind("masks: inverted ones, and 0/1 among 0/255, are refused")
def against_the_rule(folder: Path) -> None:
    on_black, on_white = np.where(OBJECT[..., None], PHOTO, 0).astype(np.uint8), np.where(OBJECT[..., None], PHOTO, 255).astype(np.uint8)
    kinds: dict[str, Callable[[int], Image.Image]] = {
        "grey": lambda t: _grey(np.where(OBJECT[t], 0, 255)),
        "cutout": lambda t: Image.fromarray(on_white[t]),
        "alpha": lambda t: Image.fromarray(np.dstack([on_black[t], np.where(OBJECT[t], 0, 255).astype(np.uint8)])),
    }
    for name, make in kinds.items():
        with pytest.raises(HoldprepError, match="4 of 4 masks hold the four corners of the picture, they look inverted"):
            read_masks(_write(folder / name, make), NAMES, SIZE)
    np.save(folder / "inverted.npy", ~OBJECT)
    with pytest.raises(HoldprepError, match="look inverted"):
        read_masks(folder / "inverted.npy", NAMES, SIZE)
    mixed = _write(folder / "mixed", lambda t: _grey(OBJECT[t] * (1 if t == 2 else 255)))
    with pytest.raises(HoldprepError, match=r"the mask is 1 in 1 of 4 pictures \(first: number 3\) and up to 255 in others"):
        read_masks(mixed, NAMES, SIZE)
    assert _iou(_write(folder / "absent", lambda t: _grey(OBJECT[t] * 255 * (t != 2))), OBJECT * (np.arange(4) != 2)[:, None, None]) == 1


@kind("masks: arrays of SAM 2 and Track-Anything")
def stacks(folder: Path) -> None:
    as_dict = {t: {1: OBJECT[t][None], 2: HAND[t][None]} for t in range(4)}
    files = {
        "stack.npy": OBJECT,
        "channel.npy": OBJECT[:, None].astype(np.uint8),
        "last.npy": OBJECT[..., None].astype(np.float32),
        "leading.npy": OBJECT[None],
        "logits.npy": np.where(OBJECT, 7.5, -9.0).astype(np.float32),
        "probabilities.npy": np.stack([_soft(m, 4) / 255 for m in OBJECT]).astype(np.float32),
    }
    for name, array in files.items():
        np.save(folder / name, array)
        assert _iou(folder / name, OBJECT) == 1
    np.savez(folder / "one.npz", masks=OBJECT[::-1], names=np.array(NAMES[::-1]))
    np.savez(folder / "each.npz", **{f"{t:05d}": OBJECT[t] for t in range(4)})
    for name in ("one.npz", "each.npz"):
        assert _iou(folder / name, OBJECT) == 1
    np.savez(folder / "entities.npz", cup=OBJECT, hand=HAND)
    assert _iou(folder / "entities.npz", OBJECT, "cup") == 1 and _iou(folder / "entities.npz", HAND, "hand") == 1
    with pytest.raises(HoldprepError, match="holds labels cup, hand: set the label"):
        read_masks(folder / "entities.npz", NAMES, SIZE)
    (folder / "frames").mkdir()
    for t in range(4):
        np.save(folder / "frames" / f"{t:05d}.npy", _labels(t))
    np.save(folder / "video_segments.npy", np.array(as_dict, dtype=object), allow_pickle=True)
    for path in (folder / "frames", folder / "video_segments.npy"):
        assert _iou(path, OBJECT, 1) == 1 and _iou(path, HAND, 2) == 1
        with pytest.raises(HoldprepError, match="holds labels 1, 2: set the label"):
            read_masks(path, NAMES, SIZE)
    with pytest.raises(HoldprepError, match=r"absent does not exist: segmenter\.object="):
        read_masks(folder / "absent", NAMES, SIZE)
    np.save(folder / "single.npy", OBJECT[0])
    with pytest.raises(HoldprepError, match="is one mask"):
        read_masks(folder / "single.npy", NAMES, SIZE)


@kind("masks: polygons of COCO and labelme")
def outlines(folder: Path) -> None:
    box = [10.0, 20.0, 50.0, 20.0, 50.0, 60.0, 10.0, 60.0]
    truth = np.zeros((4, *SIZE), bool)
    truth[:, 20:60, 10:50] = True
    hand = np.zeros((4, *SIZE), bool)
    hand[:, 5:15, 80:120] = True
    images = [{"id": t, "file_name": f"a/{n}.jpg", "height": 96, "width": 128} for t, n in enumerate(NAMES)]
    parts = [(t, 1, [box]) for t in range(4)] + [(t, 4, [[80, 5, 120, 5, 120, 15, 80, 15]]) for t in range(4)]
    annotations = [{"image_id": t, "category_id": c, "segmentation": s} for t, c, s in parts]
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}, {"id": 4, "name": "hand"}]}
    (folder / "coco.json").write_text(json.dumps(tree))
    own = folder / "labelme"
    own.mkdir()
    for t, name in enumerate(NAMES):
        Image.fromarray(PHOTO).save(own / f"{name}.jpg")  # labelme's files lie beside the photos
        shapes = [
            {"label": "cup", "shape_type": "polygon", "points": np.reshape(box, (-1, 2)).tolist()},
            {"label": "hand", "shape_type": "rectangle", "points": [[120, 15], [80, 5]]},
        ]
        (own / f"{name}.json").write_text(json.dumps({"shapes": shapes, "imageHeight": 96, "imageWidth": 128, "imagePath": f"{t}.jpg"}))
    for path, one in ((folder / "coco.json", 1), (own, "cup")):
        assert _iou(path, truth, one) == 1 and _iou(path, hand, "hand") == 1
        with pytest.raises(HoldprepError, match=r"holds labels .*hand.*: set the label"):
            read_masks(path, NAMES, SIZE)
        with pytest.raises(HoldprepError, match=r"no label foot, only"):
            read_masks(path, NAMES, SIZE, "foot")
    triangle = fill([np.array([[0.0, 0.0], [40.0, 0.0], [0.0, 40.0]])], SIZE)
    assert np.array_equal(triangle[:40, :40], np.add.outer(np.arange(40) + 0.5, np.arange(40) + 0.5) < 40)


@kind("masks: videos by the reader of videos")
def videos(folder: Path) -> None:
    pictures = [np.repeat(m[..., None].astype(np.uint8) * 255, 3, axis=2) for m in OBJECT]
    assert _iou(films.write(folder / "m.mp4", pictures, options={"crf": "10"}), OBJECT) > 0.98
    turned = films.write(folder / "t.mp4", [np.rot90(p, -1).copy() for p in pictures], adjust=lambda s: s.set_display_rotation(90))
    assert _iou(turned, OBJECT) > 0.98
    whole = films.write(folder / "w.mp4", [pictures[t // 2] for t in range(8)])
    found, notes = read_masks(whole, ["0000", "0002", "0004", "0006"], SIZE)
    assert (found & OBJECT).sum() / (found | OBJECT).sum() > 0.98 and "whole video" in notes[0]
    colours = np.array([[0, 0, 0], [0, 0, 200], [0, 200, 0]], np.uint8)
    with pytest.raises(HoldprepError, match="colours, which are no mask"):
        read_masks(films.write(folder / "c.mp4", [colours[_labels(t)] for t in range(4)]), NAMES, SIZE)
