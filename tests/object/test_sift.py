"""COLMAP's SIFT in windows around the masks, and the features that are kept."""

import shutil
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from holdprep.geometry.cameras import pinhole_K
from holdprep.object import colmap, sift
from holdprep.object.colmap import Crop, Features
from tests.synthetic import box_sequence

WIDTH, HEIGHT = 640, 480
PLACES = ((-150, -90), (0, 0), (130, 100))  # shift of the box in the three frames, beyond the picture's border in the first
NAMES = ["0000", "0001", "0002"]
CAMERA = pinhole_K(500.0, WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Crop]:
    """A textured box that moves across a textured background: the crop that all frames share is much larger than each mask."""
    folder = tmp_path_factory.mktemp("sift")
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, 3)), (0, 0), 2.0)
    background = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
    pictures, masks = [], []
    for image, mask, shift in zip(*box_sequence(3, degrees=6.0)[:2], PLACES, strict=True):
        moved, moved_mask = (
            cv2.warpAffine(each, np.float32([[1, 0, 80 + shift[0]], [0, 1, 60 + shift[1]]]), (WIDTH, HEIGHT))
            for each in (image, mask.astype(np.uint8))
        )
        pictures.append(np.where(moved_mask[..., None] > 0, moved, background))
        masks.append(moved_mask > 0)
    crop = Crop.around(masks, 2.0)
    colmap.write_crops(folder, crop, pictures, masks, NAMES)
    sift.extract_sift(folder, crop, CAMERA, 10_000, 0.0045, 2)
    return folder, crop


def on_mask(folder: Path, crop: Crop, px: np.ndarray, name: str) -> np.ndarray:
    """(K,) bool: pixels (K, 2) of the full picture on the frame's mask."""
    x, y = np.round(crop.to_window(px)).astype(int).T
    return colmap.read_mask(folder, name)[y, x] > 0


def test_features_are_those_of_the_whole_crop_on_the_mask_and_nowhere_else(scene: tuple[Path, Crop], tmp_path: Path) -> None:
    folder, crop = scene
    shutil.copytree(folder / "images", tmp_path / "images")
    (tmp_path / "masks").mkdir()
    for name in NAMES:
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png.png"), np.full_like(colmap.read_mask(folder, name), 255))
    sift.extract_sift(tmp_path, crop, CAMERA, 10_000, 0.0045, 1)
    found, whole = colmap.read_keypoints(folder, crop), colmap.read_keypoints(tmp_path, crop)
    for name in NAMES:
        px, expected = found[name], whole[name][on_mask(folder, crop, whole[name], name)]
        assert len(px) > 100 and len(whole[name]) > 3 * len(expected)
        assert on_mask(folder, crop, px, name).all()
        distance = np.linalg.norm(px[:, None] - expected, axis=2)
        assert (distance.min(axis=1) < 0.02).mean() > 0.98 and (distance.min(axis=0) < 0.02).mean() > 0.98
    assert not list(folder.glob("tmp*"))


def test_a_frame_with_an_empty_mask_has_no_features(scene: tuple[Path, Crop], tmp_path: Path) -> None:
    folder, crop = scene
    for sub in ("images", "masks"):
        shutil.copytree(folder / sub, tmp_path / sub)
    cv2.imwrite(str(tmp_path / "masks" / f"{NAMES[1]}.png.png"), np.zeros_like(colmap.read_mask(folder, NAMES[1])))
    sift.extract_sift(tmp_path, crop, CAMERA, 10_000, 0.0045, 1)
    found = colmap.read_keypoints(tmp_path, crop)
    assert [len(found[name]) > 0 for name in NAMES] == [True, False, True]


@pytest.fixture
def matched(scene: tuple[Path, Crop], tmp_path: Path) -> Path:
    """The scene's database with all pairs matched."""
    colmap.copy_database(scene[0], tmp_path / "database.db")
    sift.match_sift(tmp_path, list(combinations(NAMES, 2)), 4.0, 0, 1)
    return tmp_path


def indices_of(
    after: Features, described_after: dict[str, np.ndarray], before: Features, described: dict[str, np.ndarray], name: str
) -> list[int]:
    """Where the features of a frame were before; several may have one place, and differ in their descriptors."""
    return [
        int(np.flatnonzero((before.keypoints_px[name] == px).all(axis=1) & (described[name] == descriptor).all(axis=1))[0])
        for px, descriptor in zip(after.keypoints_px[name], described_after[name], strict=True)
    ]


def test_the_features_that_are_kept_have_the_most_matches_and_these_stay(scene: tuple[Path, Crop], matched: Path) -> None:
    crop, most = scene[1], 80
    before, described = colmap.read_features(matched, crop), sift.sift_descriptors(matched)
    sift.keep_best(matched, most)
    after, described_after = colmap.read_features(matched, crop), sift.sift_descriptors(matched)
    at = {name: indices_of(after, described_after, before, described, name) for name in NAMES}
    for name in NAMES:
        votes = sum(np.bincount(found[:, 0], minlength=len(described[name])) for found in before.matches[name].values())
        assert len(at[name]) == most and np.diff(at[name]).min() > 0
        assert sorted(votes[at[name]]) == sorted(votes)[-most:]
    for a, b in combinations(NAMES, 2):
        of_kept = {(i, j) for i, j in before.matches[a][b].tolist() if i in at[a] and j in at[b]}
        assert {(at[a][i], at[b][j]) for i, j in after.matches[a][b]} == of_kept and len(of_kept) > 10
    with colmap.open_database(matched) as database:
        assert {database.num_keypoints_for_image(image.image_id) for image in database.read_all_images()} == {most}
        assert all(np.asarray(found).max() < most for found in database.read_all_matches()[1])


def test_few_features_are_all_kept(scene: tuple[Path, Crop], matched: Path) -> None:
    before = colmap.read_features(matched, scene[1])
    sift.keep_best(matched, 5000)
    after = colmap.read_features(matched, scene[1])
    assert all((before.keypoints_px[name] == after.keypoints_px[name]).all() for name in NAMES)
    assert all((before.matches[a][b] == after.matches[a][b]).all() for a, b in combinations(NAMES, 2))


def described(count: int, seed: int) -> np.ndarray:
    """(count, 128) uint8 descriptors of COLMAP's length."""
    values = np.random.default_rng(seed).exponential(size=(count, 128))
    return np.round(512 * np.sqrt(values / values.sum(axis=1, keepdims=True))).astype(np.uint8)


def near(descriptors: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """The descriptors with noise, in another order."""
    rng = np.random.default_rng(seed)
    moved = rng.permutation(descriptors).astype(float) + rng.normal(0, noise, descriptors.shape)
    return moved.clip(0, 255).round().astype(np.uint8)


def test_matches_are_the_distinct_mutual_nearest_neighbours() -> None:
    a = described(700, 0)
    b = near(a, 12, 1)
    b = np.concatenate([b, b[:150]])  # 150 have two equally near ones
    angle = np.arccos(np.minimum(a.astype(float) @ b.T.astype(float) / 512**2, 1))
    expected = []
    for i, row in enumerate(angle):
        j, second = np.argsort(row)[:2]
        others = np.sort(angle[:, j])
        if angle[:, j].argmin() == i and row[j] <= 0.7 and row[j] < 0.8 * row[second] and row[j] < 0.8 * others[1]:
            expected.append([i, j])
    found = sift.nearest_by_ratio(a, b)
    assert found.tolist() == expected
    assert 520 < len(found) <= 550


def test_few_features_are_matched_as_by_colmap(matched: Path, tmp_path: Path) -> None:
    """COLMAP's matcher is exact for less than 512 features."""
    pairs = list(combinations(NAMES, 2))
    sift.keep_best(matched, 400)
    with colmap.open_database(matched) as database:
        database.clear_matches()
        database.clear_two_view_geometries()
    (tmp_path / "pairs.txt").write_text("".join(f"{a}.png {b}.png\n" for a, b in pairs))
    pairing, options = pycolmap.ImportedPairingOptions(), pycolmap.FeatureMatchingOptions()
    pairing.match_list_path, options.use_gpu, options.skip_geometric_verification = tmp_path / "pairs.txt", False, True
    options.type = pycolmap.FeatureMatcherType.SIFT_BRUTEFORCE
    pycolmap.match_image_pairs(tmp_path / "database.db", options, pairing, pycolmap.TwoViewGeometryOptions())
    with colmap.open_database(tmp_path) as database:
        ids = {image.name.removesuffix(".png"): image.image_id for image in database.read_all_images()}
        theirs = {(a, b): np.asarray(database.read_matches(ids[a], ids[b])) for a, b in pairs}
    ours = {(a, b): found for a, b, found in sift.match_descriptors(sift.sift_descriptors(tmp_path), pairs, 2)}
    assert all(ours[pair].tolist() == theirs[pair].tolist() and len(ours[pair]) > 20 for pair in pairs)


def test_frames_without_features_have_no_matches() -> None:
    assert (
        sift.nearest_by_ratio(described(0, 0), described(5, 1)).shape
        == sift.nearest_by_ratio(described(1, 0), described(0, 1)).shape
        == (0, 2)
    )
    assert sift.nearest_by_ratio(described(1, 0), described(1, 0)).tolist() == [[0, 0]]
