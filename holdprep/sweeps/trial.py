"""stage=score, one trial of a search over weights: all sequences are aligned in this process and scored; nothing is written to them."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Sequence_
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from holdprep.align.problem import Alignment, Problem
from holdprep.config.schema import Config, MeasuredObject
from holdprep.configured import for_sequence
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
from holdprep.stages import FINAL_MASKS
from holdprep.stages.align import load_problem, options_of
from holdprep.stages.measured import with_measured
from holdprep.sweeps.comparison import loss, worst
from holdprep.sweeps.figures import figures, in_all_modes, leave_out
from holdprep.sweeps.score import predicted_loss

log = logging.getLogger("holdprep")
Report = Callable[[Mapping[str, float]], bool]  # scores so far -> whether to end the trial
WEIGHTS = "weights."


def run(cfg: Config, overrides: Sequence_[str], run_dir: Path, report: Report | None = None) -> float:
    """The worst sequence's loss; all scores are written to metrics.json. Infinite where `report` ended the trial early.

    Raises HoldprepError where there is nothing to score.
    """
    started = time.monotonic()
    scores, is_whole = score(cfg, overrides, report)
    metrics: Metrics = {**scores, "worst": worst(scores, cfg.score_metric)}
    write_metrics(run_dir, "score", {"score": Outcome("done", time.monotonic() - started, metrics, [])})
    log.info("%-12s %s", "score", ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()) + ("" if is_whole else " (pruned)"))
    return loss(worst(scores, cfg.score_metric), cfg.score_metric) if is_whole else math.inf


def inputs(cfg: Config) -> dict[str, Path]:
    """The artefacts that a trial reads, by sequence."""
    seqs = {name: Sequence(cfg.data_root, name) for name in cfg.seqs or []}
    read = ("images", "colmap", "fit_slerp", "j2d", *FINAL_MASKS, "truth")
    return {f"{name}: {artefact}": seq.path(artefact) for name, seq in seqs.items() for artefact in read if seq.has(artefact)}


def score(cfg: Config, overrides: Sequence_[str], report: Report | None = None) -> tuple[dict[str, float], bool]:
    """Scores by sequence, each with its own settings; and whether all are there (`report` may end the trial).

    A score is the predicted loss without labels (see `predicted_loss`), or the absolute value of the ground-truth metric `score_metric`.
    Raises ConfigError where a sequence has no such metric or its direction is unknown.
    """
    if not cfg.seqs:
        raise ConfigError("stage=score: set the sequences: seqs=[a,b]")
    scores: dict[str, float] = {}
    for name in cfg.seqs:
        scores[name] = _score(_settings(cfg, name, overrides), name, cfg.score_metric)
        if report is not None and report(scores) and len(scores) < len(cfg.seqs):
            return scores, False
    return scores, True


def _settings(cfg: Config, name: str, overrides: Sequence_[str]) -> Config:
    """A sequence's settings. Those that the trials share are composed once for all; the trial's weights are put in their place."""
    given = [o for o in overrides if o.startswith(WEIGHTS)]
    shared = _composed(cfg.data_root, name, tuple(o for o in overrides if o not in given))
    keys = [o.partition("=")[0].removeprefix(WEIGHTS) for o in given]
    values = {key: getattr(cfg.weights, key) for key in keys}
    return shared.model_copy(update={"weights": shared.weights.model_copy(update=values)})


@lru_cache(maxsize=64)
def _composed(data_root: Path, name: str, overrides: tuple[str, ...]) -> Config:
    return for_sequence(data_root, name, overrides)


def _score(cfg: Config, name: str, metric: str | None) -> float:
    problem = _problem(cfg.data_root, name, cfg.hand_model.path, cfg.object, cfg.align.maps)
    try:
        if metric is None:
            fitted, left_out = leave_out(problem)
            return predicted_loss(figures(problem, left_out, in_all_modes(fitted, options_of(cfg))))
        found = in_all_modes(problem, options_of(cfg))["ho"]
    except HoldprepError as error:
        log.warning("%-12s %s: %s", "score", name, error)
        return math.nan
    return _against_truth(Sequence(cfg.data_root, name), problem, found, metric)


@lru_cache(maxsize=64)
def _problem(data_root: Path, name: str, model_path: Path | None, measured: MeasuredObject, maps: Path | None) -> Problem:
    """The problem of a sequence, read once for all trials."""
    seq = Sequence(data_root, name)
    fits = read_fits(seq.path("fit_slerp"))
    models = {side: load_hand_model(side, model_path, dtype=torch.float64) for side in SIDES if side in fits}
    problem = load_problem(seq, models)[0]
    return with_measured(problem, seq, measured, maps)[0]


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
    estimate, truth = estimate_of(seq, problem, found), load_truth(seq.path("truth"))
    for known in (replace(truth, object_faces=None), truth):  # most metrics do not need the true surface, which takes most of the time
        metrics = evaluate(estimate, known).metrics
        values = [abs(v) for key, v in metrics.items() if key.rpartition(".")[2] == metric]
        if values:
            break
    else:
        raise ConfigError(f"score_metric={metric}: {seq.name} has none; it has {', '.join(sorted(metrics))}")
    if direction(metric) is None:
        raise ConfigError(f"score_metric={metric}: it is a count or a property without a better direction: choose another")
    return max(values, key=lambda value: loss(value, metric))
