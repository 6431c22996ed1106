"""Nodes of the group `view`: how stage=view shows a sequence."""

from typing import Literal

from pydantic import Field

from holdprep.node import Node


class View(Node):
    results: list[Literal["init", "slerp", "h", "o", "ho", "truth"]] | None = Field(
        description="results shown first, side by side; null = the last one and the ground truth"
    )
    world: Literal["camera", "object"] = Field(description="what is at rest: the camera or the object")
    color: Literal["plain", "error", "confidence", "distance"] = Field(description="colours of hands and object")
    also: list[str] | None = Field(description="more sequences to choose from; seq=a,b sets them")


class ViserView(View):
    name: Literal["viser"]
    export: bool = Field(description="write <seq>/view.html, which needs no Python, instead of serving the live view")
    port: int = Field(ge=0, le=65535, description="port of the live view on this machine; 0 = any that is free")


class RerunView(View):
    name: Literal["rerun"]


class AitviewerView(View):
    name: Literal["aitviewer"]
