"""Optuna's study of a search over weights: storage, sampler, what is searched, and trials whose process has ended."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, Sweep
from hydra.errors import HydraException

from holdprep.config import validation
from holdprep.errors import ConfigError

if TYPE_CHECKING:
    import optuna

SAMPLERS, PRUNERS = ("tpe", "cmaes", "random"), ("median", "none")
SEARCH, PRUNED, SCORES, RUNNER, BASELINE = "search", "pruned", "scores", "runner", "baseline"  # attributes of the study, of trials
FAILED = "failed"  # its job had no result, and will have none
STARTUP = 10  # trials at random before TPE models them, and before any is pruned


@dataclass(frozen=True)
class Settings:
    """Settings of a search: where its study is, how it samples, and `params`, the values to search by key."""

    name: str
    storage: str
    sampler: str
    pruner: str
    seed: int
    params: Mapping[str, "optuna.distributions.BaseDistribution"]


def distributions(params: Mapping[str, Any]) -> "dict[str, optuna.distributions.BaseDistribution]":
    """Distributions from `interval(a, b)`, `tag(log, interval(a, b))`, `choice(...)` by key. Raises ConfigError in one line."""
    known = dict(validation.fields())
    found = {}
    for key, text in params.items():
        try:
            (override,) = OverridesParser.create().parse_overrides([f"{key}={text}"])
        except HydraException as error:
            raise ConfigError(f"search over {key}={text}: {' '.join(str(error).split())}") from None
        if key not in known:
            weight = "weight" if key.startswith("weights.") else "key"
            near = [name for name in known if name.startswith("weights.")]
            raise ConfigError(f"search over {key}: no such {weight}; weights are {', '.join(n.removeprefix('weights.') for n in near)}")
        found[key] = _distribution(key, override)
    if not found:
        raise ConfigError("nothing to search: give hydra.sweeper.params, or a range on the command line: weights.contact=interval(1,100)")
    return found


def _distribution(key: str, override: Override) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    value = override.value()
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution([v for v in override.sweep_iterator() if isinstance(v, int | float | str | None)])
    if not isinstance(value, IntervalSweep):
        raise ConfigError(f"search over {key}={override.get_value_element_as_str()}: interval(low,high) or choice(a,b) is needed")
    low, high, log = float(value.start or 0), float(value.end or 0), "log" in (value.tags if isinstance(value, Sweep) else ())
    if not low < high:
        raise ConfigError(f"search over {key}: the range from {low:g} to {high:g} is empty: low must be less than high")
    if log and low <= 0:
        raise ConfigError(f"search over {key}: a logarithmic range from {low:g} is not possible: low must be greater than 0")
    return FloatDistribution(low, high, log=log)


def storage_of(text: str) -> "optuna.storages.BaseStorage":
    """sqlite:///<file> and other addresses of a database, or the path of a journal file; several processes may share either.

    Raises ConfigError where the file is no storage.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = Path(text.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if "://" in text:
            return RDBStorage(text, engine_kwargs={"connect_args": {"timeout": 60}} if text.startswith("sqlite") else None)
        return JournalStorage(JournalFileBackend(text, lock_obj=JournalFileOpenLock(text)))
    except Exception as error:  # of SQLAlchemy, json or the journal: each has its own
        raise ConfigError(f"{path} is no storage of Optuna ({type(error).__name__}): remove it, or set hydra.sweeper.storage") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's line for each trial."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def open_study(settings: Settings, search: Mapping[str, Any]) -> "optuna.Study":
    """The study in the storage, made where there is none. `search` says what is searched and on what.

    Raises ConfigError where the storage holds another study, or one that this sampler cannot continue.
    """
    import optuna

    for value, names, key in ((settings.sampler, SAMPLERS, "sampler"), (settings.pruner, PRUNERS, "pruner")):
        if value not in names:
            raise ConfigError(f"hydra.sweeper.{key}={value}: not allowed; allowed: {', '.join(names)}")
    storage = storage_of(settings.storage)
    others = [s.study_name for s in optuna.get_all_study_summaries(storage) if s.study_name != settings.name]
    if others:
        raise ConfigError(f"{settings.storage} holds another study ({', '.join(others)}): set hydra.sweep.dir or hydra.sweeper.study_name")
    study = optuna.create_study(
        storage=storage, sampler=sampler_of(settings), pruner=pruner_of(settings.pruner), study_name=settings.name, load_if_exists=True
    )
    own = {"sampler": settings.sampler, **{key: str(value) for key, value in settings.params.items()}, **search}
    before = study.user_attrs.get(SEARCH)
    if before is None:
        study.set_user_attr(SEARCH, own)
    elif before.get("sampler") != settings.sampler:
        raise ConfigError(
            f"the study in {settings.storage} was made with sampler={before.get('sampler')}, whose state sampler={settings.sampler} cannot "
            "continue: use the first, or another hydra.sweep.dir"
        )
    elif before != own:
        key = next(k for k in {**before, **own} if before.get(k) != own.get(k))
        raise ConfigError(
            f"{settings.storage} holds a search with {key}={before.get(key)}, not {own.get(key)}: set another hydra.sweep.dir"
        )
    return study


def sampler_of(settings: Settings) -> "optuna.samplers.BaseSampler":
    """The sampler, whose randomness is that of the seed and the trial's number."""
    from optuna import samplers

    from holdprep.sweeps.sampler import ByNumber

    def make(number: int) -> "optuna.samplers.BaseSampler":
        seed = (settings.seed * 1_000_003 + number) % 2**31
        if settings.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=1)
        if settings.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)

    return ByNumber(make)


def pruner_of(name: str) -> "optuna.pruners.BasePruner":
    """The pruner, which ends a trial whose loss on its first sequences is above the median of the others."""
    from optuna.pruners import NopPruner

    from holdprep.sweeps.pruner import Median

    return NopPruner() if name == "none" else Median(STARTUP)


def mark_runner(trial: "optuna.Trial") -> None:
    """Note which process runs a trial."""
    trial.set_user_attr(RUNNER, [socket.gethostname(), os.getpid()])


def give_up_lost(study: "optuna.Study") -> int:
    """End the trials whose process on this machine has ended, and queue their values again; returns their number."""
    from optuna.trial import TrialState

    lost = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, pid = trial.user_attrs.get(RUNNER, ("", 0))
        if host == socket.gethostname() and not Path("/proc", str(pid)).exists():
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
            lost += 1
    return lost
