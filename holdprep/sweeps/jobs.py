"""One job of a batch in a process of its own, and what is kept of a job that ended without a result."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from holdprep.errors import HoldprepError
from holdprep.io.atomic import write_bytes_atomic

FAILURE = "failure.json"


@dataclass(frozen=True)
class Failed:
    """A job that returned nothing: its process was killed, or it raised."""

    error: str


@dataclass(frozen=True)
class Job:
    """Job `number` of a batch: everything that another process, on this or another machine, needs to run it."""

    number: int
    overrides: Sequence[str]
    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction
    singletons: Mapping[type, Any]

    def composed(self, job_id: str | None = None) -> DictConfig:
        """The job's own configuration."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = job_id or str(self.number)
            config.hydra.job.num = self.number
        return config

    def __call__(self) -> float | Failed:
        """Run the job in this process; what it raises is returned as one line."""
        Singleton.set_state(dict(self.singletons))
        setup_globals()
        found = run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=self.composed(_job_id()),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        try:
            return float(found.return_value)
        except Exception as error:  # of the job, which Hydra keeps and raises here
            return Failed(one_line(error))

    def checkpoint(self) -> Any:
        """The job that submitit sends again after the time limit: stages that are done are skipped."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def write_failure(self, error: str) -> None:
        """Keep the reason of the failure in the job's folder for the table of the batch, which also needs the overrides.

        A process that was killed at its start left them out, or an empty file.
        """
        hydra = self.composed().hydra
        folder = Path(str(hydra.sweep.dir)) / str(hydra.sweep.subdir)
        write_failure(folder, error)
        (folder / ".hydra").mkdir(exist_ok=True)
        write_bytes_atomic(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(hydra.overrides.task).encode())


def _job_id() -> str | None:
    import os

    ids = (os.environ.get(name) for name in ("SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID"))
    return next((value for value in ids if value), None)


def returned(job: Job, result: float | Failed) -> JobReturn:
    """Hydra's result of a job. A failed one has NaN, so that the batch goes on and ends with its table."""
    value = float("nan") if isinstance(result, Failed) else result
    found = JobReturn(overrides=list(job.overrides), status=JobStatus.COMPLETED)
    found.return_value = value
    if isinstance(result, Failed):
        job.write_failure(result.error)
    return found


def write_failure(folder: Path, error: str) -> None:
    """Keep the reason of a job's failure in its folder, for the table of the batch."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(folder / FAILURE, json.dumps({"error": error}).encode())


def failure(folder: Path) -> str | None:
    """The reason of the failure of the job in `folder`; None where it did not fail."""
    path = folder / FAILURE
    return str(json.loads(path.read_text())["error"]) if path.is_file() else None


def one_line(error: BaseException) -> str:
    """An exception as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, HoldprepError) else f"{type(error).__name__}: {text}"
