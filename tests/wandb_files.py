"""Reader of the files that W&B writes offline."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log (32 KiB blocks; checksum, length, type before each part) behind W&B's 7 bytes of header."""
    at, whole = 7, b""
    while at + 7 <= len(log):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", log, at)
        whole += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


@dataclass
class OfflineRun:
    """What an offline run's file holds."""

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: tuple[str, ...] = ()
    history: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    has_ended: bool = False

    @property
    def keys(self) -> set[str]:
        """Every key of history and summary."""
        return {*self.summary, *(key for row in self.history for key in row)}


def read_wandb(run_dir: Path) -> OfflineRun:
    """The newest offline run of a folder."""
    newest = max(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    for _ in range(200):
        seen = _read(newest)
        if seen.has_ended:  # W&B's own process writes the file
            return seen
        time.sleep(0.1)
    raise AssertionError(f"{newest} has no end")


def _read(file: Path) -> OfflineRun:
    from wandb.proto import wandb_internal_pb2

    seen = OfflineRun()
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            seen.history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
        elif kind == "summary":
            seen.summary |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update}
        elif kind in ("run", "config"):
            update = record.run.config.update if kind == "run" else record.config.update
            seen.config |= {i.key: json.loads(i.value_json) for i in update}
            if kind == "run":
                run = record.run
                seen.id, seen.name, seen.group, seen.job_type = run.run_id, run.display_name, run.run_group, run.job_type
                seen.tags = tuple(run.tags)
        elif kind == "exit":
            seen.has_ended = True
        elif kind == "alert":
            seen.alerts.append(record.alert.title)
        elif kind == "artifact":
            seen.artifacts.append(record.artifact.name)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            seen.artifacts.append(record.request.log_artifact.artifact.name)
    return seen
