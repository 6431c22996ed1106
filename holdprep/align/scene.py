"""The unknowns of modes h and ho (scene), and the constants of their estimation (setup)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from holdprep.align.grasp import Grasps
from holdprep.align.layout import FOCAL, SCALE, Layout
from holdprep.align.problem import Problem, contact_frames
from holdprep.align.surface import Surface
from holdprep.align.trajectory import Information, Trajectory, information
from holdprep.hand.lbs import HandPoints, HandState, tip_patches
from holdprep.hand.model import Side
from holdprep.hand.separation import finger_radii

PATCH_SIZE = 10  # vertices around each fingertip


@dataclass(frozen=True)
class Scene:
    """The unknowns: hands, logarithm of the object's scale, its trajectory, and the anchors (S, 3) m.

    An anchor is the position on the object of a static hand's centroid.
    """

    hands: dict[Side, HandState]
    log_scale: Tensor
    trajectory: Trajectory
    anchors_m: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.float64))

    @property
    def scale(self) -> Tensor:
        """Metres per unit of SfM."""
        return self.log_scale.exp()

    def stepped(self, layout: Layout, sfm_unit: Tensor, own: Mapping[Side, Tensor], shared: Tensor) -> "Scene":
        """The scene after steps (T, n) of each hand's unknowns, the object's pose last where it is free, and of the shared unknowns."""
        hands, trajectory = dict(self.hands), self.trajectory
        for side, delta in own.items():
            rotations = torch.zeros(len(delta), 16, 3, dtype=torch.float64)
            if layout.bones:
                rotations = rotations.index_copy(1, torch.tensor(layout.bones), delta[:, 3 : layout.hand_size].unflatten(1, (-1, 3)))
            betas = layout.betas(side)
            more = torch.zeros(10, dtype=torch.float64) if betas is None else shared[betas]
            hands[side] = hands[side].step(delta[:, :3], rotations, more)
        if layout.object_free:
            moved = next(iter(own.values()))[:, layout.hand_size :] * sfm_unit
            trajectory = trajectory.moved(moved[:, :3], moved[:, 3:])
        if layout.focal_free:
            trajectory = trajectory.with_focal(shared[FOCAL])
        log_scale = self.log_scale + shared[SCALE] if layout.with_object else self.log_scale
        return Scene(hands, log_scale, trajectory, self.anchors_m + shared[layout.at_anchors].reshape(-1, 3))


@dataclass(frozen=True)
class Setup:
    """Constants of a mode, input of its terms. Without a `surface` the object is not used (mode h).

    `registered` are the registered hands, `log_scale` and `scale_stderr_ratio` the scale of mode o, `static_grasp_id` (T,) the anchor of a
    static hand in each frame, -1 for none, `drift_m` the standard deviation of its centroid on the object, `known` the information of
    SfM's observations on the poses where these are free, `touching` (T, 1) the weights of contact, `sfm_unit` (6,) the unit of a step
    of the object's pose: rad, and metres under mode o's scale; `finger_radii_m` (5,) of each hand.
    """

    problem: Problem
    registered: Mapping[Side, HandState]
    surface: Surface | None
    log_scale: float
    scale_stderr_ratio: float
    points: Mapping[Side, HandPoints]
    skin: Mapping[Side, HandPoints]
    static_grasp_id: Mapping[Side, Tensor]
    drift_m: Mapping[Side, float]
    known: Information | None
    touching: Mapping[Side, Tensor]
    sfm_unit: Tensor
    finger_radii_m: Mapping[Side, Tensor]

    @staticmethod
    def of(
        problem: Problem,
        registered: Mapping[Side, HandState],
        surface: Surface | None = None,
        log_scale: float = 0.0,
        scale_stderr_ratio: float = 1.0,
        grasps: Mapping[Side, Grasps] | None = None,
        observation_width_px: float | None = None,
    ) -> "Setup":
        """The setup of a mode; `observation_width_px`, SfM's Geman-McClure width, is given where the object's poses are free."""
        models, grasps = {side: hand.model for side, hand in problem.hands.items()}, grasps or {}
        static = {side: torch.full((problem.num_frames,), -1) for side in grasps}
        stretches = [(side, frames) for side, grasp in grasps.items() for frames, _ in grasp.stretches]
        for number, (side, frames) in enumerate(stretches):
            static[side][torch.from_numpy(frames)] = number
        return Setup(
            problem,
            registered,
            surface,
            log_scale,
            scale_stderr_ratio,
            {side: HandPoints.of(model, tip_patches(model, PATCH_SIZE).flatten()) for side, model in models.items()},
            {side: HandPoints.of(model, torch.arange(778)) for side, model in models.items()},
            static,
            {side: grasp.drift_m for side, grasp in grasps.items()},
            None if observation_width_px is None else information(problem, observation_width_px),
            {side: contact_frames(problem, side).double()[:, None] for side in problem.hands},
            torch.tensor([1.0] * 3 + [float(np.exp(-log_scale))] * 3, dtype=torch.float64),
            {side: finger_radii(model, registered[side].betas) for side, model in models.items()},
        )


def anchors_of(grasps: Mapping[Side, Grasps]) -> Tensor:
    """(S, 3) m, anchors of all hands' static stretches, in the order of `Setup.static_grasp_id`."""
    positions = [position for grasp in grasps.values() for _, position in grasp.stretches]
    return torch.from_numpy(np.array(positions, dtype=np.float64).reshape(-1, 3))
