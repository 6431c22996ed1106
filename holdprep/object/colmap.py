"""The one place that speaks to COLMAP: crops and masks in, features, matches and sparse models out.

Pixels: COLMAP puts the centre of the first pixel at 0.5, the arrays of this project at 0. `Crop` converts between the two.
Only SIFT is ever asked for: pycolmap from the registry has no ONNX runtime and aborts the whole process on learned features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from holdprep.errors import HoldprepError
from holdprep.geometry.rigid import from_rt

_CAMERA_PARAMS = {"SIMPLE_PINHOLE": 0, "SIMPLE_RADIAL": 1}  # how many distortion coefficients follow f, cx, cy

# On a rendered can, features on its outline (which wanders over a round body as it turns) and slightly wrong matches bent the focal
# length by 1.7 %: without them, under a loss narrower than the features' noise, it is right within 0.5 %.
_RIM = 0.04  # width of the band inside the mask's border whose features do not count, as a share of the root of its area
_RIM_LEAVES = 30  # features; a frame that would keep fewer keeps all
_LOSS_PX = (1.0, 0.3)  # width of the robust loss, in pixels of the enlarged crop, for each round of adjustment
_FAR_OFF_PX = 4.0  # of the enlarged crop
_MIN_ANGLE_DEG = 1.5


@dataclass(frozen=True)
class Crop:
    """The window of the full image that every frame shares, in whole pixels, and how much it is enlarged."""

    x0: int
    y0: int
    x1: int
    y1: int
    upsample: float

    @classmethod
    def around(cls, masks: Sequence[np.ndarray], upsample: float, margin_px: int = 8) -> "Crop":
        """The common box of all masks (T of (H, W) bool) plus a margin; one crop keeps one camera and one principal point."""
        union = np.any(np.stack(masks), axis=0)
        ys, xs = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
        h, w = union.shape
        return cls(
            max(int(xs[0]) - margin_px, 0),
            max(int(ys[0]) - margin_px, 0),
            min(int(xs[-1]) + margin_px + 1, w),
            min(int(ys[-1]) + margin_px + 1, h),
            upsample,
        )

    def cut(self, image: np.ndarray, interpolation: int) -> np.ndarray:
        window = image[self.y0 : self.y1, self.x0 : self.x1]
        return cv2.resize(window, None, fx=self.upsample, fy=self.upsample, interpolation=interpolation)

    def to_colmap(self, pixels: np.ndarray) -> np.ndarray:
        """COLMAP's crop coordinates of full-image pixels (..., 2)."""
        return (np.asarray(pixels) - (self.x0, self.y0) + 0.5) * self.upsample

    def from_colmap(self, pixels: np.ndarray) -> np.ndarray:
        """Full-image pixels (..., 2) of COLMAP's crop coordinates."""
        return np.asarray(pixels) / self.upsample - 0.5 + (self.x0, self.y0)


@dataclass(frozen=True)
class Model:
    """One sparse model in COLMAP's units, pixels already those of the full image; `number` is the mapping's."""

    number: int
    focal_px: float
    distortion: np.ndarray  # (0,) or (1,): SIMPLE_RADIAL's k
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


def write_crops(folder: Path, crop: Crop, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """`folder`/images/NAME.png and `folder`/masks/NAME.png.png, as COLMAP pairs them."""
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for image, mask, name in zip(images, masks, names, strict=True):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), crop.cut(image, cv2.INTER_CUBIC))
        cv2.imwrite(str(folder / "masks" / f"{name}.png.png"), crop.cut(mask.astype(np.uint8) * 255, cv2.INTER_NEAREST))


def read_crop(folder: Path, name: str) -> np.ndarray:
    """The enlarged crop of a frame, BGR."""
    return np.asarray(cv2.imread(str(folder / "images" / f"{name}.png")))


def extract_features(
    folder: Path,
    crop: Crop,
    shape: tuple[int, int],
    focal_px: float,
    camera_model: str,
    max_features: int,
    peak_threshold: float,
    num_threads: int,
) -> None:
    """SIFT of every crop into `folder`/database.db, all frames sharing one camera whose principal point is the full image's centre."""
    if camera_model not in _CAMERA_PARAMS:
        raise HoldprepError(f"camera model {camera_model} is not supported: use one of {', '.join(_CAMERA_PARAMS)}")
    h, w = shape
    cx, cy = crop.to_colmap(np.array([(w - 1) / 2, (h - 1) / 2]))
    reader = pycolmap.ImageReaderOptions()
    reader.mask_path = folder / "masks"
    reader.camera_model = camera_model
    reader.camera_params = ",".join(map(repr, [focal_px * crop.upsample, float(cx), float(cy)] + [0.0] * _CAMERA_PARAMS[camera_model]))
    options = pycolmap.FeatureExtractionOptions()
    options.type = pycolmap.FeatureExtractorType.SIFT
    options.use_gpu = False
    options.num_threads = num_threads
    options.sift.max_num_features = max_features
    options.sift.peak_threshold = peak_threshold
    options.sift.first_octave = 0  # the crop is enlarged already
    mode = pycolmap.CameraMode.SINGLE
    pycolmap.extract_features(
        folder / "database.db", folder / "images", camera_mode=mode, reader_options=reader, extraction_options=options
    )


def match(folder: Path, pairs: Sequence[tuple[str, str]], max_error_px: float, seed: int, num_threads: int) -> None:
    """Match and verify the given pairs of frame names; `max_error_px` is in pixels of the enlarged crop."""
    listing = folder / "pairs.txt"
    listing.write_text("".join(f"{a}.png {b}.png\n" for a, b in pairs))
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = listing
    options = pycolmap.FeatureMatchingOptions()
    options.type = pycolmap.FeatureMatcherType.SIFT_BRUTEFORCE
    options.use_gpu = False
    options.num_threads = num_threads
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.max_error = max_error_px
    verification.ransac.random_seed = seed
    pycolmap.match_image_pairs(folder / "database.db", options, pairing, verification)


def read_features(folder: Path, crop: Crop) -> Features:
    """Keypoints and geometrically verified matches of every frame."""
    with pycolmap.Database.open(folder / "database.db") as database:
        names = {image.image_id: image.name.removesuffix(".png") for image in database.read_all_images()}
        keypoints = {name: crop.from_colmap(np.asarray(database.read_keypoints(i))[:, :2].astype(float)) for i, name in names.items()}
        matches: dict[str, dict[str, np.ndarray]] = {name: {} for name in names.values()}
        for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True):
            a, b = (names[i] for i in pycolmap.pair_id_to_image_pair(pair_id))
            found = np.asarray(geometry.inlier_matches, int).reshape(-1, 2)
            if len(found):
                matches[a][b], matches[b][a] = found, found[:, ::-1]
    return Features(keypoints, matches)


def descriptors(folder: Path) -> dict[str, np.ndarray]:
    """Frame name -> SIFT descriptors (M, 128) float32."""
    with pycolmap.Database.open(folder / "database.db") as database:
        return {
            image.name.removesuffix(".png"): database.read_descriptors(image.image_id).data.astype(np.float32)
            for image in database.read_all_images()
        }


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


def rebuild(folder: Path, crop: Crop, model: Model, poses: dict[str, np.ndarray], *, refine_focal: bool, last: bool = True) -> Model:
    """The model made anew from given poses (frame name -> T_cam_obj): points triangulated afresh, then bundle adjustment of it all.

    Once and loosely, or, where it is the `last` time, twice and to the end.
    """
    reconstruction = pycolmap.Reconstruction(model.path)
    with pycolmap.Database.open(folder / "database.db") as database:
        stored = {image.name.removesuffix(".png"): image for image in database.read_all_images()}
    for image in list(reconstruction.images.values()):
        name = image.name.removesuffix(".png")
        if name not in poses:
            reconstruction.deregister_frame(image.frame_id)
        else:
            reconstruction.frame(image.frame_id).set_cam_from_world(image.camera_id, pycolmap.Rigid3d(poses[name][:3]))
    present = {image.name.removesuffix(".png") for image in reconstruction.images.values()}
    for name in poses.keys() - present:
        reconstruction.add_image_with_trivial_frame(
            pycolmap.Image(name=f"{name}.png", camera_id=stored[name].camera_id, image_id=stored[name].image_id),
            pycolmap.Rigid3d(poses[name][:3]),
        )
    output = folder / "sparse_rebuilt"
    output.mkdir(exist_ok=True)
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = 1, model.number
    for loss_px in _LOSS_PX if last else _LOSS_PX[:1]:  # the second round triangulates with the adjusted poses
        reconstruction = pycolmap.triangulate_points(reconstruction, folder / "database.db", folder / "images", output, options=options)
        _drop_rim(reconstruction, folder / "masks")
        adjust = pycolmap.BundleAdjustmentOptions()
        adjust.refine_focal_length, adjust.refine_principal_point, adjust.print_summary = refine_focal, False, False
        adjust.ceres.loss_function_type, adjust.ceres.loss_function_scale = pycolmap.LossFunctionType.CAUCHY, loss_px
        adjust.ceres.solver_options.num_threads, adjust.ceres.solver_options.max_num_iterations = 1, 200 if last else 50
        config = pycolmap.BundleAdjustmentConfig()
        for image_id in reconstruction.reg_image_ids():
            config.add_image(image_id)
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        pycolmap.create_default_bundle_adjuster(adjust, config, reconstruction).solve()
        # points seen under almost no angle run off to infinity or behind the camera
        pycolmap.ObservationManager(reconstruction).filter_all_points3D(_FAR_OFF_PX, _MIN_ANGLE_DEG)
        reconstruction.update_point_3d_errors()
    reconstruction.extract_colors_for_all_images(folder / "images")
    reconstruction.write(output)
    return read_model(reconstruction, crop, model.number, output)


def _drop_rim(reconstruction: pycolmap.Reconstruction, masks: Path) -> None:
    """Take out the observations next to the border of each frame's mask, which may be the outline of the object or of a hand."""
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        mask = np.asarray(cv2.imread(str(masks / f"{image.name}.png"), cv2.IMREAD_GRAYSCALE))
        inside_px = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
        rim_px = _RIM * np.sqrt(np.count_nonzero(mask))
        seen = [(i, point.xy) for i, point in enumerate(image.points2D) if point.has_point3D()]
        # COLMAP's pixel centres lie at one half
        rim = [i for i, (x, y) in seen if inside_px[min(int(y), mask.shape[0] - 1), min(int(x), mask.shape[1] - 1)] < rim_px]
        if len(seen) - len(rim) >= _RIM_LEAVES:
            for i in rim:
                # an earlier one may have taken its whole point along
                if image.points2D[i].has_point3D():
                    reconstruction.delete_observation(image_id, i)
