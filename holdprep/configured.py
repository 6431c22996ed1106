"""The configuration of one sequence: the command line over what the sequence remembers and its own file."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from holdprep.config import memory, validation
from holdprep.config.literal import literal
from holdprep.config.schema import Config
from holdprep.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
# beside launch.py in a checkout, inside the package once installed
CONF_DIR = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
DEMO_SEQ = "demo"

log = logging.getLogger("holdprep")


@dataclass(frozen=True)
class Configured:
    """A run's configuration, the origin of its settings, and the overrides of the command line."""

    cfg: Config
    settings: memory.Settings
    overrides: Sequence[str]


def configure(cfg: DictConfig, overrides: list[str], unpack: bool = True) -> Configured:
    """The configuration of this run: composed, with the sequence's remembered and own settings, and the command line's overrides.

    The demo clip is unpacked on request. Raises ConfigError in one line.
    """
    config = validation.validate(cfg)

    if config.stage in ("score", "dashboard"):
        return Configured(config, memory.settings(None, (), overrides, CONF_DIR), overrides)
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
    from holdprep.sequence.paths import refuse_links_out

    seq = SequenceFolder(data_root, name)
    refuse_links_out(seq.root)
    own = seq.path("overrides")
    settings = memory.settings(own, records.of_sequence(seq), overrides, CONF_DIR)
    lines = [*settings.own.values(), *settings.remembered.values()]
    try:
        plain = composed is not None and not lines
        config = (
            composed
            if composed is not None and plain
            else validation.validate(compose("config", [*lines, *overrides, f"seq={literal(name)}"]))
        )
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{own if settings.own else name}: {' '.join(str(error).split())}") from None
    _check_hand_model(config, settings)
    return config, settings


def _check_hand_model(config: Config, settings: memory.Settings) -> None:
    """The hand model that a sequence was made with stays: a shell without $MANO_DIR, or another computer, does not change it unasked."""
    path, is_kept = config.hand_model.path, "hand_model.path" in settings.remembered
    if is_kept and path is not None and not path.exists():
        raise ConfigError(
            f"the hands of {config.seq} were made with the model in {path}, which does not exist: set hand_model.path=<folder>, or "
            "hand_model.path=null to register them again with the stand-in"
        )
    mano_dir = os.environ.get("MANO_DIR")
    if is_kept and path is None and mano_dir:
        log.warning("the hands of %s were made with the stand-in: hand_model.path=%s registers them again with MANO", config.seq, mano_dir)


def _unpack_demo(folder: Path) -> None:
    """The demo is an ordinary sequence folder: a video, its clicks and its own settings. It appears whole or not at all."""
    if folder.exists():
        return
    from holdprep.io.atomic import atomic_dir

    folder.parent.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("holdprep") / "assets" / "demo") as assets, atomic_dir(folder) as unpacked:
        for source, name in (("cube.mp4", "video.mp4"), ("prompts.yaml",) * 2, ("holdprep.yaml",) * 2, ("LICENSE.visp",) * 2):
            shutil.copyfile(assets / source, unpacked / name)
    log.info("%-12s the demo clip was unpacked to %s", "demo", folder)
