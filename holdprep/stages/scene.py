"""The scene of a sequence for viewers and the report: whatever the sequence has, of every stage."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from holdprep.align.problem import MODES, Alignment, Mode
from holdprep.align.state import load_state
from holdprep.align.surface import Surface
from holdprep.errors import HoldprepError, UnsafeFile
from holdprep.geometry.cameras import usual_camera
from holdprep.geometry.isosurface import zero_level
from holdprep.geometry.rigid import from_rt
from holdprep.hand import lbs
from holdprep.hand.hold_params import params_from_dict, read_fits
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.hand.trackers import trackfile
from holdprep.pipeline import Context, records
from holdprep.quality.truth import load_truth
from holdprep.sequence import colmap as colmap_files
from holdprep.stages.common import hand_model
from holdprep.viewers.scene import HandTrack, ObjectTrack, ResultTrack, Scene, SurfaceMesh

STAGES = ("create", "segment", "hand_pose", "object_pose", "resegment", "register", "align.h", "align.o", "align.ho", "build")
Curves = Mapping[str, np.ndarray]


def read_scene(ctx: Context) -> Scene:
    """The scene of a sequence in any state; a result that cannot be read is left out, with a note."""
    seq, notes = ctx.seq, list[str]()
    names = seq.frame_names()
    curves = read_curves(ctx, len(names))
    lens = _tried(notes, "lens", lambda: colmap_files.lens_of(seq))
    masks = {
        e: seq.final_masks(e, lens=lens) for e in seq.entities() if _tried(notes, f"masks of {e}", lambda e=e: len(seq.final_masks(e)))
    }
    models: dict[Side, HandModel] = {side: hand_model(ctx.cfg, side) for side in SIDES}
    reader = _Results(ctx, models, curves, len(names))
    results = []
    for name in ("init", "slerp", *MODES, "truth"):
        found = _tried(notes, name, lambda name=name: reader.read(name))
        if found is not None:
            results.append(found)
    frames = np.arange(len(names))
    return Scene(seq.name, names, frames, len(names), seq.image_size(), seq.images(lens), masks, results, curves, notes)


def read_curves(ctx: Context, frames: int) -> dict[str, np.ndarray]:
    """The curves over frames of the current records, (T,) by `<stage>/<curve>`, NaN where unknown."""
    found: dict[str, np.ndarray] = {}
    for stage in STAGES:
        standing = ctx.standing.get(stage)
        record = standing.record if standing else records.read(ctx.seq, stage) or {}
        found |= curves_of(stage, record, frames)
    return found


def curves_of(stage: str, record: Mapping[str, Any], frames: int) -> dict[str, np.ndarray]:
    """The curves of a stage's record that have one value per frame."""
    values = {name: curve for name, curve in record.get("curves", {}).items() if len(curve) == frames}
    return {
        f"{stage.replace('.', '/')}/{name}": np.array([np.nan if v is None else v for v in curve], float) for name, curve in values.items()
    }


def _tried(notes: list[str], what: str, read: Any) -> Any:
    """What `read` returns; None, and a note, where the files are not in order: the rest is shown in any case."""
    try:
        return read()
    except UnsafeFile:
        raise
    except HoldprepError as error:
        notes.append(f"{what} is not shown: {error}")
        return None


class _Results:
    """Reader of results, each as a ResultTrack or None where the sequence has not got it."""

    def __init__(self, ctx: Context, models: Mapping[Side, HandModel], curves: Curves, frames: int) -> None:
        self.ctx, self.seq, self.models, self.curves, self.frames = ctx, ctx.seq, models, curves, frames
        self.cloud = colmap_files.read_colmap(ctx.seq) if ctx.seq.has("colmap") else None

    def read(self, name: str) -> ResultTrack | None:
        """The result of this name."""
        if name in ("init", "slerp"):
            return self._registered(name)
        return self._truth() if name == "truth" else self._aligned(name)  # type: ignore[arg-type]

    @property
    def K(self) -> np.ndarray:
        """The measured camera, or that of a phone."""
        if self.cloud is not None:
            return self.cloud["intrinsic"]
        return usual_camera(self.seq.image_size())

    def _curve(self, name: str) -> np.ndarray | None:
        return self.curves.get(name)

    def _registered(self, name: str) -> ResultTrack | None:
        artefact = f"fit_{name}"
        if not self.seq.has(artefact):
            return None
        fits = read_fits(self.seq.path(artefact))
        known = fits.get("K", self._camera_of_tracks())
        slerp, hands = self._slerp(), []
        for side in (s for s in SIDES if s in fits):
            hands.append(self._hand(side, params_from_dict(fits[side]), slerp, self._curve(f"register/{side}.error_mm")))
        return ResultTrack(name, np.asarray(known, float), hands)

    def _camera_of_tracks(self) -> np.ndarray:
        if self.seq.has("v3d"):
            return trackfile.read(self.seq.path("v3d").parent, self.seq.frame_names()).K
        return self.K

    def _slerp(self) -> Mapping[str, Any]:
        """The file of registration that marks the valid frames; empty without one."""
        return read_fits(self.seq.path("fit_slerp")) if self.seq.has("fit_slerp") else {}

    def _hand(self, side: Side, params: ManoParams, slerp: Mapping[str, Any], error: np.ndarray | None) -> HandTrack:
        is_valid = np.asarray(slerp.get(side, {}).get("is_valid", np.ones(self.frames))) > 0
        mesh = lbs.forward(self.models[side], params).vertices.numpy().astype(np.float32)
        if len(mesh) != self.frames or len(is_valid) != self.frames:
            raise HoldprepError(f"it has {len(mesh)} frames of the {side} hand, images/ has {self.frames}: run stage=register again")
        confidence = self._curve(f"hand_pose/{side}.confidence")
        confidence = is_valid.astype(float) if confidence is None else confidence
        return HandTrack(side, mesh, self.models[side].faces.numpy(), is_valid, error, confidence)

    def _aligned(self, mode: Mode) -> ResultTrack | None:
        if not self.seq.has(f"ckpt_{mode}") or self.cloud is None:
            return None
        state = load_state(self.seq.path(f"ckpt_{mode}"), self.models)
        K = self.K if bool(state.K.isnan().any()) else state.K.numpy()
        slerp, hands = self._slerp(), []
        for side, params in state.hands.items():
            hands.append(self._hand(side, params, slerp, self._curve(f"align/{mode}/{side}.reprojection_px")))
        if mode == "h":
            return ResultTrack(mode, K, hands, None, "px")
        points = colmap_files.points_sfm(self.cloud)
        surface = Surface.from_tensors(state.surface) if state.surface else _surface(points)
        obj = self._object(state, mode, points, surface)
        if surface is not None:
            hands = [_with_distance(hand, surface, state.obj_scale, obj.T_cam_obj) for hand in hands]
        return ResultTrack(mode, K, hands, obj, "px")

    def _object(self, state: Alignment, mode: Mode, points: np.ndarray, surface: Surface | None) -> ObjectTrack:
        """The aligned object with its cloud (N, 3) in the unit of SfM."""
        assert self.cloud is not None
        cloud, scale, mesh = self.cloud, state.obj_scale, None
        if surface is not None:
            vertices, faces = zero_level(surface.values, surface.origin, surface.step)
            mesh = SurfaceMesh((scale * vertices).astype(np.float32), faces, surface.known(vertices))
        T = from_rt(state.R_cam_obj.numpy(), state.transl_cam_obj_m.numpy())
        inliers = self._curve("object_pose/inliers")
        confidence = None if inliers is None else np.clip(inliers / max(float(np.nanmedian(inliers)), 1.0), 0, 1)
        is_registered = np.asarray(cloud.get("registered", np.ones(self.frames))) > 0
        error = self._curve(f"align/{mode}/object.reprojection_px")
        return ObjectTrack(T, (scale * points).astype(np.float32), is_registered, mesh, error, confidence)

    def _truth(self) -> ResultTrack | None:
        if not self.seq.has("truth"):
            return None
        truth = load_truth(self.seq.path("truth"))
        row = {name: t for t, name in enumerate(truth.names)}
        at = np.array([row.get(name, -1) for name in self.seq.frame_names()])
        if (at < 0).all():
            return None
        hands, obj = [], None
        for side, hand in truth.hands.items():
            if hand.vertices_m is not None:
                vertices = np.where((at >= 0)[:, None, None], hand.vertices_m[at], np.nan).astype(np.float32)
                hands.append(HandTrack(side, vertices, self.models[side].faces.numpy(), at >= 0))
        if truth.T_cam_obj is not None and truth.object_vertices_m is not None and truth.object_faces is not None:
            T = np.where((at >= 0)[:, None, None], truth.T_cam_obj[at], np.eye(4))
            vertices, faces = truth.object_vertices_m.astype(np.float32), truth.object_faces
            surface = SurfaceMesh(vertices, faces, np.ones(len(vertices), bool))
            obj = ObjectTrack(T, vertices, (at >= 0) & np.isfinite(T).all(axis=(1, 2)), surface)
        return ResultTrack("truth", truth.K, hands, obj)


def _surface(points: np.ndarray) -> Surface | None:
    """The surface of a cloud (N, 3), for states that hold none (HOLD's own); None where the cloud has no volume."""
    try:
        return Surface.of(points, points - np.median(points, axis=0))
    except HoldprepError:
        return None  # the cloud is shown alone; object_pose's gates say what is wrong with it


def _with_distance(hand: HandTrack, surface: Surface, scale: float, T_cam_obj: np.ndarray) -> HandTrack:
    """The hand with its vertices' distances to the surface."""
    local = (hand.vertices_m - T_cam_obj[:, None, :3, 3]) @ T_cam_obj[:, :3, :3] / scale
    return replace(hand, distance_m=(scale * surface.distance(local)).astype(np.float32))
