"""The base class of the configuration's parts and its kinds of numbers, which stand in `holdprep.node`."""

from holdprep.node import Node, Positive, Weight

__all__ = ["Node", "Positive", "Weight"]
