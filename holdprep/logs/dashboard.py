"""stage=dashboard: W&B's workspace of the project, with a section for each stage, and a report that compares sequences and weights."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from holdprep.config.schema import WandbLogger
from holdprep.errors import ConfigError

log = logging.getLogger("holdprep")
NAME = "holdprep: sequences and sweeps"
# by stage: final metrics that are compared between sequences
METRICS: dict[str, tuple[str, ...]] = {
    "create": ("frames", "dark_pct"),
    "segment": ("object.area_median_px", "reclick_frames"),
    "object_pose": ("registered_pct", "reprojection_px", "focal_ratio", "points"),
    "resegment": ("changed_frames",),
    "align/o": ("object.scale", "object.scale_stderr_pct"),
    "align/ho": ("object.diameter_mm", "contact.gap_mm", "contact.penetration_mm", "object.reprojection_px"),
    "build": ("object_in_rays_pct", "trainable"),
}
# of hands; both sides are compared
HAND_METRICS: dict[str, tuple[str, ...]] = {
    "hand_pose": ("detected_pct", "longest_gap"),
    "register": ("error_mm", "valid_pct", "mask_iou"),
    "align/ho": ("reprojection_px", "mask_iou", "frame_noise_px"),
}
LOSSES: dict[str, tuple[str, ...]] = {"align/h": ("loss", "j2d"), "align/ho": ("loss", "j2d", "contact", "smooth")}
WEIGHTS = ("contact", "smooth", "j2d", "outline", "scale_prior")
TARGETS = ("align/ho/contact.gap_mm", "align/ho/contact.penetration_mm", "align/ho/object.scale_stderr_pct")


@dataclass(frozen=True)
class Dashboard:
    """Workspace and report, not yet saved."""

    workspace: Any
    report: Any


def summary_metrics() -> dict[str, list[str]]:
    """The compared final metrics by stage, in full."""
    found = {stage: [f"{stage}/{name}" for name in names] for stage, names in METRICS.items()}
    for stage, names in HAND_METRICS.items():
        found[stage] = [*found.get(stage, []), *(f"{stage}/{side}.{name}" for name in names for side in ("right", "left"))]
    order = ("create", "segment", "hand_pose", "object_pose", "resegment", "register", "align/o", "align/ho", "build")
    return {stage: found[stage] for stage in order}


def loss_metrics() -> dict[str, list[str]]:
    """The losses of iterations by stage, in full."""
    return {stage: [f"{stage}/{name}" for name in names] for stage, names in LOSSES.items()}


def definition(project: str, entity: str) -> Dashboard:
    """Workspace and report of a project. Raises ImportError without wandb-workspaces."""
    reports: Any = import_module("wandb_workspaces.reports.v2")
    workspaces: Any = import_module("wandb_workspaces.workspaces")

    sections = []
    for stage, metrics in summary_metrics().items():
        panels: list[Any] = [reports.BarPlot(title=metric.rpartition("/")[2], metrics=[metric], orientation="h") for metric in metrics]
        panels += [reports.LinePlot(title=loss, x="trainer/global_step", y=[loss]) for loss in loss_metrics().get(stage, [])]
        if stage == "align/ho":
            panels.append(reports.MediaBrowser(title="overlays", media_keys=["align/ho/overlays", "overlay"]))
        sections.append(workspaces.Section(name=stage, panels=panels, is_open=stage == "align/ho"))
    workspace = workspaces.Workspace(entity=entity, project=project, name=NAME, sections=sections)
    return Dashboard(workspace, _report(reports, project, entity))


def _report(reports: Any, project: str, entity: str) -> Any:
    runset = reports.Runset(entity=entity, project=project, name="all runs")
    weights = [reports.ParallelCoordinatesPlotColumn(metric=reports.Config(f"weights.{name}"), display_name=name) for name in WEIGHTS]
    targets = [reports.ParallelCoordinatesPlotColumn(metric=reports.SummaryMetric(name), display_name=name) for name in TARGETS]
    bars = [reports.BarPlot(title=name, metrics=[name], orientation="h", groupby=reports.Config("seq")) for name in TARGETS]
    return reports.Report(
        entity=entity,
        project=project,
        title=NAME,
        description="Sequences by their key numbers, and weights of a sweep against what they give.",
        blocks=[
            reports.H1("Sequences"),
            reports.PanelGrid(runsets=[runset], panels=bars),
            reports.H1("Weights"),
            reports.PanelGrid(runsets=[runset], panels=[reports.ParallelCoordinatesPlot(title="weights", columns=[*weights, *targets])]),
        ],
    )


def build(node: WandbLogger | None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Save workspace and report and return their addresses. Raises ConfigError with the reason where that cannot be done."""
    if node is None:
        raise ConfigError("stage=dashboard: W&B's project is needed: add logger=wandb (logger.wandb.project=, logger.wandb.entity=)")
    if environment.get("WANDB_MODE", "online") != "online":
        raise ConfigError(f"stage=dashboard: WANDB_MODE={environment['WANDB_MODE']}: a dashboard is kept by W&B's server; unset it")
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"stage=dashboard: {error.name} is not installed: pip install 'holdprep[wandb]'") from None
    if wandb.api.api_key is None:
        raise ConfigError("stage=dashboard: no API key: wandb login")
    return _saved(node)


def _saved(node: WandbLogger) -> list[str]:
    import wandb

    try:
        entity = node.entity or wandb.Api().default_entity
        made = definition(node.project, str(entity))
        made.workspace.save()
        made.report.save()
    except Exception as error:  # no network, a refused key, no such project: wandb-workspaces raises all kinds, plain Exception too
        raise ConfigError(f"stage=dashboard: W&B cannot be reached or refuses: {' '.join(str(error).split())[:300]}") from None
    addresses = [str(made.workspace.url), str(made.report.url)]
    for address in addresses:
        log.info("%-12s %s", "dashboard", address)
    return addresses
