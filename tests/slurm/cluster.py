"""Start and stop a Slurm of one node on loopback, in a folder of its own; needs root."""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def is_installed() -> bool:
    """Whether Slurm and munge are there."""
    return all(shutil.which(name, path=_path()) for name in ("slurmctld", "slurmd", "munged", "sbatch"))


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a cluster that runs until the end of the block; raises RuntimeError where it does not start."""
    folder.mkdir(parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    cpus, host = max(os.cpu_count() or 1, 4), os.uname().nodename.partition(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, cpus=cpus, memory=4096, host=host))
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
    log = (folder / "out.log").open("w")
    munge = [f"--{k}={folder}/munge.{k.split('-')[0]}" for k in ("socket", "key-file", "pid-file", "log-file", "seed-file")]
    commands = (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D", "-N", host, "-b"])
    processes = []
    try:
        for command in commands:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        for _ in range(60):
            state = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False).stdout.strip()
            if state == "idle":
                break
            time.sleep(0.5)
        else:
            raise RuntimeError(f"Slurm did not start (state '{state}'): see {folder}")
        yield environment
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)
        log.close()


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/usr/bin"
