"""Hand and object in one metric camera frame: modes h, o, ho, each starting from the previous mode's state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from holdprep.align import hold, metrics
from holdprep.align.depth_maps import depth_ratios
from holdprep.align.grasp import static_grasps
from holdprep.align.modules import HoldAdam, HoldStart, SecondOrder
from holdprep.align.object_surface import object_surface
from holdprep.align.objective import Objective
from holdprep.align.problem import BEFORE, MODES, Alignment, Mode, Problem, Refine, Weights, object_points_sfm, prepare
from holdprep.align.scale import Choice, Views, combine, estimate_scale
from holdprep.align.scene import Scene, Setup, anchors_of
from holdprep.align.size import MeasuredSizes, SizeInterval, resized
from holdprep.align.surface import Surface
from holdprep.align.terms.z_min import NEAR_M
from holdprep.align.trajectory import Trajectory
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import linear_translation, project
from holdprep.geometry.rigid import interpolate_linear
from holdprep.hand.lbs import HandPoints, HandState, to_params, to_state
from holdprep.hand.model import ManoParams, Side
from holdprep.optimisation import Optimisation, Training, one_thread

Method = Literal["lm", "hold", "hold_arctic", "soft_silhouette"]
MAX_ITERATIONS: dict[Mode, int] = {"h": 50, "ho": 20}
Run = Callable[[Optimisation, int], None]
OTHER_FOCAL = 10.0  # times the standard error of mode o's scale, which was estimated with another focal length than mode ho's
NO_VERTICES = torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class Options:
    """Options of the alignment.

    `method` "lm" is second order; "hold" and "hold_arctic" are the published objectives, schedules and free unknowns, which do not use
    `refine` and `scale_estimator`; "soft_silhouette" is second order with hands fitted through pytorch3d's renderer in mode h
    (`silhouette`: px^2 per unit of IoU). `max_iterations` None is the mode's own limit.
    """

    method: Method = "lm"
    weights: Weights = field(default_factory=Weights)
    refine: Refine = field(default_factory=Refine)
    scale_estimator: Choice = "auto"
    max_iterations: int | None = None
    seed: int = 0
    silhouette: float = 2000.0
    measured: MeasuredSizes = field(default_factory=MeasuredSizes)


def align(
    mode: Mode, problem: Problem, options: Options | None = None, initial: Alignment | None = None, training: Training | None = None
) -> Alignment:
    """One mode of the alignment.

    `h`: each hand's translation (and what `refine` frees) from its keypoints under SfM's K. `o`: the object's scale along its SfM
    trajectory, from `initial` of mode h. `ho`: both jointly, from `initial` of mode o. The thousands of steps of published methods run on
    the device of `training`, the few second-order steps on the CPU. Loss terms are logged as align/<mode>/<term>.
    Raises HoldprepError in one line for input that cannot be aligned.
    """
    if mode not in MODES:
        raise HoldprepError(f"align mode={mode}: not allowed; allowed: {', '.join(MODES)}")
    options, training = options or Options(), training or Training()
    method, weights, refine = options.method, options.weights, options.refine
    ready = prepare(problem, weights)
    _check_initial(mode, ready, initial)
    surface = None if mode == "h" else object_surface(ready)

    def run(module: Optimisation, iterations: int) -> None:
        training.fit(module, options.max_iterations or iterations, "cpu" if isinstance(module, SecondOrder) else None)

    if method == "soft_silhouette" and mode == "h":
        result = _align_silhouettes(ready, options, run, training.device)
    elif method in ("hold", "hold_arctic"):
        result = _align_hold(mode, method, ready, weights, initial, run, training.device)
    elif surface is None or initial is None:
        result = _align_hands(ready, weights, refine, run)
    elif mode == "o":
        result = _align_object(ready, surface, options, initial, run, training.loggers)
    else:
        result = _align_jointly(ready, surface, weights, refine, initial, run)
    found, curves = _metrics(ready, surface, result)
    if method == "lm" and not np.isfinite(result.obj_scale_stderr):
        found.pop("object.scale_stderr_pct", None)  # unknown after HOLD's mode o
    listed = {name: curve.tolist() for name, curve in curves.items()}
    return replace(result, metrics=found | result.metrics, curves=listed, surface={} if surface is None else surface.tensors())


def evaluated(problem: Problem, alignment: Alignment) -> Alignment:
    """An alignment of any origin with the metrics and curves of `align`, except those that only a fit provides."""
    ready = prepare(problem, Weights())
    frames = len(alignment.transl_cam_obj_m)
    if frames != problem.num_frames or not set(problem.hands) <= set(alignment.hands):
        have = f"{frames} frames, hands {'+'.join(alignment.hands)}"
        raise HoldprepError(
            f"the alignment has {have}, the sequence {problem.num_frames} frames, hands {'+'.join(problem.hands)}: align again"
        )
    alignment = replace(alignment, K=problem.K) if bool(alignment.K.isnan().any()) else alignment  # HOLD's states have no camera
    surface = None if alignment.mode == "h" else object_surface(ready)
    found, curves = _metrics(ready, surface, alignment)
    unknown = {"iterations"} | ({"object.scale_stderr_pct"} if not np.isfinite(alignment.obj_scale_stderr) else set())
    figures = {name: value for name, value in found.items() if name not in unknown}
    return replace(alignment, metrics=figures, curves={name: curve.tolist() for name, curve in curves.items()})


def _check_initial(mode: Mode, problem: Problem, initial: Alignment | None) -> None:
    before = BEFORE[mode]
    if before is None:
        return
    if initial is None:
        raise HoldprepError(f"align mode={mode} starts from the state of mode={before}: run stage=align mode={before} first")
    frames = len(initial.transl_cam_obj_m)
    if MODES.index(initial.mode) < MODES.index(before) or frames != problem.num_frames or set(initial.hands) != set(problem.hands):
        have = f"mode {initial.mode}, {frames} frames, hands {'+'.join(initial.hands)}"
        want = f"mode {before}, {problem.num_frames} frames, hands {'+'.join(problem.hands)}"
        raise HoldprepError(f"align mode={mode} needs {want}, but the state given is of {have}: run stage=align mode={before} again")


@one_thread()
def _align_hands(problem: Problem, weights: Weights, refine: Refine, run: Run) -> Alignment:
    registered = {side: to_state(hand.model, hand.params) for side, hand in problem.hands.items()}
    start = {side: _start(problem, side, state) for side, state in registered.items()}
    scene = Scene(start, torch.zeros((), dtype=torch.float64), Trajectory.of(problem))
    refine = replace(refine, pose=False)  # without an object, the fingers' evidence is that of the registration
    module = SecondOrder("h", Objective(Setup.of(problem, registered), weights, refine, scene))
    run(module, MAX_ITERATIONS["h"])
    hands = {side: _fill(problem, side, state) for side, state in module.scene.hands.items()}
    measured = {name: value for name, value in module.objective.effective.items() if weights.of(name) is None}
    result = _alignment("h", "lm", problem, hands, 1.0, float("nan"), module.history)
    return replace(result, metrics=_weights_used(module), measured=measured)


def _align_silhouettes(problem: Problem, options: Options, run: Run, device: str) -> Alignment:
    """Mode h through pytorch3d's renderer, from the registered hands translated to the keypoints."""
    from holdprep.align.soft_silhouette import ITERATIONS, SoftSilhouette  # pytorch3d is optional

    start = {side: _start(problem, side, to_state(hand.model, hand.params)) for side, hand in problem.hands.items()}
    module = SoftSilhouette(problem, start, options.refine, options.silhouette, device)
    run(module, ITERATIONS)
    with torch.no_grad():
        found = {side: module.state(side) for side in problem.hands}
    states = {s: HandState(*(x.double().cpu() for x in (state.rotations, state.betas, state.transl))) for s, state in found.items()}
    hands = {side: _fill(problem, side, state) for side, state in states.items()}
    return _alignment("h", "soft_silhouette", problem, hands, 1.0, float("nan"), module.history)


@one_thread()
def _align_object(
    problem: Problem, surface: Surface, options: Options, initial: Alignment, run: Run, loggers: Sequence[Logger]
) -> Alignment:
    hands = _states(problem, initial)
    tracks = {side: metrics.hand_track(problem, side, state) for side, state in hands.items()}
    orders = {s: order for s, state in hands.items() if (order := metrics.depth_order_rays(problem, s, state, surface)) is not None}
    ratios = {s: ratio for s, state in hands.items() if (ratio := depth_ratios(problem, s, state, surface)) is not None}
    views = Views(orders, ratios)
    estimates = estimate_scale(options.scale_estimator, tracks, surface, views, options.seed)
    found, posterior = combine({estimate.name: estimate for estimate in estimates}, views.orders)
    history = [estimate.logged() for estimate in estimates]
    for step, values in enumerate(history):
        for logger in loggers:
            logger.log_metrics({f"align/o/{name}": value for name, value in values.items()}, step=step)
    measured, scale, stderr, notes = options.measured.of_object(problem, surface), found.scale, found.stderr_ratio, list(found.notes)
    figures = {f"scale.{k}": v for k, v in found.figures.items()}
    if not measured:
        interval = SizeInterval.of(posterior, problem, options.measured.hand)
    else:
        by_object, posterior = combine(measured)
        interval = SizeInterval.between(posterior, f"measured ({', '.join(measured)})")
        scale, stderr = by_object.scale, by_object.stderr_ratio
        hands = _states(
            problem, _align_hands(_with_longer_hands(problem, initial, scale / found.scale), options.weights, options.refine, run)
        )
        notes += [*by_object.notes, f"the object's measured size changes the hands' length by {100 * (scale / found.scale - 1):+.1f} %"]
        # "all" remains what the hand leaves open: the interval is that of what was measured
        figures |= {f"scale.{k}": v for k, v in by_object.figures.items() if not k.startswith("all.")}
    result = _alignment("o", "lm", problem, hands, scale, scale * stderr, history)
    figures |= interval.figures(scale, surface.across)
    notes.append(interval.note(scale, surface.across))
    if surface.added:
        notes.append(f"the silhouettes show more of the object than its cloud: {surface.added} points of their edges complete its surface")
    return replace(result, metrics=figures, notes=notes, measured=initial.measured)


def _with_longer_hands(problem: Problem, initial: Alignment, ratio: float) -> Problem:
    """The problem with hands registered in the shapes of an alignment, lengthened by a factor."""
    longer = {side: resized(hand.model, initial.hands[side].betas.double(), ratio) for side, hand in problem.hands.items()}
    hands = {side: replace(hand, params=replace(hand.params, betas=longer[side])) for side, hand in problem.hands.items()}
    return replace(problem, hands=hands)


@one_thread()
def _align_jointly(problem: Problem, surface: Surface, weights: Weights, refine: Refine, initial: Alignment, run: Run) -> Alignment:
    hands = _states(problem, initial)
    # the shape's prior is that of mode o, which may have lengthened the hands
    registered = {side: replace(to_state(hand.model, hand.params), betas=hands[side].betas) for side, hand in problem.hands.items()}
    log_scale = float(np.log(initial.obj_scale))
    known = initial.obj_scale_stderr / initial.obj_scale  # NaN: unknown, after HOLD's mode o
    ratio = known if np.isfinite(known) and known > 0 else 1.0  # a prior that holds the scale only where nothing else does
    ratio *= OTHER_FOCAL if refine.focal else 1.0
    tracks = {side: metrics.hand_track(problem, side, state) for side, state in hands.items()}
    grasps = {side: found for side, track in tracks.items() if (found := static_grasps(track, initial.obj_scale)) is not None}
    width = weights.o2d_sigma_px if refine.obj_pose else None
    setup = Setup.of(problem, registered, surface, log_scale, ratio, grasps=grasps, observation_width_px=width)
    scene = Scene(hands, torch.tensor(log_scale, dtype=torch.float64), Trajectory.of(problem), anchors_of(grasps))
    objective = Objective(setup, weights, refine, scene, initial.measured)
    module = SecondOrder("ho", objective)
    run(module, MAX_ITERATIONS["ho"])
    scale, trajectory = float(module.scene.scale), module.scene.trajectory
    corrected = replace(problem, K=trajectory.K(problem.K), T_cam_obj=trajectory.T_cam_obj)
    result = _alignment("ho", "lm", corrected, module.scene.hands, scale, known * scale, module.history)
    figures = _weights_used(module)
    interval = SizeInterval.read(initial.metrics)
    figures |= {} if interval is None else interval.figures(scale, surface.across)
    notes = [*initial.notes, f"mode ho moved the scale by {100 * (scale / initial.obj_scale - 1):+.2f} %"]
    if objective.layout.object_free:
        rotation_rad, translation = (d.norm(dim=1).median() for d in trajectory.departure(problem).split(3, dim=1))
        rotation_deg, translation_mm = float(rotation_rad.rad2deg()), 1e3 * scale * float(translation)
        figures |= {"object.turned_deg": rotation_deg, "object.shifted_mm": translation_mm}
        notes.append(f"mode ho moved the object's poses by {rotation_deg:.2f} deg and {translation_mm:.2f} mm (medians)")
    if objective.layout.focal_free:
        figures["focal_change_pct"] = 100 * float(trajectory.log_focal.expm1())
        notes.append(f"mode ho changed the focal length by {figures['focal_change_pct']:+.2f} % to {float(corrected.K[0, 0]):.1f} px")
    return replace(result, metrics=figures, notes=notes)


def _align_hold(
    mode: Mode, variant: hold.Variant, problem: Problem, weights: Weights, initial: Alignment | None, run: Run, device: str
) -> Alignment:
    """One mode of HOLD's methods; they start with the hand at (0, 0, 1) m and the object 1 m behind its SfM position."""
    ahead = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if initial is None:
        states = {side: to_state(hand.model, hand.params) for side, hand in problem.hands.items()}
        hands = {side: replace(state, transl=ahead.repeat(problem.num_frames, 1)) for side, state in states.items()}
        scale, obj_transl = 1.0, problem.T_cam_obj[:, :3, 3] + ahead
    else:
        hands, scale, obj_transl = _states(problem, initial), initial.obj_scale, initial.transl_cam_obj_m.double()
    vertices = NO_VERTICES if variant == "hold" else torch.arange(778)
    rest = {
        side: posed_points(problem, side, replace(state, transl=torch.zeros_like(state.transl)), vertices) for side, state in hands.items()
    }
    transl = {side: state.transl for side, state in hands.items()}
    rotated = problem.points_obj @ problem.T_cam_obj[:, :3, :3].transpose(1, 2)
    settled = weights.with_open(hold.OPEN[variant])
    targets = hold_targets(problem, rest, transl).to(device)
    rest, transl = ({side: points.to(device) for side, points in hand.items()} for hand in (rest, transl))
    start = HoldStart(rest, transl, rotated.to(device), obj_transl.to(device), scale)
    module = HoldAdam(mode, variant, start, targets, settled)
    run(module, module.schedule.iterations)
    hands = {side: replace(state, transl=module.hand_transl[side].detach().cpu()) for side, state in hands.items()}
    result = _alignment(mode, variant, problem, hands, float(module.obj_scale.detach()), float("nan"), module.history)
    return replace(result, transl_cam_obj_m=module.obj_transl.detach().cpu())


def hold_targets(problem: Problem, rest_m: dict[Side, Tensor], transl_m: dict[Side, Tensor]) -> hold.Targets:
    """HOLD's targets for a prepared problem, with the hands at the translations `transl_m`."""
    hands = problem.hands.items()
    return hold.Targets(
        problem.K,
        {side: hand.j2d_px for side, hand in hands},
        {side: hand.weight > 0 for side, hand in hands},
        {side: rest_m[side] + transl_m[side][:, None] for side, _ in hands},
        project(object_points_sfm(problem), problem.K),
    )


def _start(problem: Problem, side: Side, registered: HandState) -> HandState:
    """Initial translations: the linear solution in frames with keypoints, if in front of the camera; interpolated elsewhere."""
    hand = problem.hands[side]
    joints = posed_points(problem, side, registered)
    transl = linear_translation(joints, problem.K, hand.j2d_px, hand.weight)
    depth = transl[:, 2] + joints[:, 0, 2]
    usable = torch.isfinite(depth) & (depth > 2 * NEAR_M)
    if not bool(usable.any()):
        counts = f"0 of {len(depth)} frames usable"
        raise HoldprepError(f"{counts}: the {side} hand's keypoints fit no hand in front of the camera; check K and their order")
    filled = interpolate_linear(torch.nan_to_num(transl).numpy(), usable.numpy())
    return replace(registered, transl=torch.from_numpy(filled))


def _fill(problem: Problem, side: Side, state: HandState) -> HandState:
    """The state with translations of frames without keypoints interpolated from neighbouring frames."""
    seen = (problem.hands[side].weight.sum(dim=1) > 0).numpy()
    return replace(state, transl=torch.from_numpy(interpolate_linear(state.transl.numpy(), seen)))


def posed_points(problem: Problem, side: Side, state: HandState, vertices: Tensor = NO_VERTICES) -> Tensor:
    """(T, 21 + V, 3) joints and vertices."""
    return HandPoints.of(problem.hands[side].model, vertices).pose(state).points


def _states(problem: Problem, alignment: Alignment) -> dict[Side, HandState]:
    states = {}
    for side, hand in problem.hands.items():
        p = alignment.hands[side]
        double = ManoParams(p.global_orient.double(), p.hand_pose.double(), p.betas.double(), p.transl.double())
        states[side] = to_state(hand.model, double)
    return states


def _weights_used(module: SecondOrder) -> dict[str, float]:
    return {f"weights.{name}": value for name, value in module.weights_used().items()}


def _alignment(
    mode: Mode, method: Method, problem: Problem, hands: dict[Side, HandState], scale: float, stderr: float, losses: list[dict[str, float]]
) -> Alignment:
    params = {side: to_params(problem.hands[side].model, state) for side, state in hands.items()}
    R, t = problem.T_cam_obj[:, :3, :3].clone(), scale * problem.T_cam_obj[:, :3, 3]
    return Alignment(mode, method, params, scale, stderr, R, t, problem.K, losses=losses)


@one_thread()
def _metrics(problem: Problem, surface: Surface | None, alignment: Alignment) -> tuple[dict[str, float], metrics.Curves]:
    curves: metrics.Curves = {}
    hands, corrected = _states(problem, alignment), _as_aligned(problem, alignment)
    result = {"behind_camera_frames": metrics.behind_camera_frames(problem, hands), "iterations": float(len(alignment.losses))}
    for side, state in hands.items():
        result |= metrics.hand_metrics(corrected, side, state, curves)
    if surface is not None:
        result |= metrics.object_metrics(corrected, surface, alignment.obj_scale, alignment.obj_scale_stderr / alignment.obj_scale, curves)
        result |= metrics.order_metrics(corrected, hands, alignment.obj_scale, surface) if alignment.mode == "ho" else {}
        result |= metrics.contact_metrics(corrected, hands, alignment.obj_scale, surface, curves)
    return result, curves


def _as_aligned(problem: Problem, alignment: Alignment) -> Problem:
    """The problem with the aligned trajectory of the object, in the unit of SfM, and the aligned camera."""
    T = problem.T_cam_obj.clone()
    T[:, :3, :3], T[:, :3, 3] = alignment.R_cam_obj, alignment.transl_cam_obj_m / alignment.obj_scale
    return replace(problem, T_cam_obj=T, K=alignment.K)
