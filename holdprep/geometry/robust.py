"""Robust losses of residuals, and the weights of the reweighted squares that have their gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor


class Loss:
    """A loss as a function of squares, with the weight w for which w x^2 has its gradient."""

    def of_square(self, square: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of squares (...), and its derivative by them, which is the weight."""
        raise NotImplementedError

    def square(self, x: Tensor) -> Tensor:
        """Squares of residuals (..., M): of every coordinate, unless a loss is one of the norm."""
        return x.square()

    def value(self, x: Tensor) -> Tensor:
        """The loss of residuals (..., M)."""
        return self.of_square(self.square(x))[0]

    def weight(self, x: Tensor) -> Tensor:
        """The weights of residuals (..., M)."""
        return self.of_square(self.square(x))[1]


@dataclass(frozen=True)
class Square(Loss):
    """x^2."""

    def of_square(self, square: Tensor) -> tuple[Tensor, Tensor]:
        return square, torch.ones_like(square)


SQUARE = Square()


@dataclass(frozen=True)
class Huber(Loss):
    """x^2 up to `width`, straight beyond; Huber 1964."""

    width: float

    def of_square(self, square: Tensor) -> tuple[Tensor, Tensor]:
        size = square.sqrt()
        value = torch.where(size < self.width, square, 2 * self.width * size - self.width**2)
        return value, (self.width / size.clamp_min(1e-12)).clamp_max(1)


@dataclass(frozen=True)
class GemanMcClure(Loss):
    """width^2 x^2 / (width^2 + x^2), in the unit of x squared, at most width^2; Geman & McClure 1987."""

    width: float

    def of_square(self, square: Tensor) -> tuple[Tensor, Tensor]:
        share = 1 / (1 + square / self.width**2)
        return square * share, share.square()


@dataclass(frozen=True)
class SmoothNorm(Loss):
    """The norm over the last axis, rounded off within about `epsilon` of zero: sqrt(x^2 + epsilon^2) - epsilon, (..., 1)."""

    epsilon: float

    def square(self, x: Tensor) -> Tensor:
        return x.square().sum(dim=-1, keepdim=True)

    def of_square(self, square: Tensor) -> tuple[Tensor, Tensor]:
        norm = (square + self.epsilon**2).sqrt()
        return norm - self.epsilon, 0.5 / norm
