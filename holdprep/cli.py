"""The command line interface: `python launch.py ...` in a checkout, `holdprep ...` when installed."""

import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from holdprep.config import memory, validation
from holdprep.config.schema import Config
from holdprep.errors import ConfigError, HoldprepError

PACKAGE = Path(__file__).resolve().parent
# next to launch.py in a checkout, inside the package when installed
CONF_DIR = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
DEMO_SEQ = "demo"
DEFAULT_OBJECTIVE = "align.ho.contact.gap_mm"

log = logging.getLogger("holdprep")

HELP = """holdprep: prepares a phone video of a hand holding an object as a sequence for training HOLD

  python launch.py                                                   the demo, all stages (stage=all seq=demo)
  python launch.py stage=all seq=bottle video=clip.mp4               all stages, for your own video
  python launch.py stage=align mode=ho seq=bottle weights.contact=10 one stage again, with another weight
  python launch.py stage=status seq=all                              what exists, what is stale, what a run would do
  python launch.py -m stage=all seq=a,b                              a batch: the sequences themselves are prepared
  python launch.py -m stage=align mode=ho seq=a,b weights.contact=10,100 logger=wandb
  python launch.py -m +sweep=robust_weights seqs=[a,b]               search for weights (pip install 'holdprep[sweep]')

Stages, in order: create, segment, hand_pose, object_pose, register, align (mode=h, o, ho), build, report.
Quality gates stop a run of insufficient quality; on_fail=warn continues. A stage whose inputs have not changed is skipped.
A setting is kept for the sequence until it is set again; dry=true prints what would run and why.

Groups (group=option; option's values are in conf/<group>/<option>.yaml):
{groups}

Keys (key=value):
{keys}

Results: the sequence in <data_root>/<seq>/, the run's log, metrics.json and losses in outputs/. A file holdprep.yaml in the
sequence's folder overrides any key for that sequence; the command line overrides both.
Hydra's own flags: --cfg job (show the composed configuration), -m (sweep), --hydra-help."""


class Terminated(BaseException):
    """Raised at SIGTERM, which batch systems send at the time limit."""


@dataclass(frozen=True)
class Configured:
    """A run's configuration, the origin of its settings, and the overrides of the command line."""

    cfg: Config
    settings: memory.Settings
    overrides: Sequence[str]


def main() -> None:
    """Check the command line, then start Hydra."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        groups = validation.groups(CONF_DIR)
        listed = "\n".join(f"  {name:14s} {', '.join(options)}" for name, options in groups.items())
        print(HELP.format(groups=listed, keys=validation.describe()))
        return
    from holdprep.config import commandline

    try:
        arguments = commandline.resolved([part for argument in arguments for part in memory.expanded(argument)], CONF_DIR)
        sys.argv[1:] = arguments  # read by Hydra
        validation.check_overrides(commandline.overrides_in(arguments), CONF_DIR)
        if commandline.is_query(arguments):
            from holdprep.pipeline import status

            status.show(arguments, CONF_DIR)
            return
    except HoldprepError as error:
        sys.exit(f"error: {error}")
    _task()


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def _task(cfg: DictConfig) -> float:
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    run_dir = Path(hydra_config.runtime.output_dir)
    _end_on_sigterm()
    try:
        configured = configure(cfg, list(hydra_config.overrides.task))
        return execute(configured, run_dir, Path(hydra_config.sweep.dir).name if sweep else None)
    except HoldprepError as error:
        log.error("error: %s", error)
    except OSError as error:  # errors of the disk: full, read-only, missing
        log.error("error: %s", error)
    except (KeyboardInterrupt, Terminated) as end:
        name = "SIGTERM" if isinstance(end, Terminated) else "Ctrl-C"
        log.error("ended by %s: finished stages are kept, the interrupted one has changed nothing; the same command continues there", name)
        _leave(128 + (signal.SIGTERM if isinstance(end, Terminated) else signal.SIGINT))
    except Exception:
        if not sweep:
            raise
        log.exception("the job failed")
    if not sweep:
        sys.exit(1)
    return float("nan")


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


def configure(cfg: DictConfig, overrides: list[str], unpack: bool = True) -> Configured:
    """The configuration of this run: composed, with the sequence's remembered and own settings, and the command line's overrides.

    The demo clip is unpacked on request. Raises ConfigError in one line.
    """
    config = validation.validate(cfg)

    if config.stage == "score":
        return Configured(config, memory.settings(Path(), (), overrides, CONF_DIR), overrides)
    if unpack and config.seq == DEMO_SEQ and config.video is None:
        _unpack_demo(config.data_root / DEMO_SEQ)
    found, settings = _of_sequence(config.data_root, config.seq, overrides, config)
    return Configured(found, settings, overrides)


def for_sequence(data_root: Path, name: str, overrides: Sequence[str]) -> Config:
    """The configuration of a sequence for the overrides of a command line."""
    return _of_sequence(data_root, name, overrides)[0]


def _of_sequence(data_root: Path, name: str, overrides: Sequence[str], composed: Config | None = None) -> tuple[Config, memory.Settings]:
    """Configuration and settings of a sequence; `composed` is the configuration from the command line alone."""
    from holdprep.pipeline import records
    from holdprep.sequence import Sequence as SequenceFolder

    seq = SequenceFolder(data_root, name)
    own = seq.path("overrides")
    settings = memory.settings(own, records.of_sequence(seq), overrides, CONF_DIR)
    lines = [*settings.own.values(), *settings.remembered.values()]
    try:
        plain = composed is not None and not lines
        config = composed if composed is not None and plain else validation.validate(compose("config", [*lines, *overrides, f"seq={name}"]))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{own if settings.own else name}: {' '.join(str(error).split())}") from None
    _check_hand_model(config, settings)
    return config, settings


def _check_hand_model(config: Config, settings: memory.Settings) -> None:
    """Raise ConfigError where the sequence's hand model is missing; a shell without $MANO_DIR does not change it."""
    path, is_kept = config.hand_model.path, "hand_model.path" in settings.remembered
    if is_kept and path is not None and not path.exists():
        raise ConfigError(
            f"the hands of {config.seq} were made with the model in {path}, which does not exist: set hand_model.path=<folder>, or "
            "hand_model.path=null to register them again with the stand-in"
        )
    mano_dir = os.environ.get("MANO_DIR")
    if is_kept and path is None and mano_dir:
        log.warning("the hands of %s were made with the stand-in: hand_model.path=%s registers them again with MANO", config.seq, mano_dir)


def execute(configured: Configured, run_dir: Path, group: str | None) -> float:
    """Run what is configured, as a job of the sweep `group` if there is one; returns the objective. Raises what a stage raises."""
    cfg, settings = configured.cfg, configured.settings
    if cfg.device == "cuda":
        import torch  # here, not above: it takes seconds, and what is up to date must not wait for it

        if not torch.cuda.is_available():
            raise ConfigError("device=cuda: torch finds no CUDA device here (torch.cuda.is_available() is false): use device=cpu")
    if cfg.stage == "score":
        from holdprep.sweeps import trial

        return trial.run(cfg, partial(for_sequence, cfg.data_root, overrides=configured.overrides), run_dir)
    from holdprep import stages
    from holdprep.pipeline import Context, runner
    from holdprep.runlog import RunLog
    from holdprep.sequence import Sequence as SequenceFolder

    is_beside = cfg.overlay if cfg.overlay is not None else group is not None
    seq = SequenceFolder(cfg.data_root, cfg.seq, overlay=run_dir / cfg.seq if is_beside else None)
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(cfg.model_dump(mode="json")), run_dir / "resolved.yaml")
    runlog = RunLog(cfg.logger, cfg.seq, run_dir, group, cfg.model_dump(mode="json"))
    selected = stages.select(cfg)
    check_objective(cfg, [stage.name for stage in selected])
    _log_remembered(settings)
    context = Context(cfg, seq, runlog, run_dir, "", _given(cfg, settings), frozenset(settings.named) - memory.transient(), settings.file)
    ending = "failed"
    try:
        outcomes = runner.run(selected, stages.GRAPH, context)
        ending = "success"
    finally:
        runlog.close(ending)
    return objective(cfg, {name: outcome.metrics for name, outcome in outcomes.items()})


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


def _unpack_demo(folder: Path) -> None:
    """Unpack the demo atomically as an ordinary sequence folder: a video, its prompts and its settings."""
    if folder.exists():
        return
    from holdprep.io.atomic import atomic_dir

    folder.parent.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("holdprep") / "assets" / "demo") as assets, atomic_dir(folder) as unpacked:
        for source, name in (("cube.mp4", "video.mp4"), ("prompts.yaml",) * 2, ("holdprep.yaml",) * 2, ("LICENSE.visp",) * 2):
            shutil.copyfile(assets / source, unpacked / name)
    log.info("%-12s the demo clip was unpacked to %s", "demo", folder)
