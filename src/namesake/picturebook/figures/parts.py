"""What a figure is: the outline of one category, in parts that the world colors.

A figure is drawn in a frame of 100 x 100 units, x to the right and y down. It stands on y = 96 and fills the frame:
its height or its width (the larger) is about 88 units. It faces the viewer or looks to the right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MAIN, SECOND, THIRD = "main", "second", "third"
"""The three separately colored roles of a concept; any other fill is a fixed color (`#rrggbb`) or `none`."""

DARK, LIGHT = "#2b2b33", "#fbf7ee"
"""Eyes, wheels, holes; glints, teeth, paper."""


@dataclass(frozen=True)
class Part:
    """One closed or open shape.

    Args:
        d: SVG path data in figure units (`ellipse`, `rounded` and `polygon` below write it).
        fill: `MAIN`, `SECOND`, `THIRD`, `#rrggbb` or `none`. The pattern and the patches lie on every `MAIN` part.
        line: width of the outline in figure units; 0 for none. Outlines survive 64 pixels from 2.0 upwards.
        ink: color of the outline: "" is the ordinary dark outline of the style; a role or `#rrggbb` paints a stroke (a tail,
            a string, a mouth) in that color.
    """

    d: str
    fill: str = MAIN
    line: float = 2.2
    ink: str = ""


@dataclass(frozen=True)
class Spot:
    """A place on a figure, in figure units: its centre and the width of what belongs there."""

    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Figure:
    """The parts of a thing, back to front, and the spots where other things attach.

    Args:
        parts: painted in this order.
        top: where a hat sits: the middle of its brim and its width.
        face: where glasses sit (the middle between the eyes; for things without eyes, the upper middle of the front).
        neck: where a scarf or bow tie sits.
        hand: where a held thing (flag, balloon, umbrella) is held, usually at the right edge; width is the held thing's.
        inside: the opening that another thing can stand in (mug, bowl, boat, basket...), or None. What stands inside is cut off
            below `inside.y` by the figure's own front.
        emblem: the middle of the largest free area of the main part, and the side of the largest square that fits there.
    """

    parts: tuple[Part, ...]
    top: Spot
    face: Spot
    neck: Spot
    hand: Spot
    emblem: Spot
    inside: Spot | None = None


Proportions = Sequence[float]
"""Four numbers in 0..1. Each, moved alone from 0 to 1, must change at least 150 of the 4,096 pixels of a 64-pixel drawing."""


@dataclass(frozen=True)
class Category:
    """A category of the world.

    Args:
        name: its plain English noun, one word of the vocabulary ("cat").
        family: one of the eight families.
        words: at least two synonyms or subtypes that captions may use in its place ("kitty", "tomcat").
        figure: draws the outline from four proportions.
        core: one of the 24 categories of the small world.
    """

    name: str
    family: str
    words: tuple[str, ...]
    figure: Callable[[Proportions], Figure]
    core: bool = False
    hypernyms: tuple[str, ...] = field(default=("thing",))


def lerp(low: float, high: float, t: float) -> float:
    """The value at `t` in 0..1 between two ends."""
    return low + (high - low) * t


def ellipse(cx: float, cy: float, rx: float, ry: float | None = None) -> str:
    """A closed ellipse (a circle when `ry` is left out)."""
    ry = rx if ry is None else ry
    return f"M{cx - rx:.2f} {cy:.2f}a{rx:.2f} {ry:.2f} 0 1 0 {2 * rx:.2f} 0a{rx:.2f} {ry:.2f} 0 1 0 {-2 * rx:.2f} 0z"


def rounded(x: float, y: float, width: float, height: float, radius: float = 0.0) -> str:
    """A closed rectangle with rounded corners; (x, y) is its upper left corner."""
    r = min(radius, width / 2, height / 2)
    return (
        f"M{x + r:.2f} {y:.2f}h{width - 2 * r:.2f}a{r:.2f} {r:.2f} 0 0 1 {r:.2f} {r:.2f}v{height - 2 * r:.2f}"
        f"a{r:.2f} {r:.2f} 0 0 1 {-r:.2f} {r:.2f}h{-(width - 2 * r):.2f}a{r:.2f} {r:.2f} 0 0 1 {-r:.2f} {-r:.2f}"
        f"v{-(height - 2 * r):.2f}a{r:.2f} {r:.2f} 0 0 1 {r:.2f} {-r:.2f}z"
    )


def polygon(*points: tuple[float, float]) -> str:
    """A closed polygon through the points."""
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + "z"
