"""Whatever a sequence has, in 3D: a live page (viser), a self-contained file, rerun's file, or aitviewer's window."""

import socket
from dataclasses import replace

from holdprep.errors import HoldprepError
from holdprep.io.atomic import write_bytes_atomic
from holdprep.pipeline import Context, Result
from holdprep.sequence import Sequence
from holdprep.stages.scene import read_scene
from holdprep.viewers.option import AitviewerView, RerunView, ViserView
from holdprep.viewers.scene import Scene


def run(ctx: Context) -> Result:
    option = ctx.cfg.view
    scenes = _scenes(ctx)
    scenes[0].require(option.results or [])
    for scene in scenes:
        for note in scene.notes:
            ctx.warn(f"{scene.seq}: {note}")
    if isinstance(option, RerunView):
        return _rerun(ctx, scenes)
    if isinstance(option, AitviewerView):
        from holdprep.viewers import aitviewer_window

        aitviewer_window.show(scenes[0], option.world)
        return Result({"frames": scenes[0].total})
    return _export(ctx, scenes, option) if option.export else _live(ctx, scenes, option)


def _scenes(ctx: Context) -> list[Scene]:
    """The scenes of `seq` and `view.also`. Raises HoldprepError for a sequence without pictures."""
    others = [Sequence(ctx.cfg.data_root, name) for name in ctx.cfg.view.also or []]
    missing = next((seq for seq in others if not seq.has("images")), None)
    if missing is not None:
        raise HoldprepError(f"view.also: {missing.root} has no images/: name sequences of data_root that stage=create has made")
    return [read_scene(ctx), *(read_scene(replace(ctx, seq=seq, standing={})) for seq in others)]


def _export(ctx: Context, scenes: list[Scene], option: ViserView) -> Result:
    from holdprep.viewers.page import view_page

    html = view_page(scenes, {"results": option.results, "world": option.world, "color": option.color}).encode()
    write_bytes_atomic(ctx.seq.target("view"), html)
    ctx.runlog.file("view", ctx.seq.path("view"))
    path = ctx.seq.place(ctx.seq.home, "view")
    shown = max(min(scene.total, 300) for scene in scenes)
    return Result({"frames": shown, "megabytes": len(html) / 1e6}, {}, [f"open {path} in a browser ({len(html) / 1e6:.1f} MB)"])


def _rerun(ctx: Context, scenes: list[Scene]) -> Result:
    from holdprep.viewers import rerun_file

    rerun_file.write(scenes, ctx.seq.target("view_rrd"))
    return Result({"frames": scenes[0].total}, {}, [f"open it with: rerun {ctx.seq.place(ctx.seq.home, 'view_rrd')}"])


def _live(ctx: Context, scenes: list[Scene], option: ViserView) -> Result:
    from holdprep.viewers.viser_live import LiveView

    view = LiveView(scenes, option.results, option.world, option.color, option.port)
    try:
        ctx.note(f"open {view.address} in a browser on this machine; Ctrl-C ends the view")
        ctx.note(f"from another machine first run: ssh -L {view.port}:127.0.0.1:{view.port} {socket.gethostname()}")
        view.serve()
    except KeyboardInterrupt:
        ctx.note("the view is closed")
    finally:
        view.close()
    return Result({"frames": scenes[0].total})
