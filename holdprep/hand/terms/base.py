"""Interface of a term of the registration: points in 3D or in the image, residuals, and the Gauss-Newton equations of several terms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdprep.geometry.cameras import project_ahead, projection_jacobian
from holdprep.geometry.robust import SQUARE, Loss
from holdprep.hand.lbs import Chosen, HandPoints, HandState, Posed

Robust = Literal["none", "huber", "geman_mcclure"]
ROTATIONS, TRANSL, UNKNOWNS = 48, 51, 61  # ends of the unknowns: 16 bones' rotations, translation, 10 of shape


@dataclass(frozen=True)
class Noise:
    """Standard deviation of a coordinate in the target's unit; if `measured`, the initial value of an estimate of at least `floor`."""

    sigma: float
    measured: bool = False
    floor: float = 0.0


@dataclass(frozen=True)
class Term:
    """One kind of measurement: points of the hand observed at targets.

    Points `ids` of HandPoints, (Q,) or (T, Q) where they differ by frame, were observed at `target` (T, Q, C) in metres, or in
    pixels under `K`. With `normal` (T, Q, C) only the distance along it is used. `weight` (T, Q) is 0 without an observation. Where
    the targets' position is unknown (`floating`), targets and points are relative to the mean of the observed ones. Derivatives are
    of `dtype`; residuals are always float64, which determines the accuracy of the solution.
    """

    name: str
    ids: Tensor
    target: Tensor
    weight: Tensor
    noise: Noise
    loss: Loss = SQUARE
    floating: bool = False
    K: Tensor | None = None
    dtype: torch.dtype = torch.float64
    normal: Tensor | None = None

    @property
    def dimensions(self) -> int:
        """Number C of components of a residual."""
        return 1 if self.normal is not None else 3 if self.K is None else 2

    def residual(self, posed: Posed, rows: slice) -> Tensor:
        """Residuals (T, C, Q) of frames `rows`, in the unit of the target; 0 without an observation."""
        points = self.points(posed, rows)
        target = torch.nan_to_num(self.target[rows].to(points))
        if self.floating:
            share = self.share(rows)[:, None]
            points, target = points - share @ points, target - share @ target
        seen = points if self.K is None else project_ahead(points, self.K)
        away = torch.where(self.weight[rows][..., None] > 0, seen - target, 0.0)
        return (away if self.normal is None else (away * self.normal[rows].to(away)).sum(dim=-1, keepdim=True)).mT

    def points(self, posed: Posed, rows: slice) -> Tensor:
        """Points (T, Q, 3) m of frames `rows`."""
        if self.ids.ndim == 1:
            return posed.points[:, self.ids]
        return posed.points.gather(1, self.ids[rows, :, None].expand(-1, -1, 3))

    def share(self, rows: slice) -> Tensor:
        """(T, Q) weight of each point in the mean of the observed ones."""
        seen = (self.weight[rows] > 0).double()
        return seen / seen.sum(dim=1, keepdim=True).clamp_min(1)

    def losses(self, residual: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """(T,) half the sum of weighted robust squares of a residual (T, C, Q), and the weights (T, Q) of the reweighted squares."""
        square = residual.square().sum(dim=1)
        value, weight = self.loss.of_square(square)
        own = self.weight[rows].to(square)
        return 0.5 * (own * value).sum(dim=1), own * weight


def losses(points: HandPoints, state: HandState, terms: Sequence[Term], chunk: int) -> tuple[dict[str, Tensor], Tensor]:
    """(T,) losses of every term, and the rotations (T, 16, 3, 3) of the bones' parents in the camera frame."""
    found: dict[str, list[Tensor]] = {t.name: [] for t in terms}
    frames = []
    for rows in chunks(len(state.transl), chunk):
        posed = points.pose(state.rows(rows))
        for t in terms:
            found[t.name].append(t.losses(t.residual(posed, rows), rows)[0])
        frames.append(points.frames(posed))
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.cat(frames)


def linearise(points: HandPoints, state: HandState, terms: Sequence[Term], chunk: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Gauss-Newton matrix (T, 61, 61) and gradient (T, 61) of every term in its own unit, by rotations about the camera's axes."""
    narrow, frames = [_Narrow.of(points, t) for t in terms], len(state.transl)
    found = {}
    for t in terms:  # allocated before, since concatenating parts would need twice the memory
        matrices = state.transl.new_empty(frames, UNKNOWNS, UNKNOWNS, dtype=t.dtype)
        found[t.name] = matrices, state.transl.new_empty(frames, UNKNOWNS)
    for rows in chunks(frames, chunk):
        posed = points.pose(state.rows(rows))
        for t, own in zip(terms, narrow, strict=True):
            H, g = found[t.name]
            H[rows], g[rows] = _equations(own, posed, t, rows)
    return found


def chunks(frames: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` frames."""
    return (slice(i, i + size) for i in range(0, frames, size))


@dataclass(frozen=True)
class _Narrow:
    """A term's points in the floating point type of its derivatives; `chosen` where they are the same in all frames."""

    points: HandPoints
    chosen: Chosen | None

    @staticmethod
    def of(points: HandPoints, term: Term) -> "_Narrow":
        own = points.to(term.dtype)
        return _Narrow(own, own.choose(term.ids[None]) if term.ids.ndim == 1 else None)

    def of_frames(self, term: Term, rows: slice) -> Chosen:
        """The points of frames `rows`. Where they differ by frame, pose blend shapes are omitted from the derivatives.

        They are expensive there, and approximate derivatives are sufficient for Gauss-Newton.
        """
        return self.chosen or self.points.choose(term.ids[rows], blend=False)


def _equations(narrow: _Narrow, posed: Posed, term: Term, rows: slice) -> tuple[Tensor, Tensor]:
    residual = term.residual(posed, rows)
    weight = term.losses(residual, rows)[1]
    small = posed.to(term.dtype)
    J = _jacobian(narrow.points, small, narrow.of_frames(term, rows))
    if term.floating:
        J = J - torch.einsum("tuaq,tq->tua", J, term.share(rows).to(J))[..., None]
    if term.K is not None:
        by_point = projection_jacobian(term.points(posed, rows), term.K).to(term.dtype)
        if term.normal is not None:
            by_point = term.normal[rows].to(by_point)[..., None, :] @ by_point
        J = torch.einsum("tqca,tuaq->tucq", by_point, J)
    elif term.normal is not None:
        J = torch.einsum("tqa,tuaq->tuq", term.normal[rows].to(J), J)[:, :, None]
    if not bool((weight == 1).all()):
        root = weight.sqrt()
        J, residual = J * root[:, None, None].to(J), residual * root[:, None]
    J = J.flatten(2)
    return J @ J.mT, (J @ residual.flatten(1)[..., None].to(J))[..., 0].double()


def _jacobian(points: HandPoints, posed: Posed, chosen: Chosen) -> Tensor:
    """(T, 61, 3, Q) derivative of the points by the unknowns."""
    J = posed.points.new_zeros(len(posed.points), UNKNOWNS, 3, chosen.ids.shape[1])
    points.rotation_rows(posed, chosen, J[:, :ROTATIONS].unflatten(1, (16, 3)))
    for a in range(3):
        J[:, ROTATIONS + a, a] = 1
    J[:, TRANSL:] = points.shape_rows(posed, chosen)
    return J
