"""The command: `python launch.py ...` in a checkout, `holdprep ...` once installed."""

import logging
import shutil
import sys
from importlib import resources
from pathlib import Path

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from holdprep import ownfile, validation
from holdprep.config import Config
from holdprep.errors import ConfigError, HoldprepError

PACKAGE = Path(__file__).resolve().parent
# beside launch.py in a checkout, inside the package once installed
CONF_DIR = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
DEMO_SEQ = "demo"

log = logging.getLogger("holdprep")

HELP = """holdprep: from a phone video of a hand holding an object to a sequence that HOLD can train on

  python launch.py                                                   the demo, start to end (stage=all seq=demo)
  python launch.py stage=all seq=bottle video=clip.mp4               everything, for your own video
  python launch.py stage=align mode=ho seq=bottle weights.contact=10 one stage again, with another weight
  python launch.py -m stage=align mode=ho seq=a,b weights.contact=10,100 logger=wandb
  python launch.py -m +sweep=robust_weights seqs=[a,b]               search for weights (pip install 'holdprep[sweep]')

Stages, in order: create, segment, hand_pose, register, object_pose, align (mode=h, o, ho), build, report.
Quality gates stop a run that cannot work; on_fail=warn goes on. A stage whose inputs have not changed is skipped.

Groups (group=option; option's values are in conf/<group>/<option>.yaml):
{groups}

Keys (key=value):
{keys}

Results: the sequence in <data_root>/<seq>/, the run's log, metrics.json and losses in outputs/. A file holdprep.yaml in the
sequence's folder overrides any key for that sequence; the command line overrides both.
Hydra's own flags: --cfg job (show the composed configuration), -m (sweep), --hydra-help."""


def main() -> None:
    """Check the command line, then hand over to Hydra."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        groups = validation.groups(CONF_DIR)
        listed = "\n".join(f"  {name:14s} {', '.join(options)}" for name, options in groups.items())
        print(HELP.format(groups=listed, keys=validation.describe()))
        return
    try:
        arguments = [part for argument in arguments for part in ownfile.expanded(argument)]
        sys.argv[1:] = arguments  # which Hydra reads
        validation.check_overrides([a for a in arguments if not a.startswith("-") and "=" in a], CONF_DIR)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    _task()


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def _task(cfg: DictConfig) -> float:
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    run_dir = Path(hydra_config.runtime.output_dir)
    try:
        return _run(_typed(cfg, list(hydra_config.overrides.task)), run_dir, Path(hydra_config.sweep.dir).name if sweep else None)
    except HoldprepError as error:
        log.error("error: %s", error)
    except OSError as error:  # the disk's own words are the user's business: full, read-only, not there
        log.error("error: %s", error)
    except Exception:
        if not sweep:
            raise
        log.exception("the job failed")
    if not sweep:
        sys.exit(1)
    return float("nan")


def _typed(cfg: DictConfig, overrides: list[str]) -> Config:
    """The configuration of this run: composed, with the sequence's own file under the command line's keys."""
    config = validation.validate(cfg)
    if config.stage == "score":
        return config
    if config.seq == DEMO_SEQ and config.video is None:
        _unpack_demo(config.data_root / DEMO_SEQ)
    from holdprep.sequence import Sequence

    own = Sequence(config.data_root, config.seq).path("overrides")
    if not own.is_file():
        return config
    try:
        return validation.validate(compose("config", [*ownfile.overrides(own, overrides, CONF_DIR), *overrides]))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{own}: {' '.join(str(error).split())}") from None


def _run(cfg: Config, run_dir: Path, group: str | None) -> float:
    # here, not above: torch and its friends take seconds to import, and --help or a mistyped key must not wait for them
    import torch

    from holdprep import pipeline, stages
    from holdprep.runlog import RunLog
    from holdprep.sequence import Sequence

    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch finds no CUDA device here (torch.cuda.is_available() is false): use device=cpu")
    if cfg.stage == "score":
        from holdprep import trial

        return trial.run(cfg, run_dir)
    seq = Sequence(cfg.data_root, cfg.seq, overlay=run_dir / cfg.seq if group else None)
    OmegaConf.save(OmegaConf.create(cfg.model_dump(mode="json")), run_dir / "resolved.yaml")
    runlog = RunLog(cfg.logger, cfg.seq, run_dir, group, cfg.model_dump(mode="json"))
    status = "failed"
    try:
        outcomes = pipeline.run(stages.select(cfg), stages.GRAPH, cfg, seq, runlog, run_dir)
        status = "success"
    finally:
        runlog.close(status)
    stage, _, metric = cfg.objective.rpartition("/")
    value = outcomes[stage].metrics.get(metric) if stage in outcomes else None
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _unpack_demo(folder: Path) -> None:
    """The demo is an ordinary sequence folder: a video, its clicks and its own settings."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    with resources.as_file(resources.files("holdprep") / "assets" / "demo") as assets:
        for source, name in (("cube.mp4", "video.mp4"), ("prompts.yaml",) * 2, ("holdprep.yaml",) * 2, ("LICENSE.visp",) * 2):
            shutil.copyfile(assets / source, folder / name)
    log.info("%-12s the demo clip was unpacked to %s", "demo", folder)
