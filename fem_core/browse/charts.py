"""Charts as SVG elements inside the page: curves with intervals, stacked bars, spark lines, and a graph of artifacts.

Contract: data go in, ``Markup`` comes out; texts are escaped by the XML writer. Colours and type are classes of
``static/browse.css`` and nothing is styled in place, so the same chart is right in light and dark and under a content
security policy without inline styles. Each chart has a title that a screen reader reads, and each point its values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

COLOURS = 8
"""Classes ``c0`` to ``c7`` of the style sheet; further series begin again."""

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 34


@dataclass(frozen=True)
class Point:
    """One value, with the interval around it where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Level:
    """A baseline, which does not change with x."""

    name: str
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Box:
    """One node of a graph."""

    id: str
    lines: Sequence[str]
    """A name, and a fact."""
    column: int
    row: int
    href: str | None = None
    kind: str = ""
    """A class of the style sheet."""


def curves(
    title: str,
    series: Sequence[Series],
    levels: Sequence[Level] = (),
    *,
    most: float | None = None,
    x_label: str = "iteration",
) -> Markup:
    """Lines over iterations, from 0 up.

    Args:
        most: the top of the y axis, such as 1 for a share; above the largest value by default.
    """
    points = [point for one in series for point in one.points]
    highest = max(
        [p.high if p.high is not None else p.y for p in points] + [level.high or level.y for level in levels] or [1]
    )
    top = most if most is not None else _nice(highest)
    first, last = min([p.x for p in points] or [0]), max([p.x for p in points] or [1])
    last = last if last > first else first + 1

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + 8 + (x - first) / (last - first) * (WIDTH - _LEFT - _RIGHT - 16)
        return round(across, 1), round(HEIGHT - _BOTTOM - min(y / top, 1) * (HEIGHT - _TOP - _BOTTOM), 1)

    svg = _svg(f"{title}: {_said(series, levels)}", WIDTH, HEIGHT, "chart")
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = at(first, share * top)[1]
        _add(svg, "line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
        _add(svg, "text", _number(share * top), x=_LEFT - 6, y=y + 4, class_="tick end")
    for x in _ticks(first, last):
        _add(svg, "text", _number(x), x=at(x, 0)[0], y=HEIGHT - _BOTTOM + 16, class_="tick middle")
    _add(svg, "text", x_label, x=(WIDTH + _LEFT) / 2, y=HEIGHT - 4, class_="tick middle")
    for i, level in enumerate(levels):
        y = at(first, level.y)[1]
        if level.low is not None and level.high is not None:
            upper, lower = at(first, level.high)[1], at(first, level.low)[1]
            _add(
                svg, "rect", x=_LEFT, y=upper, width=WIDTH - _LEFT - _RIGHT, height=max(lower - upper, 0), class_="band"
            )
        _tip(
            _add(svg, "line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_=f"level l{i % 2}"),
            _value(level.name, level),
        )
    for i, one in enumerate(series):
        group = _add(svg, "g", class_=f"c{i % COLOURS}")
        places = [at(p.x, p.y) for p in one.points]
        for point, (x, _) in zip(one.points, places, strict=True):
            if point.low is not None and point.high is not None:
                _add(
                    group, "line", x1=x, x2=x, y1=at(point.x, point.low)[1], y2=at(point.x, point.high)[1], class_="bar"
                )
        _add(group, "polyline", points=" ".join(f"{x},{y}" for x, y in places), class_="line")
        for point, (x, y) in zip(one.points, places, strict=True):
            _tip(
                _add(group, "circle", cx=x, cy=y, r=3.5),
                f"{one.name}, {x_label} {_number(point.x)}: {_value('', point)}",
            )
    return _markup(svg)


def stacked(title: str, bars: Sequence[tuple[str, Mapping[str, int]]], links: Mapping[tuple[str, str], str]) -> Markup:
    """Horizontal bars of counts, each as a whole of its own.

    Args:
        bars: label and counts by verdict, which is the class of a piece as well.
        links: address by (label, verdict).
    """
    row, left, right = 26, 40, 58
    svg = _svg(
        f"{title}: " + "; ".join(f"{label}: {_counts(counts)}" for label, counts in bars),
        WIDTH,
        row * len(bars) + 4,
        "chart",
    )
    if links:
        svg.set("role", "group")  # an image may hold no links
    for n, (label, counts) in enumerate(bars):
        total, x, y = sum(counts.values()), float(left), n * row + 4
        _add(svg, "text", label, x=left - 8, y=y + 15, class_="tick end")
        for verdict, count in counts.items():
            width = count / total * (WIDTH - left - right) if total else 0
            href = links.get((label, verdict))
            holder = svg if href is None else _add(svg, "a", href=href, aria_label=f"{label}: {count} {verdict}")
            piece = _add(
                holder, "rect", x=round(x, 1), y=y, width=round(width, 1), height=row - 6, class_=f"piece v-{verdict}"
            )
            _tip(piece, f"{verdict}: {count} of {total}")
            x += width
        _add(svg, "text", f"{total:,}", x=WIDTH - right + 6, y=y + 15, class_="tick")
    return _markup(svg)


def sparkline(title: str, values: Sequence[float | None], most: float | None = None) -> Markup:
    """A word-sized line; empty without two values."""
    there = [(i, value) for i, value in enumerate(values) if value is not None]
    if len(there) < 2:
        return Markup("")
    top = most if most is not None else max(value for _, value in there) or 1
    span = max(len(values) - 1, 1)
    places = [(round(2 + i / span * 76, 1), round(18 - min(value / top, 1) * 16, 1)) for i, value in there]
    svg = _svg(f"{title}: {', '.join(_number(value) for _, value in there)}", 80, 20, "spark")
    _add(svg, "polyline", points=" ".join(f"{x},{y}" for x, y in places), class_="line")
    _add(svg, "circle", cx=places[-1][0], cy=places[-1][1], r=2)
    return _markup(svg)


def graph(title: str, boxes: Sequence[Box], arrows: Sequence[tuple[str, str]]) -> Markup:
    """Boxes in their columns and rows, and arrows between their ids."""
    width, height, gap, step = 150, 40, 30, 54
    place = {box.id: (4 + box.column * (width + gap), 4 + box.row * step) for box in boxes}
    svg = _svg(
        f"{title}: {len(boxes)} artifacts",
        8 + (max((box.column for box in boxes), default=0) + 1) * (width + gap) - gap,
        8 + (max((box.row for box in boxes), default=0) + 1) * step,
        "graph",
    )
    svg.set("role", "group")
    for source, target in arrows:
        (x1, y1), (x2, y2) = place[source], place[target]
        x1, y1, y2 = x1 + width, y1 + height // 2, y2 + height // 2
        bend = max(abs(x2 - x1) / 2, 12) if x2 > x1 else 30
        _add(svg, "path", d=f"M{x1},{y1} C{x1 + bend},{y1} {x2 - bend},{y2} {x2},{y2}", class_="arrow")
    for box in boxes:
        x, y = place[box.id]
        holder = svg if box.href is None else _add(svg, "a", href=box.href)
        group = _add(holder, "g", class_=f"box {box.kind}".strip())
        _add(group, "rect", x=x, y=y, width=width, height=height, rx=6)
        for n, line in enumerate(box.lines[:2]):
            text = line if len(line) <= 23 else f"{line[:22]}…"
            _tip(_add(group, "text", text, x=x + 8, y=y + 16 + 15 * n, class_="name" if n == 0 else "fact"), line)
    return _markup(svg)


def _svg(label: str, width: float, height: float, class_: str) -> Element:
    return Element(
        "svg",
        {
            "viewBox": f"0 0 {width:g} {height:g}",
            "width": f"{width:g}",
            "height": f"{height:g}",
            "class": class_,
            "role": "img",
            "aria-label": label,
        },
    )


def _add(parent: Element, tag: str, text: str | None = None, **attributes: object) -> Element:
    """A child; ``class_`` and ``aria_label`` are spelled as Python can."""
    names = {"class_": "class", "aria_label": "aria-label"}
    child = SubElement(parent, tag, {names.get(name, name): _xml(str(value)) for name, value in attributes.items()})
    child.text = None if text is None else _xml(text)
    return child


def _tip(element: Element, text: str) -> None:
    """A title, which browsers show and screen readers read; before the text, where there is some."""
    SubElement(element, "title").text = _xml(text)


def _markup(svg: Element) -> Markup:
    svg.set("aria-label", _xml(svg.get("aria-label", "")))
    return Markup(tostring(svg, encoding="unicode"))  # the writer escapes texts and attributes


def _xml(text: str) -> str:
    """Without characters that no XML can hold."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _said(series: Sequence[Series], levels: Sequence[Level]) -> str:
    lines = [f"{one.name} {', '.join(_number(p.y) for p in one.points)}" for one in series]
    return "; ".join([*lines, *(f"{level.name} {_number(level.y)}" for level in levels)])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def _value(name: str, value: Point | Level) -> str:
    interval = "" if value.low is None or value.high is None else f" ({_number(value.low)} to {_number(value.high)})"
    return f"{name} {_number(value.y)}{interval}".strip()


def _number(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _nice(highest: float) -> float:
    """A round number above the highest value."""
    if highest <= 0:
        return 1.0
    size = 10.0 ** (len(str(int(highest))) - 1) if highest >= 1 else 0.1
    for step in (1, 2, 4, 5, 8, 10):
        if highest <= step * size:
            return step * size
    return 10 * size


def _ticks(first: float, last: float) -> list[float]:
    """At most eleven whole numbers."""
    count = int(last - first)
    step = max(1, -(-count // 10))
    return [first + i for i in range(0, count + 1, step)]
