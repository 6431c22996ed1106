"""What a search over weights ends with: the winner as a file for `weights=`, and a table of it against the weights it started from."""

from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from holdprep.config import validation
from holdprep.config.schema import Config
from holdprep.io import safeio
from holdprep.quality.evaluation import direction

GROUP = "weights."


class Winner(Callback):
    """Hydra callback around Optuna's sweeper."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # sqlite makes files, not folders

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        import optuna

        sweeper, folder = config.hydra.sweeper, Path(config.hydra.sweep.dir)
        study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
        # Hydra's own node speaks of the job, and there is none
        cfg = validation.validate(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
        chosen = {key.removeprefix(GROUP): value for key, value in study.best_params.items()}
        best = cfg.model_copy(update={"weights": cfg.weights.model_copy(update=chosen)})
        path = folder / "winner.yaml"
        safeio.write_bytes_atomic(path, yaml.safe_dump(best.weights.model_dump(), sort_keys=False).encode())
        told = [str(line) for line in config.hydra.overrides.task]
        _compare(cfg, best, told, [*told, *(f"{GROUP}{key}={value}" for key, value in chosen.items())])
        print(f"{len(study.trials)} trials; the best weights: weights={path}")


def _compare(before: Config, after: Config, told: list[str], told_after: list[str]) -> None:
    from holdprep.configured import for_sequence
    from holdprep.sweeps import trial  # torch takes seconds, and nothing else here needs it

    metric = after.score_metric
    unit = "mm, label-free" if metric is None else f"{metric}, {direction(metric)} is better"
    table = Table()
    for column in ("sequence", f"given weights ({unit})", f"winner ({unit})"):
        table.add_column(column)
    given, found = (trial.score(c, partial(for_sequence, c.data_root, told=t)) for c, t in ((before, told), (after, told_after)))
    for name in given:
        table.add_row(name, f"{given[name]:.3f}", f"{found[name]:.3f}")
    table.add_row("worst", f"{trial.worst(given, metric):.3f}", f"{trial.worst(found, metric):.3f}")
    Console().print(table)
