"""COLMAP's SIFT: found by COLMAP in a window around each frame's mask, matched exactly, and verified by COLMAP.

COLMAP detects and describes features on the whole picture and applies the mask afterwards. Most of the crop that all frames share is
background, so each frame's picture is cut to a window around its mask; all windows have one size, because all frames have one camera.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pycolmap
from threadpoolctl import threadpool_limits

from holdprep.object.colmap import (
    Crop,
    around,
    camera_options,
    import_images,
    open_database,
    read_crop,
    read_mask,
    set_canvas_size,
    write_matches,
)
from holdprep.threads import in_order

A = TypeVar("A")

_STEP_PX = 8  # pixels of the coarsest octave: windows begin at multiples, so that all octaves have the samples they have on the whole crop
_AHEAD = 256  # pairs whose matches are held
_DESCRIPTOR_NORM = 512.0  # of COLMAP's descriptors, up to rounding
_MAX_ANGLE_RAD, _MAX_RATIO = 0.7, 0.8  # COLMAP's
_GREY_OF_BGR = np.array([[0.0722, 0.7152, 0.2126]])  # COLMAP's


def extract_sift(
    folder: Path,
    crop: Crop,
    K: np.ndarray,
    max_features: int,
    peak_threshold: float,
    num_threads: int,
) -> None:
    """Extract SIFT on the mask of every crop into `folder`/database.db, with the frames and their camera."""
    options = pycolmap.FeatureExtractionOptions()
    options.type = pycolmap.FeatureExtractorType.SIFT
    options.use_gpu = False
    options.num_threads = num_threads
    options.sift.max_num_features = max_features
    options.sift.peak_threshold = peak_threshold
    options.sift.first_octave = 0  # the crop is already enlarged
    names = sorted(path.stem for path in (folder / "images").glob("*.png"))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        windows = Path(temporary)
        start_px = _write_windows(folder, windows, names, num_threads)
        reader = camera_options(crop, K)
        reader.mask_path = windows / "masks"
        # imported first in a fixed order: threads finish in any order
        import_images(folder, windows / "images", [f"{name}.png" for name in names], crop, K)
        pycolmap.extract_features(
            folder / "database.db",
            windows / "images",
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=options,
        )
    with open_database(folder) as database:
        set_canvas_size(database, crop)
        for image in database.read_all_images():
            keypoints = np.asarray(database.read_keypoints(image.image_id))  # (K, 4 or 6) with scale and orientation
            if len(keypoints):
                px = keypoints[:, :2].astype(float) - 0.5 + start_px[image.name.removesuffix(".png")]
                keypoints[:, :2] = crop.to_colmap(crop.from_window(px))
                database.update_keypoints(image.image_id, keypoints)


def _write_windows(folder: Path, windows: Path, names: Sequence[str], num_threads: int) -> dict[str, np.ndarray]:
    """Write each frame's window of crop and mask to `windows`; frame name -> its first pixel (x, y) in the enlarged crop."""
    for sub in ("images", "masks"):
        (windows / sub).mkdir()
    parts = list(in_order(lambda name: around(read_mask(folder, name)), names, num_threads, ahead=num_threads))
    start = np.array([(columns.start, rows.start) for rows, columns in parts]) // _STEP_PX * _STEP_PX
    width, height = (np.array([(columns.stop, rows.stop) for rows, columns in parts]) - start).max(axis=0).tolist()

    def write(frame: tuple[str, tuple[int, int]]) -> None:
        name, (x, y) = frame
        for kind, whole, border in (
            (f"images/{name}.png", cv2.transform(read_crop(folder, name, cv2.IMREAD_COLOR), _GREY_OF_BGR), cv2.BORDER_REPLICATE),
            (f"masks/{name}.png.png", read_mask(folder, name), cv2.BORDER_CONSTANT),
        ):
            part = whole[y : y + height, x : x + width]
            filled = cv2.copyMakeBorder(part, 0, height - part.shape[0], 0, width - part.shape[1], border)
            cv2.imwrite(str(windows / kind), filled, (cv2.IMWRITE_PNG_COMPRESSION, 0))

    for _ in in_order(write, zip(names, start.tolist(), strict=True), num_threads, ahead=num_threads):
        pass
    return dict(zip(names, start, strict=True))


def match_sift(folder: Path, pairs: Sequence[tuple[str, str]], max_error_px: float, seed: int, num_threads: int) -> None:
    """Match the SIFT features of frame pairs and verify the matches; `max_error_px` is that of the enlarged crop."""
    found = match_descriptors(
        sift_descriptors(folder), pairs, num_threads
    )  # read before: while matches are written, the database is locked
    write_matches(folder, found, max_error_px, seed, num_threads)


def match_descriptors(
    descriptors: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]], num_threads: int
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Frame, other frame and the indices (M, 2) of the matches of their SIFT features, for each pair.

    COLMAP's own matcher searches an approximate index in more than 512 features, and its matches differ in about one run of ten.
    """

    def match(pair: tuple[str, str]) -> np.ndarray:
        return nearest_by_ratio(descriptors[pair[0]], descriptors[pair[1]])

    with threadpool_limits(1):  # the threads are those of the pairs
        for (a, b), found in zip(pairs, in_order(match, pairs, num_threads, ahead=_AHEAD), strict=True):
            yield a, b, found


def nearest_by_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M, 2) indices of descriptors a (K, 128) and b (L, 128) uint8 that are each other's nearest, and nearer than others by the ratio.

    As COLMAP's exact matcher: Lowe's ratio test (2004) of angles. Products of such descriptors are whole numbers below 2^24, so that sums in
    float32 are exact, and independent of the order.
    """
    if not len(a) or not len(b):
        return np.zeros((0, 2), np.uint32)
    products = a.astype(np.float32) @ b.astype(np.float32).T
    to_b, to_a = _distinct_nearest(products), _distinct_nearest(products.T)
    own = np.flatnonzero(to_b >= 0)
    own = own[to_a[to_b[own]] == own]
    return np.stack([own, to_b[own]], axis=1).astype(np.uint32)


def _distinct_nearest(products: np.ndarray) -> np.ndarray:
    """(K,) column of the largest of each row of products (K, L), -1 where its angle is too large, or the second one's is not much larger."""
    rows, nearest = np.arange(len(products)), products.argmax(axis=1)
    largest = products[rows, nearest]
    products[rows, nearest] = -1
    second = products.max(axis=1)
    products[rows, nearest] = largest
    angle, next_angle = (np.arccos(np.minimum(x / _DESCRIPTOR_NORM**2, 1)) for x in (largest, second))
    return np.where((angle <= _MAX_ANGLE_RAD) & (angle < _MAX_RATIO * next_angle), nearest, -1)


def sift_descriptors(folder: Path) -> dict[str, np.ndarray]:
    """Read SIFT descriptors: frame name -> (M, 128) uint8."""
    with open_database(folder) as database:
        return {image.name.removesuffix(".png"): database.read_descriptors(image.image_id).data for image in database.read_all_images()}


def keep_best(folder: Path, most: int) -> None:
    """Keep at most `most` features of each frame in the database: those with the most verified matches, of equally many random ones.

    Matches between kept features are kept.
    """
    with open_database(folder) as database:
        keypoints = {image.image_id: np.asarray(database.read_keypoints(image.image_id)) for image in database.read_all_images()}
        if max(map(len, keypoints.values()), default=0) <= most:
            return
        descriptors = {image: database.read_descriptors(image) for image in keypoints}
        matches, geometries = _by_images(database.read_all_matches()), _by_images(database.read_two_view_geometries())
        kept = _most_matched({image: len(found) for image, found in keypoints.items()}, geometries, most)
        for clear in (database.clear_two_view_geometries, database.clear_matches, database.clear_keypoints, database.clear_descriptors):
            clear()
        for image, at in kept.items():
            descriptors[image].data = descriptors[image].data[at]
            database.write_keypoints(image, keypoints[image][at])
            database.write_descriptors(image, descriptors[image])
        for (a, b), found in matches.items():
            database.write_matches(a, b, _renumbered(found, kept[a], kept[b]))
        for (a, b), geometry in geometries.items():
            geometry.inlier_matches = _renumbered(geometry.inlier_matches, kept[a], kept[b])
            database.write_two_view_geometry(a, b, geometry)


def _by_images(found: tuple[Sequence[int], Sequence[A]]) -> dict[tuple[int, int], A]:
    """What the database has of each pair, by the two image ids."""
    return {pycolmap.pair_id_to_image_pair(pair): each for pair, each in zip(*found, strict=True)}


def _most_matched(
    count: Mapping[int, int], geometries: Mapping[tuple[int, int], pycolmap.TwoViewGeometry], most: int
) -> dict[int, np.ndarray]:
    """Image id -> indices of those of its `count` features that have the most verified matches, ascending."""
    votes = {image: np.zeros(size, int) for image, size in count.items()}
    for pair, geometry in geometries.items():
        for image, own in zip(pair, np.asarray(geometry.inlier_matches, int).reshape(-1, 2).T, strict=True):
            votes[image][own] += 1  # a feature has one match in another frame
    rng = np.random.default_rng(0)
    return {image: np.sort(np.lexsort([rng.permutation(len(each)), -each])[:most]) for image, each in sorted(votes.items())}


def _renumbered(matches: np.ndarray, kept: np.ndarray, kept_other: np.ndarray) -> np.ndarray:
    """Matches (M, 2) between the kept features of two frames, as indices into these."""
    matches = np.asarray(matches, np.uint32).reshape(-1, 2)
    both = matches[np.isin(matches[:, 0], kept) & np.isin(matches[:, 1], kept_other)]
    return np.stack([np.searchsorted(kept, both[:, 0]), np.searchsorted(kept_other, both[:, 1])], axis=1).astype(np.uint32)
