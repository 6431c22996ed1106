"""Names of frames that COLMAP cannot read stay out of the work folder, and come back in what is reported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.object import sfm
from holdprep.object.reconstruction import RawReconstruction, restore
from holdprep.object.sfm_options import SfmOptions

ODD = ["my frame 000", "my frame 001", "my frame 002"]
IMAGES, MASKS = np.zeros((3, 48, 64, 3), np.uint8), np.ones((3, 48, 64), bool)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names that structure from motion is given; it finds poses, and warns of the second frame."""
    given: list[list[str]] = []

    def instead(images: Any, masks: Any, names: list[str], work_dir: Path, options: SfmOptions) -> Any:
        given.append(list(names))
        if work_dir.name == "fails":
            raise HoldprepError(f"frames {names[1]} and {names[2]} have 123456 features")
        poses = np.tile(np.eye(4), (3, 1, 1))
        points = np.random.default_rng(0).uniform(1, 2, (5, 3))
        found = restore(RawReconstruction(names, np.eye(3), poses, np.ones(3, bool), points))
        found.warnings.append(f"frame {names[1]} is contested")
        found.rotation_jumps.append((names[0], names[1]))
        return found

    monkeypatch.setattr(sfm, "_reconstruct", instead)
    return given


def test_blanks_brackets_and_unicode_become_numbers(seen: list[list[str]], tmp_path: Path):
    for names in (ODD, ["IMG (1)", "IMG (2)", "IMG (3)"], ["手1", "手2", "手3"], ["a" * 100 + str(t) for t in range(3)]):
        found = sfm.reconstruct(IMAGES, MASKS, names, tmp_path, SfmOptions())
        assert seen[-1] == ["000000", "000001", "000002"]
        assert found.names == names and found.rotation_jumps == [(names[0], names[1])]
        assert found.warnings == [f"frame {names[1]} is contested"]


def test_errors_name_the_frames(seen: list[list[str]], tmp_path: Path):
    with pytest.raises(HoldprepError, match="frames my frame 001 and my frame 002 have 123456 features"):
        sfm.reconstruct(IMAGES, MASKS, ODD, tmp_path / "fails", SfmOptions())


def test_plain_names_stay(seen: list[list[str]], tmp_path: Path):
    sfm.reconstruct(IMAGES, MASKS, ["0000", "0002", "b_7"], tmp_path, SfmOptions())
    assert seen == [["0000", "0002", "b_7"]]
