"""The tables of keys in conf/README.md are those of the schema and the yaml files."""

import pytest

from holdprep.align import term_files
from holdprep.config import reference, validation
from tests.running import CONF

PAGE = (CONF / "README.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date():
    is_fresh = reference.updated(PAGE, CONF) == PAGE
    assert is_fresh, f"conf/README.md is out of date: run {reference.COMMAND}"


def test_every_group_option_and_key_is_on_the_page():
    for group, options in validation.groups(CONF).items():
        assert all(f"{group}={option}`" in PAGE for option in options)
    tags = {"align.method", "registration.method"}
    assert [key for key, field in validation.fields() if field.description and key not in tags and f"| `{key}` |" not in PAGE] == []


def test_rows_have_options_range_unit_and_default():
    rows = reference.tables(CONF).splitlines()
    assert "| `create.max_side` | `int >= 64` | px | 2000 | longest side of images/ in pixels; larger frames are reduced |" in rows

    def cells(key: str, options: str) -> list[str]:
        (row,) = [r for r in rows if r.startswith(f"| `{key}` | {options} |")]
        return row.replace("\\\\|", "or").split(" | ")[2:5]

    assert cells("weights.contact", "all") == ["`float >= 0 or null`", "px^2 per m", "arctic: 10.0; generic: null"]
    assert cells("logger.wandb.project", "wandb") == ["`str`", "", "holdprep"]
    assert cells("object_pose.peak_threshold", "auto, sift, sift_xfeat") == ["`float > 0`", "", "0.0045"]


def test_a_terms_weight_names_its_file():
    rows = reference.tables(CONF).splitlines()
    for name, path in term_files.files().items():
        assert [row for row in rows if row.startswith(f"| `weights.{name}` |") and row.endswith(f"`holdprep/align/terms/{path.name}` |")]


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="needs one line"):
        reference.updated("# Options\n", CONF)
