"""A sequence and four small stages that write text files: everything the pipeline does, without a video."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from holdprep.config import memory
from holdprep.config.schema import Config, Loggers
from holdprep.configured import CONF_DIR
from holdprep.errors import HoldprepError
from holdprep.pipeline import Context, Result, Stage, records, runner
from holdprep.pipeline.plan import Step, plan
from holdprep.runlog import RunLog
from holdprep.sequence import Sequence
from holdprep.stages import inputs
from tests.running import CONF, composed

NAME = "s"


@dataclass
class World:
    """One sequence under `root`/data; `during` is called in the middle of a stage's writing, by the stage's name; `ran` lists what ran."""

    root: Path
    during: dict[str, Callable[[], None]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.root / "data" / NAME
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "video.mp4").write_text("video")
        self.model = self.root / "hand_model.txt"
        self.model.write_text("a hand")

    # stages

    @property
    def graph(self) -> list[Stage]:
        return [
            Stage(
                "create",
                self._create,
                outputs=("images",),
                optional=lambda cfg: ("frames",),
                previews=("raw_images",),
                settings=lambda cfg: {"create": {"stride": cfg.create.stride, "max_side": cfg.create.max_side}},
                remembers=("create",),
                external=lambda cfg, seq: {"video": seq.path("video")},
                measure=_count("images"),
            ),
            Stage(
                "segment",
                self._segment,
                needs=("images",),
                outputs=("masks_object", "masks"),
                optional=lambda cfg: ("masks_right", "masks_left"),
                settings=lambda cfg: {"segmenter": {"name": cfg.segmenter.name}, "hands": {"which": cfg.hands.which}, "seed": cfg.seed},
                remembers=("segmenter", "hands", "seed"),
                measure=_count("masks_object"),
            ),
            Stage(
                "hand_pose",
                self._hand_pose,
                needs=("images",),
                uses=("masks_right", "masks_left", "masks_object"),
                outputs=("v3d", "j2d"),
                optional=lambda cfg: ("boxes",) if cfg.hand.name == "mediapipe" else (),
                previews=("hpe_vis",),
                settings=lambda cfg: {"hand": {"name": cfg.hand.name}, "hands": {"length_mm": cfg.hands.length_mm}},
                remembers=("hand", "hands", "hand_model"),
                external=lambda cfg, seq: {"hand_model": self.model, **_tracker_files(cfg, seq)},
                measure=_measure_hands,
            ),
            Stage(
                "report",
                self._report,
                needs=("images",),
                outputs=("report",),
                external=inputs.report_files,
                reports=True,
            ),
        ]

    def _write(self, ctx: Context, artefact: str, content: str, half: bool = False) -> None:
        target = ctx.seq.target(artefact)
        if target.suffix:
            target.write_text(content)
            return
        target.mkdir(exist_ok=True)
        for n in range(4):
            if n == 2 and half:
                self.during.pop(ctx.stage, lambda: None)()
            (target / f"{n:04d}.png").write_text(f"{content} {n}")

    def _create(self, ctx: Context) -> Result:
        self.ran.append("create")
        self._write(ctx, "images", f"image {ctx.cfg.create.max_side} {ctx.seq.path('video').read_text()}", half=True)
        self._write(ctx, "frames", '{"source": "video.mp4"}')
        self._write(ctx, "raw_images", "raw")
        return Result({"width": 640})

    def _segment(self, ctx: Context) -> Result:
        self.ran.append("segment")
        said = f"mask {ctx.cfg.segmenter.name} {ctx.cfg.seed} of {(ctx.seq.path('images') / '0000.png').read_text()}"
        self._write(ctx, "masks_object", said, half=True)
        self._write(ctx, "masks", said)
        for side in inputs_sides(ctx.cfg):
            self._write(ctx, f"masks_{side}", said)
        return Result({"object.frames_with_mask_pct": 100.0})

    def _hand_pose(self, ctx: Context) -> Result:
        self.ran.append("hand_pose")
        seen = [e for e in ("right", "left") if ctx.seq.has(f"masks_{e}")]
        if not seen:
            raise HoldprepError("no hand in 4 frames: click one")
        self._write(ctx, "hpe_vis", "picture", half=True)
        foreign = [path.read_text() for path in _tracker_files(ctx.cfg, ctx.seq).values() if path.exists()]
        self._write(ctx, "v3d", f"{ctx.cfg.hand.name} {seen} {ctx.cfg.hands.length_mm} {self.model.read_text()} {foreign}")
        self._write(ctx, "j2d", f"{seen}")
        if ctx.cfg.hand.name == "mediapipe":
            self._write(ctx, "boxes", "boxes")
        return Result({"right.detected_pct": 90.0}, notes=["right hand in 4 of 4 frames"])

    def _report(self, ctx: Context) -> Result:
        self.ran.append("report")
        lines = [f"{name} {s.record['metrics']} {'foreign' if s.is_foreign else 'own'}" for name, s in ctx.standing.items()]
        ctx.seq.target("report").write_text("\n".join(lines))
        return Result({"status": "pass"})

    # running

    def seq(self, job: str | None = None) -> Sequence:
        return Sequence(self.root / "data", NAME, overlay=self.root / "jobs" / job if job else None)

    def context(self, *told: str, job: str | None = None) -> Context:
        """As the command has it, with what earlier runs were given."""
        lines = [f"seq={NAME}", "logger=none", *told]
        settings = memory.settings(self.folder / "holdprep.yaml", records.of_sequence(self.seq()), lines, CONF_DIR)
        cfg = overridden(*settings.own.values(), *settings.remembered.values(), *lines, f"data_root={self.root / 'data'}")
        runlog = RunLog(Loggers(), NAME, self.root, None, {})
        given = {key: text for key, text in settings.given.items() if key not in memory.transient()}
        return Context(cfg, self.seq(job), runlog, self.root / "run", "", given, frozenset(settings.named), settings.file)

    def run(self, *told: str, only: str | None = None, job: str | None = None) -> list[str]:
        """Run the graph, or one stage of it; returns what ran, less the report."""
        self.ran.clear()
        runner.run([s for s in self.graph if only in (None, s.name)], self.graph, self.context(*told, job=job))
        return [name for name in self.ran if name != "report"]

    def plan(self, *told: str, job: str | None = None) -> dict[str, Step]:
        context = self.context(*told, job=job)
        return {step.stage.name: step for step in plan(self.graph, context.cfg, context.seq, context.named)}

    def kinds(self, *told: str) -> dict[str, str]:
        return {name: step.state.kind for name, step in self.plan(*told).items() if name != "report"}

    def outcomes(self) -> dict[str, dict]:
        return runner.outcomes_so_far(self.root / "run")

    def content(self, artefact: str) -> str:
        path = self.seq().path(artefact)
        return path.read_text() if path.is_file() else "".join(p.read_text() for p in sorted(path.iterdir()))


def _tracker_files(cfg: Config, seq: Sequence) -> dict[str, Path]:
    return {"boxes": seq.path("boxes")} if cfg.hand.name == "import" else {}


def _count(artefact: str) -> Callable[[Context], Result]:
    return lambda ctx: Result({"files": len(list(ctx.seq.path(artefact).iterdir()))})


def _measure_hands(ctx: Context) -> Result:
    """The file says itself how many of its frames hold a hand: `foreign 30`."""
    word, _, share = ctx.seq.path("v3d").read_text().partition(" ")
    if word != "foreign":
        raise HoldprepError(f"{ctx.seq.path('v3d')} is no track: run stage=hand_pose again")
    return Result({"right.detected_pct": float(share)})


def overridden(*told: str) -> Config:
    """What Hydra makes of the default configuration and these overrides, in a thousandth of the time; options' interpolations are null."""
    tree = composed().model_dump(mode="json") | {"segmenter": _option("segmenter", "classical"), "hand": _option("hand", "mediapipe")}
    tree["object_pose"]["threads"] = 2
    parsed = [(key, value) for key, _, value in (line.partition("=") for line in told)]
    for key, value in sorted(parsed, key=lambda entry: "." in entry[0]):  # options before their keys
        if (CONF / key / f"{value}.yaml").is_file():
            tree[key] = _option(key, value) | ({"length_mm": tree["hands"]["length_mm"]} if key == "hands" else {})
            continue
        *nodes, name = key.split(".")
        node = tree
        for part in nodes:
            node = node[part]
        node[name] = yaml.safe_load(value.replace(":[", ": ["))
    return Config.model_validate(tree)


def _option(group: str, name: str) -> dict:
    values = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    return {key: None if isinstance(value, str) and "${" in value else value for key, value in values.items()}


def inputs_sides(cfg: Config) -> tuple[str, ...]:
    """The hands whose masks the segmenter makes."""
    return {"right": ("right",), "left": ("left",)}.get(cfg.hands.which, ("right", "left"))
