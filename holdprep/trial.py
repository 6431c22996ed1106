"""stage=score, one trial of a search over weights: every sequence is aligned in the warm process and scored; nothing of theirs is written."""

import json
import logging
import time
from functools import lru_cache
from pathlib import Path

import torch

from holdprep import safeio
from holdprep.align.problem import MODES, Alignment, Problem
from holdprep.align.score import label_free_mm
from holdprep.config import Config
from holdprep.errors import ConfigError, HoldprepError
from holdprep.geometry.rigid import from_rt
from holdprep.hand import lbs
from holdprep.hand.model import SIDES, load_hand_model
from holdprep.quality.evaluation import Estimate, HandEstimate, evaluate
from holdprep.quality.truth import load_truth
from holdprep.sequence import Sequence
from holdprep.stages.align import aligner, load_problem

log = logging.getLogger("holdprep")
WORST = 1e6  # of a trial that cannot be aligned: optuna wants a number


def run(cfg: Config, run_dir: Path) -> float:
    """The worst sequence's score; all of them go to metrics.json. Raises HoldprepError where there is nothing to score."""
    started = time.monotonic()
    scores = score(cfg)
    worst = max(scores.values())
    metrics = {**scores, "worst": worst}
    entry = {"status": "ok", "error": "", "seconds": time.monotonic() - started, "metrics": metrics}
    safeio.write_bytes_atomic(run_dir / "metrics.json", json.dumps({"stages": {"score": entry}}, indent=1).encode())
    log.info("%-12s %s", "score", ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    return worst


def score(cfg: Config) -> dict[str, float]:
    """By sequence: label-free mm (see `label_free_mm`), or the size of the ground-truth metric `score_metric`; less is better."""
    if not cfg.seqs:
        raise ConfigError("stage=score: say which sequences: seqs=[a,b]")
    return {name: _score(cfg, name) for name in cfg.seqs}


def _score(cfg: Config, name: str) -> float:
    problem = _problem(cfg.data_root, name, cfg.hand_model.path)
    found: Alignment | None = None
    try:
        for mode in MODES:
            found = aligner(cfg)(mode, problem, initial=found)
    except HoldprepError as error:
        log.warning("%-12s %s: %s", "score", name, error)
        return WORST
    assert found is not None
    if cfg.score_metric is None:
        return min(label_free_mm(found.metrics, float(problem.K[0, 0])), WORST)
    return _against_truth(Sequence(cfg.data_root, name), problem, found, cfg.score_metric)


@lru_cache(maxsize=64)
def _problem(data_root: Path, name: str, model_path: Path | None) -> Problem:
    """Read once for all trials."""
    seq = Sequence(data_root, name)
    fits = seq.read_npy("fit_slerp")
    return load_problem(seq, {side: load_hand_model(side, model_path, dtype=torch.float64) for side in SIDES if side in fits})[0]


def _against_truth(seq: Sequence, problem: Problem, found: Alignment, metric: str) -> float:
    hands = {}
    for side, params in found.hands.items():
        model = problem.hands[side].model
        mesh = lbs.forward(model.to(torch.float64), params)
        hands[side] = HandEstimate(mesh.vertices.numpy(), mesh.joints.numpy(), faces=model.faces.numpy())
    estimate = Estimate(
        seq.frame_names(),
        found.K.numpy(),
        seq.image_size(),
        from_rt(found.R_cam_obj.numpy(), found.transl_cam_obj_m.numpy()),
        problem.points_obj.numpy(),
        found.obj_scale,
        registered=problem.obj_weight.numpy() > 0,
        hands=hands,
    )
    metrics = evaluate(estimate, load_truth(seq.path("truth"))).metrics
    values = [abs(v) for key, v in metrics.items() if key.rpartition(".")[2] == metric]
    if not values:
        raise ConfigError(f"score_metric={metric}: {seq.name} has none; it has {', '.join(sorted(metrics))}")
    return max(values)
