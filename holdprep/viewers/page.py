"""The self-contained page of one or more scenes, and what the report needs of it."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from holdprep.viewers.pack import as_script, packed
from holdprep.viewers.scene import Scene

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("scene.js", "gl.js", "cell.js", "viewer.js")
STYLES = ("theme.css", "viewer.css")
MOST_FRAMES = 300
PICTURES_BYTES = 9e6  # of all scenes; text of base64 has 4/3 of it
ALONE = ".alone main { max-width: 1800px; margin: 0 auto; padding: 12px 16px; }"


def view_page(scenes: Sequence[Scene], options: dict[str, Any]) -> str:
    """The page; `options` are the first choices of the viewer: results, world, color."""
    code, style = source(*SCRIPTS, "view.js"), source(*STYLES) + ALONE
    short = [scene.sampled(MOST_FRAMES) for scene in scenes]
    data = [Markup(as_script(packed(scene, PICTURES_BYTES / len(short)))) for scene in short]
    return (
        environment(PAGE)
        .get_template("view.html.j2")
        .render(
            title=", ".join(scene.seq for scene in scenes),
            policy=policy(code),
            style=Markup(style),
            code=Markup(code),
            scenes=data,
            options=Markup(as_script(options)),
        )
    )


def environment(folder: Path) -> Environment:
    """Templates of a folder; values are escaped."""
    return Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def source(*names: str) -> str:
    """Files of the page, one after the other."""
    return "\n".join((PAGE / name).read_text() for name in names)


def policy(code: str) -> str:
    """The content security policy of a page whose only script is `code`: nothing is fetched, no other script runs."""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
