"""MANO parameters from meshes, joints and keypoints, in any mix: second order over all frames at once, one shape for the sequence.

The derivatives are analytic (`lbs`), the start is closed-form (`start`), the solver weighs every term by its noise (`solver`). Meshes are
solved on a part of their vertices first, then on all.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from holdprep.hand import lbs, start
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState, to_params
from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.priors import PoseNoise, PosePrior, Smoothness, chain_length_m
from holdprep.hand.solver import LOSS_TOLERANCE, Callback, HandProblem, minimise
from holdprep.hand.targets import Targets, check
from holdprep.hand.terms import Loss, Noise, Robust, Term, chunks

CHUNK_POINTS = {"cpu": 12_800, "cuda": 1_600_000}  # whose derivatives are in memory at once, 732 bytes each
COARSE = 4  # every so many vertices are enough to come near
VERTEX_FLOOR_M = 5e-5  # vertices are never trusted beyond this; keeps the shape prior finite on exact targets
JOINT_FLOOR_M = 2e-4
KEYPOINT_WIDTH = 3.0  # Geman-McClure, in noise: a joint that another finger hides must not bend the hand
HAND_M = 0.18


@dataclass(frozen=True)
class Options:
    """How to register. A noise of None is estimated from the residuals.

    `sigma_vertex_m`, `sigma_3d_m`, `sigma_px`: noise of a coordinate. `robust` loss of meshes and 3D joints, of width `robust_m`.
    `hand_length_m`: measured from wrist to middle fingertip; targets in space are scaled to it from the camera.
    `smooth_turn`: standard deviation of a joint's turn from one frame to the next (rad), None for no smoothness.
    `pose_noise` holds what keypoints leave open; meshes need no such prior.
    """

    shared_shape: bool = True
    sigma_vertex_m: float | None = None
    sigma_3d_m: float | None = None
    sigma_px: float = 4.0
    robust: Robust = "none"
    robust_m: float = 0.01
    hand_length_m: float | None = None
    smooth_turn: float | None = None
    pose_noise: PoseNoise = field(default_factory=PoseNoise)
    max_iterations: int = 60


@dataclass(frozen=True)
class Registration:
    """`params` of T frames (NaN where there was no target, except the shared shape), `is_valid` (T,) bool, `error_m` (T,) mean
    distance to the target (NaN without), `history` the loss terms of every iteration, `notes` what the reader should know."""

    params: ManoParams
    is_valid: Tensor
    error_m: Tensor
    history: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def register(
    model: HandModel, targets: Targets, options: Options | None = None, *, device: str = "cpu", on_iteration: Callback | None = None
) -> Registration:
    """MANO fitted to the targets. Relative targets without 2D keypoints keep their own origin.

    Raises HoldprepError where the targets are no hand of the model's side in metres, or none at all.
    """
    options, history = options or Options(), list[dict[str, float]]()
    is_valid = check(model, targets)
    frames = is_valid.nonzero()[:, 0]
    model, used = model.to(device, torch.float64), targets.rows(frames).to(device)
    state = _start(model, used)
    if not options.shared_shape:
        state = replace(state, betas=state.betas.expand(len(frames), 10))

    def on_each(_: int, terms: dict[str, float]) -> None:
        if on_iteration is not None:
            on_iteration(len(history), terms)
        history.append(terms)

    # first what is seen alone, of meshes a part: near enough for size and smoothness, whose pull from afar leads astray
    first = replace(_problem(model, used, options, frames, COARSE), length_m=None, smoothness=None)
    tracked = None
    if used.vertices_m is not None or options.hand_length_m is not None or options.smooth_turn is not None:
        state, _ = minimise(first, state, options.max_iterations, 1.0, on_each)
        tracked = _length_m(first.points, state)
    if options.hand_length_m is not None and tracked is not None:
        used, state = used.scaled(options.hand_length_m / tracked), replace(state, transl=state.transl * (options.hand_length_m / tracked))
    problem = _problem(model, used, options, frames, 1)
    state, _ = minimise(problem, state, options.max_iterations, LOSS_TOLERANCE, on_each)
    who = "an average hand" if used.vertices_m is None and used.j3d_m is None else "the tracker"  # pixels alone tell no size
    note = _size_note(f"{model.side} hand", who, options.hand_length_m, tracked, _length_m(problem.points, state))
    error_m = torch.full((len(is_valid),), float("nan"), dtype=torch.float64)
    error_m[is_valid] = _error(problem, state).cpu()
    return Registration(spread(to_params(model, state), is_valid), is_valid, error_m, history, [note])


def _problem(model: HandModel, used: Targets, options: Options, frames: Tensor, step: int) -> HandProblem:
    """Every `step`-th vertex, and all joints."""
    meshes = used.vertices_m is not None
    points = HandPoints.of(model, torch.arange(0, 778 if meshes else 0, step))
    smoothness = None
    if options.smooth_turn is not None and len(frames) > 1:
        smoothness = Smoothness(options.smooth_turn, options.smooth_turn * HAND_M, frames.to(points.rest.device))
    prior = None if meshes else PosePrior.of(model, options.pose_noise)
    chunk = CHUNK_POINTS[points.rest.device.type] // len(points.rest)
    return HandProblem(points, _terms(points, used, options, step), prior, options.hand_length_m, smoothness, options.shared_shape, chunk)


def _length_m(points: HandPoints, state: HandState) -> float:
    return float(chain_length_m(points, state.betas.reshape(-1, 10).mean(dim=0)))


def _size_note(hand: str, who: str, measured_m: float | None, tracked_m: float | None, found_m: float) -> str:
    if measured_m is None:
        return (
            f"{hand}: {1e3 * found_m:.0f} mm from wrist to middle fingertip, as {who} has it; every size follows it "
            "(measure the hand and set hands.length_mm)"
        )
    return f"{hand}: scaled from {who}'s {1e3 * (tracked_m or found_m):.0f} mm to the measured {1e3 * measured_m:.0f} mm"


def _start(model: HandModel, targets: Targets) -> HandState:
    vertices, j3d, j2d = targets.weights()
    if targets.vertices_m is not None and vertices is not None:
        state = start.from_vertices(model, targets.vertices_m, vertices)
    elif targets.j3d_m is not None and j3d is not None:
        state = start.from_joints(model, targets.j3d_m.double(), j3d)
    else:
        assert targets.j2d_px is not None
        assert targets.K is not None
        assert j2d is not None
        return start.from_pixels(model, targets.j2d_px.double(), targets.K.double(), j2d)
    if targets.relative and targets.j2d_px is not None and targets.K is not None and j2d is not None:
        return start.placed(model, state, targets.j2d_px.double(), targets.K.double(), j2d)
    return state


def _terms(points: HandPoints, targets: Targets, options: Options, step: int) -> list[Term]:
    """The measurements that there are; `step` as the vertices of `points` were taken."""
    device, (vertices, j3d, j2d) = points.rest.device, targets.weights()
    joints, skin = torch.arange(NUM_JOINTS, device=device), torch.arange(NUM_JOINTS, len(points.rest), device=device)
    loss = Loss(options.robust, options.robust_m)
    floating = targets.relative and targets.j2d_px is not None
    terms = []
    if targets.vertices_m is not None and vertices is not None:
        noise = Noise(options.sigma_vertex_m or 2e-3, options.sigma_vertex_m is None, VERTEX_FLOOR_M)
        terms.append(Term("vertex", skin, targets.vertices_m[:, ::step], vertices[:, ::step], noise, loss, floating, dtype=torch.float32))
    if targets.j3d_m is not None and j3d is not None:
        noise = Noise(options.sigma_3d_m or 0.01, options.sigma_3d_m is None, JOINT_FLOOR_M)
        terms.append(Term("joint_3d", joints, targets.j3d_m, j3d, noise, loss, floating))
    if targets.j2d_px is not None and targets.K is not None and j2d is not None:
        loss = Loss("geman_mcclure", KEYPOINT_WIDTH * options.sigma_px)
        terms.append(Term("joint_2d", joints, targets.j2d_px, j2d, Noise(options.sigma_px), loss, K=targets.K.double()))
    return terms


def _error(problem: HandProblem, state: HandState) -> Tensor:
    """(T,) mean distance of the first kind of target's points, m; of pixels at the hand's depth."""
    term, points, errors = problem.terms[0], problem.points, list[Tensor]()
    for rows in chunks(len(state.transl), problem.chunk):
        posed = points.pose(state.rows(rows))
        distance = term.residual(posed, rows).norm(dim=1)
        if term.K is not None:
            distance = distance * posed.points[:, term.ids, 2] / term.K[0, 0]
        weight = term.weight[rows].to(distance)
        errors.append((distance * weight).sum(dim=1) / weight.sum(dim=1))
    return torch.cat(errors)


def error_of(model: HandModel, params: ManoParams, vertices_m: Tensor, *, rescaled: bool = False) -> Tensor:
    """(T,) mean distance in metres of posed vertices to a tracker's (T, 778, 3), NaN where it has none.

    `rescaled`: the fit has another hand size than the tracker; its meshes are first scaled from the camera by the one factor that fits best.
    """
    posed = lbs.forward(model, params).vertices
    target = vertices_m.to(posed)
    if rescaled:
        seen = torch.isfinite(target) & torch.isfinite(posed)
        target = target * (posed[seen] * target[seen]).sum() / target[seen].square().sum()
    return (posed - target).norm(dim=-1).mean(dim=1)


def spread(params: ManoParams, is_valid: Tensor) -> ManoParams:
    """Parameters of the valid frames as those of all (T,), NaN elsewhere; a shared shape stays one. float64 on the CPU."""

    def full(x: Tensor) -> Tensor:
        rows = torch.full((len(is_valid), *x.shape[1:]), float("nan"), dtype=torch.float64)
        rows[is_valid] = x.double().cpu()
        return rows

    betas = params.betas.double().cpu() if params.betas.ndim == 1 else full(params.betas)
    return ManoParams(full(params.global_orient), full(params.hand_pose), betas, full(params.transl))
