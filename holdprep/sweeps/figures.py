"""Figures of an alignment that need no ground truth: departures from its inputs, and errors at data that its fit did not use."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from holdprep.align.problem import MODES, Alignment, HandObservation, Mode, Problem
from holdprep.align.run import Options, align
from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.joints import FINGERS
from holdprep.hand.lbs import to_state
from holdprep.hand.model import Side
from holdprep.optimisation import one_thread

BLOCK = 5  # consecutive frames in which the same finger is left out, so that its neighbours in time do not show it

OUTLINE_STEP = 2  # of the frames in which outlines are compared


@dataclass(frozen=True)
class LeftOut:
    """What a fit does not use: of each hand the keypoints `joints` (T, 21) bool, and the outlines of all frames."""

    joints: Mapping[Side, np.ndarray]


def leave_out(problem: Problem, seed: int = 0) -> tuple[Problem, LeftOut]:
    """The problem without one finger of each block of frames, and without outlines; and what was left out.

    The choice depends on the seed and the number of frames alone, so that all weights are judged by the same data.
    """
    rng, T = np.random.default_rng(seed), problem.num_frames
    hands, joints = {}, {}
    for side, hand in problem.hands.items():
        fingers = rng.integers(0, len(FINGERS), -(-T // BLOCK))
        out = np.zeros((T, 21), bool)
        for t in range(T):
            out[t, list(FINGERS[fingers[t // BLOCK]])] = True
        hands[side], joints[side] = _without(hand, out), out
    return replace(problem, hands=hands), LeftOut(joints)


def in_all_modes(problem: Problem, options: Options) -> dict[Mode, Alignment]:
    """The alignments of modes h, o and ho. Raises HoldprepError where one cannot be computed."""
    found: dict[Mode, Alignment] = {}
    before: Alignment | None = None
    for mode in MODES:
        before = found[mode] = align(mode, problem, options, before)
    return found


def _without(hand: HandObservation, joints: np.ndarray) -> HandObservation:
    weight = torch.as_tensor(hand.weight).double()
    weight = weight[:, None].expand(-1, 21) if weight.ndim == 1 else weight
    return replace(hand, weight=weight * torch.as_tensor(~joints), outlines=None)


@one_thread()
def figures(problem: Problem, left_out: LeftOut, by_mode: Mapping[Mode, Alignment]) -> dict[str, float]:
    """Figures of an alignment (modes h, o, ho) of the problem without `left_out`; `problem` is the whole one. Means over hands.

    `out.px` and `out.px_p90`: reprojection error of the keypoints left out, in units of the hand's size in the picture (percent);
    `out.missed_pct`: part of the mask's edge left out that the hand's outline does not explain; `out.iou_lack_pct`: what lacks to an IoU
    of 1 there. `rotation_deg`, `pose_deg`: departure from the registration; `moved_pct`: change of the hand's depth from mode h to ho;
    `scale_moved_pct`, `scale_moved_sd`: change of the scale from mode o to ho, also in standard errors. The rest is `align`'s own.
    """
    found = by_mode["ho"]
    hands = [_of_hand(problem, side, left_out, by_mode) for side in problem.hands]
    common = {name: [hand[name] for hand in hands if np.isfinite(hand.get(name, np.nan))] for name in hands[0]}
    result = {name: float(np.mean(values)) for name, values in common.items() if values}
    moved = float(np.log(found.obj_scale / by_mode["o"].obj_scale))
    stderr = by_mode["o"].obj_scale_stderr / by_mode["o"].obj_scale
    result |= {"scale_moved_pct": 100 * abs(moved), "scale_moved_sd": abs(moved) / stderr if stderr > 0 else 0.0}
    own = {name: value for name, value in found.metrics.items() if name.startswith(("contact.", "object.")) and np.isfinite(value)}
    sides = [f"{side}." for side in problem.hands]
    named = {name.removeprefix(s) for name in found.metrics for s in sides if name.startswith(s)}
    shared = {f"hand.{n}": float(np.mean([found.metrics[s + n] for s in sides if s + n in found.metrics])) for n in named}
    return result | own | shared


def _of_hand(problem: Problem, side: Side, left_out: LeftOut, by_mode: Mapping[Mode, Alignment]) -> dict[str, float]:
    hand, found = problem.hands[side], by_mode["ho"]
    mesh = lbs.forward(hand.model.to(torch.float64), found.hands[side])
    px = project(mesh.joints.numpy(), found.K.numpy())
    weight = torch.as_tensor(hand.weight).double()
    weight = weight[:, None].expand(-1, 21) if weight.ndim == 1 else weight
    seen = (weight.numpy() > 0) & np.isfinite(np.asarray(hand.j2d_px)).all(axis=-1)
    size_px = np.linalg.norm(px.max(axis=1) - px.min(axis=1), axis=-1)
    error = 100 * np.linalg.norm(px - np.asarray(hand.j2d_px), axis=-1) / size_px[:, None]
    out, used = error[seen & left_out.joints[side]], error[seen & ~left_out.joints[side]]
    registered, state = to_state(hand.model, hand.params), to_state(hand.model, found.hands[side])
    turned = _angles_deg(registered.rotations, state.rotations)
    valid = seen.any(axis=1)
    before, after = by_mode["h"].hands[side].transl[:, 2].numpy(), found.hands[side].transl[:, 2].numpy()
    result = {
        "out.px": float(np.median(out)) if len(out) else np.nan,
        "out.px_p90": float(np.quantile(out, 0.9)) if len(out) else np.nan,
        "used.px": float(np.median(used)) if len(used) else np.nan,
        "rotation_deg": float(np.median(turned[valid, 0])),
        "pose_deg": float(np.mean(turned[valid, 1:])),
        "moved_pct": 100 * float(np.median(np.abs(after / before - 1)[valid])),
    }
    if hand.outlines is not None:
        skipped = np.flatnonzero(valid)[::OUTLINE_STEP]
        iou, explained = hand.outlines.rows(skipped).agreement(mesh.vertices.numpy()[skipped], found.K.numpy())
        if np.isfinite(iou).any():
            result |= {"out.missed_pct": 100 * float(1 - np.nanmedian(explained)), "out.iou_lack_pct": 100 * float(1 - np.nanmedian(iou))}
    return result


def _angles_deg(first: Tensor, second: Tensor) -> np.ndarray:
    """(...) rotation angles between matrices (..., 3, 3)."""
    trace = torch.einsum("...ij,...ij->...", first, second)
    return torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1))).numpy()
