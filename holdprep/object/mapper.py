"""Incremental mapping in the order of time: COLMAP's mapper, told which frame comes next and which of a plane's two poses continues the motion.

COLMAP takes the frame that sees most points next, whatever its time, and keeps the pose that a random sample liked best. In a video the
next frame is the neighbour of one that is known, and its pose is near that one's: where one face shows, this tells a pose from its
mirror image before the wrong one has drawn others after it.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pycolmap
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object.colmap import Crop, Model, open_database, read_model
from holdprep.object.diagnosis import FOCAL_RATIOS, MIN_MATCHES, START_ANGLE_DEG, START_MATCHES, Start
from holdprep.object.views import to_matrix, turn_cost, views

_START_ANGLES_DEG = (16.0, START_ANGLE_DEG)  # of triangulation between the first two frames, the wanted one first
_APART_FRAMES = 0.06  # of all: mappings that begin closer to one another than this fail alike
_GROWTH = 1.2  # all is adjusted each time that the model has grown by this factor
_KNOWS_FOCAL = 5  # frames; fewer do not determine a focal length
_MIN_ANGLE_DEG = 3.0  # points seen under smaller angles have depths that agree with any motion
_TRIALS = 3
_ENOUGH = 0.3  # of the frames: a model with fewer came from a bad start


def map_in_time(
    folder: Path, crop: Crop, names: Sequence[str], keys: Sequence[str], number: int, num_mappings: int, seed: int, *, refine_focal: bool
) -> tuple[list[Model], list[Start]]:
    """The models of mapping `number` of `num_mappings`, which take turns at the pairs of frames to begin from; it goes on while its models
    stay small.

    `names` is the order of time, `keys` those that are mapped. Of `folder` the database is read, models are written to sparse_<number>. Most
    frames first, each with points; empty where no pair can be begun from. Beside them what became of every pair that it began from.
    Single-threaded, so that the same seed gives the same models.
    """
    mapping = _Mapping(folder, names, keys, seed, refine_focal)
    models: list[Model] = []
    starts: list[Start] = []
    for i, (a, b) in islice(enumerate(mapping.starts()), number, None, num_mappings):
        reconstruction, start = mapping.run(a, b)
        starts.append(start)
        path = folder / f"sparse_{number}" / str(i)
        path.mkdir(parents=True, exist_ok=True)
        reconstruction.write(path)
        if start.frames:
            models.append(read_model(reconstruction, crop, number, path))
        if start.frames >= _ENOUGH * len(keys):
            break
    return sorted(models, key=lambda model: (-len(model.poses), -model.num_observations)), starts


class _Mapping:
    def __init__(self, folder: Path, names: Sequence[str], keys: Sequence[str], seed: int, refine_focal: bool) -> None:
        self.options = options = pycolmap.IncrementalPipelineOptions()
        options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = seed
        options.num_threads = options.mapper.num_threads = 1
        options.ba_refine_principal_point = False
        options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
        options.ba_refine_extra_params = False  # a lens shows in the whole model only
        options.mapper.init_min_num_inliers = START_MATCHES
        options.mapper.abs_pose_min_num_inliers = MIN_MATCHES
        options.min_focal_length_ratio, options.max_focal_length_ratio = FOCAL_RATIOS
        options.ba_global_max_refinements = 2
        options.mapper.filter_min_tri_angle = options.triangulation.min_angle = _MIN_ANGLE_DEG
        self.refine_focal = refine_focal
        self.at = options.get_mapper()
        with open_database(folder) as database:
            loading = pycolmap.DatabaseCacheOptions()
            loading.min_num_matches, loading.image_names = MIN_MATCHES, {f"{name}.png" for name in keys}
            self.cache = pycolmap.DatabaseCache.create(database, loading)
            geometries = zip(*database.read_two_view_geometries(), strict=True)
        self.geometries = [(*pycolmap.pair_id_to_image_pair(pair), geometry) for pair, geometry in geometries]
        self.mapper = pycolmap.IncrementalMapper(self.cache)
        time = {f"{name}.png": t for t, name in enumerate(names)}
        self.time = {i: time[image.name] for i, image in self.cache.images.items()}
        self.apart = _APART_FRAMES * len(names)

    def starts(self) -> Iterator[tuple[int, int]]:
        """Pairs of images to begin from, those that see more than one plane first, then by matches; apart from one another in time."""
        solid = (pycolmap.TwoViewGeometryConfiguration.CALIBRATED, pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED)
        ranked = sorted(
            (geometry.config not in solid, -len(geometry.inlier_matches), a, b)
            for a, b, geometry in self.geometries
            if len(geometry.inlier_matches) >= START_MATCHES and a in self.time and b in self.time
        )
        taken: list[int] = []
        for self.at.init_min_tri_angle in _START_ANGLES_DEG:
            for _, _, a, b in ranked:
                if all(abs(self.time[a] - t) > self.apart for t in taken) and self._between(a, b) is not None:
                    taken.append(self.time[a])
                    yield a, b

    def _between(self, a: int, b: int) -> pycolmap.Rigid3d | None:
        self.mapper.begin_reconstruction(pycolmap.Reconstruction())
        found = self.mapper.estimate_initial_two_view_geometry(self.at, a, b)
        self.mapper.end_reconstruction(True)
        return found

    def run(self, a: int, b: int) -> tuple[pycolmap.Reconstruction, Start]:
        """The model that grows from images a and b, and what became of it."""
        reconstruction = pycolmap.Reconstruction()
        between = self._between(a, b)
        self.mapper.begin_reconstruction(reconstruction)
        most_frames, focal_ratio = 0, 1.0
        if between is None:
            return reconstruction, Start(0, 0, focal_ratio)
        self.mapper.register_initial_image_pair(self.at, a, b, between)
        for first in (a, b):
            self.mapper.triangulate_image(self.options.get_triangulation(), first)
        focal_ratio = self._adjust_all(reconstruction)
        frames, points = reconstruction.num_reg_frames(), reconstruction.num_points3D()
        trials = dict.fromkeys(self.time, 0)
        while (image := self._add_next(reconstruction, trials)) is not None:
            self.mapper.triangulate_image(self.options.get_triangulation(), image)
            self.mapper.iterative_local_refinement(
                self.options.ba_local_max_refinements,
                self.options.ba_local_max_refinement_change,
                self.at,
                self.options.get_local_bundle_adjustment(),
                self.options.get_triangulation(),
                image,
            )
            most_frames = max(most_frames, reconstruction.num_reg_frames())
            if reconstruction.num_reg_frames() >= _GROWTH * frames or reconstruction.num_points3D() >= _GROWTH * points:
                focal_ratio = self._adjust_all(reconstruction)
                frames, points = reconstruction.num_reg_frames(), reconstruction.num_points3D()
        if reconstruction.num_reg_frames():
            focal_ratio = self._adjust_all(reconstruction)
        self.mapper.end_reconstruction(False)
        # frames may outlive the last of their points: nothing supports their poses then
        left = reconstruction.num_reg_frames() if reconstruction.num_points3D() else 0
        return reconstruction, Start(max(most_frames, 2), left, focal_ratio)

    def _adjust_all(self, reconstruction: pycolmap.Reconstruction) -> float:
        """Adjust and filter; returns the focal length by which COLMAP judges the camera, over the longer side of its picture."""
        self.options.ba_refine_focal_length = self.refine_focal and reconstruction.num_reg_frames() >= _KNOWS_FOCAL
        self.mapper.iterative_global_refinement(
            self.options.ba_global_max_refinements,
            self.options.ba_global_max_refinement_change,
            self.at,
            self.options.get_global_bundle_adjustment(),
            self.options.get_triangulation(),
        )
        (camera,) = reconstruction.cameras.values()
        self.mapper.filter_frames(self.at)
        return float(camera.mean_focal_length() / max(camera.width, camera.height))

    def _add_next(self, reconstruction: pycolmap.Reconstruction, trials: dict[int, int]) -> int | None:
        """Register the frame nearest in time to those that are; returns its image, None when no further one can be."""
        known = {self.time[i]: to_matrix(reconstruction.image(i).cam_from_world()) for i in reconstruction.reg_image_ids()}
        if not known:
            return None
        times = np.array(sorted(known))
        seen = {
            i: self.mapper.observation_manager.num_visible_points3D(i)
            for i, t in self.time.items()
            if t not in known and trials[i] < _TRIALS
        }
        todo = [i for i, count in seen.items() if count >= MIN_MATCHES]
        for image in sorted(todo, key=lambda i: (int(np.abs(times - self.time[i]).min()), trials[i], -seen[i])):
            trials[image] += 1
            if self.mapper.register_next_image(self.at, image):
                self._choose(reconstruction, image, known)
                return image
        return None

    def _choose(self, reconstruction: pycolmap.Reconstruction, image_id: int, known: dict[int, np.ndarray]) -> None:
        """Give a newly registered frame the pose that explains its points and continues the motion of the frames `known`."""
        image = reconstruction.image(image_id)
        seen = [(p.xy, reconstruction.point3D(p.point3D_id).xyz) for p in image.points2D if p.has_point3D()]
        px, xyz = (np.array(x) for x in zip(*seen, strict=True))
        gap, expected = continued(known, self.time[image_id])
        found = views([to_matrix(image.cam_from_world()), *expected], px, xyz, reconstruction.camera(image.camera_id))
        R = expected[-1][:3, :3]
        best = min(found, key=lambda view: view.cost + float(turn_cost(rotation_angle_deg(R, view.T_cam_obj[:3, :3]), gap)))
        reconstruction.frame(image.frame_id).set_cam_from_world(image.camera_id, pycolmap.Rigid3d(best.T_cam_obj[:3]))


def continued(known: dict[int, np.ndarray], t: int) -> tuple[int, list[np.ndarray]]:
    """Frames from time `t` to the nearest known one, that one's pose, and what it becomes at `t` if the motion before goes on evenly."""
    nearest, *others = sorted(known, key=lambda s: (abs(s - t), s))
    gap, expected = abs(nearest - t), [known[nearest]]
    before = [s for s in others if (s - t) * (nearest - t) > 0 and abs(s - nearest) <= 2 * gap]
    if before:
        share = (t - nearest) / (nearest - before[0])
        a, b = known[before[0]], known[nearest]
        turn = Rotation.from_matrix(b[:3, :3] @ a[:3, :3].T).as_rotvec()
        expected.append(from_rt(Rotation.from_rotvec(share * turn).as_matrix() @ b[:3, :3], b[:3, 3] + share * (b[:3, 3] - a[:3, 3])))
    return gap, expected
