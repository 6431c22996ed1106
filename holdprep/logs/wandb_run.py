"""The run in W&B: named, grouped and tagged; losses, metrics, curves over frames, gates, pictures, report and view."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import WandbLogger

from holdprep.io.atomic import write_bytes_atomic
from holdprep.logs.content import GATE_COLUMNS, Labels, StageOutcome, gate_rows
from holdprep.quality.gates import Gate, Status
from holdprep.quality.report import styled
from holdprep.quality.size_sources import size_chart

ID_FILE = "wandb_run_id"  # in the run's folder: the same folder appends to the same run


class WandbRun:
    """One run of W&B. `node` has project, entity, group, id and alert. Raises wandb.Error where it cannot be opened."""

    def __init__(self, node: Any, seq: str, run_dir: Path, config: Mapping[str, Any], labels: Labels, group: str | None) -> None:
        import wandb

        self._wandb, self._seq, self._alert = wandb, seq, bool(node.alert)
        self._gates: list[Gate] = []
        self.logger = WandbLogger(
            project=node.project,
            entity=node.entity,
            name=labels.name(seq),
            group=node.group or group,
            job_type=labels.stage or None,
            tags=[seq[:64], *labels.tags],
            id=_run_id(node.id, run_dir),
            resume="allow",
            save_dir=str(run_dir),
            config=dict(config),
        )
        self._run: Any = self.logger.experiment
        self._run.define_metric("trainer/global_step")

    def stage(self, outcome: StageOutcome) -> None:
        """Metrics to the summary; curves of a stage that ran as a table with one row a frame."""
        self._gates += outcome.gates
        self._run.summary.update(outcome.values)
        columns = outcome.columns()
        if outcome.has_run and columns:
            rows = [[t, *row] for t, row in enumerate(zip(*columns.values(), strict=True))]
            table = self._wandb.Table(columns=["frame", *columns], data=rows)
            self._run.log({f"{outcome.stage.replace('.', '/')}/frames": table})
        chart = size_chart(outcome.metrics) if outcome.has_run else None
        if chart is not None:
            self._run.log({f"{outcome.stage.replace('.', '/')}/size_sources": self._wandb.Html(styled(chart))})
        failed = [gate for gate in outcome.gates if gate.status == "fail"]
        if self._alert and (failed or outcome.error):
            text = outcome.error or "; ".join(gate.line() for gate in failed)
            self._run.alert(title=f"{self._seq}: {outcome.stage} failed", text=text[:1000])

    def pictures(self, name: str, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures as one list of media."""
        self._run.log({name: [self._wandb.Image(picture[..., ::-1], caption=caption) for caption, picture in pictures.items()]})

    def file(self, kind: str, path: Path) -> None:
        """A movie as media, another file as an artifact <sequence>-<kind>."""
        if path.suffix == ".mp4":
            self._run.log({kind: self._wandb.Video(str(path), format="mp4")})
            return
        artifact = self._wandb.Artifact(f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self._seq)}-{kind}", type=kind)
        artifact.add_file(str(path), name=path.name)
        self._run.log_artifact(artifact)

    def close(self, status: Status, ended: str) -> None:
        """The table of gates, the verdict as a tag, and the end of the run."""
        if self._gates:
            self._run.log({"gates": self._wandb.Table(columns=list(GATE_COLUMNS), data=gate_rows(self._gates))})
        kept = [tag for tag in self._run.tags or () if not tag.startswith("verdict:")]
        self._run.tags = (*kept, f"verdict:{'fail' if ended != 'success' else status}")
        self.logger.finalize(ended)
        self._run.finish(exit_code=0 if ended == "success" else 1)


def _run_id(given: str | None, run_dir: Path) -> str:
    """The run's id: the given one, that of an earlier run in this folder, or a new one; kept in the folder."""
    path = run_dir / ID_FILE
    if given is not None:
        return given
    if path.is_file() and re.fullmatch(r"\w{1,64}", known := path.read_text().strip()):
        return known
    import secrets

    new = secrets.token_hex(4)
    write_bytes_atomic(path, new.encode())
    return new
