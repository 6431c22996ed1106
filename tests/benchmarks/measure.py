"""Runs cases, and turns what they report into rows {case, stage, metric, value, unit}."""

import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from holdprep.errors import HoldprepError
from tests.benchmarks.cases import Case
from tests.benchmarks.clicks import write_clicks
from tests.running import run

Row = dict[str, str | float]
STAGES = ("create", "segment", "hand_pose", "object_pose", "register", "align")
# what stage=evaluate says that belongs to a stage, once it has run; of several hands or entities the worst counts
JUDGED: dict[str, tuple[str, ...]] = {
    "segment": ("mask_iou", "contour_f"),
    "register": ("mpjpe_mm", "pa_mpjpe_mm"),
    "object_pose": ("registered_pct", "rotation_error_deg_median", "rotation_error_deg_p95", "focal_error_pct"),
    "align": ("mpjpe_mm", "mrrpe_mm", "scale_error_pct", "size_error_pct", "contact_gap_mm", "penetration_depth_mm", "fscore_5mm_pct"),
}
# what a stage says of itself, and another name for it in the table
OWN = {"register": "error_mm", "object_pose": "silhouette_iou"}
TITLES = {"error_mm": "vertex_error_mm"}
BEST_IS_HIGH = ("mask_iou", "silhouette_iou", "contour_f", "fscore_5mm_pct", "registered_pct")
UNITS = {
    "mm": "mm",
    "px": "px",
    "pct": "%",
    "iou": "",
    "f": "",
    "s": "s",
    "median": "deg",
    "p95": "deg",
    "deg": "deg",
    "mb": "MB",
    "mean": "",
    "min": "",
    "beta": "",
    "largest": "sigma",
    "gates": "",
    "sequences": "",
    "frames": "",
    "refused": "",
}


def row(case: str, stage: str, metric: str, value: float) -> Row:
    """One line of the table; the unit is in the metric's name."""
    unit = "1/s" if metric.endswith("per_s") else UNITS[metric.rpartition("_")[2]]
    return {"case": case, "stage": stage, "metric": metric, "value": round(float(value), 6), "unit": unit}


def measure_case(case: Case, root: Path) -> Iterator[Row]:
    """Stage by stage as far as the case goes; a stage that refuses the sequence is a row `refused`, and ends it."""
    told = ["on_fail=warn", *case.overrides()]
    for stage in STAGES[: STAGES.index(case.last) + 1]:
        try:
            outcomes = run(root, root / "out", f"stage={stage}", *told)
        except HoldprepError as error:
            print(f"{case.name}: {error}")
            yield {"case": case.name, "stage": stage, "metric": "refused", "value": 1.0, "unit": ""}
            return
        seconds = sum(o["seconds"] for o in outcomes.values())
        yield row(case.name, stage, "time_s", seconds)
        if stage == "create":
            if case.key_frames:
                write_clicks(root / case.name, case.key_frames)
            yield row(case.name, stage, "frames_per_s", next(iter(outcomes.values()))["metrics"]["frames"] / seconds)
        own = OWN.get(stage, "")
        if any(name.rpartition(".")[2] == own for name in outcomes.get(stage, {}).get("metrics", {})):
            yield row(case.name, stage, TITLES.get(own, own), worst(outcomes[stage]["metrics"], own))
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
