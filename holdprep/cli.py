"""The command line interface: `python launch.py ...` in a checkout, `holdprep ...` when installed."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from holdprep.config import memory, searchpath, validation
from holdprep.config.schema import Config
from holdprep.configured import CONF_DIR, Configured, configure
from holdprep.errors import ConfigError, HoldprepError
from holdprep.logs.content import Labels
from holdprep.logs.labels import labels, swept_keys

if TYPE_CHECKING:
    from holdprep.pipeline.stage import Stage
    from holdprep.runlog import RunLog
    from holdprep.sequence import Sequence as SequenceFolder

DEFAULT_OBJECTIVE = "align.ho.contact.gap_mm"

log = logging.getLogger("holdprep")


class Terminated(BaseException):
    """Raised at SIGTERM, which batch systems send at the time limit."""


def main() -> None:
    """Check the command line, then start Hydra."""
    arguments = sys.argv[1:]
    from holdprep.config import commandline

    if "--help" in arguments or "-h" in arguments:
        from holdprep.config import helptext

        print(helptext.text(commandline.overrides_in(arguments), CONF_DIR))
        return
    if commandline.is_hydras(arguments):
        _task()
        return
    try:
        arguments = _repeated(arguments)
        arguments = commandline.resolved([part for argument in arguments for part in memory.expanded(argument)], CONF_DIR)
        sys.argv[1:] = arguments  # read by Hydra
        validation.check_overrides(commandline.overrides_in(arguments), CONF_DIR)
        if commandline.is_query(arguments):
            from holdprep import status

            status.show(arguments, CONF_DIR)
            return
        if any(flag in commandline.MULTIRUN for flag in arguments):
            _prepare_batch(arguments)
    except HoldprepError as error:
        sys.exit(f"error: {error}")
    _task()


def _repeated(arguments: list[str]) -> list[str]:
    """The arguments with the configuration of the run that +reproduce= names; prints what differs since."""
    if not any(a.lstrip("+").startswith("reproduce=") for a in arguments):
        return arguments
    from holdprep.sweeps import provenance

    found, lines = provenance.expanded(arguments, CONF_DIR)
    for line in lines:
        print(f"reproduce    {line}", flush=True)
    return found


def _prepare_batch(arguments: list[str]) -> None:
    """Take out of a batch what is done, and make this package's sweepers and launchers known to Hydra. Exits where all is done."""
    from holdprep.sweeps import batch, plugins, summary

    left = batch.remaining(arguments, CONF_DIR)
    if left is None:
        summary.conclude(batch.folder_of_done(), summary.up_to_date())
        sys.exit(0)
    sys.argv[1:] = left
    plugins.register()


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def _task(cfg: DictConfig) -> float:
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    run_dir = Path(hydra_config.runtime.output_dir)
    _end_on_sigterm()
    try:
        of_hydra, of_task = (_as_given(hydra_config, kind) for kind in ("hydra", "task"))
        configured = configure(cfg, [*(o for o in of_hydra if o.startswith(f"{searchpath.KEY}=")), *of_task])
        keys = swept_keys(Path(hydra_config.sweep.dir), hydra_config.sweeper) if sweep else []
        named = labels(configured.cfg, keys, of_task)
        return execute(configured, run_dir, Path(hydra_config.sweep.dir).name if sweep else None, named)
    except (HoldprepError, OSError) as error:  # of the disk: full, read-only, missing
        log.error("error: %s", error)
        cause = str(error)
    except (KeyboardInterrupt, Terminated) as end:
        name = "SIGTERM" if isinstance(end, Terminated) else "Ctrl-C"
        log.error("ended by %s: finished stages are kept, the interrupted one has changed nothing; the same command continues there", name)
        _leave(128 + (signal.SIGTERM if isinstance(end, Terminated) else signal.SIGINT))
    except Exception as error:
        if not sweep:
            raise
        log.exception("the job failed")
        cause = f"{type(error).__name__}: {error}"
    if not sweep:
        sys.exit(1)
    from holdprep.sweeps.jobs import write_failure

    write_failure(run_dir, " ".join(cause.split()))
    return float("nan")


def _as_given(hydra_config: Any, kind: str) -> list[str]:
    """Overrides of a kind, in which `${...}` is not resolved."""
    found = OmegaConf.to_container(hydra_config.overrides[kind], resolve=False)
    return [str(override) for override in found] if isinstance(found, list) else []


def _end_on_sigterm() -> None:
    """Handle SIGTERM, unless another handler (of a batch system's launcher) is installed."""

    def end(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def _leave(status: int) -> None:
    """Exit immediately, without waiting for running threads of networks and loggers."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def execute(configured: Configured, run_dir: Path, group: str | None, named: Labels | None = None) -> float:
    """Run what is configured, as a job of the sweep `group` if there is one; returns the objective. Raises what a stage raises."""
    cfg, settings = configured.cfg, configured.settings
    if cfg.device == "cuda":
        import torch  # here, not above: it takes seconds, and what is up to date must not wait for it

        if not torch.cuda.is_available():
            raise ConfigError("device=cuda: torch finds no CUDA device here (torch.cuda.is_available() is false): use device=cpu")
    if cfg.stage == "dashboard":
        from holdprep.logs import dashboard

        dashboard.build(cfg.logger.wandb)
        return float("nan")
    from holdprep.runlog import RunLog
    from holdprep.sweeps import provenance

    resolved = cfg.model_dump(mode="json")
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(resolved), run_dir / provenance.RESOLVED)
    if cfg.stage == "score":
        return _score(configured, run_dir, RunLog(cfg.logger, "+".join(cfg.seqs or []), run_dir, group, resolved, named))
    from holdprep import stages
    from holdprep.pipeline import Context, runner
    from holdprep.sequence import Sequence as SequenceFolder

    is_beside = cfg.overlay if cfg.overlay is not None else group is not None
    seq = SequenceFolder(cfg.data_root, cfg.seq, overlay=run_dir / cfg.seq if is_beside else None)
    selected = stages.select(cfg)
    provenance.write(run_dir, _inputs(cfg, seq, selected))
    runlog = RunLog(cfg.logger, cfg.seq, run_dir, group, resolved, named)
    check_objective(cfg, [stage.name for stage in selected])
    _log_remembered(settings)
    context = Context(cfg, seq, runlog, run_dir, "", _given(cfg, settings), frozenset(settings.named) - memory.transient(), settings.file)
    ending = "failed"
    try:
        outcomes = runner.run(selected, stages.GRAPH, context)
        ending = "success"
    finally:
        runlog.close(ending)
    if not is_beside and not any(stage.on_request for stage in selected):
        _mark_done(configured, seq, selected, run_dir)
    return objective(cfg, {name: outcome.metrics for name, outcome in outcomes.items()})


def _score(configured: Configured, run_dir: Path, runlog: "RunLog") -> float:
    """stage=score, with its scores logged."""
    from holdprep.logs.content import StageOutcome
    from holdprep.pipeline import runner
    from holdprep.sweeps import provenance, trial
    from holdprep.sweeps.reporting import reporter

    cfg, ending = configured.cfg, "failed"
    provenance.write(run_dir, trial.inputs(cfg))
    try:
        loss = trial.run(cfg, configured.overrides, run_dir, reporter(run_dir, cfg.score_metric))
        runlog.stage(StageOutcome("score", runner.outcomes_so_far(run_dir)["score"]["metrics"] | {"loss": loss}))
        ending = "success"
    finally:
        runlog.close(ending)
    return loss


def _inputs(cfg: Config, seq: "SequenceFolder", selected: Sequence["Stage"]) -> dict[str, Path]:
    """What the selected stages read and none of them makes: artefacts of the sequence, and files from outside."""
    made = {artefact for stage in selected for artefact in (*stage.outputs, *stage.optional(cfg))}
    read = [a for stage in selected for a in (*stage.needs, *stage.uses) if a not in made and seq.has(a)]
    outside = {f"{stage.name}: {k}": p for stage in selected for k, p in stage.external(cfg, seq).items() if p is not None}
    return {artefact: seq.path(artefact) for artefact in dict.fromkeys(read)} | outside


def _mark_done(configured: Configured, seq: "SequenceFolder", selected: Sequence["Stage"], run_dir: Path) -> None:
    """Mark the command as done on the sequence, so that a batch finds it without looking at every stage."""
    from holdprep.config import commandline
    from holdprep.pipeline import runner
    from holdprep.sweeps import done

    outside = [path for stage in selected for path in stage.external(configured.cfg, seq).values() if path is not None]
    if configured.cfg.build.zip:
        outside.append(seq.path("zip"))
    key = done.command_key(configured.overrides, commandline.searched(configured.overrides, CONF_DIR))
    done.write(seq.root, key, outside, runner.outcomes_so_far(run_dir))


def _given(cfg: Config, settings: memory.Settings) -> dict[str, str]:
    """The overrides to remember: all of the user, and the hand model in use, which an environment variable may determine."""
    given = {key: text for key, text in settings.given.items() if key not in memory.transient()}
    path = cfg.hand_model.path
    given["hand_model.path"] = "hand_model.path=null" if path is None else f"hand_model.path={path}"
    return memory.absolute(given)


def _log_remembered(settings: memory.Settings) -> None:
    kept = [text for key, text in settings.remembered.items() if text != "hand_model.path=null"]
    if kept:
        log.info("%-12s kept from earlier runs: %s (set a key on the command line to change it)", "settings", ", ".join(kept))


def check_objective(cfg: Config, names: Sequence[str]) -> None:
    """Raise ConfigError, before anything runs, where `objective` is not of a stage that runs."""
    if cfg.objective is not None and _split(cfg.objective, names) is None:
        raise ConfigError(f"objective={cfg.objective}: <stage>.<metric> of a stage that runs is needed; these run: {', '.join(names)}")


def objective(cfg: Config, metrics: Mapping[str, Mapping[str, Any]]) -> float:
    """The value for a sweeper; NaN where none was requested and the default is not reported.

    Raises ConfigError where the requested one is not reported, or is not a number.
    """
    stage, name = _split(cfg.objective or DEFAULT_OBJECTIVE, list(metrics)) or ("", "")
    value = metrics.get(stage, {}).get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if cfg.objective is None:
        return float("nan")
    numbers = [key for key, v in metrics.get(stage, {}).items() if isinstance(v, int | float) and not isinstance(v, bool)]
    raise ConfigError(f"objective={cfg.objective}: {stage} reports no such number; it reports {', '.join(numbers) or 'none'}")


def _split(text: str, names: Sequence[str]) -> tuple[str, str] | None:
    """Stage and metric of `<stage>.<metric>`; stages and metrics both have dots in their names."""
    stage = max((name for name in names if text.startswith(f"{name}.")), key=len, default=None)
    return None if stage is None else (stage, text[len(stage) + 1 :])
