"""The tables of keys in conf/README.md, written from the schema and the yaml files: `python -m holdprep.config.reference`."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from holdprep.align import term_files
from holdprep.config import validation
from holdprep.config.schema import Config

COMMAND = "python -m holdprep.config.reference"
BEGIN = f"<!-- keys: written by `{COMMAND}` -->"
END = "<!-- end of keys -->"
PRESETS = ("experiment", "sweep")  # groups that only choose options and values of others
SUFFIXES = {"_px": "px", "_mm": "mm", "_m": "m", "_deg": "degrees", "_pct": "%"}
IN_BRACKETS = re.compile(r"\(((?:per )?(?:px|pixels|mm|m|%|degrees)\b[^)]*|%)\)")
COLUMNS = ("key", "values", "unit", "default", "meaning")


@dataclass(frozen=True)
class Row:
    """A key as some options of its group have it; `default` by option."""

    key: str
    field: FieldInfo
    default: Mapping[str, str]

    def cells(self) -> tuple[str, ...]:
        """Of `COLUMNS`."""
        values = list(dict.fromkeys(self.default.values()))
        default = values[0] if len(values) == 1 else "; ".join(f"{option}: {value}" for option, value in self.default.items())
        return f"`{self.key}`", f"`{validation.allowed(self.field)}`", unit(self.key, self.field), default, self._meaning()

    def _meaning(self) -> str:
        group, _, name = self.key.partition(".")
        path = term_files.files().get(name) if group == "weights" else None
        return (self.field.description or "") + (f"; term `holdprep/align/terms/{path.name}`" if path else "")


def updated(page: str, conf_dir: Path) -> str:
    """The page with its tables of keys as the schema and the yaml files have them. Raises ValueError where a marker is missing."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs one line '{BEGIN}' and, after it, one line '{END}'")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{tables(conf_dir)}\n\n{END}{after}"


def tables(conf_dir: Path) -> str:
    """The keys of every run, then those of each group of options."""
    config = yaml.safe_load((conf_dir / "config.yaml").read_text())
    chosen = {str(k): str(v) for entry in config["defaults"] if isinstance(entry, dict) for k, v in entry.items()}
    groups = validation.groups(conf_dir)
    own = [Row(key, field, {"": default_of(config, key)}) for key, field in validation.fields() if key.split(".")[0] not in groups]
    parts = ["### Every run\n\n" + _table(own, [""])]
    for group in [*(g for g in chosen if g in groups), *PRESETS]:
        parts.append(_section(group, groups[group], chosen.get(group), conf_dir))
    return "\n\n".join(parts)


def unit(key: str, field: FieldInfo) -> str:
    """A key's unit: what its meaning has in brackets, else what its name ends with; empty for counts, flags and names."""
    meaning = field.description or ""
    found = IN_BRACKETS.search(meaning)
    if found:
        return found.group(1).partition(";")[0].replace("pixels", "px")
    by_name = next((text for suffix, text in SUFFIXES.items() if key.endswith(suffix)), "")
    return by_name or ("px" if re.search(r"\bin pixels\b", meaning) else "")


def _section(group: str, options: list[str], default: str | None, conf_dir: Path) -> str:
    sign = "+" if group in PRESETS else ""
    names = {option: f"`{sign}{group}={option}`" + (" (default)" if option == default else "") for option in options}
    remarks = {option: _remark(conf_dir / group / f"{option}.yaml") or _kind(group, option) for option in options}
    listed = [f"- {name}" + (f": {_escaped(remarks[option])}" if remarks[option] else "") for option, name in names.items()]
    rows = list(rows_of(group, options, conf_dir))
    parts = [f"### `{group}`", "\n".join(listed) if any(remarks.values()) else ", ".join(names.values())]
    return "\n\n".join([*parts, _table(rows, options)] if rows else parts)


def _table(rows: list[Row], options: list[str]) -> str:
    """With a column that names the options that have a key, where a group has several."""
    several = len(options) > 1
    lines: list[tuple[str, ...]] = [(COLUMNS[0], "options", *COLUMNS[1:]) if several else COLUMNS]
    lines.append(("---",) * len(lines[0]))
    for row in rows:
        key, *rest = row.cells()
        having = "all" if list(row.default) == options else ", ".join(row.default)
        lines.append((key, having, *rest) if several else (key, *rest))
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _kind(group: str, option: str) -> str:
    """The description of the key that holds the option's name, from its node."""
    return next((f.description or "" for key, f in validation.fields({group: {option}}) if key == _tag(group)), "")


def _tag(group: str) -> str:
    """That key: `registration.method`."""
    field = Config.model_fields.get(group)
    return f"{group}.{field.discriminator}" if field is not None and field.discriminator else ""


def rows_of(group: str, options: list[str], conf_dir: Path) -> Iterator[Row]:
    """Keys of a group in the schema's order; the same key with another meaning or range is another row."""
    found: dict[tuple[str, str, str], tuple[FieldInfo, dict[str, str]]] = {}
    for option in options if group not in PRESETS else ():
        values = _values(conf_dir / group, option)
        for key, field in validation.fields({group: {option}}):
            if key.startswith(f"{group}.") and field.description and key != _tag(group):
                entry = found.setdefault((key, field.description, validation.allowed(field)), (field, {}))
                entry[1][option] = default_of({group: values}, key)
    for (key, _, _), (field, defaults) in found.items():
        yield Row(key, field, defaults)


def _values(folder: Path, option: str) -> dict[str, Any]:
    """What an option's yaml file holds, over the options that it builds on."""
    tree = yaml.safe_load((folder / f"{option}.yaml").read_text()) or {}
    found: dict[str, Any] = {}
    for name in tree.pop("defaults", []):
        found |= _values(folder, name) if name != "_self_" else {}
    return found | tree


def default_of(tree: Mapping[str, Any], key: str) -> str:
    """The value of a key in a tree of yaml, for reading; `null` where the tree does not have it."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    text = value if isinstance(value, str) else json.dumps(value)
    text = re.sub(r"\$\{oc\.env:(\w+),([^}]*)\}", r"$\1, else \2", text)
    return re.sub(r"\$\{oc\.select:([\w.]+),([^}]*)\}", r"that of \1, else \2", text)


def _remark(path: Path) -> str:
    """The comment at a yaml file's top, up to a line that is a command."""
    found = []
    for line in path.read_text().splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("# ") or line.startswith("#   "):
            break
        found.append(line.removeprefix("# "))
    return " ".join(found).strip().rstrip(":")


def _escaped(text: str) -> str:
    """As Markdown shows it: `|` ends no cell, and `<seq>` outside of code is no tag."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")


def main() -> None:
    """Write the page anew."""
    from holdprep.configured import CONF_DIR

    path = CONF_DIR / "README.md"
    page = path.read_text(encoding="utf-8")
    text = updated(page, CONF_DIR)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {'is up to date' if text == page else 'was written anew'}")


if __name__ == "__main__":
    main()
