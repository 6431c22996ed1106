"""The base class of every part of the typed configuration, and the kinds of numbers that several parts use."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class Node(BaseModel):
    """A part of the configuration; keys that it does not name are refused."""

    # validators are built when first used: importing the configuration must be fast, and most options are never chosen
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    def recorded(self, *without: str) -> dict[str, Any]:
        """The values as a stage's record keeps them, except the keys `without` and those that never change a result."""
        return self.model_dump(mode="json", exclude=set(without))
