"""Real clips: prepared by every stage with default settings, and measured against hand outlines drawn by a person."""

import filecmp
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.geometry.raster import covered
from holdprep.hand import lbs
from holdprep.hand.hold_params import params_from_dict
from holdprep.hand.model import Side, load_hand_model
from holdprep.hand.trackers import trackfile
from holdprep.sequence import Sequence
from holdprep.sequence import colmap as colmap_files
from holdprep.stages import GRAPH
from tests.benchmarks.measure import Row, row
from tests.outlines import Outline, keypoints_off, mask_iou, posed_iou, read_outlines
from tests.running import composed, run

RECIPES = Path(__file__).parents[1] / "data" / "clips"  # <clip>/: prompts.yaml, holdprep.yaml, and video.mp4 where it is not the demo's
DEMO = Path(__file__).parents[2] / "holdprep" / "assets" / "demo"
CLIPS: dict[str, Side] = {"demo": "right", "cube": "right", "wild6": "left", "wild1": "left"}
MEASURED = tuple(dict.fromkeys(stage.name.partition(".")[0] for stage in GRAPH if stage.name not in ("build", "report")))


def measure_clip(clip: str, root: Path) -> Iterator[Row]:
    """Each stage's time and what the outlines say of it; a stage that refuses the clip, or lacks what it needs, is a row `refused`."""
    unpack(clip, root)
    for stage in MEASURED:
        try:
            outcomes = run(root, root / "out", f"stage={stage}", f"seq={clip}", "on_fail=warn")
        except HoldprepError as error:
            print(f"{clip}: {error}")
            yield {"case": clip, "stage": stage, "metric": "refused", "value": 1.0, "unit": ""}
            continue
        yield row(clip, stage, "time_s", sum(o["seconds"] for o in outcomes.values()))
        if stage in JUDGES:
            for metric, value in JUDGES[stage](Sequence(root, clip), CLIPS[clip], outcomes).items():
                yield row(clip, stage, metric, value)


OFF = {"outline": "0", "smooth": "false", "steady_deg": "null", "fingers_apart": "false", "shared_errors": "false"}
ABLATIONS: dict[str, tuple[str, ...]] = {
    "all terms": (),
    "no outline": ("outline",),
    "no smoothness": ("smooth",),
    "no steadiness": ("steady_deg",),
    "fingers may cross": ("fingers_apart",),
    "errors independent": ("shared_errors",),
    "keypoints alone": tuple(OFF),
}
ABLATED = ("error_mm", "shape_largest", "self_penetration_mm", "jitter_px", "mask_iou")


def measure_ablations(clip: str, root: Path) -> Iterator[Row]:
    """Registration of a prepared clip with each of its terms left out: IoU with the outlines, and the stage's own numbers."""
    side = CLIPS[clip]
    for name, left_out in reversed(ABLATIONS.items()):  # the default last: it is what stays
        overrides = registration_without(left_out)
        outcomes = run(root, root / "out", "stage=register", f"seq={clip}", "on_fail=warn", "force=true", *overrides)
        case, metrics = f"{clip}: {name}", outcomes["register"]["metrics"]
        for metric, value in _judge_registration(Sequence(root, clip), side, outcomes).items():
            if metric.startswith("iou"):
                yield row(case, "register", metric, value)
        for metric in ABLATED:
            if f"{side}.{metric}" in metrics:
                yield row(case, "register", metric, metrics[f"{side}.{metric}"])


def registration_without(terms: tuple[str, ...]) -> list[str]:
    """The command line of a registration without terms; all are stated, since a sequence keeps what it was given before."""
    default = composed().registration
    return [f"registration.{key}={OFF[key] if key in terms else str(getattr(default, key)).lower()}" for key in OFF]


def unpack(clip: str, root: Path) -> None:
    """The clip's recipe as a sequence folder of `root`; files that are there already and the same stay as they are."""
    assets = {"video.mp4": DEMO / "cube.mp4"}
    assets |= {file.name: file for file in (DEMO if clip == "demo" else RECIPES / clip).iterdir() if file.suffix in (".yaml", ".mp4")}
    (root / clip).mkdir(parents=True, exist_ok=True)
    for name in ("video.mp4", "prompts.yaml", "holdprep.yaml"):
        target = root / clip / name
        if not (target.is_file() and filecmp.cmp(assets[name], target, shallow=False)):
            shutil.copyfile(assets[name], target)


def _judge_masks(seq: Sequence, side: Side, outcomes: dict[str, Any]) -> dict[str, float]:
    names, masks = seq.frame_names(), seq.final_masks(side)
    return _spread([mask_iou(masks[names.index(name)], hand) for name, hand in _outlines(seq).items()])


def _judge_registration(seq: Sequence, side: Side, outcomes: dict[str, Any]) -> dict[str, float]:
    """IoU of the registered hand under the K that registration used: its own file's where it says so, else the tracker's."""
    fits = seq.read_npy("fit_slerp")
    fit, own_K = fits[side], fits.get("K", fits[side].get("K"))
    folder = os.environ.get("MANO_DIR")
    model = load_hand_model(side, Path(folder) if folder else None, dtype=torch.float64)
    params = params_from_dict(fit)
    vertices_m = lbs.forward(model, params).vertices.numpy()
    K = np.asarray(seq.read_npy("v3d")["K"] if own_K is None else own_K, np.float64)
    is_valid = np.asarray(fit.get("is_valid", np.ones(len(vertices_m)))) > 0
    metrics = outcomes["register"]["metrics"]
    found = _spread(_posed(seq, vertices_m, model.faces.numpy(), K, is_undistorted=own_K is not None))
    found |= {"largest_beta": float(params.betas.abs().max()), "keypoints_off_pct": _keypoints_off_pct(seq, side, is_valid)}
    return found | _jitter(metrics, side)


def _judge_alignment(seq: Sequence, side: Side, outcomes: dict[str, Any]) -> dict[str, float]:
    hand = seq.read_npy("fit_aligned")[side]
    K, faces = np.asarray(hand["K"], np.float64), load_hand_model(side).faces.numpy()
    metrics = {key: value for outcome in outcomes.values() for key, value in outcome["metrics"].items()}
    found = _spread(_posed(seq, np.asarray(hand["v3d"], np.float64), faces, K, is_undistorted=True))
    found["largest_beta"] = float(np.abs(hand["hand_beta"]).max())
    return found | _jitter(metrics, side)


JUDGES: dict[str, Callable[[Sequence, Side, dict[str, Any]], dict[str, float]]] = {
    "segment": _judge_masks,
    "resegment": _judge_masks,
    "register": _judge_registration,
    "align": _judge_alignment,
}


def _posed(seq: Sequence, vertices_m: np.ndarray, faces: np.ndarray, K: np.ndarray, is_undistorted: bool) -> list[float]:
    """IoU of a posed hand (T, V, 3) with each outline; a hand in the pinhole camera's picture is drawn as the lens shows it."""
    names, objects, lens = seq.frame_names(), seq.final_masks("object"), colmap_files.lens_of(seq) if is_undistorted else None
    found = []
    for name, hand in _outlines(seq).items():
        t = names.index(name)
        px = project(vertices_m[t], K)
        found.append(posed_iou(covered(px if lens is None else lens.distorted_points(px), faces, seq.image_size()), objects[t], hand))
    return found


def _keypoints_off_pct(seq: Sequence, side: Side, is_valid: np.ndarray) -> float:
    """Share of the valid outlined frames in which a keypoint is off (%); NaN where no outlined frame is valid."""
    names, objects = seq.frame_names(), seq.masks("object")
    points_px = trackfile.read(seq.path("j2d").parent, names).j2d_px[side]
    judged = [(names.index(name), hand) for name, hand in _outlines(seq).items() if is_valid[names.index(name)]]
    off = [keypoints_off(points_px[t], objects[t], hand).any() for t, hand in judged]
    return 100 * float(np.mean(off)) if off else float("nan")


def _jitter(metrics: dict[str, Any], side: Side) -> dict[str, float]:
    """The stage's own `<side>.jitter_px`, where it reports one."""
    jitter_px = metrics.get(f"{side}.jitter_px")
    return {} if jitter_px is None else {"jitter_px": float(jitter_px)}


def _outlines(seq: Sequence) -> dict[str, Outline]:
    return read_outlines(seq.name, seq.image_size())


def _spread(ious: list[float]) -> dict[str, float]:
    return {"iou_mean": float(np.mean(ious)), "iou_min": min(ious)}
