"""Robust losses of residuals, and the weights of the reweighted squares that have their gradient."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Loss(Protocol):
    """A loss of residuals (..., M), and the weight w for which w x^2 has the same gradient."""

    def value(self, x: Tensor) -> Tensor:
        """The loss."""

    def weight(self, x: Tensor) -> Tensor:
        """The weight."""


@dataclass(frozen=True)
class Square:
    """x^2, per coordinate."""

    def value(self, x: Tensor) -> Tensor:
        """The loss (..., M)."""
        return x.square()

    def weight(self, x: Tensor) -> Tensor:
        """1, (1,)."""
        return x.new_ones(1)


@dataclass(frozen=True)
class GemanMcClure:
    """sigma^2 x^2 / (sigma^2 + x^2), per coordinate (unit of x squared; at most sigma^2); Geman & McClure 1987."""

    sigma: float

    def value(self, x: Tensor) -> Tensor:
        """The loss (..., M)."""
        return self.sigma**2 * x**2 / (self.sigma**2 + x**2)

    def weight(self, x: Tensor) -> Tensor:
        """(sigma^2 / (sigma^2 + x^2))^2, (..., M)."""
        return (self.sigma**2 / (self.sigma**2 + x**2)) ** 2


@dataclass(frozen=True)
class SmoothNorm:
    """|x| over the last axis, rounded off within about `epsilon` of zero: sqrt(x^2 + epsilon^2) - epsilon."""

    epsilon: float

    def value(self, x: Tensor) -> Tensor:
        """The loss (..., 1)."""
        return (x.square().sum(dim=-1, keepdim=True) + self.epsilon**2).sqrt() - self.epsilon

    def weight(self, x: Tensor) -> Tensor:
        """1 / (2 sqrt(x^2 + epsilon^2)), (..., 1)."""
        return 0.5 / (x.square().sum(dim=-1, keepdim=True) + self.epsilon**2).sqrt()
