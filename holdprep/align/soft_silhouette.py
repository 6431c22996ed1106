"""align=soft_silhouette: hands fitted to their masks by gradient descent through pytorch3d's soft silhouette renderer.

The published method (Liu et al., Soft Rasterizer, ICCV 2019), as a reference for the outline term and for experiments on a GPU. Free are a
hand's translation, and rotation and joint angles as configured, in mode h; modes o and ho are second order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import roma
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from holdprep.align.problem import HandObservation, Problem, Refine
from holdprep.align.residuals import reprojection
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.geometry.robust import GemanMcClure
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState
from holdprep.hand.model import Side
from holdprep.hand.outline import MaskEdge, arm_pixels
from holdprep.optimisation import Optimisation

SIDE_PX = 128  # of the square for every frame's window
FRAMES_AT_ONCE = 32
FACES_PER_PIXEL = 30
SIGMA = 1e-4  # of the sigmoid of the squared distance from a triangle's edge, in the renderer's normalised coordinates
LR_M, LR_RAD = 1e-3, 5e-3
ITERATIONS = 200
ROTATION_WEIGHT, POSE_WEIGHT = 400.0, 400.0  # px^2 per rad^2, of departures from the registration
MATCH_STEPS = 25  # between two updates of the forearm's pixels
INSTALL = "pip install --no-build-isolation 'git+https://github.com/facebookresearch/pytorch3d.git'"


@dataclass(frozen=True)
class Windows:
    """One hand's masks in T squares of SIDE_PX.

    `mask` (T, S, S), `counts` (T, S, S), 0 where the hand may be occluded, and the cameras `K` (T, 3, 3) of the squares.
    """

    mask: Tensor
    counts: Tensor
    K: Tensor

    @staticmethod
    def of(edges: Iterable[MaskEdge | None], K: Tensor) -> "Windows":
        """The windows of the edges of T frames; `counts` is 0 in frames without a mask."""
        masks, counts, cameras = [], [], []
        for edge in edges:
            if edge is None:
                masks.append(torch.zeros(SIDE_PX, SIDE_PX))
                counts.append(torch.zeros(SIDE_PX, SIDE_PX))
                cameras.append(K)
                continue
            zoom = SIDE_PX / max(edge.mask.shape)
            masks.append(_square(edge.mask, zoom))
            counts.append(1 - _square(edge.hidden, zoom))
            to_window = torch.eye(3, dtype=torch.float64)
            to_window[:2] *= zoom / edge.scale
            to_window[:2, 2] = 0.5 * zoom - 0.5 - torch.as_tensor(edge.origin) * zoom / edge.scale
            cameras.append(to_window @ K)
        return Windows(torch.stack(masks), torch.stack(counts), torch.stack(cameras))

    def without_arms(self, vertices_m: np.ndarray, faces: np.ndarray) -> "Windows":
        """The windows with `counts` 0 on the forearm, given the posed hand (T, 778, 3) m."""
        px = np.stack([project(vertices, K) for vertices, K in zip(vertices_m, self.K.numpy(), strict=True)])
        arms = np.stack([arm_pixels(mask > 0.5, points, faces) for mask, points in zip(self.mask.numpy(), px, strict=True)])
        return Windows(self.mask, self.counts * ~torch.from_numpy(arms), self.K)

    def rows(self, rows: slice) -> "Windows":
        """The windows of some frames."""
        return Windows(self.mask[rows], self.counts[rows], self.K[rows])


def _square(mask: np.ndarray, zoom: float) -> Tensor:
    """(S, S) square with a resized window in its upper left corner."""
    shape = [max(1, round(n * zoom)) for n in mask.shape]
    small = interpolate(torch.from_numpy(mask.astype(np.float32))[None, None], size=shape, mode="area")[0, 0]
    square = torch.zeros(SIDE_PX, SIDE_PX)
    square[: shape[0], : shape[1]] = small[:SIDE_PX, :SIDE_PX]
    return square


def render(vertices_m: Tensor, faces: Tensor, K: Tensor) -> Tensor:
    """(T, S, S) soft silhouettes of meshes (T, V, 3) under cameras (T, 3, 3), differentiable.

    Raises HoldprepError where pytorch3d is not installed.
    """
    try:
        from pytorch3d.renderer import BlendParams, MeshRasterizer, RasterizationSettings, SoftSilhouetteShader
        from pytorch3d.structures import Meshes
        from pytorch3d.utils import cameras_from_opencv_projection
    except ImportError as error:
        raise HoldprepError(f"align=soft_silhouette needs pytorch3d ({error}): {INSTALL}") from None
    frames, device = len(vertices_m), vertices_m.device
    size = torch.full((frames, 2), float(SIDE_PX), device=device)
    eye = torch.eye(3, device=device).expand(frames, 3, 3)
    camera = cameras_from_opencv_projection(eye, torch.zeros(frames, 3, device=device), K.to(vertices_m), size)
    settings = RasterizationSettings(SIDE_PX, float(np.log(1 / 1e-4 - 1) * SIGMA), FACES_PER_PIXEL, bin_size=0)
    meshes = Meshes(list(vertices_m), [faces.to(device)] * frames)
    fragments = MeshRasterizer(camera, settings)(meshes)
    return SoftSilhouetteShader(BlendParams(sigma=SIGMA))(fragments, meshes)[..., 3]


def silhouette_loss(vertices_m: Tensor, faces: Tensor, windows: Windows) -> Tensor:
    """(T,) 1 - IoU of soft silhouettes and masks, weighted by `counts`; 0 in frames without a mask."""
    drawn = render(vertices_m, faces, windows.K)
    mask, counts = windows.mask.to(drawn), windows.counts.to(drawn)
    both, either = (counts * drawn * mask).sum(dim=(1, 2)), (counts * (drawn + mask - drawn * mask)).sum(dim=(1, 2))
    return torch.where(mask.sum(dim=(1, 2)) > 0, 1 - both / either.clamp_min(1.0), 0.0)


class SoftSilhouette(Optimisation):
    """Mode h by Adam: keypoints, silhouettes (`weight`, px^2 per unit of IoU) and priors on departures from `start`.

    Other weights of the alignment are not used. float32 on `device`.
    """

    def __init__(self, problem: Problem, start: Mapping[Side, HandState], refine: Refine, weight: float, device: str = "cpu") -> None:
        super().__init__("align/h")
        without = [side for side, hand in problem.hands.items() if hand.outlines is None]
        if without:
            raise HoldprepError(f"align=soft_silhouette needs masks of the {' and '.join(without)} hand: run stage=segment first")
        self.problem, self.refine, self.weight, self.start = problem, refine, weight, dict(start)
        self.points = {side: HandPoints.of(hand.model.to(device, torch.float32), torch.arange(778)) for side, hand in problem.hands.items()}
        self.whole = {side: Windows.of(_outlines(hand), problem.K) for side, hand in problem.hands.items()}  # forearms included
        self.windows = dict(self.whole)
        frames = problem.num_frames
        self.shift = nn.ParameterDict({side: nn.Parameter(torch.zeros(frames, 3)) for side in start})
        self.rotation = nn.ParameterDict({side: nn.Parameter(torch.zeros(frames, 16, 3)) for side in start})
        self.steps = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with separate rates of translations (m) and rotations (rad)."""
        groups = [{"params": list(self.shift.values()), "lr": LR_M}, {"params": list(self.rotation.values()), "lr": LR_RAD}]
        return torch.optim.Adam(groups)

    def state(self, side: Side) -> HandState:
        """The current state of a hand; differentiable."""
        free = torch.zeros(16, 1, device=self.shift[side].device)
        free[:1], free[1:] = float(self.refine.rotation), float(self.refine.pose)
        start = self.start[side]
        rotations = roma.rotvec_to_rotmat(free * self.rotation[side]) @ start.rotations.to(self.shift[side])
        return HandState(rotations, start.betas.to(self.shift[side]), start.transl.to(self.shift[side]) + self.shift[side])

    def iterate(self) -> dict[str, float]:
        """One Adam step; the terms before it."""
        optimizer, sums = self.optimizer(), {"j2d": 0.0, "silhouette": 0.0, "rotation": 0.0, "pose": 0.0}
        if self.steps % MATCH_STEPS == 0:
            self._match()
        optimizer.zero_grad()
        for side, hand in self.problem.hands.items():
            for first in range(0, self.problem.num_frames, FRAMES_AT_ONCE):  # to limit the memory of the graphs
                terms = self._terms(side, hand, slice(first, first + FRAMES_AT_ONCE))
                self.manual_backward(torch.stack(list(terms.values())).sum())
                for name, value in terms.items():
                    sums[name] += float(value.detach())
        optimizer.step()
        self.steps += 1
        return sums | {"loss": sum(sums.values())}

    def _terms(self, side: Side, hand: HandObservation, rows: slice) -> dict[str, Tensor]:
        """The terms' contributions of the frames `rows`."""
        frames, state = self.problem.num_frames, self.state(side).rows(rows)
        points = self.points[side].pose(state).points
        pixels = reprojection(points[:, :NUM_JOINTS], self.problem.K.to(points), hand.j2d_px[rows].to(points))
        weight = hand.weight[rows].to(points) / hand.weight.sum().to(points)
        away = self.rotation[side][rows].square().sum(dim=2)
        missed = silhouette_loss(points[:, NUM_JOINTS:], hand.model.faces, self.windows[side].rows(rows))
        share = 1 / len(self.problem.hands)
        return {
            "j2d": share * (GemanMcClure(25.0).value(pixels).sum(dim=2) * weight).sum(),
            "silhouette": share * self.weight * missed.sum() / frames,
            "rotation": share * ROTATION_WEIGHT * away[:, 0].sum() / frames,
            "pose": share * POSE_WEIGHT * away[:, 1:].sum() / frames,
        }

    def _match(self) -> None:
        """Update the forearm's pixels from the current hands."""
        with torch.no_grad():
            for side, hand in self.problem.hands.items():
                vertices = self.points[side].pose(self.state(side)).points[:, NUM_JOINTS:].double().cpu().numpy()
                self.windows[side] = self.whole[side].without_arms(vertices, hand.model.faces.numpy())


def _outlines(hand: HandObservation) -> Iterable[MaskEdge | None]:
    assert hand.outlines is not None
    return hand.outlines.edges
