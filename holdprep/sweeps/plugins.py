"""This package's sweepers and launchers, as Hydra finds them: a plugin's name must be in the package hydra_plugins."""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

NAMES = "hydra_plugins.holdprep"  # _target_ in conf/hydra/: <NAMES>.<class>


def register() -> None:
    """Make them known to Hydra in this process."""
    known = Plugins.instance()  # loads Hydra's own plugins anew: what is derived from them is imported after that
    from holdprep.sweeps import batch_sweeper, launchers, optuna_sweeper

    for plugin in (batch_sweeper.BatchSweeper, launchers.Processes, launchers.Submitit, launchers.Ray, optuna_sweeper.Optuna):
        known.register(plugin)
        known.class_name_to_class[f"{NAMES}.{plugin.__name__}"] = plugin
    of_others = ConfigStore.instance().repo.get("hydra", {})  # else Hydra holds conf/hydra/ to the keys of an installed plugin
    for group, name in (*(("launcher", n) for n in ("joblib", "submitit_local", "submitit_slurm", "ray")), ("sweeper", "optuna")):
        of_others.get(group, {}).pop(f"{name}.yaml", None)
