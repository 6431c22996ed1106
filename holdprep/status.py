"""stage=status and dry=true: a table of the stages' states, quality, and the actions of a run."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from holdprep import stages
from holdprep.config import commandline
from holdprep.configured import configure
from holdprep.errors import HoldprepError
from holdprep.pipeline import records
from holdprep.pipeline.plan import plan, verdict
from holdprep.sequence import Sequence as SequenceFolder

COLUMNS = ("sequence", "stage", "state", "verdict", "a run would", "why")
WOULD = {"run": "run it", "skip": "skip it", "keep": "keep it", "refuse": "stop"}
Row = tuple[str, ...]


def show(arguments: Sequence[str], conf_dir: Path) -> None:
    """Print one table of all sequences (or jobs) in the arguments. Raises HoldprepError where one does not exist."""
    table = Table()
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    with initialize_config_dir(str(conf_dir.resolve()), version_base="1.3"):
        for job in commandline.jobs(arguments):
            for row in rows(job):
                table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)


def rows(overrides: list[str]) -> Iterator[Row]:
    """The rows of one sequence; consecutive stages with the same entries share one."""
    configured = configure(compose("config", overrides), overrides, unpack=False)
    cfg = configured.cfg
    seq = SequenceFolder(cfg.data_root, cfg.seq)
    if not seq.root.is_dir() and cfg.video is None and cfg.source.name == "video":
        raise HoldprepError(f"{seq.root} does not exist: run stage=all seq={cfg.seq} video=<file> first")
    records.load_hashes(seq)
    steps = plan(stages.select(cfg), cfg, seq, configured.settings.named)
    entries = [
        (step.stage.name, (step.state.kind, verdict(step.stage, cfg, seq, step.state), WOULD[step.action], step.reason)) for step in steps
    ]
    name = cfg.seq
    for cells, group in groupby(entries, key=lambda entry: entry[1]):
        yield (name, ", ".join(stage for stage, _ in group), *cells)
        name = ""
