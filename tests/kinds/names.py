"""Names of files, frames and sequences that shells, Hydra or COLMAP read as something else."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from holdprep.config import commandline
from holdprep.errors import ConfigError
from holdprep.object.sfm import reconstruct
from holdprep.object.sfm_options import SfmOptions
from tests.kinds import films
from tests.kinds.registry import kind
from tests.running import CONF, run
from tests.synthetic import box_sequence

FILES = ("IMG_0001 (1).mp4", "手と物.mp4", "Fan's clip.mp4", "clip,final.mp4", "IMG~2.mp4", "v=2.mp4", "a [b] {c} #1 & 100%.mp4", "1e5")
SEQUENCES = ("20200709_141754", "2024", "1e5", "007", "手", "true")


def _created(folder: Path, **given: str) -> Path:
    """The sequence that stage create makes with keys as they are typed."""
    values = {"seq": "a", **given}
    overrides = commandline.resolved(["stage=create", *(f"{key}={value}" for key, value in values.items())], CONF)
    run(folder, folder / "run", *overrides)
    return folder / values["seq"]


@kind("names: files and sequences are taken as typed")
def as_typed(folder: Path) -> None:
    logging.disable(logging.CRITICAL)
    try:
        clip = films.write(folder / "clip.mp4", [np.tile(films.picture(t), (2, 2, 1)) for t in range(24)])
        for number, name in enumerate(FILES):
            shutil.copyfile(clip, folder / name)
            made = _created(folder / str(number), video=str(folder / name), **{"create.stride": "1"})
            assert len(list((made / "images").iterdir())) == 24
        for name in SEQUENCES:
            assert len(list((_created(folder / "all", seq=name, video=str(clip)) / "images").iterdir())) == 12
    finally:
        logging.disable(logging.NOTSET)
    with pytest.raises(ConfigError, match=r"clip\.mp4 is no key=value: a name with blanks needs the shell's quotes"):
        commandline.resolved(["stage=create", "video=my", "clip.mp4"], CONF)


@kind("names: frames with blanks are reconstructed like others")
def blanks(folder: Path) -> None:
    images, masks, K, _ = box_sequence(8, degrees=40.0)
    options = SfmOptions(focal_px=float(K[0, 0]), upsample=1.0, num_threads=1)
    poses = []
    for number, form in enumerate(("myframe{:03d}", "my frame ({}) 手")):
        names = [form.format(t) for t in range(8)]
        found = reconstruct(images, masks, names, folder / str(number), options)
        assert found.names == names and found.registered.all()
        poses.append(found.T_cam_obj)
    assert all(np.abs(p - poses[0]).max() < 1e-6 for p in poses)
