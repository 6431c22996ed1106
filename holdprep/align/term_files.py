"""The files of the alignment's terms, found without importing them: the configuration reads this, and must not wait for torch."""

import ast
from pathlib import Path

FOLDER = Path(__file__).parent / "terms"
NO_TERMS = ("__init__", "base")


def files() -> dict[str, Path]:
    """The file of every term, by the term's name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.py")) if path.stem not in NO_TERMS}


def meaning(path: Path) -> str:
    """The first line of a file's docstring; the term's name where it has none, or is not Python (which its import says)."""
    try:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except SyntaxError:
        docstring = None
    return (docstring or f"term {path.stem}").partition("\n")[0].strip()
