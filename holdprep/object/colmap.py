"""Adapter to COLMAP: writes crops and masks, reads features, matches and sparse models.

Pixels: COLMAP puts the centre of the first pixel at 0.5, the arrays of this project at 0. `Crop` converts between the full
image, the enlarged window that is stored, and the enlarged canvas that COLMAP's coordinates refer to.
COLMAP itself only extracts SIFT: pycolmap from PyPI has no ONNX runtime and aborts the whole process on learned features.
These are computed elsewhere (superpoint.py) and written to the database here.
"""

import fcntl
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from holdprep.geometry.rigid import from_rt
from holdprep.threads import in_order

_MIN_TRIALS = 30  # of RANSAC on a pair's matches
# Share of a pair's matches that one epipolar geometry explains. Of XFeat's pairs with less, 96 % are wrong on a cube with known poses: on a small
# object an arbitrary geometry explains half of the matches. SIFT's pairs, wide ones too, have .8 or more.
_MIN_INLIER_RATIO, _SOUGHT_INLIER_RATIO = 0.7, 0.5  # the second limits the trials
_MARGIN_PX = 32  # around the mask, of the enlarged window: what networks and most descriptors at its border reach


@dataclass(frozen=True)
class Crop:
    """The window of the full image shared by all frames, its magnification, and the canvas of COLMAP's camera.

    COLMAP drops every image whose camera has its principal point outside the image, or a focal length over ten times the
    longer image side; for a window on a small object both are common. The camera therefore has the size of the canvas: the
    full image, extended if the principal point lies outside. Only the window's pixels are stored. All bounds are whole
    pixels of the full image, the upper ones exclusive.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    upsample: float
    canvas: tuple[int, int, int, int]  # x0, y0, x1, y1; x0 and y0 may be negative

    @classmethod
    def around(
        cls, masks: Iterable[np.ndarray], upsample: float, principal_px: tuple[float, float] | None = None, margin_px: int = 8
    ) -> "Crop":
        """The bounding box of all masks (T of (H, W) bool) plus a margin, shared so that all frames have one camera.

        The canvas contains the principal point (default: the image centre) at least `margin_px` inside its border.
        """
        union = reduce(np.logical_or, masks)
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
        """The enlarged window of a full image (H, W, ...)."""
        window = image[self.y0 : self.y1, self.x0 : self.x1]
        return cv2.resize(window, None, fx=self.upsample, fy=self.upsample, interpolation=interpolation)

    def to_colmap(self, pixels: np.ndarray) -> np.ndarray:
        """COLMAP's coordinates on the enlarged canvas from full-image pixels (..., 2)."""
        return (np.asarray(pixels) - self.canvas[:2] + 0.5) * self.upsample

    def from_colmap(self, pixels: np.ndarray) -> np.ndarray:
        """Full-image pixels (..., 2) from COLMAP's coordinates on the enlarged canvas."""
        return np.asarray(pixels) / self.upsample - 0.5 + self.canvas[:2]

    def to_window(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of the enlarged window, the centre of its first pixel at 0, from full-image pixels (..., 2)."""
        return (np.asarray(pixels) - (self.x0, self.y0) + 0.5) * self.upsample - 0.5

    def from_window(self, pixels: np.ndarray) -> np.ndarray:
        """Full-image pixels (..., 2) from pixels of the enlarged window, the centre of its first pixel at 0."""
        return (np.asarray(pixels) + 0.5) / self.upsample - 0.5 + (self.x0, self.y0)


@dataclass(frozen=True)
class Model:
    """One sparse model in COLMAP's units, with pixels of the full image."""

    number: int  # of the mapping
    focal_px: float
    distortion: np.ndarray  # (1,) SIMPLE_RADIAL's k
    poses: dict[str, np.ndarray]  # frame name -> T_cam_obj (4, 4), registered frames only
    points: np.ndarray  # (N, 3)
    colors: np.ndarray  # (N, 3) uint8 RGB
    point_of_keypoint: dict[str, np.ndarray]  # frame name -> (K,) index into `points` per keypoint, -1 for none
    path: Path

    @property
    def num_observations(self) -> int:
        return sum(int((index >= 0).sum()) for index in self.point_of_keypoint.values())

    def camera(self, principal_px: tuple[float, float]) -> pycolmap.Camera:
        """Camera for pixels of the full image, the centre of the first one at 0."""
        params = [self.focal_px, *principal_px, *self.distortion]
        return pycolmap.Camera(model="SIMPLE_RADIAL", width=1, height=1, params=params)

    def rotations(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Rotations (T, 3, 3) of the frames `names`, identity if unregistered, and registered (T,) bool."""
        registered = np.array([name in self.poses for name in names])
        return np.stack([self.poses[name][:3, :3] if name in self.poses else np.eye(3) for name in names]), registered


@dataclass(frozen=True)
class Features:
    """Keypoints and verified matches by frame name, in pixels of the full image."""

    keypoints_px: dict[str, np.ndarray]  # (K, 2)
    matches: dict[str, dict[str, np.ndarray]]  # frame -> other frame -> (M, 2) keypoint indices, both directions


@contextmanager
def open_database(folder: Path) -> Iterator[pycolmap.Database]:
    """Open `folder`/database.db under a file lock: opening writes, and SQLite refuses concurrent writers."""
    with _locked(folder), pycolmap.Database.open(folder / "database.db") as database:
        yield database


def copy_database(folder: Path, target: Path) -> None:
    """Copy `folder`/database.db to `target`, for functions of COLMAP that open a database without the file lock."""
    target.unlink(missing_ok=True)
    with _locked(folder), closing(sqlite3.connect(folder / "database.db")) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "database.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_crops(
    folder: Path, crop: Crop, images: Iterable[np.ndarray], masks: Iterable[np.ndarray], names: Sequence[str], num_threads: int = 1
) -> None:
    """Write `folder`/images/NAME.png and `folder`/masks/NAME.png.png, COLMAP's naming of images and masks, in `num_threads` threads."""
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True, exist_ok=True)

    def write(frame: tuple[np.ndarray, np.ndarray, str]) -> None:
        image, mask, name = frame
        cv2.imwrite(str(folder / "images" / f"{name}.png"), crop.cut(image, cv2.INTER_CUBIC))
        cv2.imwrite(str(folder / "masks" / f"{name}.png.png"), crop.cut(mask.astype(np.uint8) * 255, cv2.INTER_NEAREST))

    for _ in in_order(write, zip(images, masks, names, strict=True), num_threads, ahead=num_threads):
        pass


def read_crop(folder: Path, name: str, flags: int = cv2.IMREAD_GRAYSCALE) -> np.ndarray:
    """The enlarged window of a frame, grayscale by default; `flags` are those of cv2.imread."""
    return np.asarray(cv2.imread(str(folder / "images" / f"{name}.png"), flags))


def read_mask(folder: Path, name: str) -> np.ndarray:
    """The enlarged crop of a frame's mask, 0 or 255."""
    return np.asarray(cv2.imread(str(folder / "masks" / f"{name}.png.png"), cv2.IMREAD_GRAYSCALE))


def around(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a mask (H, W) with what features at its border see around it; a corner of the picture if it is empty."""
    found = []
    for axis in (1, 0):
        at = np.flatnonzero(mask.any(axis=axis))
        first, last = (int(at[0]), int(at[-1])) if len(at) else (0, 0)
        found.append(slice(max(first - _MARGIN_PX, 0), last + _MARGIN_PX + 1))
    return found[0], found[1]


def import_images(folder: Path, pictures: Path, files: Sequence[str], crop: Crop, K: np.ndarray) -> None:
    """Add `files` of the folder `pictures`, all of one size, and their shared camera to the database, numbered in the given order."""
    with open_database(folder):  # creates it if missing
        pass
    options = camera_options(crop, K)
    pycolmap.import_images(folder / "database.db", pictures, pycolmap.CameraMode.SINGLE, list(files), options)


def write_keypoints(folder: Path, crop: Crop, K: np.ndarray, keypoints_px: Mapping[str, np.ndarray]) -> None:
    """Write frames, camera and keypoints (K, 2), in pixels of the enlarged window counted from 0, to the database."""
    import_images(folder, folder / "images", [f"{name}.png" for name in keypoints_px], crop, K)
    with open_database(folder) as database:
        set_canvas_size(database, crop)
        for image in database.read_all_images():
            px = crop.to_colmap(crop.from_window(keypoints_px[image.name.removesuffix(".png")]))
            database.write_keypoints(image.image_id, px.astype(np.float32))


def set_canvas_size(database: pycolmap.Database, crop: Crop) -> None:
    """Set the camera's size to the canvas: COLMAP's reader sets that of the pictures."""
    (camera,) = database.read_all_cameras()
    camera.width, camera.height = crop.canvas_size
    database.update_camera(camera)


def camera_options(crop: Crop, K: np.ndarray) -> pycolmap.ImageReaderOptions:
    """Options for one shared camera, initialised from `K` (3, 3) of the full image."""
    cx, cy = crop.to_colmap(K[:2, 2])
    options = pycolmap.ImageReaderOptions()
    options.camera_model = "SIMPLE_RADIAL"
    options.camera_params = f"{float(K[0, 0]) * crop.upsample!r},{float(cx)!r},{float(cy)!r},0.0"
    return options


def write_matches(
    folder: Path,
    matches: Iterable[tuple[str, str, np.ndarray]],
    max_error_px: float,
    seed: int,
    num_threads: int,
) -> None:
    """Write matches (frame, other frame, keypoint indices (M, 2)) to the database and verify them."""
    with open_database(folder) as database:
        ids = {image.name.removesuffix(".png"): image.image_id for image in database.read_all_images()}
        for a, b, found in matches:
            database.write_matches(ids[a], ids[b], found.astype(np.uint32))
    verifier = pycolmap.GeometricVerifierOptions()
    verifier.num_threads = num_threads
    options = verification_options(max_error_px, seed)
    pycolmap.geometric_verification(folder / "database.db", verifier, two_view_geometry_options=options)


def verification_options(max_error_px: float, seed: int) -> pycolmap.TwoViewGeometryOptions:
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.max_error = max_error_px
    verification.ransac.random_seed = seed
    # further trials follow where few matches are inliers; with the usual 100 trials, the same inliers take 1.5 times as long
    verification.ransac.min_num_trials = _MIN_TRIALS
    verification.ransac.min_inlier_ratio = _SOUGHT_INLIER_RATIO
    verification.min_inlier_ratio = _MIN_INLIER_RATIO
    verification.detect_watermark = False  # an object that moves along the image border would be mistaken for one
    return verification


def read_keypoints(folder: Path, crop: Crop) -> dict[str, np.ndarray]:
    """Read the keypoints (K, 2) of every frame, in pixels of the full image."""
    with open_database(folder) as database:
        names = {image.image_id: image.name.removesuffix(".png") for image in database.read_all_images()}
        return {name: crop.from_colmap(np.asarray(database.read_keypoints(i))[:, :2].astype(float)) for i, name in names.items()}


def read_features(folder: Path, crop: Crop) -> Features:
    """Read keypoints and geometrically verified matches of every frame."""
    keypoints = read_keypoints(folder, crop)
    with open_database(folder) as database:
        names = {image.image_id: image.name.removesuffix(".png") for image in database.read_all_images()}
        matches: dict[str, dict[str, np.ndarray]] = {name: {} for name in names.values()}
        for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True):
            a, b = (names[i] for i in pycolmap.pair_id_to_image_pair(pair_id))
            found = np.asarray(geometry.inlier_matches, np.int32).reshape(-1, 2)
            if len(found):
                matches[a][b], matches[b][a] = found, found[:, ::-1]
    return Features(keypoints, matches)


def color_points(reconstruction: pycolmap.Reconstruction, folder: Path, crop: Crop, num_threads: int = 1) -> None:
    """Set point colors to the mean over observations; COLMAP's own function expects images of the canvas' size."""
    ids = np.array(sorted(reconstruction.points3D), int)
    total, count = np.zeros((len(ids), 3)), np.zeros(len(ids), int)

    def colors(image: pycolmap.Image) -> tuple[np.ndarray, np.ndarray]:
        """Of an image's observed points: their indices (M,), and colors (M, 3) RGB."""
        observed = [(p.point3D_id, *p.xy) for p in image.points2D if p.has_point3D()]
        id_xy = np.array(observed, float).reshape(-1, 3)
        bgr = read_crop(folder, image.name.removesuffix(".png"), cv2.IMREAD_COLOR)
        at = crop.to_window(crop.from_colmap(id_xy[:, 1:])).astype(np.float32)
        sampled = np.zeros((len(at), 3))
        for part in (slice(i, i + 4096) for i in range(0, len(at), 4096)):  # OpenCV accepts at most 32767 rows
            x, y = at[part, None, 0], at[part, None, 1]
            sampled[part] = cv2.remap(bgr, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0, ::-1]
        return np.searchsorted(ids, id_xy[:, 0].astype(int)), sampled

    images = [reconstruction.image(i) for i in reconstruction.reg_image_ids()]
    for index, rgb in in_order(colors, images, num_threads, ahead=num_threads):
        np.add.at(total, index, rgb)
        np.add.at(count, index, 1)
    for point, rgb in zip(ids.tolist(), np.round(total / np.maximum(count, 1)[:, None]).astype(np.uint8), strict=True):
        reconstruction.point3D(point).color = rgb


def read_model(reconstruction: pycolmap.Reconstruction, crop: Crop, number: int, path: Path) -> Model:
    """Convert a pycolmap reconstruction to arrays."""
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
