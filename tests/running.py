"""Runs the pipeline in-process, as the command does."""

import json
from functools import lru_cache
from pathlib import Path

from hydra import compose, initialize_config_dir

from holdprep import cli
from holdprep.config import validation
from holdprep.config.schema import Config
from holdprep.configured import configure

CONF = Path(__file__).parent.parent / "conf"


@lru_cache(maxsize=8)
def composed(*told: str) -> Config:
    """The configuration of a command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return validation.validate(compose("config", list(told)))


def run(data_root: Path, run_dir: Path, *overrides: str, group: str | None = None) -> dict:
    """Run `launch.py <overrides>` on `data_root`; returns metrics.json's stages. Raises what the run raises."""
    told = [f"data_root={data_root}", "logger=none", *overrides]
    run_dir.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cli.execute(configure(compose("config", told), told), run_dir, group)
    return json.loads((run_dir / "metrics.json").read_text())["stages"]
