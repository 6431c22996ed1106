"""Which file or row of another tool belongs to which frame: by name, by number, or in order, and never one frame late in silence.

The one rule of masks, object poses, hands and keypoints.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from holdprep.errors import HoldprepError

MOST_DIGITS = 18
RENAME = "give them the names of images/"


@dataclass(frozen=True)
class Matched:
    """`of_frame` (T,) is the place in the tool's list of each frame of images/, None where it has none; `notes` say what was assumed."""

    of_frame: list[int | None]
    notes: list[str] = field(default_factory=list)

    def frame_of(self, count: int) -> list[int | None]:
        """The frame of each of the tool's `count` entries, None for those that belong to no frame."""
        frames: list[int | None] = [None] * count
        for t, i in enumerate(self.of_frame):
            if i is not None:
                frames[i] = t
        return frames


def match(source: str, found: Sequence[str], names: Sequence[str]) -> Matched:
    """The entries `found` (names without suffix) of `source` for the frames `names`, which are in temporal order.

    A frame's entry has its name, or its number (see `numbers`). Where counts agree, numbers differ, and both are consecutive, entries are
    taken in order, with a note. Raises HoldprepError where two entries have one number, where none belongs to a frame, and where the numbers
    fit only if they are counted from elsewhere.
    """
    own, wanted = [_normal(n) for n in found], [_normal(n) for n in names]
    if not own:
        raise HoldprepError(f"{source} has no frames, images/ has {len(names)}")
    twice = same_number(own)
    if twice is not None:
        raise HoldprepError(f"{source} has two entries of one frame, {found[twice[0]]} and {found[twice[1]]}: remove one")
    exact = {name: i for i, name in enumerate(own)}
    own_numbers, numbers_here = numbers(own), numbers(wanted)
    by_number = {n: i for i, n in enumerate(own_numbers) if n is not None}
    of_frame = [exact.get(name, None if n is None else by_number.get(n)) for name, n in zip(wanted, numbers_here, strict=True)]
    case = _Case(source, list(found), own_numbers, list(names), numbers_here, of_frame)
    if None in of_frame or len(own) > len(names):
        return case.settled()
    return Matched(of_frame)


def same_number(stems: Sequence[str]) -> tuple[int, int] | None:
    """The places of the first two names that are one frame: the same name, or the same number."""
    seen: dict[str | int, int] = {}
    for i, (name, number) in enumerate(zip(map(_normal, stems), numbers(stems), strict=True)):
        key = name if number is None else number
        if key in seen:
            return seen[key], i
        seen[key] = i
    return None


def numbers(stems: Sequence[str]) -> list[int | None]:
    """The frame's number in each name: its only digits that differ between the names, the last digits if none differ.

    `clip_000000000012` and `clip_000000000013` are 12 and 13. None where several numbers of a name differ, as in dates with times; in names
    of different patterns only those that are all digits have a number.
    """
    parts = [re.split(r"(\d+)", stem) for stem in stems]
    if len({tuple(p[0::2]) for p in parts}) != 1:
        return [_whole(p[1]) if len(p) == 3 and not (p[0] or p[2]) else None for p in parts]
    columns = list(zip(*(p[1::2] for p in parts), strict=True))
    values = [[_whole(text) for text in column] for column in columns]
    varying = [v for v in values if len(set(v)) > 1] or values[-1:]
    return varying[0] if len(varying) == 1 else [None] * len(stems)


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= MOST_DIGITS else None


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class _Case:
    """Entries and frames whose names do not agree."""

    source: str
    found: list[str]
    found_numbers: list[int | None]
    names: list[str]
    name_numbers: list[int | None]
    of_frame: list[int | None]

    def settled(self) -> Matched:
        """In order, by number with a note, or an error."""
        theirs = sorted(n for n in self.found_numbers if n is not None)
        ours = [n for n in self.name_numbers if n is not None]
        if len(theirs) < len(self.found) or len(ours) < len(self.names):
            return self._without_numbers(theirs)
        if len(theirs) == len(ours) and _step(theirs):
            if _step(ours) and _step(theirs) in (1, _step(ours)):
                return self._in_order()
            if not set(theirs) & set(ours):
                return self._in_order()
            if _step(theirs) == 1:
                raise self._other_numbers("has as many entries as images/ has frames, but other numbers")
        self._refuse_shift(theirs, ours)
        if not any(i is not None for i in self.of_frame):
            raise self._none()
        return Matched(self.of_frame, self._doubts(theirs, ours))

    def _without_numbers(self, theirs: list[int]) -> Matched:
        is_listed = len(theirs) == len(self.found) == len(self.names) and _step(theirs) == 1
        if not any(i is not None for i in self.of_frame):
            if is_listed:
                return self._in_order()
            raise self._none()
        return Matched(self.of_frame)

    def _in_order(self) -> Matched:
        order = sorted(range(len(self.found)), key=lambda i: self.found_numbers[i] or 0)
        note = (
            f"{self.source}: its {len(order)} entries have other numbers ({self.found[order[0]]} ...) and are used in order of images/ "
            f"({self.names[0]} ...)"
        )
        return Matched(list(order), [note])

    def _refuse_shift(self, theirs: list[int], ours: list[int]) -> None:
        """Raise HoldprepError where all fits if the tool counts from one number later or earlier, and not as it is."""
        here, there = set(ours), set(theirs)
        for shift in (1, -1):
            moved = {n - shift for n in theirs}
            is_gapless = theirs[-1] - theirs[0] + 1 == len(theirs)
            if (moved <= here and not there <= here) or (
                is_gapless and theirs[0] == ours[0] + shift == 1 and here <= moved and not here <= there
            ):
                raise self._other_numbers(f"seems to count frames from {ours[0] + shift}, images/ from {ours[0]}")

    def _doubts(self, theirs: list[int], ours: list[int]) -> list[str]:
        """A note where numbers that begin at 1 may be counted from there."""
        begins_at_one = theirs[0] == 1 and ours[0] != 1 and _step(theirs) == 1
        return [
            f"{self.source}: its numbers begin at 1 and are taken as those of images/; if it counts from 1, each is a frame late"
        ] * begins_at_one

    def _other_numbers(self, what: str) -> HoldprepError:
        last = max(range(len(self.found)), key=lambda i: self.found_numbers[i] or 0)
        first = min(range(len(self.found)), key=lambda i: self.found_numbers[i] or 0)
        return HoldprepError(
            f"{self.source} {what}: {len(self.found)} entries {self.found[first]} ... {self.found[last]}, {len(self.names)} frames "
            f"{self.names[0]} ... {self.names[-1]}; {RENAME}"
        )

    def _none(self) -> HoldprepError:
        return HoldprepError(
            f"{self.source}: none of its {len(self.found)} entries belongs to one of the {len(self.names)} frames of images/ (first: "
            f"{self.found[0]} there, {self.names[0]} here): is it from another clip? {RENAME}"
        )


def _step(ascending: Sequence[int]) -> int:
    """The constant difference of consecutive numbers; 0 where there is none."""
    steps = {b - a for a, b in pairwise(ascending)}
    return steps.pop() if len(steps) == 1 and min(steps) > 0 else 0
