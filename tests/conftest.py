"""Several processes for a run of several files, each with one thread, which what they start inherits."""

import os
from pathlib import Path

import pytest

MOST_PROCESSES = 4  # each holds torch and a module's sequences, about 1 GB

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch and OpenCV are imported
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One a core; none for a single file, which one process runs in any case."""
    files = {Path(argument.split("::")[0]) for argument in config.args}
    is_single = len(files) == 1 and all(file.is_file() for file in files)
    return 0 if is_single else min(os.cpu_count() or 1, MOST_PROCESSES)
