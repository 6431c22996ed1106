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
        cfg = compose("config", told)
    run_dir.mkdir(parents=True, exist_ok=True)
    cli._run(cli._typed(cfg, told), run_dir, group)
    return json.loads((run_dir / "metrics.json").read_text())["stages"]
