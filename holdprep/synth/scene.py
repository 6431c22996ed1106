"""A complete synthetic sequence: object, hands, motion, camera, and ground truth."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from holdprep.geometry.cameras import usual_camera
from holdprep.hand import lbs
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side, load_hand_model
from holdprep.quality.truth import GroundTruth, HandTruth
from holdprep.synth import film
from holdprep.synth.motion import Grasp, Showing, make_motion, moved
from holdprep.synth.objects import make_object

SHAPE_STD = 0.7  # standard deviation of betas
TOUCH_MM = 3.0  # maximal distance of a fingertip in contact


@dataclass(frozen=True)
class Filming:
    """How a scene is filmed: `size` (width, height) in px, the object turned by `degrees` at `depth_m`; see `film.Camera` for the rest.

    `place` is where in the picture: (0, 0) is the centre, (1, 1) the lower right corner.
    """

    size: tuple[int, int] = (640, 480)
    focal_px: float | None = None
    degrees: float = 200.0
    depth_m: float = 0.35
    place: tuple[float, float] = (0.0, 0.0)
    distortion: float = 0.0
    shake_deg: float = 0.0
    blur: float = 0.0
    noise: float = 2.0

    @property
    def shift_m(self) -> tuple[float, float]:
        """Right and down, at `depth_m`."""
        across, down = (share * side / 2 for share, side in zip(self.place, self.size, strict=True))
        return across * self.depth_m / self.camera.K[0, 0], down * self.depth_m / self.camera.K[1, 1]

    @property
    def camera(self) -> film.Camera:
        """What it is filmed with."""
        K = usual_camera(self.size, self.focal_px)
        return film.Camera(K, self.size, self.distortion, self.shake_deg, self.blur, self.noise)


PLAIN = Filming()


def make_scene(
    object_name: str,
    grasp: Grasp,
    sides: tuple[Side, ...],
    frames: int,
    *,
    filming: Filming = PLAIN,
    seed: int = 0,
    hands: Mapping[Side, HandModel] | None = None,
) -> tuple[GroundTruth, Iterator[film.Shot]]:
    """The truth, with frames named 0000, 0001, ..., and the video, which is rendered on reading.

    Both hands have the same shape. `hands` are rendered instead of the stand-in: any mesh whose fingertips and wrist ring have MANO's
    vertex numbers; the truth then has joints only. Raises HoldprepError without OpenGL, when the first frame is read.
    """
    rng = np.random.default_rng(seed)
    models = {side: hands[side] if hands else load_hand_model(side, dtype=torch.float64) for side in SIDES if side in sides}
    obj = make_object(object_name)
    betas = torch.from_numpy(SHAPE_STD * rng.standard_normal(10))
    showing = Showing(grasp, frames, filming.degrees, filming.depth_m, filming.shift_m)
    motion = make_motion(obj, models, showing, seed=seed, betas=betas)
    camera = filming.camera
    T_shaken = film.shake(frames, filming.shake_deg, seed)
    hands_m = {side: lbs.forward(models[side], params).vertices.numpy() for side, params in motion.params.items()}
    actors = film.Actors(motion.T_cam_obj, obj.vertices_m, obj.faces, obj.uv, obj.texture, hands_m, models)
    truth = GroundTruth(
        names=[f"{t:04d}" for t in range(frames)],
        image_size=filming.size,
        K=camera.K,
        distortion=filming.distortion,
        T_cam_obj=T_shaken @ motion.T_cam_obj,
        object_vertices_m=obj.vertices_m,
        object_faces=obj.faces,
        hands={
            side: _hand(models[side], moved(models[side], params, T_shaken), is_model=not hands) for side, params in motion.params.items()
        },
        grasp=grasp,
        segments=motion.segments,
        contact=np.max([gap < TOUCH_MM for gap in motion.contact_gap_mm.values()], axis=0),
    )
    return truth, film.shoot(actors, camera, seed)


def _hand(model: HandModel, params: ManoParams, is_model: bool) -> HandTruth:
    """The hand's joints, and parameters and vertices if it is the hand model used for fitting."""
    mesh = lbs.forward(model, params)
    return HandTruth(params, mesh.vertices.numpy(), mesh.joints.numpy()) if is_model else HandTruth(joints_m=mesh.joints.numpy())
