"""Runs cases and solvers, and turns what they report into rows {case, stage, metric, value, unit}."""

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from holdprep.errors import HoldprepError
from holdprep.hand import lbs, registration
from holdprep.hand.model import ManoParams, load_hand_model
from holdprep.hand.targets import Targets
from tests.benchmarks.cases import Case
from tests.running import run

Row = dict[str, str | float]
STAGES = ("create", "segment", "hand_pose", "register", "object_pose", "align")
# what stage=evaluate says that belongs to a stage, once it has run; of several hands or entities the worst counts
JUDGED: dict[str, tuple[str, ...]] = {
    "segment": ("mask_iou",),
    "register": ("mpjpe_mm", "pa_mpjpe_mm"),
    "object_pose": ("registered_pct", "rotation_error_deg_median", "rotation_error_deg_p95", "focal_error_pct"),
    "align": ("mpjpe_mm", "mrrpe_mm", "scale_error_pct", "contact_gap_mm", "penetration_depth_mm", "fscore_5mm_pct"),
}
BEST_IS_HIGH = ("mask_iou", "fscore_5mm_pct", "registered_pct")
UNITS = {"mm": "mm", "px": "px", "pct": "%", "iou": "", "s": "s", "median": "deg", "p95": "deg", "mb": "MB"}


def row(case: str, stage: str, metric: str, value: float) -> Row:
    """One line of the table; the unit is in the metric's name."""
    unit = "1/s" if metric.endswith("per_s") else UNITS[metric.rpartition("_")[2]]
    return {"case": case, "stage": stage, "metric": metric, "value": round(float(value), 6), "unit": unit}


def measure_case(case: Case, root: Path) -> Iterator[Row]:
    """Stage by stage; a stage that refuses the sequence is a row `refused`, and ends it."""
    told = ["on_fail=warn", *case.overrides()]
    for stage in STAGES:
        try:
            outcomes = run(root, root / "out", f"stage={stage}", *told)
        except HoldprepError as error:
            print(f"{case.name}: {error}")
            yield {"case": case.name, "stage": stage, "metric": "refused", "value": 1.0, "unit": ""}
            return
        seconds = sum(o["seconds"] for o in outcomes.values())
        yield row(case.name, stage, "time_s", seconds)
        if stage == "create":
            yield row(case.name, stage, "frames_per_s", next(iter(outcomes.values()))["metrics"]["frames"] / seconds)
        if stage == "register":
            yield row(case.name, stage, "vertex_error_mm", worst(outcomes["register"]["metrics"], "error_mm"))
        if stage in JUDGED:
            found = run(root, root / "out", "stage=evaluate", *told)["evaluate"]["metrics"]
            for metric in JUDGED[stage]:
                if any(name.rpartition(".")[2] == metric for name in found):
                    yield row(case.name, stage, metric, worst(found, metric))
    yield row(case.name, "all", "peak_memory_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def worst(metrics: Mapping[str, float], name: str) -> float:
    """Of all sides or entities; of signed errors the largest in size."""
    values = [float(v) for key, v in metrics.items() if key.rpartition(".")[2] == name and v is not None]
    return min(values) if name in BEST_IS_HIGH else max(values, key=abs)


def _motion(frames: int) -> ManoParams:
    """A hand that turns, bends and moves, smooth in time, with a shape."""
    t = torch.linspace(0, 6.28, frames, dtype=torch.float64)[:, None]
    phase = torch.rand(48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    orient, pose = (2 * torch.sin(t + 6 * phase[:3]), 0.4 * torch.sin(2 * t + 6 * phase[3:]))
    betas = torch.tensor([1.0, -0.8, 0.6, 0.5, -0.4, 0.3, 0.2, -0.2, 0.1, 0.1], dtype=torch.float64)
    return ManoParams(orient, pose, betas, torch.cat([0.05 * torch.sin(t), 0.04 * torch.cos(t), 0.5 + 0.05 * torch.sin(t)], dim=1))


def measure_registration(frames: int = 300) -> Iterator[Row]:
    """300 frames of one hand, cold, from exact and from noisy vertices, and from exact joints."""
    model, params = load_hand_model("right", dtype=torch.float64), _motion(frames)
    mesh = lbs.forward(model, params)
    generator = torch.Generator().manual_seed(1)
    noisy = mesh.vertices + 1e-3 * torch.randn(mesh.vertices.shape, generator=generator, dtype=torch.float64)
    joints = mesh.joints - mesh.joints[:, :1]
    jobs: dict[str, Callable[[], registration.Registration]] = {
        "exact_vertices": lambda: registration.register(model, Targets(vertices_m=mesh.vertices)),
        "noisy_vertices": lambda: registration.register(model, Targets(vertices_m=noisy)),
        "exact_joints_3d": lambda: registration.register(model, Targets(j3d_m=joints, relative=True)),
    }
    for name, job in jobs.items():
        started = time.perf_counter()
        found = job()
        yield row(name, "register", "time_s", time.perf_counter() - started)
        fitted = lbs.forward(model, found.params)
        if name == "exact_joints_3d":
            error = (fitted.joints - fitted.joints[:, :1] - joints).norm(dim=-1)
            yield row(name, "register", "mpjpe_mm", 1e3 * float(error.mean()))
        else:
            yield row(name, "register", "vertex_error_mm", 1e3 * float((fitted.vertices - mesh.vertices).norm(dim=-1).median()))
            yield row(name, "register", "shape_error_pct", 100 * float((found.params.betas - params.betas).norm() / params.betas.norm()))
