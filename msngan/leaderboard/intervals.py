"""Means over training seeds with their 95 % confidence intervals (Student 1908; Welch 1947).

Pure Python: the leaderboard answers without importing numpy or scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """n values: their mean, sd (ddof 1) and the 95 % interval of the mean, t with n - 1.

    sd, low and high are None of one value.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def summary(values: list[float]) -> Summary:
    """Of one value or more, finite and below 1e100."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(n, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = student(n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def alike(one: Summary, other: Summary) -> bool | None:
    """Whether the 95 % interval of the difference of two independent means holds 0 (Welch).

    Two equal means are alike; None where a spread is missing.
    """
    if one.mean == other.mean:
        return True
    if one.sd is None or other.sd is None:
        return None
    first, second = one.sd**2 / one.n, other.sd**2 / other.n
    if not (noise := first + second):
        return False
    share = first / noise
    freedom = 1 / (share**2 / (one.n - 1) + (1 - share) ** 2 / (other.n - 1))
    return abs(one.mean - other.mean) < student(freedom) * math.sqrt(noise)


@lru_cache(maxsize=4096)
def student(freedom: float) -> float:
    """The t that |T| of Student's distribution exceeds with probability 0.05; freedom >= 1.

    With t = sqrt(freedom) tan(x) the density is cos(x)^(freedom - 1) up to a factor. Its integral
    from 0 is concave, so Newton's iteration from below rises to the root without overshooting.
    """

    def density(x: float) -> float:
        return math.cos(x) ** (freedom - 1)

    gammas = math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)
    wanted = LEVEL * math.sqrt(math.pi) / 2 * math.exp(gammas)
    x = math.atan(1.95 / math.sqrt(freedom))  # the normal distribution's 1.96 is below every t
    area = _simpson(density, 0.0, x)
    for _ in range(50):
        step = (wanted - area) / density(x)
        area += _simpson(density, x, x + step)
        x += step
        if abs(step) < 1e-12:
            break
    return math.sqrt(freedom) * math.tan(x)


def _simpson(f: Callable[[float], float], start: float, end: float, parts: int = 64) -> float:
    width = (end - start) / parts
    odd = math.fsum(f(start + width * k) for k in range(1, parts, 2))
    even = math.fsum(f(start + width * k) for k in range(2, parts, 2))
    return width / 3 * (f(start) + 4 * odd + 2 * even + f(end))
