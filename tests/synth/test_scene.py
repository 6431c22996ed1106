"""A whole rendered sequence through the command's stages: truth, pictures and masks agree."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, project
from holdprep.geometry.rigid import apply
from holdprep.quality.truth import load_truth
from holdprep.sequence import Sequence
from tests.running import run

SMALL = ("source=synthetic", "source.frames=6", "source.width=320", "source.height=240", "source.distortion=-0.05", "source.shake_deg=1")


@pytest.fixture(scope="module", params=["right", "both"])
def seq(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sequence:
    root: Path = tmp_path_factory.mktemp("scene")
    try:
        run(root, root / "out", "seq=s", "stage=create", *SMALL, f"source.hands={request.param}", "on_fail=warn")
    except HoldprepError as error:
        if "OpenGL" in str(error):
            pytest.skip(str(error))
        raise
    return Sequence(root, "s")


def test_truth_and_pictures_agree(seq: Sequence):
    truth = load_truth(seq.path("truth"))
    assert truth.names == seq.frame_names()
    assert truth.image_size == seq.image_size() == (320, 240)
    assert truth.T_cam_obj is not None
    assert truth.object_vertices_m is not None
    masks = seq.masks("object", "truth_masks")
    for t in range(len(truth.names)):
        depth = cv2.imread(str(seq.path("truth_depth", f"{truth.names[t]}.png")), cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16
        seen = apply(truth.T_cam_obj[t], truth.object_vertices_m)
        hull = cv2.convexHull(project(distort(seen, truth.distortion), truth.K).astype(np.float32))
        outline = np.zeros(masks[t].shape, np.uint8)
        cv2.fillConvexPoly(outline, np.round(hull).astype(np.int32), 1)
        assert masks[t].sum() > 0.2 * outline.sum()  # the rest is hidden by hands
        assert (masks[t] & (cv2.dilate(outline, np.ones((3, 3), np.uint8)) == 0)).sum() == 0
        nearest = depth[masks[t]].min() / 10_000
        assert nearest == pytest.approx(seen[:, 2].min(), abs=0.004)


def test_hands_are_where_their_parameters_say(seq: Sequence):
    truth = load_truth(seq.path("truth"))
    for side, hand in truth.hands.items():
        assert hand.joints_m is not None
        masks = seq.masks(side, "truth_masks")
        inside = []
        for t in range(len(truth.names)):
            px = np.round(project(distort(hand.joints_m[t], truth.distortion), truth.K)).astype(int)
            shown = ((px >= 0) & (px < [320, 240])).all(axis=1)
            near = cv2.dilate(masks[t].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            inside += near[px[shown, 1], px[shown, 0]].tolist()
        assert np.mean(inside) > 0.5
    assert truth.contact is not None
    assert truth.contact.all()


def test_a_second_run_is_skipped(seq: Sequence):
    hands = "both" if seq.has("truth_masks_left") else "right"
    root = seq.data_root
    outcome = run(root, root / "again", "seq=s", "stage=create", *SMALL, f"source.hands={hands}", "on_fail=warn")["create"]
    assert outcome["status"] == "skipped"
