"""Labels of a run from its configuration and, in a sweep, from what differs between the jobs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from holdprep.config.schema import Config
from holdprep.logs.content import Labels

SHORT = ("seq", "stage", "mode", "overlay")  # named by other parts of a run's name


def labels(cfg: Config, swept: Iterable[str] = (), overrides: Iterable[str] = ()) -> Labels:
    """Labels of a run: stage with its mode, tracker and hands, and the values of the keys that are `swept`."""
    given = {key.lstrip("+~"): value for key, _, value in (line.partition("=") for line in overrides)}
    differs = {key: given[key] for key in swept if key in given and key not in SHORT}
    stage = f"align/{cfg.mode}" if cfg.stage == "align" and cfg.mode else cfg.stage
    return Labels(stage, differs, (f"hand:{cfg.hand.name}", f"hands:{cfg.hands.which}", f"object_pose:{cfg.object_pose.name}"))


def swept_keys(sweep_dir: Path, sweeper: Any = None) -> list[str]:
    """The keys that differ between the jobs of a sweep: swept on its command line, or in the sweeper's `params`."""
    path, found = sweep_dir / "multirun.yaml", list[str]()
    if path.is_file():
        lines = OmegaConf.select(OmegaConf.load(path), "hydra.overrides.task", default=[])
        parsed = OverridesParser.create().parse_overrides([str(line) for line in lines])
        found += [override.key_or_group for override in parsed if override.is_sweep_override()]
    params = OmegaConf.select(sweeper, "params", default=None) if OmegaConf.is_config(sweeper) else None
    return [*found, *(str(key) for key in params or {} if str(key) not in found)]
