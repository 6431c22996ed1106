"""A rendered sequence through all stages: its scene, view, report, and what every logger holds."""

import csv
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from holdprep import cli
from holdprep.config.schema import Loggers
from holdprep.configured import configure
from holdprep.errors import HoldprepError
from holdprep.logs import dashboard
from holdprep.logs.content import Labels
from holdprep.pipeline import Context
from holdprep.runlog import RunLog
from holdprep.sequence import Sequence
from holdprep.stages.scene import read_scene
from tests.running import CONF, composed, run
from tests.synthetic import SyntheticSequence, make_sequence, write_truth
from tests.wandb_files import OfflineRun, read_wandb

FRAMES = 10
EXACT = ("seq=box", "segmenter=truth", "hand=truth", "object_pose=truth", "on_fail=warn")


def logged(root: Path, run_dir: Path, *overrides: str, labels: Labels | None = None) -> None:
    """Run the command in this process with its loggers."""
    given = [f"data_root={root / 'data'}", *overrides]
    run_dir.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cli.execute(configure(compose("config", given), given), run_dir, None, labels)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SyntheticSequence, Path]]:
    """All stages with every logger; the run's folder is `run`."""
    root = tmp_path_factory.mktemp("seen")
    seq = make_sequence(("right",), frames=FRAMES)
    write_truth(seq, root / "data" / "box")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        logged(root, root / "run", "stage=all", *EXACT, "logger=[csv,wandb,tensorboard]", "logger.wandb.alert=true", labels=Labels("all"))
        yield seq, root


@pytest.fixture(scope="module")
def offline(place: tuple[SyntheticSequence, Path]) -> OfflineRun:
    return read_wandb(place[1] / "run")


def context(root: Path, name: str = "box") -> Context:
    return Context(composed(), Sequence(root / "data", name), RunLog(Loggers(), name, root, None, {}), root)


# the scene


def test_the_scene_is_where_the_truth_is(place: tuple[SyntheticSequence, Path]):
    truth, root = place
    scene = read_scene(context(root))
    assert [r.name for r in scene.results] == ["init", "slerp", "h", "o", "ho", "truth"] and not scene.notes
    ho, true = scene.result("ho"), scene.result("truth")
    np.testing.assert_allclose(true.hands[0].vertices_m, truth.vertices_m["right"], atol=1e-6)
    away = np.linalg.norm(ho.hands[0].vertices_m - true.hands[0].vertices_m, axis=2)
    assert np.median(away) < 0.02
    size_m = np.ptp(ho.obj.points_m, axis=0).max()
    assert size_m == pytest.approx(np.ptp(true.obj.points_m, axis=0).max(), rel=0.15)
    assert np.isfinite(ho.hands[0].distance_m).all() and np.abs(ho.hands[0].distance_m.min(axis=1)).max() < 0.03
    assert 0.2 < ho.obj.surface.observed.mean() <= 1


def test_a_sequence_of_pictures_alone_is_shown(place: tuple[SyntheticSequence, Path], tmp_path: Path):
    _, root = place
    shutil.copytree(root / "data" / "box" / "images", tmp_path / "data" / "half" / "images")
    scene = read_scene(context(tmp_path, "half"))
    assert not scene.results and not scene.masks and len(scene.names) == FRAMES
    metrics = run(tmp_path / "data", tmp_path / "run", "stage=view", "seq=half", "view.export=true")["view"]["metrics"]
    assert metrics["frames"] == FRAMES
    html = (tmp_path / "data" / "half" / "view.html").read_text()
    assert '"results":[]' in html
    report = run(tmp_path / "data", tmp_path / "run", "stage=report", "seq=half")["report"]["metrics"]
    assert not report["trainable"] and "nothing has been built" in report["sentence"]


def test_a_sequence_without_hands_shows_masks(place: tuple[SyntheticSequence, Path], tmp_path: Path):
    folder = tmp_path / "data" / "box"
    shutil.copytree(place[1] / "data" / "box", folder)
    shutil.rmtree(folder / "ground_truth")
    shutil.rmtree(folder / "processed" / "mano_fit_ckpt")
    for name in ("v3d", "j2d.full", "hold_fit.init", "hold_fit.slerp", "hold_fit.aligned"):
        (folder / "processed" / f"{name}.npy").unlink()
    scene = read_scene(context(tmp_path))
    assert not scene.results and set(scene.masks) == {"right", "object"} and not scene.notes
    run(tmp_path / "data", tmp_path / "run", "stage=view", "seq=box", "view.export=true")
    assert '"masks":{"ends"' in (folder / "view.html").read_text()


def test_the_live_view_prints_its_address_and_the_ssh_line(
    place: tuple[SyntheticSequence, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    live = pytest.importorskip("holdprep.viewers.viser_live")

    def pressed(view: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(live.LiveView, "serve", pressed)
    with caplog.at_level("INFO", "holdprep"):
        done = run(place[1] / "data", tmp_path / "run", "stage=view", "seq=box")
    assert done["view"]["status"] == "done"
    port = re.search(r"open http://127\.0\.0\.1:(\d+)/\?token=\S{20,} in a browser", caplog.text).group(1)
    assert f"ssh -L {port}:127.0.0.1:{port} " in caplog.text


def test_rerun_and_aitviewer_say_what_to_install(place: tuple[SyntheticSequence, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("rerun", "aitviewer"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(HoldprepError, match=rf"view={name} needs .*pip install"):
            run(place[1] / "data", tmp_path / "run", "stage=view", "seq=box", f"view={name}")
    assert not list((place[1] / "data" / "box").glob("*.rrd*"))


def test_a_damaged_result_is_left_out_with_a_note_and_the_rest_is_shown(place: tuple[SyntheticSequence, Path], tmp_path: Path):
    _, root = place
    shutil.copytree(root / "data" / "box", tmp_path / "data" / "box")
    (tmp_path / "data" / "box" / "processed" / "mano_fit_ckpt" / "o" / "last.ckpt").write_bytes(b"damaged")
    scene = read_scene(context(tmp_path))
    assert [r.name for r in scene.results] == ["init", "slerp", "h", "ho", "truth"]
    assert len(scene.notes) == 1 and "o is not shown" in scene.notes[0]


def test_several_sequences_are_in_one_page(place: tuple[SyntheticSequence, Path], tmp_path: Path):
    _, root = place
    shutil.copytree(root / "data" / "box" / "images", tmp_path / "data" / "b" / "images")
    shutil.copytree(root / "data" / "box", tmp_path / "data" / "a")
    run(tmp_path / "data", tmp_path / "run", "stage=view", "seq=a", "view.also=[b]", "view.export=true", "view.results=[ho,truth]")
    html = (tmp_path / "data" / "a" / "view.html").read_text()
    assert len(re.findall('<script type="application/json" class="scene">', html)) == 2
    with pytest.raises(HoldprepError, match=r"view\.also: .*none has no images/"):
        run(tmp_path / "data", tmp_path / "run", "stage=view", "seq=b", "view.also=[none]")


# the report


def test_the_report_shows_all_results_and_the_movie_all_frames(place: tuple[SyntheticSequence, Path]):
    import av

    _, root = place
    html = (root / "run" / "report.html").read_text()
    for name in ("init", "slerp", "h", "o", "ho", "truth"):
        assert f'"name":"{name}"' in html
    assert "<h3>align/ho</h3>" in html and "<h3>register</h3>" in html
    assert len(html) < 1e7
    with av.open(str(root / "data" / "box" / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == FRAMES
    assert (root / "run" / "thumbnail.jpg").is_file()


def test_hands_are_shown_where_a_later_stage_has_failed(place: tuple[SyntheticSequence, Path], tmp_path: Path):
    _, root = place
    shutil.copytree(root / "data" / "box", tmp_path / "data" / "box")
    shutil.rmtree(tmp_path / "data" / "box" / "processed" / "mano_fit_ckpt")
    (tmp_path / "data" / "box" / "processed" / "hold_fit.aligned.npy").unlink()
    with pytest.raises(HoldprepError, match=r"align\.h: .*should be at most -2"):
        run(tmp_path / "data", tmp_path / "run", "stage=all", *EXACT[:-1], "gates={align.reprojection_px:[-2,-1]}")
    html = (tmp_path / "run" / "report.html").read_text()
    assert '"name":"slerp"' in html and '"name":"h"' in html and '"name":"ho"' not in html
    assert "Not trainable: align.h failed" in html


# loggers


def test_wandb_names_groups_and_tags_the_run(offline: OfflineRun):
    assert (offline.name, offline.job_type) == ("box all", "all")
    assert "box" in offline.tags and "verdict:warn" in offline.tags


def test_wandb_holds_metrics_losses_curves_gates_pictures_and_files(offline: OfflineRun):
    assert {"align/ho/contact.gap_mm", "build/trainable", "report/sentence"} <= offline.summary.keys()
    assert not any(key.startswith(("align.ho", "summary/")) for key in offline.keys)
    losses = [row["align/ho/loss"] for row in offline.history if "align/ho/loss" in row]
    assert len(losses) > 1 and losses[-1] <= losses[0]
    for key in ("align/ho/frames", "register/frames", "gates", "align/ho/overlays", "overlay"):
        assert any(key in name for name in offline.keys), key
    assert any(name.startswith("box-report") for name in offline.artifacts)
    assert not offline.alerts  # no gate has failed


def test_the_dashboard_names_what_an_offline_run_holds(offline: OfflineRun):
    named = {metric for metrics in dashboard.summary_metrics().values() for metric in metrics if "/left." not in metric}
    named |= {metric for metrics in dashboard.loss_metrics().values() for metric in metrics} | set(dashboard.TARGETS)
    of_a_video = {"create/frames", "create/dark_pct", "align/ho/right.frame_noise_px"}
    assert named - offline.keys <= of_a_video | {"object_pose/points", "object_pose/reprojection_px", "hand_pose/right.detected_pct"}, (
        named - offline.keys
    )
    assert set(dashboard.WEIGHTS) <= offline.config["weights"].keys() and "seq" in offline.config


def test_csv_and_tensorboard_hold_the_same(place: tuple[SyntheticSequence, Path], offline: OfflineRun):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = place[1] / "run"
    with (folder / "losses" / "metrics.csv").open() as file:
        columns = set(next(csv.reader(file)))
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    numbers = {
        k for k, v in offline.summary.items() if isinstance(v, int | float) and "/" in k and "trainer" not in k and not k.endswith("_type")
    }
    shared = {
        k
        for k in numbers
        if k.split("/")[0] in ("segment", "register", "align", "build") and not {"frames", "overlays", "size_sources"} & set(k.split("/"))
    }
    assert numbers & {"align/o/size_sources/size", "align/ho/size_sources/size"} == {"align/o/size_sources/size"}  # a chart, in W&B alone
    assert len(shared) > 60
    assert shared <= columns and shared <= set(events.Tags()["scalars"])
    assert "align/ho/frames/right.reprojection_px" in events.Tags()["scalars"]
    assert any("overlays" in name for name in events.Tags()["images"])
    with (folder / "losses" / "frames.align.ho.csv").open() as file:
        rows = list(csv.DictReader(file))
    record = json.loads((place[1] / "data" / "box" / "processed" / ".holdprep" / "align.ho.json").read_text())["curves"]
    assert [float(r["right.reprojection_px"]) for r in rows] == record["right.reprojection_px"]
    with (folder / "losses" / "gates.csv").open() as file:
        assert {"build", "register"} <= {r["stage"] for r in csv.DictReader(file)}


def test_the_same_folder_appends_to_the_same_run_and_failures_alert(place: tuple[SyntheticSequence, Path], offline: OfflineRun):
    _, root = place
    given = ("stage=build", *EXACT, "force=true", "logger=wandb", "logger.wandb.alert=true", "gates={build.roundtrip_px:[-2,-1]}")
    logged(root, root / "run", *given)
    again = read_wandb(root / "run")
    assert again.id == offline.id
    assert again.alerts == ["box: build failed"] and "verdict:fail" in again.tags


def test_scores_are_logged_too(place: tuple[SyntheticSequence, Path]):
    _, root = place
    logged(root, root / "score", "stage=score", "seqs=[box]", "logger=[csv,wandb]", labels=Labels("score"))
    seen = read_wandb(root / "score")
    assert seen.name == "box score" and seen.summary["score/worst"] == seen.summary["score/box"] > 0
    with (root / "score" / "losses" / "metrics.csv").open() as file:
        assert "score/worst" in next(csv.reader(file))
