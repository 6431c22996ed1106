"""Runs the pipeline in-process, as the command does."""

import json
from pathlib import Path

from hydra import compose, initialize_config_dir

from holdprep import cli

CONF = Path(__file__).parent.parent / "conf"


def run(data_root: Path, run_dir: Path, *overrides: str, group: str | None = None) -> dict:
    """Run `launch.py <overrides>` on `data_root`; returns metrics.json's stages. Raises what the run raises."""
    told = [f"data_root={data_root}", "logger=none", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = cli._typed(compose("config", told), told)  # composes again where the sequence has a holdprep.yaml
    run_dir.mkdir(parents=True, exist_ok=True)
    cli._run(cfg, run_dir, group)
    return json.loads((run_dir / "metrics.json").read_text())["stages"]
