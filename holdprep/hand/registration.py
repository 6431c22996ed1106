"""MANO parameters from meshes or keypoints: Levenberg-Marquardt over all frames at once, with one shape for the sequence.

Every residual is divided by its noise, so that its squared sum is a negative log-likelihood and priors need no weights of their own.
Per frame there are 51 unknowns (16 bones' turns, translation); the shape is shared, which makes the normal equations an arrow:
frames are eliminated one by one, the 10 shape unknowns solved last (Schur complement). The cost is linear in frames.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import cv2
import numpy as np
import roma
import torch
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import linear_translation, project
from holdprep.hand.joints import FINGERS
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState, Posed, to_params, to_state
from holdprep.hand.model import HandModel, ManoParams

CHUNK = 48  # frames whose Jacobians are in memory at once: 778 points x 51 unknowns in float64 are 1 MB a frame
NOISE_FLOOR_M = 5e-5  # vertices are never trusted beyond this; keeps the shape prior finite on exact targets
STEP_TOLERANCE = 1e-6  # rad, m and shape units
FIRST_DAMPING, MAX_DAMPING = 1e-4, 1e8
# the joint next towards the tip: where a bone points
CHILD = {joint: child for finger in FINGERS for joint, child in pairwise(finger)}
PALM = (0, 1, 4, 7, 10, 13)
MIDDLE_FINGER = (0, *FINGERS[1])

Callback = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Registration:
    """`params` of T frames (NaN where there was no target, except the shared shape), `is_valid` (T,) bool, `error_m` (T,) mean
    distance to the target (NaN without), `history` the loss terms of every iteration."""

    params: ManoParams
    is_valid: Tensor
    error_m: Tensor
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class PoseNoise:
    """Standard deviations in rad of a joint's turn about the axes of MANO's flat rest pose (fingers along x, palm down).

    Fingers bend about z by up to 90 degrees from flat, the mean pose in the middle: 0.6 covers it at 1.5 sigma. Only the knuckles
    spread (about y, some 15 degrees either way); nothing twists (about x) more than its skin gives. The thumb's axes lie
    across these, so it gets one width for all.
    """

    bend: float = 0.6
    spread_knuckle: float = 0.2
    spread: float = 0.06
    twist_knuckle: float = 0.12
    twist: float = 0.06
    thumb: float = 0.35

    def table(self) -> Tensor:
        """(15, 3) for the joints 1-15."""
        knuckle = torch.tensor([self.twist_knuckle, self.spread_knuckle, self.bend])
        other = torch.tensor([self.twist, self.spread, self.bend])
        finger = torch.stack([knuckle, other, other])
        return torch.cat([finger.repeat(4, 1), torch.full((3, 3), self.thumb)])


def register_vertices(
    model: HandModel,
    vertices_m: Tensor,
    *,
    shared_shape: bool = True,
    max_iterations: int = 50,
    on_iteration: Callback | None = None,
) -> Registration:
    """MANO fitted to meshes (T, 778, 3) in metres; frames with NaN are left out.

    The shape prior (unit Gaussian) is weighed against the vertices by their own measured noise. Raises HoldprepError where the shape
    is not (T, 778, 3) or no frame has a target.
    """
    target = torch.as_tensor(vertices_m, dtype=torch.float64)
    if target.ndim != 3 or target.shape[1:] != (778, 3):
        raise HoldprepError(f"register: vertices have shape {tuple(target.shape)}, not (frames, 778, 3)")
    is_valid = torch.isfinite(target).all(dim=(1, 2))
    _require_frames(is_valid)
    model = model.to(torch.float64)
    points = HandPoints.of(model, torch.arange(778))
    terms = _Terms(vertices=target[is_valid])
    if shared_shape:
        state, history = _solve(points, terms, _start_from_vertices(model, points, target[is_valid]), max_iterations, on_iteration)
    else:
        state, history = _solve_each(points, terms, model, max_iterations)
    posed = torch.cat([points.pose(_rows(state, c)).points[:, NUM_JOINTS:] for c in _chunks(len(state.transl))])
    error = (posed - target[is_valid]).norm(dim=-1).mean(dim=1)
    return _registration(model, state, is_valid, error, history)


def register_keypoints(
    model: HandModel,
    *,
    j3d_m: Tensor | None = None,
    j2d_px: Tensor | None = None,
    K: Tensor | None = None,
    confidence: Tensor | None = None,
    sigma_3d_m: float = 0.012,
    sigma_px: float = 4.0,
    pose_noise: PoseNoise | None = None,
    hand_length_m: float | None = None,
    max_iterations: int = 60,
    on_iteration: Callback | None = None,
) -> Registration:
    """MANO fitted to 21 keypoints (MANO-21 order): `j3d_m` (T, 21, 3) in camera axes relative to their wrist, `j2d_px` (T, 21, 2) under `K`, or both.

    NaN joints are left out, frames with fewer than 6 joints are not fitted. `confidence` (T, 21) in [0, 1] weighs both kinds. What the
    keypoints leave open is held by a Gaussian on the joint angles (`PoseNoise`) and on the shape. `hand_length_m` is the
    measured length from wrist to middle fingertip. With 2D the translation is in the camera frame of K, else the wrist lies at the origin.
    """
    if j3d_m is None and (j2d_px is None or K is None):
        raise HoldprepError("register: keypoints need j3d_m, or j2d_px with K")
    model = model.to(torch.float64)
    given = [torch.as_tensor(x, dtype=torch.float64) for x in (j3d_m, j2d_px) if x is not None]
    seen = torch.stack([torch.isfinite(x).all(dim=-1) for x in given]).all(dim=0)
    weight = seen.double() * (1.0 if confidence is None else torch.nan_to_num(torch.as_tensor(confidence, dtype=torch.float64)))
    is_valid = (weight > 0.05).sum(dim=1) >= 6
    _require_frames(is_valid)
    weight = weight[is_valid]
    noise = (pose_noise or PoseNoise()).table().double()
    terms = _Terms(pose_noise=noise, hand_mean=model.hand_mean, length_m=hand_length_m, weight=weight)
    if j3d_m is not None:
        j3d = torch.nan_to_num(torch.as_tensor(j3d_m, dtype=torch.float64)[is_valid])
        terms = replace(terms, j3d=j3d - j3d[:, :1], sigma_3d=sigma_3d_m)
    if j2d_px is not None and K is not None:
        terms = replace(
            terms,
            j2d=torch.nan_to_num(torch.as_tensor(j2d_px, dtype=torch.float64)[is_valid]),
            K=torch.as_tensor(K).double(),
            sigma_px=sigma_px,
        )
    points = HandPoints.of(model, torch.zeros(0, dtype=torch.long))
    state, history = _solve(points, terms, _start_from_keypoints(model, points, terms), max_iterations, on_iteration)
    return _registration(model, state, is_valid, _keypoint_error(points, terms, state), history)


@dataclass(frozen=True)
class _Terms:
    """What is measured in the frames that are fitted, and how noisy it is."""

    vertices: Tensor | None = None
    sigma_vertex: float = 2e-3
    j3d: Tensor | None = None
    sigma_3d: float = 1.0
    j2d: Tensor | None = None
    K: Tensor | None = None
    sigma_px: float = 1.0
    weight: Tensor | None = None
    pose_noise: Tensor | None = None
    hand_mean: Tensor | None = None
    length_m: float | None = None


def _require_frames(is_valid: Tensor) -> None:
    if not bool(is_valid.any()):
        raise HoldprepError(f"register: none of {len(is_valid)} frames has a target: check hand_pose's overlays and hands.which")


def _chunks(frames: int) -> Iterator[slice]:
    return (slice(i, i + CHUNK) for i in range(0, frames, CHUNK))


def _rows(state: HandState, rows: slice) -> HandState:
    return HandState(state.rotations[rows], state.betas, state.transl[rows])


def _registration(model: HandModel, state: HandState, is_valid: Tensor, error: Tensor, history: list[dict[str, float]]) -> Registration:
    params = to_params(model, state)

    def spread(x: Tensor) -> Tensor:
        full = x.new_full((len(is_valid), *x.shape[1:]), float("nan"))
        full[is_valid] = x
        return full

    betas = params.betas if params.betas.ndim == 1 else spread(params.betas)
    full = ManoParams(spread(params.global_orient), spread(params.hand_pose), betas, spread(params.transl))
    return Registration(full, is_valid, spread(error), history)


def _start_from_vertices(model: HandModel, points: HandPoints, target: Tensor) -> HandState:
    """Each bone by Procrustes on the vertices skinned to it: 5 mm away, from any pose."""
    source = model.v_template
    bones = []
    for k in range(16):
        w = model.weights[:, k] / model.weights[:, k].sum()
        x, y = source - w @ source, target - torch.einsum("v,tvc->tc", w, target)[:, None]
        bones.append(roma.special_procrustes(torch.einsum("v,tva,vb->tab", w, y, x)))
    local = [bones[0]] + [bones[model.parents[k]].mT @ bones[k] for k in range(1, 16)]
    state = HandState(torch.stack(local, dim=1), torch.zeros(10).double(), torch.zeros(len(target), 3).double())
    placed = torch.cat([points.pose(_rows(state, c)).points[:, NUM_JOINTS:].mean(dim=1) for c in _chunks(len(target))])
    return replace(state, transl=target.mean(dim=1) - placed)


def _start_from_keypoints(model: HandModel, points: HandPoints, terms: _Terms) -> HandState:
    """The palm by Procrustes, each finger bone by the shortest turn onto its direction; 2D alone: the mean pose by PnP."""
    frames = len(terms.weight) if terms.weight is not None else 0
    rotation, pose, transl = (torch.zeros(frames, n).double() for n in (3, 45, 3))
    zeros = ManoParams(rotation, pose, torch.zeros(10).double(), transl)
    state = to_state(model, zeros)
    mean = points.pose(state).points[0]
    if terms.j3d is None:
        return _start_by_pnp(state, mean, terms)
    palm = list(PALM)
    centred = terms.j3d[:, palm] - terms.j3d[:, palm].mean(dim=1, keepdim=True)
    root = roma.special_procrustes(torch.einsum("tja,jb->tab", centred, mean[palm] - mean[palm].mean(dim=0)))
    rotations = state.rotations.clone()
    rotations[:, 0] = root
    world = {0: root}
    for k, child in CHILD.items():
        parent = world[model.parents[k]]
        want = (parent.mT @ (terms.j3d[:, child] - terms.j3d[:, k])[..., None])[..., 0]
        have = (points.rest[child] - points.rest[k]).expand_as(want)
        have = (state.rotations[:, k] @ have[..., None])[..., 0]
        rotations[:, k] = _shortest_turn(have, want) @ state.rotations[:, k]
        world[k] = parent @ rotations[:, k]
    state = replace(state, rotations=rotations)
    joints = points.pose(state).points
    if terms.j2d is None or terms.K is None:
        return replace(state, transl=-joints[:, 0])
    assert terms.weight is not None
    return replace(state, transl=linear_translation(joints, terms.K, terms.j2d, terms.weight))


def _shortest_turn(a: Tensor, b: Tensor) -> Tensor:
    """(T, 3, 3) rotations that take directions a onto b without twist."""
    a, b = torch.nn.functional.normalize(a, dim=-1), torch.nn.functional.normalize(b, dim=-1)
    axis = torch.linalg.cross(a, b)
    angle = torch.atan2(axis.norm(dim=-1), (a * b).sum(dim=-1))
    return roma.rotvec_to_rotmat(torch.nn.functional.normalize(axis, dim=-1) * angle[:, None])


def _start_by_pnp(state: HandState, mean: Tensor, terms: _Terms) -> HandState:
    assert terms.j2d is not None
    assert terms.K is not None
    assert terms.weight is not None
    rotations, transl = state.rotations.clone(), state.transl.clone()
    for t, px in enumerate(terms.j2d):
        use = (terms.weight[t] > 0).numpy()
        ok, rvec, tvec = cv2.solvePnP((mean - mean[0]).numpy()[use], px.numpy()[use], terms.K.numpy(), None, flags=cv2.SOLVEPNP_SQPNP)
        if ok:
            rotations[t, 0] = roma.rotvec_to_rotmat(torch.from_numpy(np.ravel(rvec)))
            transl[t] = torch.from_numpy(np.ravel(tvec)) - mean[0]
    return replace(state, rotations=rotations, transl=transl)


def _solve(
    points: HandPoints, terms: _Terms, state: HandState, max_iterations: int, callback: Callback | None
) -> tuple[HandState, list[dict[str, float]]]:
    """LM with one damping for all frames; stops on the step's size."""
    damping = FIRST_DAMPING
    history: list[dict[str, float]] = []
    terms, losses = _measure(points, terms, state)
    for iteration in range(max_iterations):
        blocks = [_normal_equations(points, terms, state, rows) for rows in _chunks(len(state.transl))]
        while True:
            step = _arrow_step(blocks, _shape_prior(points, terms, state), damping)
            trial = state.step(step[0][:, 48:], step[0][:, :48].unflatten(1, (16, 3)), step[1])
            tried = _losses(points, terms, trial)
            if tried["total"] <= losses["total"] or damping > MAX_DAMPING:
                break
            damping *= 10
        if damping > MAX_DAMPING:
            break
        state, damping = trial, max(damping / 10, 1e-9)
        terms, losses = _measure(points, terms, state)
        history.append(losses)
        if callback is not None:
            callback(iteration, losses)
        if float(step[0].abs().max()) < STEP_TOLERANCE and float(step[1].abs().max()) < STEP_TOLERANCE * 10:
            break
    return state, history


def _solve_each(points: HandPoints, terms: _Terms, model: HandModel, max_iterations: int) -> tuple[HandState, list[dict[str, float]]]:
    """A shape a frame: every frame is a sequence of its own."""
    assert terms.vertices is not None
    found = []
    history: list[dict[str, float]] = []
    for target in terms.vertices:
        state, losses = _solve(
            points, _Terms(vertices=target[None]), _start_from_vertices(model, points, target[None]), max_iterations, None
        )
        found.append(state)
        history += losses[-1:]
    rotations, transl = (torch.cat([getattr(s, name) for s in found]) for name in ("rotations", "transl"))
    return HandState(rotations, torch.stack([s.betas for s in found]), transl), history


def _measure(points: HandPoints, terms: _Terms, state: HandState) -> tuple[_Terms, dict[str, float]]:
    """The vertices' noise from their residual (so that the shape prior has its due weight), and the losses under it."""
    if terms.vertices is not None:
        squared = sum(
            float((points.pose(_rows(state, c)).points[:, NUM_JOINTS:] - terms.vertices[c]).square().sum())
            for c in _chunks(len(state.transl))
        )
        terms = replace(terms, sigma_vertex=max((squared / terms.vertices.numel()) ** 0.5, NOISE_FLOOR_M))
    return terms, _losses(points, terms, state)


def _losses(points: HandPoints, terms: _Terms, state: HandState) -> dict[str, float]:
    """Half the squared sum of every term's residuals, each in units of its noise."""
    losses = {"shape_prior": 0.5 * float(state.betas.square().sum())}
    if terms.length_m is not None:
        losses["length"] = 0.5 * float(_length_residual(points, terms.length_m, state.betas)[0]) ** 2
    for rows in _chunks(len(state.transl)):
        posed = points.pose(_rows(state, rows))
        for name, residual, _ in _residuals(terms, posed, rows):
            losses[name] = losses.get(name, 0.0) + 0.5 * float(residual.square().sum())
        if terms.pose_noise is not None:
            losses["pose_prior"] = losses.get("pose_prior", 0.0) + 0.5 * float(_pose_residual(terms, posed.state)[0].square().sum())
    losses["total"] = sum(losses.values())
    return losses


def _residuals(terms: _Terms, posed: Posed, rows: slice) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, residual (T, Q, C) in units of noise, its derivative (T, Q, C, 3) by the points) of every measurement."""
    joints = posed.points[:, :NUM_JOINTS]
    eye = torch.eye(3).to(joints)
    if terms.vertices is not None:
        residual = (posed.points[:, NUM_JOINTS:] - terms.vertices[rows]) / terms.sigma_vertex
        yield "vertex", residual, (eye / terms.sigma_vertex).expand(*residual.shape[:2], 3, 3)
    if terms.weight is None:
        return
    root = terms.weight[rows].sqrt()[..., None]
    if terms.j3d is not None:
        scale = root / terms.sigma_3d
        residual = ((joints - joints[:, :1]) - terms.j3d[rows]) * scale
        yield "joint_3d", residual, eye * scale[..., None]
    if terms.j2d is not None and terms.K is not None:
        residual = (project(joints, terms.K) - terms.j2d[rows]) * root / terms.sigma_px
        # Geman-McClure at 3 sigma by reweighting: a joint that another finger hides must not bend the hand
        robust = 1 / (1 + residual.square().sum(dim=-1, keepdim=True) / 9)
        yield (
            "j2d",
            residual * robust.sqrt(),
            _projection_jacobian(joints, terms.K) * (root * robust.sqrt() * robust.sqrt() / terms.sigma_px)[..., None],
        )


def _projection_jacobian(points: Tensor, K: Tensor) -> Tensor:
    """(..., 2, 3) derivative of pixels by camera-frame points."""
    x, y, z = points.unbind(-1)
    zero = torch.zeros_like(z)
    row_u = torch.stack([K[0, 0] / z, zero, -K[0, 0] * x / z**2], dim=-1)
    row_v = torch.stack([zero, K[1, 1] / z, -K[1, 1] * y / z**2], dim=-1)
    return torch.stack([row_u, row_v], dim=-2)


def _pose_residual(terms: _Terms, state: HandState) -> tuple[Tensor, Tensor]:
    """(T, 15, 3) turn of each joint from the mean pose in units of its width, and its derivative (T, 15, 3, 3) by turns in the parent's frame."""
    assert terms.pose_noise is not None
    assert terms.hand_mean is not None
    mean = roma.rotvec_to_rotmat(terms.hand_mean.reshape(15, 3))
    turn = roma.rotmat_to_rotvec(state.rotations[:, 1:] @ mean.mT)
    return turn / terms.pose_noise, _left_jacobian_inverse(turn) / terms.pose_noise[:, :, None]


def _left_jacobian_inverse(w: Tensor) -> Tensor:
    """d log(exp(e) exp(w)) / d e at e = 0, (..., 3, 3); Chirikjian, Stochastic Models 2, eq. 10.86."""
    angle = w.norm(dim=-1)[..., None, None].clamp_min(1e-6)
    cross = torch.linalg.cross(w[..., None, :].expand(*w.shape, 3), torch.eye(3).to(w).expand(*w.shape, 3), dim=-1).mT
    factor = 1 / angle**2 - (1 + angle.cos()) / (2 * angle * angle.sin())
    return torch.eye(3).to(w) - 0.5 * cross + factor * (cross @ cross)


def _normal_equations(points: HandPoints, terms: _Terms, state: HandState, rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A (T, 51, 51), B (T, 51, 10), C (10, 10), and gradients a (T, 51), c (10,) of a chunk."""
    part = _rows(state, rows)
    posed = points.pose(part)
    frames = len(part.transl)
    A, a = torch.zeros(frames, 51, 51).double(), torch.zeros(frames, 51).double()
    B, C, c = torch.zeros(frames, 51, 10).double(), torch.zeros(10, 10).double(), torch.zeros(10).double()
    for name, residual, by_point in _residuals(terms, posed, rows):
        first, count = (NUM_JOINTS, 778) if name == "vertex" else (0, NUM_JOINTS)
        ids = torch.arange(first, first + count)[None]
        motion = torch.cat([points.rotation_jacobian(posed, ids).flatten(3), torch.eye(3).double().expand(frames, count, 3, 3)], dim=3)
        shape = points.shape_jacobian(posed, ids)
        if name == "joint_3d":
            motion, shape = motion - motion[:, :1], shape - shape[:, :1]
        J = (by_point @ motion).flatten(1, 2)
        S = (by_point @ shape).flatten(1, 2)
        r = residual.flatten(1)[..., None]
        A, B, C = A + J.mT @ J, B + J.mT @ S, C + (S.mT @ S).sum(dim=0)
        a, c = a + (J.mT @ r)[..., 0], c + (S.mT @ r).sum(dim=0)[:, 0]
    if terms.pose_noise is not None:
        r, J = _pose_residual(terms, part)
        for k in range(15):
            at = slice(3 * k + 3, 3 * k + 6)
            A[:, at, at] += J[:, k].mT @ J[:, k]
            a[:, at] += (J[:, k].mT @ r[:, k, :, None])[..., 0]
    return A, B, C, a, c


def _length_residual(points: HandPoints, length_m: float, betas: Tensor) -> tuple[Tensor, Tensor]:
    """(length - measured) / 1 mm along the bones of the straight middle finger, and its derivative (10,)."""
    with torch.enable_grad():
        free = betas.detach().clone().requires_grad_()
        joints = points.rest[:NUM_JOINTS] + points.shapedirs[:NUM_JOINTS] @ free
        chain = joints[list(MIDDLE_FINGER)]
        residual = ((chain[1:] - chain[:-1]).norm(dim=-1).sum() - length_m) / 1e-3
        (gradient,) = torch.autograd.grad(residual, free)
    return residual.detach(), gradient


def _shape_prior(points: HandPoints, terms: _Terms, state: HandState) -> tuple[Tensor, Tensor]:
    """Normal matrix (10, 10) and gradient (10,) of what is known of the shape beforehand."""
    C, c = torch.eye(10).double(), state.betas.clone()
    if terms.length_m is not None:
        r, g = _length_residual(points, terms.length_m, state.betas)
        C, c = C + g[:, None] * g, c + r * g
    return C, c


def _arrow_step(blocks: Sequence[tuple[Tensor, ...]], prior: tuple[Tensor, Tensor], damping: float) -> tuple[Tensor, Tensor]:
    """Steps (T, 51) and (10,) of the damped arrow system: frames by their own blocks, the shape by the Schur complement."""
    A, B, a = (torch.cat([block[i] for block in blocks]) for i in (0, 1, 3))
    C, c = prior[0] + sum(b[2] for b in blocks), prior[1] + sum(b[4] for b in blocks)
    A = A + torch.diag_embed(damping * A.diagonal(dim1=1, dim2=2) + 1e-9)
    C = C + torch.diag_embed(damping * C.diagonal())
    solved = torch.linalg.solve(A, torch.cat([B, a[..., None]], dim=2))
    reduced = C - torch.einsum("tkb,tkc->bc", B, solved[..., :10])
    shape = -torch.linalg.solve(reduced, c - torch.einsum("tkb,tk->b", B, solved[..., 10]))
    return -(solved[..., 10] + solved[..., :10] @ shape), shape


def _keypoint_error(points: HandPoints, terms: _Terms, state: HandState) -> Tensor:
    """(T,) mean distance of the joints to their 3D targets, or of 2D targets at the hand's depth."""
    joints = points.pose(state).points
    assert terms.weight is not None
    if terms.j3d is not None:
        distance = ((joints - joints[:, :1]) - terms.j3d).norm(dim=-1)
    else:
        assert terms.j2d is not None
        assert terms.K is not None
        distance = (project(joints, terms.K) - terms.j2d).norm(dim=-1) * joints[..., 2] / terms.K[0, 0]
    return (distance * terms.weight).sum(dim=1) / terms.weight.sum(dim=1)
