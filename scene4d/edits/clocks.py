"""Clocks of objects: at scene time t an object is where it was at `warped(map, t)`."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Any

from scene4d.edits.checks import check_choice, check_increasing, check_numbers
from scene4d.edits.codec import read_object

EASES = ("linear", "smooth", "in", "out")
OUTSIDE = ("extend", "hold", "loop", "pingpong")


@dataclass(frozen=True)
class TimeMap:
    """A curve from scene time to object time through the points (times, values).

    Between two points the share u of the interval that has passed becomes u (linear), 3u^2 - 2u^3 (smooth), u^2 (in) or
    1 - (1 - u)^2 (out). Before the first and after the last: the slope of the first or last chord goes on (extend), the
    value stays (hold), or scene time is wrapped into the interval from the first to the last (loop) or runs there and
    back (pingpong). One point: the time stands still.
    """

    times: tuple[float, ...]  # seconds, increasing
    values: tuple[float, ...]  # seconds
    ease: str = "linear"
    outside: str = "extend"

    def __post_init__(self) -> None:
        check_numbers("times", self.times)
        check_numbers("values", self.values, len(self.times))
        check_increasing("times", self.times)
        check_choice("ease", self.ease, EASES)
        check_choice("outside", self.outside, OUTSIDE)
        if len(self.times) == 1 and self.outside in ("loop", "pingpong"):
            raise ValueError(f"times must hold two or more to {self.outside}, got {list(self.times)}")

    @property
    def is_affine(self) -> bool:
        """Whether it is a t + b everywhere."""
        return len(self.times) == 1 or (len(self.times) == 2 and (self.ease, self.outside) == ("linear", "extend"))


def read_map(data: Any, depth: int) -> TimeMap:
    return read_object(TimeMap, data, depth)


def warped(clock: TimeMap, t: float) -> float:
    """Object time at scene time t."""
    times, values = clock.times, clock.values
    if len(times) == 1:
        return float(values[0])
    first, last = times[0], times[-1]
    if not first <= t <= last:
        if clock.outside == "hold":
            return float(values[0] if t < first else values[-1])
        if clock.outside == "extend":
            a, b = (0, 1) if t < first else (-2, -1)
            slope = (values[b] - values[a]) / (times[b] - times[a])
            k = 0 if t < first else -1
            return values[k] + slope * (t - times[k])
        t = _wrapped(t, first, last, clock.outside == "pingpong")
    k = min(max(bisect.bisect_right(times, t) - 1, 0), len(times) - 2)
    u = eased((t - times[k]) / (times[k + 1] - times[k]), clock.ease)
    return values[k] + u * (values[k + 1] - values[k])


def eased(u: float, ease: str) -> float:
    """The share of an interval that has passed, after easing; 0 and 1 stay."""
    if ease == "smooth":
        return u * u * (3 - 2 * u)
    if ease == "in":
        return u * u
    return 1 - (1 - u) ** 2 if ease == "out" else u


def _wrapped(t: float, first: float, last: float, back: bool) -> float:
    length = last - first
    turns = math.floor((t - first) / length)
    rest = min(max(t - first - turns * length, 0.0), length)
    return last - rest if back and turns % 2 else first + rest


# -- common maps -------------------------------------------------------------------------------------------------------


def speed(rate: float, about: float = 0.0) -> TimeMap:
    """`rate` times as fast; at the time `about` it is where it was. Negative: backwards."""
    return TimeMap((about, about + 1.0), (about, about + rate))


def reverse(first: float, last: float) -> TimeMap:
    """Backwards from `last` to `first`; holds outside."""
    return TimeMap((first, last), (last, first), outside="hold")


def freeze(at: float) -> TimeMap:
    return TimeMap((0.0,), (at,))


def loop(first: float, last: float, pingpong: bool = False) -> TimeMap:
    """From `first` to `last` again and again, or there and back."""
    return TimeMap((first, last), (first, last), outside="pingpong" if pingpong else "loop")
