"""stage=score, one trial of a search over weights: all sequences are aligned in this process and scored; nothing is written to them."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch

from holdprep.align.problem import MODES, Alignment, Problem
from holdprep.align.run import align
from holdprep.align.score import label_free_mm
from holdprep.config.schema import Config
from holdprep.errors import ConfigError, HoldprepError
from holdprep.geometry.rigid import from_rt
from holdprep.hand import lbs
from holdprep.hand.hold_params import read_fits
from holdprep.hand.model import SIDES, load_hand_model
from holdprep.pipeline import Metrics
from holdprep.pipeline.runner import Outcome, write_metrics
from holdprep.quality.evaluation import Estimate, HandEstimate, direction, evaluate
from holdprep.quality.truth import load_truth
from holdprep.sequence import Sequence
from holdprep.stages.align import load_problem, options_of

log = logging.getLogger("holdprep")
WORST = 1e6  # loss of a trial that cannot be aligned: Optuna needs a number


def run(cfg: Config, for_sequence: Callable[[str], Config], run_dir: Path) -> float:
    """The worst sequence's loss; all scores are written to metrics.json. Raises HoldprepError where there is nothing to score."""
    started = time.monotonic()
    scores = score(cfg, for_sequence)
    metrics: Metrics = {**scores, "worst": worst(scores, cfg.score_metric)}
    write_metrics(run_dir, "score", {"score": Outcome("done", time.monotonic() - started, metrics, [])})
    log.info("%-12s %s", "score", ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    return loss(worst(scores, cfg.score_metric), cfg.score_metric)


def score(cfg: Config, for_sequence: Callable[[str], Config]) -> dict[str, float]:
    """Scores by sequence, each with its own settings (`for_sequence`).

    A score is in mm without labels (see `label_free_mm`), or the absolute value of the ground-truth metric `score_metric`. Raises
    ConfigError where a sequence has no such metric or its direction is unknown.
    """
    if not cfg.seqs:
        raise ConfigError("stage=score: set the sequences: seqs=[a,b]")
    return {name: _score(for_sequence(name), name, cfg.score_metric) for name in cfg.seqs}


def worst(scores: Mapping[str, float], metric: str | None) -> float:
    """The score of the worst sequence."""
    return max(scores.values(), key=lambda value: loss(value, metric))


def loss(value: float, metric: str | None) -> float:
    """The quantity that a search minimises: the score, or its negative where more is better; WORST without a score."""
    if math.isnan(value):
        return WORST
    return -value if metric is not None and direction(metric) == "more" else value


def _score(cfg: Config, name: str, metric: str | None) -> float:
    problem = _problem(cfg.data_root, name, cfg.hand_model.path)
    found: Alignment | None = None
    try:
        for mode in MODES:
            found = align(mode, problem, options_of(cfg), found)
    except HoldprepError as error:
        log.warning("%-12s %s: %s", "score", name, error)
        return math.nan
    assert found is not None
    if metric is None:
        return min(label_free_mm(found.metrics, float(problem.K[0, 0])), WORST)
    return _against_truth(Sequence(cfg.data_root, name), problem, found, metric)


@lru_cache(maxsize=64)
def _problem(data_root: Path, name: str, model_path: Path | None) -> Problem:
    """The problem of a sequence, read once for all trials."""
    seq = Sequence(data_root, name)
    fits = read_fits(seq.path("fit_slerp"))
    return load_problem(seq, {side: load_hand_model(side, model_path, dtype=torch.float64) for side in SIDES if side in fits})[0]


def estimate_of(seq: Sequence, problem: Problem, found: Alignment) -> Estimate:
    """An alignment as an estimate to compare with ground truth."""
    hands = {}
    for side, params in found.hands.items():
        model = problem.hands[side].model
        mesh = lbs.forward(model.to(torch.float64), params)
        hands[side] = HandEstimate(mesh.vertices.numpy(), mesh.joints.numpy(), faces=model.faces.numpy())
    return Estimate(
        seq.frame_names(),
        found.K.numpy(),
        seq.image_size(),
        from_rt(found.R_cam_obj.numpy(), found.transl_cam_obj_m.numpy()),
        problem.points_obj.numpy(),
        found.obj_scale,
        registered=problem.obj_weight.numpy() > 0,
        hands=hands,
    )


def _against_truth(seq: Sequence, problem: Problem, found: Alignment, metric: str) -> float:
    metrics = evaluate(estimate_of(seq, problem, found), load_truth(seq.path("truth"))).metrics
    values = [abs(v) for key, v in metrics.items() if key.rpartition(".")[2] == metric]
    if not values:
        raise ConfigError(f"score_metric={metric}: {seq.name} has none; it has {', '.join(sorted(metrics))}")
    if direction(metric) is None:
        raise ConfigError(f"score_metric={metric}: it is a count or a property without a better direction: choose another")
    return max(values, key=lambda value: loss(value, metric))
