"""stage=status and dry=true: what the sequences have, whether it is up to date and good, why not, and what a run would do."""

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
    """Print one table of every sequence (or job) that the arguments name. Raises HoldprepError where one is not there."""
    table = Table()
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    with initialize_config_dir(str(conf_dir.resolve()), version_base="1.3"):
        for job in commandline.jobs(arguments):
            for row in rows(job):
                table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)


def rows(told: list[str]) -> Iterator[Row]:
    """The rows of one sequence; stages in a row of which the same is to be said share one."""
    configured = configure(compose("config", told), told, unpack=False)
    cfg = configured.cfg
    seq = SequenceFolder(cfg.data_root, cfg.seq)
    if not seq.root.is_dir() and cfg.video is None and cfg.source.name == "video":
        raise HoldprepError(f"{seq.root} is not there: run stage=all seq={cfg.seq} video=<file> first")
    records.load_hashes(seq)
    steps = plan(stages.select(cfg), cfg, seq, configured.settings.named)
    told_of = [
        (step.stage.name, (step.state.kind, verdict(step.stage, cfg, seq, step.state), WOULD[step.action], step.reason)) for step in steps
    ]
    name = cfg.seq
    for said, group in groupby(told_of, key=lambda entry: entry[1]):
        yield (name, ", ".join(stage for stage, _ in group), *said)
        name = ""
