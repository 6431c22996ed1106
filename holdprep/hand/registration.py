"""MANO parameters from any combination of meshes, joints and keypoints: second order over all frames at once, one shape per sequence.

Derivatives are analytic (`lbs`), initial values have a closed form (`start`), and every term is weighted by its noise (`problem`). Meshes
are fitted on a subset of their vertices first, then on all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from holdprep.geometry.least_squares import Damping, LevenbergMarquardt
from holdprep.geometry.robust import SQUARE, GemanMcClure, Huber, Loss
from holdprep.hand import start
from holdprep.hand.correlation import SharedErrors, in_hand_frame
from holdprep.hand.frames import scatter_params
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState, to_params, to_state
from holdprep.hand.model import HandModel, ManoParams
from holdprep.hand.outline import Outlines
from holdprep.hand.priors import MotionPrior, PoseNoise, PosePrior, Smoothness, Steadiness, chain_length_m
from holdprep.hand.problem import BATCH, NOISE_TOLERANCE, HandFit, HandProblem
from holdprep.hand.targets import Targets, check
from holdprep.hand.terms.base import Robust, Term, chunks
from holdprep.hand.terms.joint_2d import joint_2d
from holdprep.hand.terms.joint_3d import joint_3d
from holdprep.hand.terms.outline import outline
from holdprep.hand.terms.separation import separation
from holdprep.hand.terms.vertex import vertex
from holdprep.optimisation import Optimisation, Training, one_thread

CHUNK_POINTS = {"cpu": 12_800, "cuda": 1_600_000}  # points whose derivatives are in memory at once, 732 bytes each
COARSE = 4  # the coarse phase uses every fourth vertex
DAMPING = Damping(first=1e-5, least=1e-9, most=1e8)
STEP_TOLERANCE = 1e-5  # rad, m and units of shape; the remaining error is about its square
LOSS_TOLERANCE = 1e-2  # remaining log-likelihood per frame: 1/7 of one parameter's standard deviation
COARSE_TOLERANCE = 1.0
ROUNDS, ROUND_STEPS = 6, 2  # updates of correspondences and overlaps, and maximal number of steps in each
MAX_STEPS = 2000  # of all phases
MAX_ROUNDS = 3  # of estimation of the number of repeated frames
REPEATED_TOLERANCE = 0.1


@dataclass(frozen=True)
class Options:
    """Options of the registration. A noise of None is estimated from the residuals.

    `sigma_vertex_m`, `sigma_px`: standard deviation of a coordinate. `robust`: loss of meshes, of width `robust_m`.
    `hand_length_m`: measured from wrist to middle fingertip; 3D targets are scaled to it about the camera.
    `smooth`: a prior on accelerations, with their variance in a first registration. `steady_rad`: standard deviation (rad per frame) of a
    prior on velocities of the fingers' rotations, None: no such prior. `outline_weight` multiplies the outline's likelihood.
    `fingers_apart` prevents fingers from intersecting. `shared_errors`: frames with correlated errors count as fewer frames.
    `pose_noise` is the prior on joint rotations, used without meshes. `frames_at_once` are in memory together; None: as many as fit.
    """

    shared_shape: bool = True
    sigma_vertex_m: float | None = None
    sigma_px: float | None = None
    robust: Robust = "none"
    robust_m: float = 0.01
    hand_length_m: float | None = None
    smooth: bool = False
    steady_rad: float | None = None
    outline_weight: float = 1.0
    fingers_apart: bool = True
    shared_errors: bool = True
    pose_noise: PoseNoise = field(default_factory=PoseNoise)
    max_iterations: int = 60
    frames_at_once: int | None = None


@dataclass(frozen=True)
class Registration:
    """Result of a registration.

    `params` of T frames (NaN without a target, except the shared shape), `is_valid` (T,) bool, `error_m` (T,) mean distance to the target
    (NaN without), `frames_repeated` the number of frames that share one error (see `correlation`), `history` the loss terms of every
    iteration, `notes` lines for the user.
    """

    params: ManoParams
    is_valid: Tensor
    error_m: Tensor
    frames_repeated: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@one_thread()
def register(
    model: HandModel,
    targets: Targets,
    options: Options | None = None,
    *,
    outlines: Outlines | None = None,
    training: Training | None = None,
    prefix: str = "register",
) -> Registration:
    """MANO parameters fitted to the targets and to the `outlines` of the hand's masks (T frames) under the targets' `K`.

    Relative targets without 2D keypoints keep their own origin. Losses are logged as <prefix>/<term>.
    Raises HoldprepError without targets, or where they are not a hand of the model's side in metres.
    """
    training = training or Training()
    is_valid = check(model, targets)
    frames = is_valid.nonzero()[:, 0]
    used = targets.rows(frames).to(training.device)
    shown = None if outlines is None else outlines.rows(frames.tolist())
    module = HandRegistration(model.to(training.device, torch.float64), used, options or Options(), frames, shown, prefix)
    training.fit(module, MAX_STEPS)
    error_m = torch.full((len(is_valid),), float("nan"), dtype=torch.float64)
    error_m[is_valid] = _error(module.problem, module.state).cpu()
    params = scatter_params(to_params(module.model, module.state), is_valid)
    return Registration(params, is_valid, error_m, module.problem.frames_repeated, module.history, [module.size_note()])


@dataclass(frozen=True)
class Phase:
    """A problem solved from the current state, with a maximal number of iterations.

    It also ends where the expected gain of log-likelihood per frame is below `tolerance`.
    """

    problem: HandProblem
    iterations: int
    tolerance: float = LOSS_TOLERANCE


class HandRegistration(Optimisation):
    """The registration of T frames with numbers `frames` as a sequence of phases; the parameters are the state.

    `problem` is the last one without correspondences, `tracked_m` the hand's length according to the tracker.
    """

    def __init__(
        self, model: HandModel, targets: Targets, options: Options, frames: Tensor, outlines: Outlines | None, prefix: str = "register"
    ) -> None:
        super().__init__(prefix)
        self.model, self.targets, self.options, self.frames, self.outlines = model, targets, options, frames, outlines
        state = _start(model, targets, options.frames_at_once or start.AT_ONCE)
        betas = state.betas if options.shared_shape else state.betas.expand(len(frames), 10)
        self.rotations, self.transl, self.betas = (nn.Parameter(x.clone(), False) for x in (state.rotations, state.transl, betas))
        self.tracked_m, self._left = 0.0, 0
        self._phases = self._schedule()
        self._begin(next(self._phases))

    @property
    def state(self) -> HandState:
        """The current state."""
        return HandState(self.rotations.data, self.betas.data, self.transl.data)

    def configure_optimizers(self) -> LevenbergMarquardt:
        """Levenberg-Marquardt over all unknowns."""
        return LevenbergMarquardt(self.parameters(), self._fit, len(self.frames), DAMPING)

    def on_train_start(self) -> None:
        """Start from the parameters of a checkpoint, where one was read; its phases are repeated, with few steps each."""
        if not self.is_resumed:
            return
        self._begin(self._phase)
        optimizer = self.optimizer().optimizer
        assert isinstance(optimizer, LevenbergMarquardt)
        optimizer.problem = self._fit

    def iterate(self) -> dict[str, float]:
        """One step of the current phase; the terms after it."""
        optimizer = self.optimizer().optimizer
        assert isinstance(optimizer, LevenbergMarquardt)
        self.optimizer().step()
        self._store(self._fit.at.state)
        terms, self._left = self._fit.at.terms(), self._left - 1
        if self._left == 0 or self._has_converged(optimizer):
            phase = next(self._phases, None)
            self.finished = phase is None
            if phase is not None:
                self._begin(phase)
                optimizer.start(self._fit, len(self.frames))
        return terms

    def size_note(self) -> str:
        """A note on the hand's size and its source."""
        of_tracker = self.targets.vertices_m is not None or self.targets.j3d_m is not None  # pixels alone do not determine the size
        source = "the tracker" if of_tracker else "an average hand"
        return _size_note(
            f"{self.model.side} hand", source, self.options.hand_length_m, self.tracked_m, _length_m(self.problem.points, self.state)
        )

    def _schedule(self) -> Iterator[Phase]:
        """The phases: tracker's measurements on a subset of vertices, then on all, then with outline and separation.

        Size, smoothness and outline start from the result of the first phase, since the outline's correspondences are wrong far from
        the solution. In the last phase, correspondences are updated in each round.
        """
        options, most = self.options, self.options.max_iterations
        repeated = float(len(self.frames)) if options.shared_errors else 1.0
        self.problem = replace(_problem(self.model, self.targets, options, COARSE), frames_repeated=repeated)
        yield Phase(self.problem, most, COARSE_TOLERANCE)
        self.tracked_m = _length_m(self.problem.points, self.state)
        if options.hand_length_m is not None:
            ratio = options.hand_length_m / self.tracked_m
            self.targets = self.targets.scaled(ratio)
            self._store(replace(self.state, transl=self.state.transl * ratio))
        full = _problem(self.model, self.targets, options, 1)
        self.problem = replace(full, length_m=options.hand_length_m, frames_repeated=repeated, motion=self._motion())
        yield Phase(self.problem, most)
        for _ in range(MAX_ROUNDS if options.shared_shape and options.shared_errors else 0):
            before, repeated = self.problem.frames_repeated, _frames_repeated(self.problem, self.state)
            self.problem = replace(self.problem, frames_repeated=repeated)
            if abs(repeated / before - 1) < REPEATED_TOLERANCE:
                break
            yield Phase(self.problem, most)
        for _ in range(ROUNDS):
            terms = self._correspondences()
            if not terms:
                break
            skin = any(term.name == "outline" for term in terms)  # otherwise joints, and the vertices of the meshes
            points = HandPoints.of(self.model, torch.arange(778)) if skin else self.problem.points
            terms = [*_measurements(self.targets, options, 1), *terms]
            yield Phase(replace(self.problem, points=points, terms=terms, chunk=_chunk(points)), ROUND_STEPS)

    def _motion(self) -> list[MotionPrior]:
        """The priors that couple frames."""
        frames, found = self.frames.to(self.transl.device), list[MotionPrior]()
        if self.options.smooth and (smoothness := Smoothness.measured(self.state, frames)) is not None:
            found.append(smoothness)
        if self.options.steady_rad is not None and len(frames) > 1:
            found.append(Steadiness(self.options.steady_rad, frames))
        return found

    def _correspondences(self) -> list[Term]:
        """Terms whose correspondences depend on the current state."""
        options, K, found = self.options, self.targets.K, list[Term | None]()
        if options.fingers_apart:
            found.append(separation(self.model, self.state))
        if self.outlines is not None and K is not None and options.outline_weight > 0:
            found.append(outline(self.model, self.state, self.outlines, K, options.outline_weight))
        return [term for term in found if term is not None]

    def _begin(self, phase: Phase) -> None:
        self._phase, self._fit, self._left, self._gained = phase, HandFit(phase.problem, self.state), phase.iterations, 0.0

    def _store(self, state: HandState) -> None:
        for parameter, value in ((self.rotations, state.rotations), (self.transl, state.transl), (self.betas, state.betas)):
            parameter.data = value

    def _has_converged(self, optimizer: LevenbergMarquardt) -> bool:
        """Undamped steps converge at least linearly: the next gain is at most the last one times the ratio of the last two."""
        last, before = optimizer.progress, self._gained
        self._gained = last.gained
        free = float(optimizer.damping.max()) <= DAMPING.first
        expected = last.gained * min(last.gained / max(before, 1e-300), 1.0) if free else last.gained
        small = last.moved < STEP_TOLERANCE or expected < self._phase.tolerance * len(self.frames)
        return last.stuck or (self._fit.noise_changed < NOISE_TOLERANCE and small)


def _problem(model: HandModel, used: Targets, options: Options, step: int) -> HandProblem:
    """The problem on every `step`-th vertex and all joints."""
    meshes = used.vertices_m is not None
    points = HandPoints.of(model, torch.arange(0, 778 if meshes else 0, step))
    prior = None if meshes else PosePrior.of(model, options.pose_noise)
    at_once = options.frames_at_once
    chunk, batch = at_once or _chunk(points), at_once or BATCH
    return HandProblem(points, _measurements(used, options, step), prior, shared_shape=options.shared_shape, chunk=chunk, batch=batch)


def _measurements(targets: Targets, options: Options, step: int) -> list[Term]:
    """The terms of the tracker's targets that exist, with every `step`-th vertex."""
    losses: dict[Robust, Loss] = {"none": SQUARE, "huber": Huber(options.robust_m), "geman_mcclure": GemanMcClure(options.robust_m)}
    loss = losses[options.robust]
    found = (
        vertex(targets, options.sigma_vertex_m, loss, step),
        joint_3d(targets),
        joint_2d(targets, options.sigma_px),
    )
    return [term for term in found if term is not None]


def _chunk(points: HandPoints) -> int:
    return max(1, CHUNK_POINTS[points.rest.device.type] // len(points.rest))


def _frames_repeated(problem: HandProblem, state: HandState) -> float:
    """Number of frames that share one error: the mean over terms, weighted by their numbers of measurements."""
    sums: dict[str, SharedErrors] = {}
    for rows in chunks(len(state.transl), problem.chunk):
        posed = problem.points.pose(state.rows(rows))
        for term in problem.terms:
            residual = term.residual(posed, rows).mT
            if term.K is not None:  # pixel residuals are across the viewing direction
                residual = torch.cat([residual, torch.zeros_like(residual[..., :1])], dim=-1)
            found = SharedErrors.of(in_hand_frame(residual, state.rotations[rows, 0]), term.weight[rows])
            sums[term.name] = sums[term.name] + found if term.name in sums else found
    evidence = {term.name: float(term.weight.sum()) * term.dimensions for term in problem.terms}
    return sum(evidence[name] * found.frames_repeated() for name, found in sums.items()) / sum(evidence.values())


def _length_m(points: HandPoints, state: HandState) -> float:
    return float(chain_length_m(points, state.betas.reshape(-1, 10).mean(dim=0)))


def _size_note(hand: str, source: str, measured_m: float | None, tracked_m: float | None, fitted_m: float) -> str:
    if measured_m is None:
        return (
            f"{hand}: {1e3 * fitted_m:.0f} mm from wrist to middle fingertip, as given by {source}; all sizes depend on it "
            "(measure the hand and set hands.length_mm)"
        )
    return f"{hand}: scaled from {source}'s {1e3 * (tracked_m or fitted_m):.0f} mm to the measured {1e3 * measured_m:.0f} mm"


def _start(model: HandModel, targets: Targets, at_once: int) -> HandState:
    vertices, j3d, j2d = targets.weights()
    if targets.vertices_m is not None and vertices is not None:
        state = start.from_vertices(model, targets.vertices_m, vertices, at_once)
    elif targets.j3d_m is not None and j3d is not None:
        state = start.from_joints(model, targets.j3d_m.double(), j3d)
    else:
        assert targets.j2d_px is not None
        assert targets.K is not None
        assert j2d is not None
        return start.from_pixels(model, targets.j2d_px.double(), targets.K.double(), j2d)
    if targets.relative and targets.j2d_px is not None and targets.K is not None and j2d is not None:
        return start.translated(model, state, targets.j2d_px.double(), targets.K.double(), j2d)
    return state


def _error(problem: HandProblem, state: HandState) -> Tensor:
    """(T,) mean distance (m) from the tracker's mesh, else from its 2D keypoints at the hand's depth, else from its 3D joints."""
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
    """(T,) `Registration.error_m` of any parameters (T frames); NaN where they or the targets are missing.

    `rescaled`: the fit's hand size differs from the tracker's, whose meshes are first scaled by the least-squares factor.
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
    """Least-squares factor from points a to b (T, N, 3), each frame about its centroid; points that are NaN in either are ignored."""
    seen = (torch.isfinite(a) & torch.isfinite(b)).all(dim=-1, keepdim=True)
    count = seen.sum(dim=1, keepdim=True).clamp_min(1)
    from_a, from_b = (torch.where(seen, x.double(), 0.0) for x in (a, b))
    from_a, from_b = (torch.where(seen, x - x.sum(dim=1, keepdim=True) / count, 0.0) for x in (from_a, from_b))
    return float((from_a * from_b).sum() / from_a.square().sum())
