"""Changes to a valid file: of its bytes, of the numbers in its text, of the members of its archive, of its JSON."""

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"100000000000", b"9" * 5000, b"4294967296", b"-9223372036854775809", b"0.5", b"")
TOKENS = (
    b"\x00",
    b"\xff" * 4,
    b"\x00" * 8,
    b"\n",
    b"[",
    b"{",
    b'"',
    b"'",
    b"*",
    b"&a",
    b"!!set",
    b"${oc.env:HOME}",
    b"../../x",
    b"2024-01-01",
    b"\xed\xa0\x80",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**11,
    10**40,
    1e308,
    float("nan"),
    "",
    "x" * 300,
    "\ud800",
    [],
    {},
    [[]],
    [None],
    {"a": [1]},
    [[1e400]],
)


KINDS = ("flip", "number", "token", "cut", "drop", "repeat", "member", "tree", "tree", "number")
Edit = tuple[str, float, int]  # kind of change, place (0 to 1), and which value


def edits(chance: random.Random) -> list[Edit]:
    """One to four changes."""
    return [(chance.choice(KINDS), chance.random(), chance.getrandbits(31)) for _ in range(chance.randint(1, 4))]


def changed(content: bytes, edit: Edit) -> bytes:
    """The content after one change; unchanged where the change does not apply."""
    kind, place, which = edit
    at = int(place * len(content))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << which % 8)]) + content[at + 1 :] if content else content
    if kind == "token":
        return content[:at] + TOKENS[which % len(TOKENS)] + content[at:]
    if kind == "cut":
        return content[:at]
    if kind == "drop":
        return content[:at] + content[at + 1 + which % 64 :]
    if kind == "repeat":
        part = content[at : at + 1 + which % 256]
        return content[:at] + part * (2 + which % 40) + content[at:]
    special: dict[str, Callable[[bytes, float, int], bytes]] = {"number": _number, "member": _member, "tree": _tree}
    return special[kind](content, place, which)


def _number(content: bytes, place: float, which: int) -> bytes:
    start = int(place * len(content))
    found = re.compile(rb"-?\d+(\.\d+)?").search(content, start)
    if found is None:
        return content
    return content[: found.start()] + NUMBERS[which % len(NUMBERS)] + content[found.end() :]


def _member(content: bytes, place: float, which: int) -> bytes:
    """A change inside an archive's member, with sizes and checksums that fit; or a member less, or one that is a bomb."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return content
    if not members:
        return content
    target, target_kind = int(place * len(members)), ("flip", "number", "token", "cut", "drop", "repeat")[which % 6]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if which % 5 == 0 else zipfile.ZIP_STORED) as archive:
        for i, (name, data) in enumerate(members):
            if i == target and which % 11 == 0:
                continue
            # most of a member is numbers, the header is what its reader follows
            head = 128 if which % 2 else len(data)
            if i == target:
                data = changed(data[:head], (target_kind, place * len(members) % 1, which // 7)) + data[head:]
            archive.writestr(name, data)
    return made.getvalue()


def _tree(content: bytes, place: float, which: int) -> bytes:
    """A value of a JSON replaced by another kind of value, or removed."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return content
    spots: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack and len(spots) < 4000:
        node = stack.pop()
        items = list(node.items() if isinstance(node, dict) else enumerate(node)) if isinstance(node, dict | list) else []
        spots += [(node, key) for key, _ in items]
        stack += [value for _, value in items]
    if not spots:
        return content
    node, key = spots[int((1 - (1 - place) ** 0.25) * len(spots))]  # the upper levels more often
    if which % 7 == 0:
        del node[key]
    else:
        node[key] = VALUES[which % len(VALUES)]
    return json.dumps(tree).encode("utf-8", "surrogatepass")
