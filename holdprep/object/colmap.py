"""The one place that speaks to COLMAP: crops and masks in, features, matches and sparse models out.

Pixels: COLMAP puts the centre of the first pixel at 0.5, the arrays of this project at 0. `Crop` converts between the full image, the
enlarged window that is stored, and the enlarged canvas that COLMAP's coordinates are of.
COLMAP itself is asked for SIFT alone: pycolmap from the registry has no ONNX runtime and aborts the whole process on learned features,
which are found elsewhere (superpoint.py) and written into its database here.
"""

import fcntl
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from holdprep.geometry.rigid import from_rt


@dataclass(frozen=True)
class Crop:
    """The window of the full image that every frame shares, how much it is enlarged, and the canvas that COLMAP takes it for a part of.

    COLMAP drops every image whose camera has its principal point outside the picture, or a focal length over ten times the picture's longer
    side; beside a window on a small object both is usual. Its camera is therefore declared with the size of the canvas: the full image,
    extended where the principal point lies outside. Only the window's pixels are stored. All bounds are whole pixels of the full image, the
    upper ones exclusive.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    upsample: float
    canvas: tuple[int, int, int, int]  # x0, y0, x1, y1; may begin below 0

    @classmethod
    def around(
        cls, masks: Sequence[np.ndarray], upsample: float, principal_px: tuple[float, float] | None = None, margin_px: int = 8
    ) -> "Crop":
        """The common box of all masks (T of (H, W) bool) plus a margin, on a canvas with the principal point `margin_px` or more inside.

        One crop keeps one camera; its principal point is the image's centre unless `principal_px` gives it.
        """
        union = np.any(np.stack(masks), axis=0)
        ys, xs = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
        h, w = union.shape
        cx, cy = ((w - 1) / 2, (h - 1) / 2) if principal_px is None else principal_px
        return cls(
            max(int(xs[0]) - margin_px, 0),
            max(int(ys[0]) - margin_px, 0),
            min(int(xs[-1]) + margin_px + 1, w),
            min(int(ys[-1]) + margin_px + 1, h),
            upsample,
            (
                min(0, math.floor(cx) - margin_px),
                min(0, math.floor(cy) - margin_px),
                max(w, math.ceil(cx) + margin_px + 1),
                max(h, math.ceil(cy) + margin_px + 1),
            ),
        )

    @property
    def canvas_size(self) -> tuple[int, int]:
        """Width and height of the enlarged canvas."""
        x0, y0, x1, y1 = self.canvas
        return math.ceil((x1 - x0) * self.upsample), math.ceil((y1 - y0) * self.upsample)

    def cut(self, image: np.ndarray, interpolation: int) -> np.ndarray:
        window = image[self.y0 : self.y1, self.x0 : self.x1]
        return cv2.resize(window, None, fx=self.upsample, fy=self.upsample, interpolation=interpolation)

    def to_colmap(self, pixels: np.ndarray) -> np.ndarray:
        """COLMAP's coordinates on the enlarged canvas of full-image pixels (..., 2)."""
        return (np.asarray(pixels) - self.canvas[:2] + 0.5) * self.upsample

    def from_colmap(self, pixels: np.ndarray) -> np.ndarray:
        """Full-image pixels (..., 2) of COLMAP's coordinates on the enlarged canvas."""
        return np.asarray(pixels) / self.upsample - 0.5 + self.canvas[:2]

    def to_window(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of the enlarged window, its first pixel's centre at 0, of full-image pixels (..., 2)."""
        return (np.asarray(pixels) - (self.x0, self.y0) + 0.5) * self.upsample - 0.5

    def from_window(self, pixels: np.ndarray) -> np.ndarray:
        """Full-image pixels (..., 2) of pixels of the enlarged window, its first pixel's centre at 0."""
        return (np.asarray(pixels) + 0.5) / self.upsample - 0.5 + (self.x0, self.y0)


@dataclass(frozen=True)
class Model:
    """One sparse model in COLMAP's units, pixels already those of the full image; `number` is the mapping's."""

    number: int
    focal_px: float
    distortion: np.ndarray  # (1,) SIMPLE_RADIAL's k
    poses: dict[str, np.ndarray]  # frame name -> T_cam_obj (4, 4)
    points: np.ndarray  # (N, 3)
    colors: np.ndarray  # (N, 3) uint8 RGB
    point_of_keypoint: dict[str, np.ndarray]  # frame name -> (K,) index into points of every keypoint, -1 for none
    path: Path

    @property
    def num_observations(self) -> int:
        return sum(int((index >= 0).sum()) for index in self.point_of_keypoint.values())


@dataclass(frozen=True)
class Features:
    """What the database holds, by frame name; pixels are those of the full image."""

    keypoints_px: dict[str, np.ndarray]  # (K, 2)
    matches: dict[str, dict[str, np.ndarray]]  # frame -> other frame -> verified (M, 2) keypoint indices (own, other's), both directions


@contextmanager
def open_database(folder: Path) -> Iterator[pycolmap.Database]:
    """`folder`/database.db, for one process at a time: opening writes, and SQLite refuses whoever comes meanwhile."""
    with (folder / "database.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pycolmap.Database.open(folder / "database.db") as database:
            yield database


def write_crops(folder: Path, crop: Crop, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """`folder`/images/NAME.png and `folder`/masks/NAME.png.png, as COLMAP pairs them."""
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for image, mask, name in zip(images, masks, names, strict=True):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), crop.cut(image, cv2.INTER_CUBIC))
        cv2.imwrite(str(folder / "masks" / f"{name}.png.png"), crop.cut(mask.astype(np.uint8) * 255, cv2.INTER_NEAREST))


def read_crop(folder: Path, name: str, flags: int = cv2.IMREAD_GRAYSCALE) -> np.ndarray:
    """The enlarged window of a frame, grey unless OpenCV's `flags` say otherwise."""
    return np.asarray(cv2.imread(str(folder / "images" / f"{name}.png"), flags))


def read_mask(folder: Path, name: str) -> np.ndarray:
    """The enlarged crop of a frame's mask, 0 or 255."""
    return np.asarray(cv2.imread(str(folder / "masks" / f"{name}.png.png"), cv2.IMREAD_GRAYSCALE))


def extract_sift(
    folder: Path,
    crop: Crop,
    K: np.ndarray,
    max_features: int,
    peak_threshold: float,
    num_threads: int,
) -> None:
    """COLMAP's SIFT of every crop into `folder`/database.db, with the frames and their camera."""
    options = pycolmap.FeatureExtractionOptions()
    options.type = pycolmap.FeatureExtractorType.SIFT
    options.use_gpu = False
    options.num_threads = num_threads
    options.sift.max_num_features = max_features
    options.sift.peak_threshold = peak_threshold
    options.sift.first_octave = 0  # the crop is enlarged already
    # in a fixed order before their features, which threads finish in any order
    _import(folder, sorted(path.name for path in (folder / "images").glob("*.png")), crop, K)
    pycolmap.extract_features(
        folder / "database.db",
        folder / "images",
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=_reader(folder, crop, K),
        extraction_options=options,
    )
    with open_database(folder) as database:
        _declare_canvas(database, crop)
        for image in database.read_all_images():
            keypoints = np.asarray(database.read_keypoints(image.image_id))  # (K, 4 or 6) with scale and orientation
            if len(keypoints):
                keypoints[:, :2] = crop.to_colmap(crop.from_window(keypoints[:, :2].astype(float) - 0.5))
                database.update_keypoints(image.image_id, keypoints)


def _import(folder: Path, files: Sequence[str], crop: Crop, K: np.ndarray) -> None:
    """The frames and their one camera into the database, numbered in the order given."""
    with open_database(folder):  # made where it is not there
        pass
    pycolmap.import_images(folder / "database.db", folder / "images", pycolmap.CameraMode.SINGLE, list(files), _reader(folder, crop, K))


def write_keypoints(folder: Path, crop: Crop, K: np.ndarray, keypoints_px: Mapping[str, np.ndarray]) -> None:
    """`folder`/database.db with the frames, their camera and keypoints (K, 2), in pixels of the enlarged window that count from 0."""
    _import(folder, [f"{name}.png" for name in keypoints_px], crop, K)
    with open_database(folder) as database:
        _declare_canvas(database, crop)
        for image in database.read_all_images():
            px = crop.to_colmap(crop.from_window(keypoints_px[image.name.removesuffix(".png")]))
            database.write_keypoints(image.image_id, px.astype(np.float32))


def _declare_canvas(database: pycolmap.Database, crop: Crop) -> None:
    """Give the camera the canvas' size: COLMAP's reader gives it that of the window."""
    (camera,) = database.read_all_cameras()
    camera.width, camera.height = crop.canvas_size
    database.update_camera(camera)


def _reader(folder: Path, crop: Crop, K: np.ndarray) -> pycolmap.ImageReaderOptions:
    """All frames share one camera, which begins as `K` (3, 3) of the full image; its principal point, on the canvas, stays."""
    cx, cy = crop.to_colmap(K[:2, 2])
    reader = pycolmap.ImageReaderOptions()
    reader.mask_path = folder / "masks"
    reader.camera_model = "SIMPLE_RADIAL"
    reader.camera_params = f"{float(K[0, 0]) * crop.upsample!r},{float(cx)!r},{float(cy)!r},0.0"
    return reader


def match_sift(folder: Path, pairs: Sequence[tuple[str, str]], max_error_px: float, seed: int, num_threads: int) -> None:
    """Match the SIFT features of the given pairs of frame names and verify them; `max_error_px` is in pixels of the enlarged crop."""
    listing = folder / "pairs.txt"
    listing.write_text("".join(f"{a}.png {b}.png\n" for a, b in pairs))
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = listing
    options = pycolmap.FeatureMatchingOptions()
    options.type = pycolmap.FeatureMatcherType.SIFT_BRUTEFORCE
    options.use_gpu = False
    options.num_threads = num_threads
    pycolmap.match_image_pairs(folder / "database.db", options, pairing, _verification(max_error_px, seed))


def write_matches(folder: Path, matches: Iterable[tuple[str, str, np.ndarray]], max_error_px: float, seed: int, num_threads: int) -> None:
    """Matches of a frame with another, (M, 2) indices of their keypoints, into the database, and verify them as `match_sift` does."""
    with open_database(folder) as database:
        ids = {image.name.removesuffix(".png"): image.image_id for image in database.read_all_images()}
        for a, b, found in matches:
            database.write_matches(ids[a], ids[b], found.astype(np.uint32))
    verifier = pycolmap.GeometricVerifierOptions()
    verifier.num_threads = num_threads
    pycolmap.geometric_verification(folder / "database.db", verifier, two_view_geometry_options=_verification(max_error_px, seed))


def _verification(max_error_px: float, seed: int) -> pycolmap.TwoViewGeometryOptions:
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.max_error = max_error_px
    verification.ransac.random_seed = seed
    verification.detect_watermark = False  # masks hold none, and an object that moves along the picture's border looks like one
    return verification


def read_features(folder: Path, crop: Crop) -> Features:
    """Keypoints and geometrically verified matches of every frame."""
    with open_database(folder) as database:
        names = {image.image_id: image.name.removesuffix(".png") for image in database.read_all_images()}
        keypoints = {name: crop.from_colmap(np.asarray(database.read_keypoints(i))[:, :2].astype(float)) for i, name in names.items()}
        matches: dict[str, dict[str, np.ndarray]] = {name: {} for name in names.values()}
        for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True):
            a, b = (names[i] for i in pycolmap.pair_id_to_image_pair(pair_id))
            found = np.asarray(geometry.inlier_matches, int).reshape(-1, 2)
            if len(found):
                matches[a][b], matches[b][a] = found, found[:, ::-1]
    return Features(keypoints, matches)


def sift_descriptors(folder: Path) -> dict[str, np.ndarray]:
    """Frame name -> SIFT descriptors (M, 128) float32."""
    with open_database(folder) as database:
        return {
            image.name.removesuffix(".png"): database.read_descriptors(image.image_id).data.astype(np.float32)
            for image in database.read_all_images()
        }


def color_points(reconstruction: pycolmap.Reconstruction, folder: Path, crop: Crop) -> None:
    """Give every point the mean colour of its observations; COLMAP itself would look for them on the whole canvas."""
    index_of = {point: i for i, point in enumerate(sorted(reconstruction.points3D))}
    total, count = np.zeros((len(index_of), 3)), np.zeros(len(index_of))
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        seen = [(index_of[p.point3D_id], p.xy) for p in image.points2D if p.has_point3D()]
        if seen:
            index, xy = (np.array(x) for x in zip(*seen, strict=True))
            at = crop.to_window(crop.from_colmap(xy)).astype(np.float32)
            picture = read_crop(folder, image.name.removesuffix(".png"), cv2.IMREAD_COLOR)[..., ::-1].copy()
            for part in (slice(i, i + 4096) for i in range(0, len(at), 4096)):  # OpenCV takes no more than 32767 rows
                found = cv2.remap(picture, at[part, None, 0], at[part, None, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                np.add.at(total, index[part], found[:, 0])
                np.add.at(count, index[part], 1)
    for point, i in index_of.items():
        reconstruction.point3D(point).color = np.round(total[i] / max(count[i], 1)).astype(np.uint8)


def read_model(reconstruction: pycolmap.Reconstruction, crop: Crop, number: int, path: Path) -> Model:
    """Plain arrays out of a pycolmap reconstruction."""
    (camera,) = reconstruction.cameras.values()
    ids = sorted(reconstruction.points3D)
    index_of = {point_id: i for i, point_id in enumerate(ids)}
    poses, point_of_keypoint = {}, {}
    for image in reconstruction.images.values():
        if not image.has_pose:
            continue
        name = image.name.removesuffix(".png")
        pose = image.cam_from_world()
        poses[name] = from_rt(pose.rotation.matrix(), np.asarray(pose.translation))
        point_of_keypoint[name] = np.array([index_of[p.point3D_id] if p.has_point3D() else -1 for p in image.points2D], int)
    return Model(
        number=number,
        focal_px=float(camera.params[0]) / crop.upsample,
        distortion=np.array(camera.params[3:], float),
        poses=poses,
        points=np.array([reconstruction.points3D[i].xyz for i in ids]).reshape(-1, 3),
        colors=np.array([reconstruction.points3D[i].color for i in ids], np.uint8).reshape(-1, 3),
        point_of_keypoint=point_of_keypoint,
        path=path,
    )
