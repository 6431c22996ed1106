"""MANO parameters from meshes, joints and keypoints, in any mix: second order over all frames at once, one shape for the sequence.

The derivatives are analytic (`lbs`), the start is closed-form (`start`), the solver weighs every term by its noise (`solver`). Meshes are
solved on a part of their vertices first, then on all.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from holdprep.geometry.cameras import project_ahead
from holdprep.hand import start
from holdprep.hand.correlation import SharedErrors, in_hand_frame
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState, to_params, to_state
from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.outline import NOISE, WIDTH, Outlines, size_px
from holdprep.hand.priors import PoseNoise, PosePrior, Smoothness, chain_length_m
from holdprep.hand.separation import Separation, finger_radii
from holdprep.hand.solver import LOSS_TOLERANCE, Callback, HandProblem, minimise
from holdprep.hand.targets import Targets, check
from holdprep.hand.terms import Loss, Noise, Robust, Term, chunks

CHUNK_POINTS = {"cpu": 12_800, "cuda": 1_600_000}  # whose derivatives are in memory at once, 732 bytes each
COARSE = 4  # every so many vertices are enough to come near
VERTEX_FLOOR_M = 5e-5  # vertices are never trusted beyond this; keeps the shape prior finite on exact targets
JOINT_FLOOR_M = 2e-4
KEYPOINT_FLOOR_PX = 0.3  # no keypoint is better
KEYPOINT_NOISE = 0.03  # of the hand's size in the picture: first guess of a keypoint's noise
KEYPOINT_WIDTH = 0.1  # of the hand's size, Geman-McClure: a joint that another finger hides must not bend the hand
ROUNDS, ROUND_STEPS = 6, 2  # of correspondences and overlaps sought anew, and steps at most in each
SEPARATION_M = 1e-3  # noise of how far fingers must move apart
MOST_ROUNDS = 3  # in which the number of repeated frames is estimated


@dataclass(frozen=True)
class Options:
    """How to register. A noise of None is estimated from the residuals.

    `sigma_vertex_m`, `sigma_3d_m`, `sigma_px`: noise of a coordinate. `robust` loss of meshes and 3D joints, of width `robust_m`.
    `hand_length_m`: measured from wrist to middle fingertip; targets in space are scaled to it from the camera.
    `smooth`: a prior on accelerations, as large as a first registration shows them. `outline_weight` multiplies the outline's evidence.
    `fingers_apart` keeps fingers from passing through each other. `shared_errors` lets frames whose errors are alike count as fewer.
    `pose_noise` holds what keypoints leave open; meshes need no such prior.
    """

    shared_shape: bool = True
    sigma_vertex_m: float | None = None
    sigma_3d_m: float | None = None
    sigma_px: float | None = None
    robust: Robust = "none"
    robust_m: float = 0.01
    hand_length_m: float | None = None
    smooth: bool = False
    outline_weight: float = 1.0
    fingers_apart: bool = True
    shared_errors: bool = True
    pose_noise: PoseNoise = field(default_factory=PoseNoise)
    max_iterations: int = 60


@dataclass(frozen=True)
class Registration:
    """`params` of T frames (NaN where there was no target, except the shared shape), `is_valid` (T,) bool, `error_m` (T,) mean
    distance to the target (NaN without), `frames_repeated` how many frames have the error of one (see `correlation`), `history` the loss
    terms of every iteration, `notes` what the reader should know."""

    params: ManoParams
    is_valid: Tensor
    error_m: Tensor
    frames_repeated: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def register(
    model: HandModel,
    targets: Targets,
    options: Options | None = None,
    *,
    outlines: Outlines | None = None,
    device: str = "cpu",
    on_iteration: Callback | None = None,
) -> Registration:
    """MANO fitted to the targets and to the `outlines` of the hand's masks (T frames) under the targets' `K`.

    Relative targets without 2D keypoints keep their own origin.
    Raises HoldprepError where the targets are no hand of the model's side in metres, or none at all.
    """
    options, history = options or Options(), list[dict[str, float]]()
    is_valid = check(model, targets)
    frames = is_valid.nonzero()[:, 0]
    model, used = model.to(device, torch.float64), targets.rows(frames).to(device)
    state = _start(model, used)
    if not options.shared_shape:
        state = replace(state, betas=state.betas.expand(len(frames), 10))

    def run(problem: HandProblem, state: HandState, iterations: int, tolerance: float = LOSS_TOLERANCE) -> HandState:
        def on_each(_: int, terms: dict[str, float]) -> None:
            if on_iteration is not None:
                on_iteration(len(history), terms)
            history.append(terms)

        return minimise(problem, state, iterations, tolerance, on_each)[0]

    # first the tracker's measurements alone, of meshes a part: near enough for size, smoothness and outline, whose pull from afar leads astray
    first = replace(_problem(model, used, options, COARSE), frames_repeated=float(len(frames)) if options.shared_errors else 1.0)
    state = run(first, state, options.max_iterations, 1.0)
    tracked = _length_m(first.points, state)
    if options.hand_length_m is not None:
        used, state = used.scaled(options.hand_length_m / tracked), replace(state, transl=state.transl * (options.hand_length_m / tracked))
    problem = replace(_problem(model, used, options, 1), length_m=options.hand_length_m, frames_repeated=first.frames_repeated)
    if options.smooth:
        problem = replace(problem, smoothness=Smoothness.measured(state, frames.to(device)))
    state = run(problem, state, options.max_iterations)
    for _ in range(MOST_ROUNDS if options.shared_shape and options.shared_errors else 0):
        before, problem = problem.frames_repeated, replace(problem, frames_repeated=_frames_repeated(problem, state))
        if abs(problem.frames_repeated / before - 1) < 0.1:
            break
        state = run(problem, state, options.max_iterations)
    evidence = _Evidence(model, None if outlines is None else outlines.rows(frames.tolist()), used.K, options)
    for _ in range(ROUNDS):
        terms = evidence.terms(state)
        if not terms:
            break
        skin = any(term.name == "outline" for term in terms)  # else joints, and what meshes need
        points = HandPoints.of(model, torch.arange(778)) if skin else problem.points
        further = replace(problem, points=points, terms=[*_terms(used, options, 1), *terms])
        state = run(replace(further, chunk=_chunk(further.points)), state, ROUND_STEPS)
    who = "an average hand" if used.vertices_m is None and used.j3d_m is None else "the tracker"  # pixels alone tell no size
    note = _size_note(f"{model.side} hand", who, options.hand_length_m, tracked, _length_m(problem.points, state))
    error_m = torch.full((len(is_valid),), float("nan"), dtype=torch.float64)
    error_m[is_valid] = _error(problem, state).cpu()
    return Registration(spread(to_params(model, state), is_valid), is_valid, error_m, problem.frames_repeated, history, [note])


def _problem(model: HandModel, used: Targets, options: Options, step: int) -> HandProblem:
    """Every `step`-th vertex, and all joints."""
    meshes = used.vertices_m is not None
    points = HandPoints.of(model, torch.arange(0, 778 if meshes else 0, step))
    prior = None if meshes else PosePrior.of(model, options.pose_noise)
    return HandProblem(points, _terms(used, options, step), prior, shared_shape=options.shared_shape, chunk=_chunk(points))


def _chunk(points: HandPoints) -> int:
    return max(1, CHUNK_POINTS[points.rest.device.type] // len(points.rest))


@dataclass(frozen=True)
class _Evidence:
    """What depends on where the hand is, and is sought anew each round: correspondences of outlines, and fingers in each other."""

    model: HandModel
    outlines: Outlines | None
    K: Tensor | None
    options: Options

    def terms(self, state: HandState) -> list[Term]:
        """Those that apply to a state."""
        found = [separation_term(self.model, state) if self.options.fingers_apart else None]
        if self.outlines is not None and self.K is not None and self.options.outline_weight > 0:
            found.append(outline_term(self.model, state, self.outlines, self.K, self.options.outline_weight))
        return [term for term in found if term is not None]


def outline_term(model: HandModel, state: HandState, outlines: Outlines, K: Tensor, weight: float) -> Term:
    """The outline's evidence on a posed hand (T frames) under `K` (3, 3): distances (px) of silhouette vertices from the mask's edge."""
    vertices = HandPoints.of(model, torch.arange(778)).pose(state).points[:, NUM_JOINTS:]
    ids, found = outlines.correspond(vertices.cpu().numpy(), K.cpu().numpy()).compact()
    size = size_px(project_ahead(vertices, K.to(vertices)))
    target, normal, worth = (torch.from_numpy(x).to(vertices) for x in (found.target_px, found.normal, weight * found.weight))
    loss, noise = Loss("geman_mcclure", WIDTH * size), Noise(NOISE * size)
    rows = NUM_JOINTS + torch.from_numpy(ids).to(vertices.device)
    return Term("outline", rows, target, worth, noise, loss, K=K.double(), dtype=torch.float32, normal=normal)


def separation_term(model: HandModel, state: HandState) -> Term | None:
    """Distances (m) by which joints of fingers that are in each other have to move apart; None where none are."""
    joints = HandPoints.of(model, torch.zeros(0, dtype=torch.long)).pose(state).points
    found = Separation.of(joints.cpu(), finger_radii(model, state.betas.reshape(-1, 10).mean(dim=0)).cpu())
    if found is None:
        return None
    ids, target, normal, weight = (x.to(joints.device) for x in (found.ids, found.target_m, found.normal, found.weight))
    return Term("separation", ids, target, weight, Noise(SEPARATION_M), normal=normal, dtype=torch.float32)


def _frames_repeated(problem: HandProblem, state: HandState) -> float:
    """Of the measurements that all frames share: the mean over terms, weighed by how much each measures."""
    sums: dict[str, SharedErrors] = {}
    for rows in chunks(len(state.transl), problem.chunk):
        posed = problem.points.pose(state.rows(rows))
        for term in problem.terms:
            residual = term.residual(posed, rows).mT
            if term.K is not None:  # pixels are seen across the viewing direction
                residual = torch.cat([residual, torch.zeros_like(residual[..., :1])], dim=-1)
            found = SharedErrors.of(in_hand_frame(residual, state.rotations[rows, 0]), term.weight[rows])
            sums[term.name] = sums[term.name] + found if term.name in sums else found
    evidence = {term.name: float(term.weight.sum()) * term.dimensions for term in problem.terms}
    return sum(evidence[name] * found.frames_repeated() for name, found in sums.items()) / sum(evidence.values())


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


def _terms(targets: Targets, options: Options, step: int) -> list[Term]:
    """The measurements that there are, of every `step`-th vertex."""
    vertices, j3d, j2d = targets.weights()
    device = next(x.device for x in (targets.vertices_m, targets.j3d_m, targets.j2d_px) if x is not None)
    joints, skin = torch.arange(NUM_JOINTS, device=device), NUM_JOINTS + torch.arange(len(range(0, 778, step)), device=device)
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
        size = size_px(targets.j2d_px)
        loss = Loss("geman_mcclure", KEYPOINT_WIDTH * size)
        noise = Noise(options.sigma_px or KEYPOINT_NOISE * size, options.sigma_px is None, KEYPOINT_FLOOR_PX)
        terms.append(Term("joint_2d", joints, targets.j2d_px, j2d, noise, loss, K=targets.K.double()))
    return terms


def _error(problem: HandProblem, state: HandState) -> Tensor:
    """(T,) mean distance from what the tracker saw, m: from its mesh, else from 2D keypoints at the hand's depth, else from 3D joints."""
    best = {"vertex": 0, "joint_2d": 1, "joint_3d": 2}
    term, points, errors = min(problem.terms, key=lambda term: best[term.name]), problem.points, list[Tensor]()
    for rows in chunks(len(state.transl), problem.chunk):
        posed = points.pose(state.rows(rows))
        distance = term.residual(posed, rows).norm(dim=1)
        if term.K is not None:
            distance = distance * posed.points[:, term.ids, 2] / term.K[0, 0]
        weight = term.weight[rows].to(distance)
        errors.append((distance * weight).sum(dim=1) / weight.sum(dim=1))
    return torch.cat(errors)


def error_of(model: HandModel, params: ManoParams, targets: Targets, *, rescaled: bool = False) -> Tensor:
    """(T,) `Registration.error_m` of parameters (T frames) that something else found; NaN where they, or the targets, are missing.

    `rescaled`: the fit has another hand size than the tracker; its meshes are first scaled by the one factor that fits best.
    """
    rows = torch.cat([params.global_orient, params.hand_pose, params.transl], dim=1)
    is_valid = targets.is_valid() & torch.isfinite(rows).all(dim=1)
    error_m = torch.full((len(is_valid),), float("nan"), dtype=torch.float64)
    if not bool(is_valid.any()):
        return error_m
    betas = params.betas if params.betas.ndim == 1 else params.betas[is_valid]
    some = ManoParams(params.global_orient[is_valid], params.hand_pose[is_valid], betas, params.transl[is_valid])
    used, state = targets.rows(is_valid.nonzero()[:, 0]), to_state(model, some)
    if rescaled and used.vertices_m is not None:
        used = used.scaled(_size_ratio(used.vertices_m, HandPoints.of(model, torch.arange(778)).pose(state).points[:, NUM_JOINTS:]))
    error_m[is_valid] = _error(_problem(model, used, Options(), 1), state)
    return error_m


def _size_ratio(a: Tensor, b: Tensor) -> float:
    """The factor that brings points a nearest to b (T, N, 3), each frame about its centroid; a point that is NaN in either is left out."""
    seen = (torch.isfinite(a) & torch.isfinite(b)).all(dim=-1, keepdim=True)
    count = seen.sum(dim=1, keepdim=True).clamp_min(1)
    from_a, from_b = (torch.where(seen, x.double(), 0.0) for x in (a, b))
    from_a, from_b = (torch.where(seen, x - x.sum(dim=1, keepdim=True) / count, 0.0) for x in (from_a, from_b))
    return float((from_a * from_b).sum() / from_a.square().sum())


def spread(params: ManoParams, is_valid: Tensor) -> ManoParams:
    """Parameters of the valid frames as those of all (T,), NaN elsewhere; a shared shape stays one. float64 on the CPU."""

    def full(x: Tensor) -> Tensor:
        rows = torch.full((len(is_valid), *x.shape[1:]), float("nan"), dtype=torch.float64)
        rows[is_valid] = x.double().cpu()
        return rows

    betas = params.betas.double().cpu() if params.betas.ndim == 1 else full(params.betas)
    return ManoParams(full(params.global_orient), full(params.hand_pose), betas, full(params.transl))
