"""The base class of all parts of the typed configuration, and common number types."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class Node(BaseModel):
    """A part of the configuration; unknown keys are refused."""

    # validators are built at the first use, so that importing the configuration is fast
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    def recorded(self, *without: str) -> dict[str, Any]:
        """The values for a stage's record, except the keys `without` and those that never change a result."""
        return self.model_dump(mode="json", exclude=set(without))
