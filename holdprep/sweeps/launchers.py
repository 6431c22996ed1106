"""Launchers of a batch's jobs: processes of this machine, a Slurm cluster, Ray. Every job of a batch has a process of its own.

A job whose process is killed is a failed job: the others go on, the table names it, and the same command completes the batch.
"""

import io
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from holdprep.errors import ConfigError, HoldprepError
from holdprep.sweeps.jobs import Failed, Job, one_line, returned

log = logging.getLogger("holdprep")
Results = list[float | Failed]
Numbered = tuple[int, Sequence[str]]  # a job's number and overrides
POLL_S, GRACE = 2.0, 5  # seconds between two looks at submitted jobs; looks after the end of a job without a result


class JobLauncher(Launcher):
    """Base of the launchers: `run` gives one result per job, in order."""

    def __init__(self, **options: Any) -> None:
        self.options: dict[str, Any] = {
            key: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for key, v in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's call before the first batch."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a job that fails or is killed has the result NaN. Exits in one line where none can be run."""
        jobs = [self.job(initial_job_idx + k, overrides) for k, overrides in enumerate(job_overrides)]
        try:
            results = self.run(jobs)
        except HoldprepError as error:
            sys.exit(f"error: {error}")
        return [_logged(job, result) for job, result in zip(jobs, results, strict=True)]

    def job(self, number: int, overrides: Sequence[str]) -> Job:
        """A job of this launcher, in the folder of the batch."""
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        log.info("#%d %s", number, " ".join(filter_overrides(overrides)))
        return Job(number, list(overrides), self.config, self.hydra_context, self.task_function, Singleton.get_state())

    @abstractmethod
    def run(self, jobs: Sequence[Job]) -> Results:
        """Results of the jobs, in their order. Raises HoldprepError where none can be run."""


def as_they_end(launcher: Launcher, jobs: Iterator[Numbered], at_once: int) -> Iterator[tuple[int, JobReturn]]:
    """Numbers and results of `jobs`, of which up to `at_once` run at a time; a job is asked for after the results before it were taken.

    Processes of this machine take the next job when one ends; other launchers run rounds of `at_once`.
    """
    if isinstance(launcher, Processes):
        for job, result in launcher.as_they_end((launcher.job(*one) for one in jobs), at_once):
            yield job.number, _logged(job, result)
        return
    while part := list(islice(jobs, at_once)):
        found = launcher.launch([overrides for _, overrides in part], initial_job_idx=part[0][0])
        yield from zip((number for number, _ in part), found, strict=True)


def _logged(job: Job, result: float | Failed) -> JobReturn:
    if isinstance(result, Failed):
        log.error("#%d failed: %s", job.number, result.error)
    return returned(job, result)


class Processes(JobLauncher):
    """`hydra/launcher=joblib`: `n_jobs` processes of this machine, each of which runs one job, or several within `kept`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._idle: SimpleQueue[_Worker] | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Processes are kept for the next jobs: the trials of a search then share modules and sequences that were loaded."""
        idle: SimpleQueue[_Worker] = SimpleQueue()
        self._idle = idle
        try:
            yield
        finally:
            self._idle = None
            while not idle.empty():
                idle.get().close()

    def run(self, jobs: Sequence[Job]) -> Results:
        """Up to `n_jobs` at a time; -1 is one per core."""
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(self._run_one, (_packed(job) for job in jobs)))

    def as_they_end(self, jobs: Iterator[Job], at_once: int) -> Iterator[tuple[Job, float | Failed]]:
        """Jobs with their results. Up to `at_once`, at most `n_jobs`, run at a time; the next one is asked for when one has ended."""
        workers, running = min(at_once, self._workers), dict[Future[float | Failed], Job]()
        with ThreadPoolExecutor(workers) as pool:
            while True:
                for job in islice(jobs, workers - len(running)):
                    running[pool.submit(self._run_one, _packed(job))] = job
                if not running:
                    return
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(ended), ended.result()

    @property
    def _workers(self) -> int:
        workers = int(self.options.get("n_jobs") or -1)
        return workers if workers > 0 else os.cpu_count() or 1

    def _run_one(self, job: bytes) -> float | Failed:
        try:
            worker = _Worker() if self._idle is None else self._idle.get_nowait()
        except Empty:
            worker = _Worker()
        result = worker.run(job)
        if self._idle is None or worker.has_ended:
            worker.close()
        else:
            self._idle.put(worker)
        return result


def _packed(job: Job) -> bytes:
    """The job as bytes; functions of the command are found by value, as Hydra decorates them."""
    import cloudpickle

    stream = io.BytesIO()
    cloudpickle.dump(job, stream)
    return stream.getvalue()


class _Worker:
    """A process that runs jobs, one after the other; it ends when the connection with it is closed, also by the end of this process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there,))
        self._process.start()
        there.close()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, by itself or killed."""
        return self._process.exitcode is not None

    def run(self, job: bytes) -> float | Failed:
        """The result of a packed job."""
        try:
            self._connection.send_bytes(job)
            return self._connection.recv()
        except (EOFError, ConnectionError):  # the process has ended without a result
            self._process.join()
            return Failed(_ending(self._process.exitcode))

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()


def _serve(connection: Connection) -> None:
    while True:
        try:
            job = connection.recv_bytes()
        except EOFError:
            return
        try:
            result = pickle.loads(job)()
        except Exception as error:
            result = Failed(one_line(error))
        connection.send(result)


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"its process was killed by {signal.Signals(-exitcode).name}: the same command continues there"
    return f"its process ended with exit status {exitcode}: see its run.log"


class Submitit(JobLauncher):
    """`hydra/launcher=submitit_local` and `submitit_slurm`: jobs through submitit, on Slurm as arrays of up to `array_size`."""

    def __init__(self, cluster: str, folder: str, array_size: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.cluster, self.folder, self.array_size = cluster, folder, array_size

    def run(self, jobs: Sequence[Job]) -> Results:
        """All jobs are submitted, then awaited."""
        _require("submitit", f"submitit_{self.cluster}", "sweep")
        if self.cluster == "slurm" and shutil.which("srun") is None:
            raise ConfigError("hydra/launcher=submitit_slurm: this machine has no Slurm (srun is not found): use hydra/launcher=joblib")
        import submitit

        given = {key: value for key, value in self.options.items() if value is not None}
        executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        executor.update_parameters(**(given if self.cluster == "slurm" else _of_local(given)))
        try:
            sent = [one for part in _parts(jobs, self.array_size or len(jobs)) for one in _sent(executor, part)]
        except submitit.core.utils.FailedJobError as error:
            raise HoldprepError(f"hydra/launcher=submitit_{self.cluster}: {' '.join(str(error).split())}") from None
        queue = _Queue()
        return _awaited(sent, queue.holds if self.cluster == "slurm" else lambda one: not one.done())


def _of_local(options: dict[str, Any]) -> dict[str, Any]:
    """The options that also hold without a cluster."""
    return {key: value for key, value in options.items() if not key.startswith("slurm_")}


def _parts(jobs: Sequence[Job], size: int) -> Iterator[list[Job]]:
    rest = iter(jobs)
    while part := list(islice(rest, max(size, 1))):
        yield part


def _sent(executor: Any, jobs: Iterable[Job]) -> list[Any]:
    with executor.batch():
        return [executor.submit(job) for job in jobs]


def _awaited(sent: Sequence[Any], is_queued: Callable[[Any], bool]) -> Results:
    """Results of submitted jobs, in their order; a job that is no longer queued and has written none has failed."""
    results: dict[str, float | Failed] = {}
    seen_gone: dict[str, int] = {}
    while len(results) < len(sent):
        for one in sent:
            if one.job_id in results:
                continue
            if one.paths.result_pickle.exists():
                results[one.job_id] = _result(one)
            elif not is_queued(one):
                seen_gone[one.job_id] = seen_gone.get(one.job_id, 0) + 1
                if seen_gone[one.job_id] > GRACE:  # a shared disk shows a file of another machine late
                    results[one.job_id] = Failed(f"job {one.job_id} was killed, or ended without a result: see {one.paths.stderr}")
        time.sleep(POLL_S)
    return [results[one.job_id] for one in sent]


def _result(sent: Any) -> float | Failed:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        result: float | Failed = sent.result()
        return result
    except (FailedJobError, UncompletedJobError) as error:
        return Failed(one_line(error))


class _Queue:
    """Slurm's queue of this user, asked at most every POLL_S seconds for all jobs together. Clusters without accounting have it too."""

    def __init__(self) -> None:
        self.asked, self.ids = 0.0, set[str]()

    def holds(self, sent: Any) -> bool:
        """Whether a job waits or runs; true where Slurm does not answer."""
        if time.monotonic() - self.asked > POLL_S:
            found = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=False)
            if found.returncode:
                return True
            self.asked, self.ids = time.monotonic(), set(found.stdout.split())
        return str(sent.job_id) in self.ids


class Ray(JobLauncher):
    """`hydra/launcher=ray`: tasks of a Ray cluster at `address`, or of one that is started on this machine with `workers` CPUs."""

    def run(self, jobs: Sequence[Job]) -> Results:
        """A task per job with `cpus_per_job` and `gpus_per_job`, never repeated by Ray."""
        _require("ray", "ray", "ray")
        import ray

        options = self.options
        local: dict[str, Any] = {} if options.get("address") else {"num_cpus": options.get("workers"), "include_dashboard": False}
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(address=options.get("address"), log_to_driver=True, logging_level=logging.ERROR, **local)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigError(f"hydra/launcher=ray: {' '.join(str(error).split())}: give hydra.launcher.address, or none") from None
        needs: dict[str, Any] = {"num_cpus": options.get("cpus_per_job") or 1, "num_gpus": options.get("gpus_per_job") or 0}
        remote = ray.remote(**needs, max_retries=0, max_calls=1)(_unpacked)
        sent = [remote.options(name=f"holdprep-{job.number}").remote(_packed(job)) for job in jobs]
        try:
            return [_of_ray(one) for one in sent]
        finally:
            if started:
                ray.shutdown()


def _unpacked(job: bytes) -> float | Failed:
    result: float | Failed = pickle.loads(job)()
    return result


def _of_ray(sent: Any) -> float | Failed:
    import ray

    try:
        result: float | Failed = ray.get(sent)
        return result
    except ray.exceptions.WorkerCrashedError:
        return Failed("its process was killed: the same command continues there")
    except ray.exceptions.RayError as error:
        return Failed(one_line(error))


def _require(package: str, launcher: str, extra: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"hydra/launcher={launcher}: {package} is not installed: pip install 'holdprep[{extra}]'")
