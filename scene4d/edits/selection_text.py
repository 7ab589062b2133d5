"""Selections as short texts, for the command line.

    instance:2   instance:2,3   label:3   background   moving   static   all   name:person   rows:0..99,120
    box:x0,y0,z0,x1,y1,z1@t   sphere:x,y,z,r@t
    rect:CAMERA,x0,y0,x1,y1@t   lasso:CAMERA,x,y,x,y,...@t   brush:CAMERA,radius,x,y,...@t   mask:CAMERA,FILE.png@t
    file:FILE.json                                   an expression as JSON
    through(rect:...)   grow:0.1@t(...)   shrink:0.1@t(...)   flood:0.1@t(...)
    a + b   a - b   a & b   !a   (a)                 & before + and -; spaces around - where a name stands before it

Where there is no @t the time is that of `Context.time`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from scene4d.edits.checks import shown
from scene4d.edits.selections import (
    All,
    Box,
    Flood,
    Grow,
    Instance,
    Intersect,
    Invert,
    Label,
    Mask,
    Masks,
    Moving,
    Named,
    Rows,
    Screen,
    Selection,
    Shrink,
    Sphere,
    Subtract,
    Union,
    View,
)

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
TOKEN = re.compile(
    rf"""\s*(?:
      (?P<text>name|file|mask|rect|lasso|brush):(?P<value>"[^"]*"|[^\s+&()!]+)
    | (?P<kind>[a-z]+)(?::(?P<numbers>(?:{NUMBER}|\.\.|,)+))?(?:@(?P<time>{NUMBER}))?
    | (?P<mark>[-+&!()])
    )""",
    re.VERBOSE,
)
MAX_TEXT = 100_000
WRAPPERS = ("grow", "shrink", "flood", "through")


@dataclass(frozen=True)
class Context:
    """What texts refer to."""

    time: float = 0.0  # seconds, where a text gives none
    view: Callable[[str, float], View] | None = None  # the view of a camera, by name, at a time
    mask: Callable[[str, View], Mask] | None = None  # a mask file, as a mask in a view
    file: Callable[[str], Selection] | None = None  # an expression in a JSON file


def parse_selection(text: str, context: Context | None = None) -> Selection:
    """The expression that a text stands for. Raises ValueError, which names the part that is not understood."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"a selection must have at most {MAX_TEXT} letters, got {len(text)}")
    parser = _Parser(_tokens(text), context or Context(), text)
    found = parser.sum()
    if parser.tokens:
        raise ValueError(f"selection {shown(text)}: {parser.tokens[0].group().strip()!r} must not stand there")
    return found


def _tokens(text: str) -> list[re.Match[str]]:
    tokens, place = [], 0
    while text[place:].strip():
        match = TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"selection {shown(text)}: {text[place:].strip()[:20]!r} is not understood")
        tokens.append(match)
        place = match.end()
    return tokens


class _Parser:
    """Recursive descent; takes tokens from the front."""

    def __init__(self, tokens: list[re.Match[str]], context: Context, text: str) -> None:
        self.tokens, self.context, self.text, self.depth = tokens, context, text, 0

    def sum(self) -> Selection:
        found = self.product()
        while (mark := self._mark()) in ("+", "-"):
            self.tokens.pop(0)
            other = self.product()
            found = Union((found, other)) if mark == "+" else Subtract((found, other))
        return found

    def product(self) -> Selection:
        found = self.factor()
        while self._mark() == "&":
            self.tokens.pop(0)
            found = Intersect((found, self.factor()))
        return found

    def factor(self) -> Selection:
        self.depth += 1
        if self.depth > 30:
            raise ValueError(f"selection {shown(self.text)}: must not be nested deeper than 30")
        try:
            return self._factor()
        finally:
            self.depth -= 1

    def _factor(self) -> Selection:
        mark = self._mark()
        if mark == "!":
            self.tokens.pop(0)
            return Invert(self.factor())
        if mark == "(":
            return self._bracketed()
        if mark is not None or not self.tokens:
            raise ValueError(f"selection {shown(self.text)}: something must stand before {mark or 'its end'!r}")
        token = self.tokens.pop(0)
        try:
            if token["text"]:
                return _of_text(token["text"], token["value"].strip('"'), self.context)
            if token["kind"] in WRAPPERS:
                return _wrapped(token, self._bracketed(), self.context)
            return _of_numbers(token, self.context)
        except ValueError as e:
            if str(e).startswith("selection "):
                raise
            raise ValueError(f"selection {shown(self.text)}: {token.group().strip()[:30]!r}: {e}") from None

    def _bracketed(self) -> Selection:
        if self._mark() != "(":
            raise ValueError(f"selection {shown(self.text)}: an opening bracket is missing")
        self.tokens.pop(0)
        found = self.sum()
        if self._mark() != ")":
            raise ValueError(f"selection {shown(self.text)}: a closing bracket is missing")
        self.tokens.pop(0)
        return found

    def _mark(self) -> str | None:
        return self.tokens[0]["mark"] if self.tokens else None


def _of_numbers(token: re.Match[str], context: Context) -> Selection:
    kind, given = token["kind"], token["numbers"]
    time = context.time if token["time"] is None else float(token["time"])
    if kind in ("all", "background"):
        _none(given, kind)
        return All() if kind == "all" else Instance((0,))
    if kind in ("moving", "static"):
        found = Moving(_numbers(given, 1)[0] if given else None)
        return found if kind == "moving" else Invert(found)
    if kind in ("instance", "label"):
        ids = tuple(_whole(part) for part in (given or "").split(","))
        return Instance(ids) if kind == "instance" else Label(ids)
    if kind == "rows":
        return Rows(_runs(given or ""))
    if kind == "box":
        v = _numbers(given, 6)
        return Box(v[:3], v[3:], time)  # type: ignore[arg-type]
    if kind == "sphere":
        v = _numbers(given, 4)
        return Sphere(v[:3], v[3], time)  # type: ignore[arg-type]
    raise ValueError("is no kind of selection; docs/editing.md lists them")


def _wrapped(token: re.Match[str], inner: Selection, context: Context) -> Selection:
    kind, time = token["kind"], context.time if token["time"] is None else float(token["time"])
    if kind == "through":
        if not isinstance(inner, Screen):
            raise ValueError("must hold a rect, lasso or brush")
        return replace(inner, through=True)
    if kind == "flood":
        color = _numbers(token["numbers"], 1)[0] if token["numbers"] else 0.1
        return Flood(inner, time, color)
    distance = _numbers(token["numbers"], 1)[0]
    return Grow(inner, distance, time) if kind == "grow" else Shrink(inner, distance, time)


def _of_text(kind: str, value: str, context: Context) -> Selection:
    if kind == "name":
        return Named(value)
    if kind == "file":
        if context.file is None:
            raise ValueError("needs files, which are not there")
        return context.file(value)
    body, at, time_text = value.rpartition("@")
    time = _numbers(time_text, 1)[0] if at else context.time
    camera, comma, rest = (body if at else value).partition(",")
    if not comma or context.view is None or context.mask is None:
        raise ValueError("must name a camera of the project, and a comma after it")
    view = context.view(camera, time)
    if kind == "mask":
        return Masks((context.mask(rest, view),))
    numbers = _numbers(rest, None)
    radius, numbers = (numbers[0], numbers[1:]) if kind == "brush" else (0.0, numbers)
    points = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    if len(numbers) % 2:
        raise ValueError(f"must hold pairs of x and y, got {len(numbers)} numbers")
    return Screen(view, "rectangle" if kind == "rect" else kind, points, radius)


def _numbers(text: str | None, count: int | None) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in (text or "").split(","))
    except ValueError:
        values = ()
    if not values or (count is not None and len(values) != count):
        raise ValueError(
            f"must have {'numbers' if count is None else f'{count} numbers'} there, got {shown(text or '')}"
        )
    return values


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 10:
        raise ValueError(f"must have whole numbers there, got {shown(text)}")
    return int(text)


def _runs(text: str) -> tuple[tuple[int, int], ...]:
    """a..b (b included) and single rows."""
    runs = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        a = _whole(first)
        b = _whole(last) if dots else a
        if b < a:
            raise ValueError(f"must have ascending rows there, got {shown(part)}")
        runs.append((a, b - a + 1))
    return tuple(runs)


def _none(given: str | None, kind: str) -> None:
    if given:
        raise ValueError(f"{kind} must stand alone, got {shown(given)}")
