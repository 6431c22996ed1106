"""End of a search over weights: the best weights as a file for `weights=`, and a comparison with the initial weights."""

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
    """Hydra callback at the start and end of Optuna's sweeper."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # sqlite does not create folders

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        import optuna

        sweeper, folder = config.hydra.sweeper, Path(config.hydra.sweep.dir)
        study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
        # Hydra's own node refers to a job, which does not exist here
        cfg = validation.validate(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
        chosen = {key.removeprefix(GROUP): value for key, value in study.best_params.items()}
        best = cfg.model_copy(update={"weights": cfg.weights.model_copy(update=chosen)})
        path = folder / "winner.yaml"
        safeio.write_bytes_atomic(path, yaml.safe_dump(best.weights.model_dump(), sort_keys=False).encode())
        overrides = [str(line) for line in config.hydra.overrides.task]
        _compare(cfg, best, overrides, [*overrides, *(f"{GROUP}{key}={value}" for key, value in chosen.items())])
        print(f"{len(study.trials)} trials; the best weights: weights={path}")


def _compare(before: Config, after: Config, overrides: list[str], overrides_after: list[str]) -> None:
    from holdprep.configured import for_sequence
    from holdprep.sweeps import trial  # slow import of torch

    metric = after.score_metric
    unit = "mm, label-free" if metric is None else f"{metric}, {direction(metric)} is better"
    table = Table()
    for column in ("sequence", f"given weights ({unit})", f"winner ({unit})"):
        table.add_column(column)
    given, found = (
        trial.score(c, partial(for_sequence, c.data_root, overrides=o)) for c, o in ((before, overrides), (after, overrides_after))
    )
    for name in given:
        table.add_row(name, f"{given[name]:.3f}", f"{found[name]:.3f}")
    table.add_row("worst", f"{trial.worst(given, metric):.3f}", f"{trial.worst(found, metric):.3f}")
    Console().print(table)
