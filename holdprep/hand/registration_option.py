"""registration=lm, adam and direct: the ways to register a tracked hand with the hand model, and the Protocol that they follow."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pydantic import Field

from holdprep.errors import HoldprepError
from holdprep.node import Node, Positive, Weight

if TYPE_CHECKING:
    from holdprep.hand.model import HandModel, ManoParams
    from holdprep.hand.outline import Outlines
    from holdprep.hand.registration import Registration as Fit
    from holdprep.hand.targets import Targets
    from holdprep.hand.trackers.tracks import VertexTrack
    from holdprep.optimisation import Training


@dataclass(frozen=True)
class HandToRegister:
    """One hand of `track` (read from `source`) with its targets, and the logging of iterations.

    `targets` are under the camera that the method requires; `outlines` are those of the hand's masks, if any; `length_mm` is the measured
    length from wrist to middle fingertip; `training` runs and logs optimisations.
    """

    model: "HandModel"
    track: "VertexTrack"
    source: Path
    targets: "Targets"
    outlines: "Outlines | None"
    length_mm: float | None
    training: "Training"

    @property
    def prefix(self) -> str:
        """Prefix of logged losses."""
        return f"register/{self.model.side}"


@runtime_checkable
class RegistrationMethod(Protocol):
    """An option of `registration`, as stage register uses it."""

    @property
    def uses_measured_camera(self) -> bool:
        """Whether the hand is fitted under the camera of object_pose where it is available, not under the tracker's own."""

    def fit(self, hand: HandToRegister) -> "tuple[Fit, ManoParams | None]":
        """The fit, and the parameters after a coarse part where the method has one."""


class Registration(Node):
    """Base of the nodes of `registration`: by default the tracker's camera and hand size are kept."""

    outlier_z: Positive = Field(description="robust z-score above which a fitted frame counts as an outlier and is infilled")
    save_mesh: bool = Field(description="write processed/mesh_fit_vis/*.ply")

    @property
    def uses_measured_camera(self) -> bool:
        return False

    def fit(self, hand: HandToRegister) -> "tuple[Fit, ManoParams | None]":
        raise NotImplementedError


def _refuse_length(method: str, length_mm: float | None) -> None:
    if length_mm is not None:
        raise HoldprepError(f"registration={method} keeps the tracker's hand size: hands.length_mm needs registration=lm")


class LmRegistration(Registration):
    """Levenberg-Marquardt over all frames at once."""

    method: Literal["lm"] = Field(description="second order over all frames at once")
    max_iterations: int = Field(ge=1, le=1000, description="maximal number of Levenberg-Marquardt iterations")
    shared_shape: bool = Field(description="one shape per hand for the whole sequence")
    robust: Literal["none", "huber", "geman_mcclure"] = Field(description="loss of the distance to the tracker's mesh")
    robust_mm: Positive = Field(description="width of that loss (mm); points at larger distances have less weight")
    smooth: bool = Field(description="smooth rotations and translation by a prior on accelerations, estimated from the clip")
    steady_deg: Positive | None = Field(
        description="standard deviation of the fingers' rotation from frame to frame (degrees): a grasp mostly stays the same; null = free"
    )
    outline: Weight = Field(description="weight of the mask's outline, relative to its likelihood; 0 = keypoints and meshes only")
    fingers_apart: bool = Field(description="prevent fingers from intersecting each other")
    shared_errors: bool = Field(description="frames with correlated errors count as fewer frames when the shape is estimated")

    @property
    def uses_measured_camera(self) -> bool:
        return True

    def fit(self, hand: HandToRegister) -> "tuple[Fit, ManoParams | None]":
        from holdprep.hand import registration

        options = registration.Options(
            shared_shape=self.shared_shape,
            robust=self.robust,
            robust_m=self.robust_mm / 1e3,
            hand_length_m=None if hand.length_mm is None else hand.length_mm / 1e3,
            smooth=self.smooth,
            steady_rad=None if self.steady_deg is None else math.radians(self.steady_deg),
            outline_weight=self.outline,
            fingers_apart=self.fingers_apart,
            shared_errors=self.shared_errors,
            max_iterations=self.max_iterations,
        )
        fit = registration.register(hand.model, hand.targets, options, outlines=hand.outlines, training=hand.training, prefix=hand.prefix)
        return fit, None


class AdamRegistration(Registration):
    """HOLD's published registration."""

    method: Literal["adam"] = Field(description="HOLD's published losses and schedule")
    max_iterations: int = Field(
        ge=1,
        le=100_000,
        description="maximal number of Adam's iterations, of the first frame's coarse and fine part each; of later frames at most 2000",
    )
    shape_loss: bool = Field(description="penalise the shape's deviation from the mean (HOLD's use_beta_loss)")

    def fit(self, hand: HandToRegister) -> "tuple[Fit, ManoParams | None]":
        import torch

        from holdprep.hand import adam

        _refuse_length(self.method, hand.length_mm)
        vertices_m = torch.as_tensor(hand.track.vertices_m[hand.model.side])
        schedule = adam.Schedule(self.max_iterations, self.shape_loss)
        return adam.register_adam(hand.model, vertices_m, schedule, training=hand.training, prefix=hand.prefix)


class DirectRegistration(Registration):
    """The tracker's own MANO parameters without a fit."""

    method: Literal["direct"] = Field(description="the tracker's own MANO parameters (hand=hamer)")
    shared_shape: bool = Field(description="one shape per hand for the whole sequence")

    def fit(self, hand: HandToRegister) -> "tuple[Fit, ManoParams | None]":
        import torch

        from holdprep.hand import direct

        _refuse_length(self.method, hand.length_mm)
        side, track = hand.model.side, hand.track
        if side not in track.params:
            raise HoldprepError(f"{hand.source} has no MANO parameters of the {side} hand (hand=hamer writes them): use registration=lm")
        return direct.register_direct(hand.model, track.params[side], torch.as_tensor(track.vertices_m[side]), self.shared_shape), None
