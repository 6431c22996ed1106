"""The search over weights: Optuna's study is shared and resumed, weights are judged on sequences left out, and a user's command."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from holdprep.config.memory import expanded
from holdprep.errors import ConfigError
from holdprep.sweeps.comparison import compare, folds, loss, relative, worst
from tests.running import composed, run
from tests.synthetic import RIGID_GRASP, make_sequence, write_truth

optuna = pytest.importorskip("optuna", minversion="4", reason="pip install 'holdprep[sweep]' brings Optuna")
from holdprep.sweeps import search, search_page, study  # noqa: E402
from holdprep.sweeps.optuna_sweeper import hardest_first  # noqa: E402

LAUNCH = Path(__file__).parent.parent / "launch.py"
TRUE = ("segmenter=truth", "hand=truth", "object_pose=truth", "on_fail=warn")
PARAMS = {"weights.contact": "tag(log, interval(1, 10000))", "weights.smooth": "interval(1, 100)"}


def settings(folder: Path, sampler: str = "tpe", storage: str = "study.journal", params: dict[str, str] = PARAMS) -> study.Settings:
    text = f"sqlite:///{folder / storage}" if storage.endswith(".db") else str(folder / storage)
    return study.Settings("s", text, sampler, "median", 7, study.distributions(params))


def trials(own: study.Settings, count: int) -> list[dict[str, float]]:
    """Parameters of all trials after `count` more of a smooth function, in a study that is opened anew."""
    opened = study.open_study(own, {"seqs": ["a"]})
    for _ in range(count):
        trial = opened.ask(dict(own.params))
        opened.tell(trial, (np.log(trial.params["weights.contact"]) - 4) ** 2 + (trial.params["weights.smooth"] - 50) ** 2 / 100)
    return [t.params for t in opened.trials]


@pytest.mark.parametrize("sampler", study.SAMPLERS)
@pytest.mark.parametrize("storage", ["study.journal", "study.db"])
def test_a_resumed_search_goes_on_like_one_that_was_not_interrupted(tmp_path: Path, sampler: str, storage: str):
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    with study.quiet():
        once = trials(settings(tmp_path / "once", sampler, storage), 16)
        trials(settings(tmp_path / "twice", sampler, storage), 7)
        twice = trials(settings(tmp_path / "twice", sampler, storage), 9)
    assert once == twice
    assert len({p["weights.contact"] for p in once}) == 16  # none is repeated


@pytest.mark.parametrize(("growth", "steps"), [([9, 9, 9], 1), ([1, 9, 9], 2), ([1, 1, 9], 3), ([1, 1, 1], None)])
def test_a_trial_ends_after_the_sequence_on_which_it_is_worse_than_half(tmp_path: Path, growth: list[float], steps: int | None):
    """The loss is that of the worst sequence so far; the complete trials have 2, 4 and 6, and 3, 5 and 7."""
    own = settings(tmp_path)
    with study.quiet():
        opened = study.open_study(own, {"seqs": ["a", "b", "c"]})
        ended = []
        for number in range(study.STARTUP + 1):
            trial = opened.ask(dict(own.params))
            losses = growth if number == study.STARTUP else [2 + number % 2, 4 + number % 2, 6 + number % 2]
            for step in range(1, 4):
                trial.report(max(losses[:step]), step)
                if trial.should_prune():
                    ended.append((number, step))
                    break
            opened.tell(trial, max(losses))
    assert ended == ([] if steps is None else [(study.STARTUP, steps)])


def test_sequences_that_decide_the_loss_come_first():
    fixed = ["seqs=[a,'b 2',c]", "data_root=d"]
    assert hardest_first(fixed, {"a": 2.0, "b 2": 9.0, "c": 5.0}, "mrrpe_mm") == ["data_root=d", "seqs=[b 2,c,a]"]
    assert hardest_first(fixed, {"a": 2.0, "b 2": 9.0, "c": 5.0}, None) == fixed
    assert hardest_first(fixed[1:], {"a": 90.0, "c": 50.0}, "fscore_5mm_pct") == ["data_root=d", "seqs=[c,a]"]


def test_tpe_finds_the_minimum_that_random_sets_miss(tmp_path: Path):
    with study.quiet():
        trials(settings(tmp_path), 60)
        opened = study.open_study(settings(tmp_path), {"seqs": ["a"]})
    assert opened.best_value < 0.5
    shares = search.importances_of(opened)
    assert set(shares) == set(PARAMS) and sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weights.contact": "interval(10, 10)"}, "the range from 10 to 10 is empty"),
        ({"weights.contact": "interval(10, 2)"}, "the range from 10 to 2 is empty"),
        ({"weights.contact": "tag(log, interval(-1, 2))"}, "a logarithmic range from -1 is not possible"),
        ({"weights.contact": "tag(log, interval(0, 2))"}, "a logarithmic range from 0 is not possible"),
        ({"weights.contct": "interval(1, 2)"}, "no such weight; weights are j2d"),
        ({"weights.contact": "3"}, r"interval\(low,high\) or choice\(a,b\) is needed"),
        ({"weights.contact": "interval(1"}, "search over weights.contact=interval"),
        ({}, "nothing to search"),
    ],
)
def test_a_search_over_nothing_possible_is_refused_in_one_line(params: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message) as refused:
        study.distributions(params)
    assert "\n" not in str(refused.value)


def other_sampler(folder: Path) -> None:
    study.open_study(settings(folder, "cmaes"), {"seqs": ["a"]})


def other_range(folder: Path) -> None:
    study.open_study(settings(folder, params={"weights.contact": "interval(1, 2)"}), {"seqs": ["a"]})


def other_sequences(folder: Path) -> None:
    study.open_study(settings(folder), {"seqs": ["b"]})


def other_study(folder: Path) -> None:
    optuna.create_study(study_name="of others", storage=study.storage_of(str(folder / "x.journal")))
    study.open_study(settings(folder, storage="x.journal"), {"seqs": ["a"]})


def no_storage(folder: Path) -> None:
    (folder / "y.db").write_bytes(b"no database" * 100)
    study.open_study(settings(folder, storage="y.db"), {"seqs": ["a"]})


def no_sampler(folder: Path) -> None:
    study.open_study(settings(folder, "grid"), {"seqs": ["a"]})


@pytest.mark.parametrize(
    ("open_other", "message"),
    [
        (other_sampler, "was made with sampler=tpe, whose state sampler=cmaes cannot continue"),
        (other_range, "holds a search with weights.contact=.*set another hydra.sweep.dir"),
        (other_sequences, r"holds a search with seqs=\['a'\], not \['b'\]"),
        (other_study, r"holds another study \(of others\)"),
        (no_storage, "is no storage of Optuna"),
        (no_sampler, "hydra.sweeper.sampler=grid: not allowed; allowed: tpe, cmaes, random"),
    ],
)
def test_a_study_that_is_not_this_search_is_refused_in_one_line(tmp_path: Path, open_other: Callable[[Path], None], message: str):
    with study.quiet():
        study.open_study(settings(tmp_path), {"seqs": ["a"]})
        with pytest.raises(ConfigError, match=message) as refused:
            open_other(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_trial_whose_process_has_ended_is_run_again_with_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with study.quiet():
        own = settings(tmp_path)
        opened = study.open_study(own, {"seqs": ["a"]})
        lost, alive = opened.ask(dict(own.params)), opened.ask(dict(own.params))
        study.mark_runner(alive)
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        with monkeypatch.context() as patch:
            patch.setattr(study.os, "getpid", lambda: ended.pid)
            study.mark_runner(lost)
        assert study.give_up_lost(opened) == 1
        again = opened.ask(dict(own.params))
    assert again.params == lost.params != alive.params
    assert [t.state.name for t in opened.trials] == ["FAIL", "RUNNING", "RUNNING"]


def scores_of(rng: np.random.Generator, shift: float, names: str) -> dict[str, float]:
    return {name: float(np.exp(shift + 0.05 * rng.normal())) for name in names}


def test_weights_are_better_only_where_they_are_on_sequences_left_out():
    """Trials of which one is better everywhere; of which each is good on one sequence by chance; and of which all are worse."""
    names, rng = "abcdefgh", np.random.default_rng(3)
    given = scores_of(rng, 0, names)
    better = [scores_of(rng, 0.3, names), scores_of(rng, -0.4, names), scores_of(rng, 0.1, names)]
    found = compare(given, better, "mrrpe_mm")
    assert (found.verdict, found.best) == ("yes", 1) and found.high < 0 and "better than the given weights: yes" in found.line()
    assert compare(given, [scores_of(rng, 0.5, names)], "mrrpe_mm").verdict == "no"
    predicted = compare(given, better, None)
    assert (predicted.verdict, predicted.change, predicted.best) == ("undecided", found.change, 1)
    assert "only ground truth can show it" in predicted.line() and "ground truth" not in found.line()
    by_chance = [{name: given[name] * (0.5 if name == lucky else 1.0 + 0.02 * rng.normal()) for name in names} for lucky in names]
    assert compare(given, by_chance, "mrrpe_mm").verdict == "undecided"
    assert compare({"a": 1.0, "b": 1.0}, [{"a": 0.1, "b": 0.1}], "mrrpe_mm").verdict == "undecided"  # two sequences tell nothing
    assert [len(part) for part in folds(list(names))] == [2, 2, 2, 1, 1]


def test_no_verdict_by_chance():
    """Weights without any effect are called better (or worse) in a few percent of searches."""
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(300):
        names = [f"s{k}" for k in range(10)]
        made = [{n: float(np.exp(0.2 * rng.normal())) for n in names} for _ in range(12)]
        verdicts.append(compare(dict.fromkeys(names, 1.0), [{n: v / np.exp(0.02) for n, v in m.items()} for m in made], "mrrpe_mm").verdict)
    assert verdicts.count("yes") < 0.08 * len(verdicts)


def test_a_search_prefers_more_where_more_is_better():
    good, bad = {"a": 95.0, "b": 90.0}, {"a": 96.0, "b": 10.0}
    assert worst(bad, "fscore_5mm_pct") == 10 and worst(bad, "mrrpe_mm") == 96
    assert loss(worst(good, "fscore_5mm_pct"), "fscore_5mm_pct") < loss(worst(bad, "fscore_5mm_pct"), "fscore_5mm_pct")
    assert compare(bad, [bad, good, bad], "fscore_5mm_pct").best == 1
    assert loss(worst(good, None), None) < loss(worst(bad, None), None)
    assert loss(float("nan"), "mask_iou") == loss(float("nan"), None) > 1e5


def test_predicted_losses_count_as_multiples_of_those_of_the_given_weights():
    """A loss has no unit: a sequence with large ones decides no more than the others."""
    given = {"a": 300.0, "b": 3.0}
    half_of_a, half_of_b = (relative(scores, given, None) for scores in ({"a": 150.0, "b": 3.3}, {"a": 330.0, "b": 1.5}))
    assert half_of_a == pytest.approx({"a": 0.5, "b": 1.1}) and worst(half_of_a, None) == pytest.approx(worst(half_of_b, None))
    assert relative({"a": 150.0, "b": 3.3}, given, "mrrpe_mm") == {"a": 150.0, "b": 3.3}


def test_the_page_shows_every_weight_and_the_verdict(tmp_path: Path):
    with study.quiet():
        trials(settings(tmp_path), 12)
        opened = study.open_study(settings(tmp_path), {"seqs": ["a"]})
    found = compare({"a": 1.0}, [{"a": 0.5}] * 12, None)
    text = search_page.html(opened, found, search.importances_of(opened), "loss < 1 & more")
    assert text.count("<svg") == 2 + 3 and "weights.contact (log)" in text and "undecided" in text and "loss &lt; 1 &amp; more" in text
    assert "http:" not in text and "https:" not in text and "<script" not in text


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/a and data/b are ready for alignment, b's keypoints are noisy; data/c lacks object poses."""
    root = tmp_path_factory.mktemp("search")
    for name, noise in (("a", 1), ("b", 8), ("c", 1)):
        write_truth(make_sequence(("right",), frames=16), root / "data" / name)
        for stage in ("segment", "hand_pose", "register", "object_pose") if name != "c" else ("segment",):
            run(root / "data", root / "first", f"seq={name}", f"stage={stage}", *TRUE, f"hand.noise_px={noise}")
    return root


def files(root: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in (root / "data").rglob("*") if p.is_file()}


def test_a_trial_scores_every_sequence_and_writes_nothing_of_theirs(workplace: Path):
    before = files(workplace)
    found = run(workplace / "data", workplace / "trial", "stage=score", "seqs=[a,b]")["score"]["metrics"]
    assert 0 < found["a"] < found["b"] == found["worst"]
    error = run(workplace / "data", workplace / "trial", "stage=score", "seqs=[a,b]", "score_metric=mrrpe_mm", RIGID_GRASP)["score"][
        "metrics"
    ]
    assert 0 < error["a"] < error["b"] < 50
    assert files(workplace) == before
    with pytest.raises(ConfigError, match="score_metric=nonsense: a has none; it has"):
        run(workplace / "data", workplace / "trial", "stage=score", "seqs=[a]", "score_metric=nonsense")
    with pytest.raises(ConfigError, match="set the sequences"):
        run(workplace / "data", workplace / "trial", "stage=score")


def test_a_trial_runs_every_sequence_under_its_own_settings(workplace: Path):
    """holdprep.yaml counts as it does for every other stage, and the command line goes before it, also for weights."""
    own = workplace / "data" / "b" / "holdprep.yaml"

    def scores(*given: str) -> dict[str, float]:
        return run(workplace / "data", workplace / "trial", "stage=score", "seqs=[a,b]", "score_metric=mrrpe_mm", *given)["score"][
            "metrics"
        ]

    from holdprep.sweeps import trial

    plain = scores()
    own.write_text("align: {scale: centroid}\nweights: {contact: 7.0}\n")
    trial._composed.cache_clear()
    try:
        held, named = scores(), scores("align.scale=auto", "weights.contact=null")
    finally:
        own.unlink()
        trial._composed.cache_clear()
    assert held["a"] == named["a"] == plain["a"]
    assert named["b"] == plain["b"] != pytest.approx(held["b"], rel=1e-3)


@pytest.mark.parametrize(("metric", "chosen"), [("mrrpe_mm", True), (None, False)])
def test_only_a_ground_truth_metric_changes_the_winner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str | None, chosen: bool
):
    """Of three trials one is much better than the given weights on all of six sequences."""
    own, names = settings(tmp_path), "abcdef"
    with study.quiet():
        opened = study.open_study(own, {"seqs": list(names)})
        opened.set_user_attr(study.BASELINE, {name: 10.0 + k for k, name in enumerate(names)})
        for level in (12.0, 3.0, 11.0):
            trial = opened.ask(dict(own.params))
            trial.set_user_attr(study.SCORES, {name: level + 0.1 * k for k, name in enumerate(names)})
            opened.tell(trial, level)
        cfg = composed(f"score_metric={metric or 'null'}")
        search.conclude(opened, cfg, tmp_path)
    contact = [yaml.safe_load((tmp_path / name).read_text())["contact"] for name in ("best.yaml", "winner.yaml")]
    assert contact[0] == opened.best_params["weights.contact"]
    assert contact[1] == (contact[0] if chosen else cfg.weights.contact)
    printed = capsys.readouterr().out
    assert f"better than the given weights: {'yes' if chosen else 'undecided'}" in printed
    assert ("only ground truth can show it" in printed) is not chosen


def launch(workplace: Path, *given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(LAUNCH), "-m", "+sweep=robust_weights", *given],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_the_command_searches_continues_and_keeps_the_given_weights_where_nothing_is_shown(workplace: Path):
    given = ("seqs=[a,b]", "score_metric=fscore_5mm_pct", "hydra.sweeper.pruner=none")
    two = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2")
    for count, launcher in ((1, ()), (3, two)):
        done = launch(workplace, *given, *launcher, f"hydra.sweeper.n_trials={count}")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert f"{count} of {count} trials complete" in done.stdout
    assert "better than the given weights: undecided (3 sequences or more are needed" in done.stdout
    folder = workplace / "outputs" / "robust_weights"
    with study.quiet():
        opened = optuna.load_study(study_name="robust_weights", storage=f"sqlite:///{folder / 'study.db'}")
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["contact"] == opened.best_params["weights.contact"]
    assert yaml.safe_load((folder / "winner.yaml").read_text())["contact"] is None
    assert best["z_min"] == 1000  # what is not searched stays
    each = [json.loads((folder / str(k) / "metrics.json").read_text())["stages"]["score"]["metrics"]["worst"] for k in range(3)]
    assert [t.value for t in opened.trials] == [-value for value in each]  # more is better, and a search minimises
    scores = run(
        workplace / "data", workplace / "again", "stage=score", "seqs=[a,b]", *given[1:2], *expanded(f"weights={folder / 'best.yaml'}")
    )
    assert scores["score"]["metrics"]["worst"] == pytest.approx(max(each))
    assert (folder / "search.html").is_file()


def test_a_sequence_without_poses_is_refused_before_the_first_trial(workplace: Path):
    done = launch(workplace, "seqs=[a,c]", "hydra.sweep.dir=outputs/other")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: seqs: c has no object poses")
    assert not (workplace / "outputs" / "other" / "0").exists()


def test_a_file_of_weights_is_read_as_its_keys(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("contact: null\nsmooth: 2.5e+2\n")
    assert expanded(f"weights={tmp_path / 'mine.yaml'}") == ["weights.contact=null", "weights.smooth=250.0"]
    assert expanded("weights=generic") == ["weights=generic"]
    with pytest.raises(ConfigError, match="does not exist"):
        expanded("weights=nowhere.yaml")
