"""Summing up repeated measurements. Introduced in notebook 07."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Spread", "paired_ratio", "spread"]


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing: median, lowest and highest, in the unit of the measurements."""

    median: float
    low: float
    high: float

    @property
    def too_noisy(self) -> bool:
        """Whether the range is wider than a fifth of the median: measure again, believe nothing."""
        return self.high - self.low > 0.2 * self.median

    def __str__(self) -> str:
        three = (f"{x:.3g}" for x in (self.median, self.low, self.high))
        median, low, high = (f"{float(text):,g}" for text in three)
        return f"{median} ({low}-{high})"


def spread(values: Iterable[float]) -> Spread:
    """Sum up repeated measurements."""
    values = sorted(values)
    return Spread(statistics.median(values), values[0], values[-1])


def paired_ratio(ours: Iterable[float], theirs: Iterable[float]) -> Spread:
    """Divide pair by pair, so that a slow moment of the machine, which hits both, drops out."""
    return spread(a / b for a, b in zip(ours, theirs, strict=True))
