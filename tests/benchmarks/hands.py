"""One hand's registration: second order from exact and noisy targets, HOLD's published schedule on the same ones, and long clips.

As a command, `python -m tests.benchmarks.hands FRAMES`, it registers a clip of so many frames and prints its time and memory: a child of
`python -m tests.benchmarks --frames ...`, because the peak of memory is a process's own.
"""

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from holdprep.hand import adam, lbs
from holdprep.hand.model import HandModel, ManoParams, load_hand_model
from holdprep.hand.priors import beyond_limits
from holdprep.hand.registration import Registration, register
from holdprep.hand.targets import Targets
from tests.benchmarks.measure import Row, row
from tests.hand.linear import displaced_by

FRAMES, NOISE_M, AT_ONCE = 300, 1e-3, 1000
TURN = 6.28 / FRAMES  # of the motion, a frame


def motion(frames: Tensor) -> ManoParams:
    """A hand that turns, bends and moves, smooth in time, with a shape; `frames` (T,) are the frames' numbers."""
    t = TURN * frames[:, None].double()
    phase = torch.rand(48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    orient, pose = (2 * torch.sin(t + 6 * phase[:3]), 0.4 * torch.sin(2 * t + 6 * phase[3:]))
    betas = torch.tensor([1.0, -0.8, 0.6, 0.5, -0.4, 0.3, 0.2, -0.2, 0.1, 0.1], dtype=torch.float64)
    return ManoParams(orient, pose, betas, torch.cat([0.05 * torch.sin(t), 0.04 * torch.cos(t), 0.5 + 0.05 * torch.sin(t)], dim=1))


def measure_registration() -> Iterator[Row]:
    """300 frames, cold, from exact and from noisy vertices, and from exact joints."""
    model, params = load_hand_model("right", dtype=torch.float64), motion(torch.arange(FRAMES))
    mesh = lbs.forward(model, params)
    noise = NOISE_M * torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    joints = mesh.joints - mesh.joints[:, :1]
    yield from _judged("exact_vertices", model, params, lambda: register(model, Targets(vertices_m=mesh.vertices)))
    floor = displaced_by(model, params, noise)
    yield from _judged("noisy_vertices", model, params, lambda: register(model, Targets(vertices_m=mesh.vertices + noise)), floor)
    started = time.perf_counter()
    found = register(model, Targets(j3d_m=joints, relative=True))
    yield row("exact_joints_3d", "register", "time_s", time.perf_counter() - started)
    fitted = lbs.forward(model, found.params).joints
    yield row("exact_joints_3d", "register", "mpjpe_mm", 1e3 * float((fitted - fitted[:, :1] - joints).norm(dim=-1).mean()))
    beyond = beyond_limits(model.side, lbs.to_state(model, found.params).rotations)
    yield row("exact_joints_3d", "register", "beyond_limits_deg", math.degrees(float(beyond.abs().max())))


def measure_schedule() -> Iterator[Row]:
    """HOLD's published schedule to its own end on the target of `exact_vertices`, its frames side by side; a shape a frame."""
    model, params = load_hand_model("right", dtype=torch.float64), motion(torch.arange(FRAMES))
    vertices = lbs.forward(model, params).vertices
    yield from _judged("exact_vertices_adam", model, params, lambda: adam.register_adam(model, vertices)[0])


def _judged(case: str, model: HandModel, params: ManoParams, job: Callable[[], Registration], floor: Tensor | None = None) -> Iterator[Row]:
    """Time and errors of a registration; `floor` is what noise moves the best linear fit by. Shapes a frame: the mean of their errors."""
    started = time.perf_counter()
    found = job()
    yield row(case, "register", "time_s", time.perf_counter() - started)
    off, betas = lbs.forward(model, found.params).vertices - lbs.forward(model, params).vertices, found.params.betas.reshape(-1, 10)
    yield row(case, "register", "vertex_error_mm", 1e3 * float(off.norm(dim=-1).median()))
    yield row(case, "register", "shape_error_pct", 100 * float((betas - params.betas).norm(dim=1).mean() / params.betas.norm()))
    yield row(case, "register", "shape_norm_error_pct", 100 * float(betas.norm(dim=1).mean() / params.betas.norm() - 1))
    if floor is not None:
        yield row(case, "register", "above_floor_pct", 100 * float(off.norm() / floor.norm() - 1))


def measure_frames(frames: int) -> Iterator[Row]:
    """A clip of so many frames in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.hands", str(frames)], check=True, stdout=subprocess.PIPE, text=True)
    for metric, value in json.loads(done.stdout).items():
        yield row(f"frames_{frames}", "register", metric, value)


def _long_clip(frames: int) -> dict[str, float]:
    """Exact float32 vertices, made and judged in parts; seconds and the process's peak of memory (MB) when it is registered."""
    model, vertices = load_hand_model("right", dtype=torch.float64), torch.from_numpy(np.empty((frames, 778, 3), np.float32))
    parts = [slice(i, min(i + AT_ONCE, frames)) for i in range(0, frames, AT_ONCE)]
    for rows in parts:
        vertices[rows] = lbs.forward(model, motion(torch.arange(rows.start, rows.stop))).vertices.float()
    started, cpu = time.perf_counter(), time.process_time()
    found = register(model, Targets(vertices_m=vertices))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    error_mm = 1e3 * float(found.error_m.median())
    target_mb = vertices.nbytes / 2**20
    return {"time_s": seconds, "cpu_s": cpu, "peak_memory_mb": peak_mb, "target_mb": target_mb, "error_mm": error_mm}


if __name__ == "__main__":
    print(json.dumps(_long_clip(int(sys.argv[1]))))
