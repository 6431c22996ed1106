"""The text of --help: groups, and the keys of the chosen options with their defaults."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from hydra.errors import HydraException

from holdprep.config import validation
from holdprep.config.reference import PRESETS, Row, default_of, rows_of

HELP = """holdprep: prepares a phone video of a hand holding an object as a sequence for training HOLD

  python launch.py                                                   the demo, all stages (stage=all seq=demo)
  python launch.py stage=all seq=bottle video=clip.mp4               all stages, for your own video
  python launch.py stage=align mode=ho seq=bottle weights.contact=10 one stage again, with another weight
  python launch.py stage=status seq=all                              what exists, what is stale, what a run would do
  python launch.py stage=view seq=bottle                             what it has, in 3D; view.export=true writes one HTML file
  python launch.py -m stage=all seq=a,b                              a batch: the sequences themselves are prepared
  python launch.py -m stage=align mode=ho seq=a,b weights.contact=10,100 logger=wandb
  python launch.py -m +sweep=robust_weights seqs=[a,b]               search for weights (pip install 'holdprep[sweep]')

Stages, in order: create, segment, hand_pose, object_pose, resegment, register, align (mode=h, o, ho), build, report.
Quality gates stop a run of insufficient quality; on_fail=warn continues. A stage whose inputs have not changed is skipped.
A setting is kept for the sequence until it is set again; dry=true prints what would run and why.

Groups (group=option; option's values are in conf/<group>/<option>.yaml):
{groups}

Keys (key=value) of every run, as meaning [allowed; default]:
{keys}

Keys of the chosen options (hand=hamer --help lists those of hand=hamer):
{options}

How to use them: conf/README.md. What the stages do, file formats, troubleshooting: holdprep/README.md.
Results: the sequence in <data_root>/<seq>/, the run's log, metrics.json and losses in outputs/. A file holdprep.yaml in the
sequence's folder overrides any key for that sequence; the command line overrides both.
Names of files are taken as typed: video='IMG_0001 (1).MOV' in the shell's quotes.
Hydra's own flags: --cfg job (show the composed configuration), -m (sweep), --config-dir (a folder of your own options and
experiments), -sc install=bash (shell completion), --hydra-help."""


def text(overrides: Sequence[str], conf_dir: Path) -> str:
    """The help under these overrides, whose options are the chosen ones."""
    groups = validation.groups(conf_dir)
    try:
        chosen = validation.chosen_options(overrides, conf_dir)
    except HydraException:
        chosen = validation.chosen_options([], conf_dir)
    config = yaml.safe_load((conf_dir / "config.yaml").read_text())
    own = (Row(key, field, {"": default_of(config, key)}) for key, field in validation.fields() if key.split(".")[0] not in groups)
    return HELP.format(
        groups="\n".join(f"  {name:14s} {', '.join(options)}" for name, options in groups.items()),
        keys=_lines(own),
        options="\n".join(part for group in groups if group not in PRESETS for part in _of_group(group, groups, chosen, conf_dir)),
    )


def _of_group(group: str, groups: Mapping[str, list[str]], chosen: Mapping[str, set[str]], conf_dir: Path) -> list[str]:
    """A title and the keys of each chosen option that has any."""
    found = []
    for option in [o for o in groups[group] if o in chosen.get(group, ())]:
        lines = _lines(rows_of(group, [option], conf_dir))
        if lines:
            found += [f"  {group}={option}", lines]
    return found


def _lines(rows: Iterable[Row]) -> str:
    found = []
    for row in rows:
        (default,) = row.default.values()
        if row.field.description:
            found.append(f"  {row.key:28s} {row.field.description}  [{validation.allowed(row.field)}; {default}]")
    return "\n".join(found)
