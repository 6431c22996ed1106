"""Incremental mapping in temporal order, which resolves the planar pose ambiguity by continuity of motion.

COLMAP registers the frame that sees most points next, regardless of its time, and keeps the pose that RANSAC prefers. In
a video the next frame should be a temporal neighbour of a registered one, with a similar pose. Where one face is visible,
this rejects the flipped pose before further frames are registered against it.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pycolmap
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt, rotation_angle_deg
from holdprep.object.colmap import Model, open_database, read_model
from holdprep.object.diagnosis import FOCAL_RATIOS, INITIAL_ANGLE_DEG, INITIAL_MATCHES, MIN_MATCHES, MappingRun
from holdprep.object.focal import FocalHold
from holdprep.object.single_view import PoseHypothesis, pose_hypotheses, rotation_cost, to_matrix
from holdprep.object.workspace import Workspace

_INITIAL_ANGLES_DEG = (16.0, INITIAL_ANGLE_DEG)  # triangulation angle of the initial pair, the preferred one first
_INITIAL_SEPARATION = 0.06  # share of the frames between initial pairs: pairs closer in time tend to fail alike
_GROWTH = 1.2  # global bundle adjustment each time the model has grown by this factor
# Relative decrease of the cost at which an adjustment ends. With none, as in COLMAP, mapping takes a third longer and is as accurate.
_GLOBAL_TOLERANCE, _LOCAL_TOLERANCE = 1e-5, 1e-4
_MIN_TRIANGULATION_DEG = 3.0  # the depth of points with smaller angles is unconstrained
_MAX_TRIALS = 3  # of registering a frame
_SUFFICIENT_SHARE = 0.3  # of the keyframes; a smaller model had a bad initial pair


def map_in_temporal_order(
    workspace: Workspace,
    num_mappings: int,
    seed: int,
    number: int,
) -> tuple[list[Model], list[MappingRun]]:
    """Run mapping `number` of `num_mappings` over `workspace.keys`; the mappings share the initial pairs between them.

    Further initial pairs are tried while the models stay small. Returns the models, largest first, each with points (none
    if there is no initial pair), and how mapping ended for every initial pair. Models are written to sparse_<number>.
    Single-threaded, so that the same seed gives the same models.
    """
    mapping = _Mapping(workspace, seed + number)
    models: list[Model] = []
    runs: list[MappingRun] = []
    for i, (a, b) in islice(enumerate(mapping.initial_pairs()), number, None, num_mappings):
        reconstruction, run = mapping.reconstruct(a, b)
        runs.append(run)
        path = workspace.folder / f"sparse_{number}" / str(i)
        path.mkdir(parents=True, exist_ok=True)
        reconstruction.write(path)
        if run.frames:
            models.append(read_model(reconstruction, workspace.crop, number, path))
        if run.frames >= _SUFFICIENT_SHARE * len(workspace.keys):
            break
    return sorted(models, key=lambda model: (-len(model.poses), -model.num_observations)), runs


class _Mapping:
    """COLMAP's incremental mapper on the database of a workspace, restricted to its keyframes."""

    def __init__(self, workspace: Workspace, seed: int) -> None:
        self.options = options = pycolmap.IncrementalPipelineOptions()
        options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = seed
        options.num_threads = options.mapper.num_threads = 1
        options.ba_refine_principal_point = False
        options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = False
        options.ba_refine_extra_params = False  # radial distortion is only constrained by the complete model
        options.mapper.init_min_num_inliers = INITIAL_MATCHES
        options.mapper.abs_pose_min_num_inliers = MIN_MATCHES
        options.min_focal_length_ratio, options.max_focal_length_ratio = FOCAL_RATIOS
        options.ba_global_max_refinements = 2
        options.ba_global_function_tolerance, options.ba_local_function_tolerance = _GLOBAL_TOLERANCE, _LOCAL_TOLERANCE
        options.mapper.filter_min_tri_angle = options.triangulation.min_angle = _MIN_TRIANGULATION_DEG
        self.refine_focal, self.focal_prior = workspace.refine_focal, float(workspace.K[0, 0]) * workspace.crop.upsample
        self.mapper_options = options.get_mapper()
        with open_database(workspace.folder) as database:
            cache_options = pycolmap.DatabaseCacheOptions()
            cache_options.min_num_matches = MIN_MATCHES
            cache_options.image_names = {f"{name}.png" for name in workspace.keys}
            self.cache = pycolmap.DatabaseCache.create(database, cache_options)
            geometries = zip(*database.read_two_view_geometries(), strict=True)
        self.geometries = [(*pycolmap.pair_id_to_image_pair(pair), geometry) for pair, geometry in geometries]
        self.mapper = pycolmap.IncrementalMapper(self.cache)
        time = {f"{name}.png": t for t, name in enumerate(workspace.names)}
        self.time = {i: time[image.name] for i, image in self.cache.images.items()}
        self.min_separation = _INITIAL_SEPARATION * len(workspace.names)

    def initial_pairs(self) -> Iterator[tuple[int, int]]:
        """Pairs of image ids to initialise from, non-planar geometries first, then by matches; separated in time.

        Sets the mapper's minimal triangulation angle to the one that the pair fulfils.
        """
        non_planar = (pycolmap.TwoViewGeometryConfiguration.CALIBRATED, pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED)
        ranked = sorted(
            (geometry.config not in non_planar, -len(geometry.inlier_matches), a, b)
            for a, b, geometry in self.geometries
            if len(geometry.inlier_matches) >= INITIAL_MATCHES and a in self.time and b in self.time
        )
        used: list[int] = []
        for angle_deg in _INITIAL_ANGLES_DEG:
            self.mapper_options.init_min_tri_angle = angle_deg
            for _, _, a, b in ranked:
                separated = all(abs(self.time[a] - t) > self.min_separation for t in used)
                if separated and self._estimate_two_view(a, b) is not None:
                    used.append(self.time[a])
                    yield a, b

    def _estimate_two_view(self, a: int, b: int) -> pycolmap.Rigid3d | None:
        """Relative pose of an initial pair, None if it has too few inliers or too small an angle."""
        self.mapper.begin_reconstruction(pycolmap.Reconstruction())
        relative = self.mapper.estimate_initial_two_view_geometry(self.mapper_options, a, b)
        self.mapper.end_reconstruction(True)
        return relative

    def reconstruct(self, a: int, b: int) -> tuple[pycolmap.Reconstruction, MappingRun]:
        """Grow a model from the initial pair of images a and b."""
        reconstruction = pycolmap.Reconstruction()
        relative = self._estimate_two_view(a, b)
        self.mapper.begin_reconstruction(reconstruction)
        max_frames, focal_ratio, hold = 0, 1.0, FocalHold(self.focal_prior, self.refine_focal)
        if relative is None:
            return reconstruction, MappingRun(0, 0, focal_ratio)
        self.mapper.register_initial_image_pair(self.mapper_options, a, b, relative)
        for image in (a, b):
            self.mapper.triangulate_image(self.options.get_triangulation(), image)
        focal_ratio = self._refine_globally(reconstruction, hold)
        frames, points = reconstruction.num_reg_frames(), reconstruction.num_points3D()
        trials = dict.fromkeys(self.time, 0)
        while (next_image := self._register_next(reconstruction, trials)) is not None:
            self.mapper.triangulate_image(self.options.get_triangulation(), next_image)
            self.mapper.iterative_local_refinement(
                self.options.ba_local_max_refinements,
                self.options.ba_local_max_refinement_change,
                self.mapper_options,
                self.options.get_local_bundle_adjustment(),
                self.options.get_triangulation(),
                next_image,
            )
            max_frames = max(max_frames, reconstruction.num_reg_frames())
            if reconstruction.num_reg_frames() >= _GROWTH * frames or reconstruction.num_points3D() >= _GROWTH * points:
                focal_ratio = self._refine_globally(reconstruction, hold)
                frames, points = reconstruction.num_reg_frames(), reconstruction.num_points3D()
        if reconstruction.num_reg_frames():
            focal_ratio = self._refine_globally(reconstruction, hold)
        self.mapper.end_reconstruction(False)
        # frames can stay registered after all their points were filtered: nothing supports their poses then
        final = reconstruction.num_reg_frames() if reconstruction.num_points3D() else 0
        return reconstruction, MappingRun(max(max_frames, 2), final, focal_ratio)

    def _refine_globally(self, reconstruction: pycolmap.Reconstruction, hold: FocalHold) -> float:
        """Global bundle adjustment and filtering; returns focal length / longer image side, which COLMAP limits."""
        self._adjust(reconstruction, hold.is_free)
        if hold.update(reconstruction):
            self._adjust(reconstruction, hold.is_free)
        (camera,) = reconstruction.cameras.values()
        self.mapper.filter_frames(self.mapper_options)
        return float(camera.mean_focal_length() / max(camera.width, camera.height))

    def _adjust(self, reconstruction: pycolmap.Reconstruction, is_focal_free: bool) -> None:
        self.options.ba_refine_focal_length = is_focal_free
        self.mapper.iterative_global_refinement(
            self.options.ba_global_max_refinements,
            self.options.ba_global_max_refinement_change,
            self.mapper_options,
            self.options.get_global_bundle_adjustment(),
            self.options.get_triangulation(),
        )

    def _register_next(self, reconstruction: pycolmap.Reconstruction, trials: dict[int, int]) -> int | None:
        """Register the frame nearest in time to the registered ones; returns its image id, None if none can be registered."""
        known = {self.time[i]: to_matrix(reconstruction.image(i).cam_from_world()) for i in reconstruction.reg_image_ids()}
        if not known:
            return None
        times = np.array(sorted(known))
        visible = {
            i: self.mapper.observation_manager.num_visible_points3D(i)
            for i, t in self.time.items()
            if t not in known and trials[i] < _MAX_TRIALS
        }
        candidates = [i for i, count in visible.items() if count >= MIN_MATCHES]
        for image in sorted(candidates, key=lambda i: (int(np.abs(times - self.time[i]).min()), trials[i], -visible[i])):
            trials[image] += 1
            if self.mapper.register_next_image(self.mapper_options, image):
                self._select_pose(reconstruction, image, known)
                return image
        return None

    def _select_pose(self, reconstruction: pycolmap.Reconstruction, image_id: int, known: dict[int, np.ndarray]) -> None:
        """Set a newly registered image to the pose hypothesis of least cost, given the `known` poses (4, 4) by time."""
        image = reconstruction.image(image_id)
        observed = [(p.xy, reconstruction.point3D(p.point3D_id).xyz) for p in image.points2D if p.has_point3D()]
        px, xyz = (np.array(x) for x in zip(*observed, strict=True))
        gap, priors = predict_pose(known, self.time[image_id])
        initial = [to_matrix(image.cam_from_world()), *priors]
        hypotheses = pose_hypotheses(initial, px, xyz, reconstruction.camera(image.camera_id))
        R = priors[-1][:3, :3]

        def cost(hypothesis: PoseHypothesis) -> float:
            return hypothesis.cost + float(rotation_cost(rotation_angle_deg(R, hypothesis.T_cam_obj[:3, :3]), gap))

        best = min(hypotheses, key=cost)
        reconstruction.frame(image.frame_id).set_cam_from_world(image.camera_id, pycolmap.Rigid3d(best.T_cam_obj[:3]))


def predict_pose(known: dict[int, np.ndarray], t: int) -> tuple[int, list[np.ndarray]]:
    """Prior poses (4, 4) at time `t`: the nearest known one and its extrapolation at constant velocity.

    Returns the gap in frames to the nearest known pose and the priors. There is no extrapolation if no second known pose is
    near enough on the same side.
    """
    nearest, *others = sorted(known, key=lambda s: (abs(s - t), s))
    gap, priors = abs(nearest - t), [known[nearest]]
    before = [s for s in others if (s - t) * (nearest - t) > 0 and abs(s - nearest) <= 2 * gap]
    if before:
        share = (t - nearest) / (nearest - before[0])
        a, b = known[before[0]], known[nearest]
        rotvec = Rotation.from_matrix(b[:3, :3] @ a[:3, :3].T).as_rotvec()
        R = Rotation.from_rotvec(share * rotvec).as_matrix() @ b[:3, :3]
        priors.append(from_rt(R, b[:3, 3] + share * (b[:3, 3] - a[:3, 3])))
    return gap, priors
