"""A concept: one particular thing of the picture book, with more to it than words can say.

A concept is a number. `number % len(CATEGORIES)` is its category; everything else is drawn from a generator seeded by the
number, so a concept is the same on every machine, and a set of concepts is a set of numbers. Three disjoint ranges keep
training, the tuning of settings and reporting apart (`SPLITS`).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from namesake.errors import Refusal, check_name
from namesake.picturebook.figures import BY_NAME, CATEGORIES, Category, Figure

SPLITS: dict[str, range] = {
    "training": range(0, 1_000_000_000),
    "tuning": range(1_000_000_000, 1_000_100_000),
    "reporting": range(2_000_000_000, 2_000_100_000),
}
"""Numbers of the concepts that models train on, that settings are chosen on, and that results are reported on."""

_CHARACTER_BASE = 3_000_000_000


# name: hue in degrees, saturation, value; each a range. The gaps between them keep names unambiguous.
COLORS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-8, 7), (0.74, 0.95), (0.74, 0.92)),
    "orange": ((21, 33), (0.80, 0.97), (0.92, 1.0)),
    "yellow": ((46, 56), (0.62, 0.90), (0.94, 1.0)),
    "green": ((98, 145), (0.50, 0.82), (0.48, 0.74)),
    "teal": ((171, 188), (0.58, 0.85), (0.58, 0.80)),
    "blue": ((209, 232), (0.62, 0.90), (0.62, 0.90)),
    "purple": ((264, 286), (0.48, 0.75), (0.52, 0.80)),
    "pink": ((322, 344), (0.32, 0.58), (0.92, 1.0)),
    "brown": ((17, 28), (0.54, 0.72), (0.36, 0.52)),
    "black": ((0, 360), (0.0, 0.18), (0.13, 0.21)),
    "gray": ((0, 360), (0.0, 0.07), (0.48, 0.64)),
    "white": ((0, 360), (0.0, 0.06), (0.93, 1.0)),
}

PATTERNS = ("plain", "striped", "spotted", "checkered", "zigzag", "starry", "hearts")


@dataclass(frozen=True)
class Color:
    """A color of its own (hue, saturation and value in 0..1) and the word people use for it."""

    name: str
    hsv: tuple[float, float, float]

    @property
    def rgb(self) -> tuple[float, float, float]:
        """Red, green, blue in 0..1."""
        return colorsys.hsv_to_rgb(*self.hsv)

    @property
    def luma(self) -> float:
        """Rec. 601 luma in 0..1."""
        red, green, blue = self.rgb
        return 0.299 * red + 0.587 * green + 0.114 * blue


@dataclass(frozen=True)
class Pattern:
    """What covers the main part: its kind, color, tile side in figure units and turn in degrees."""

    kind: str
    color: Color
    tile: float
    turn: float


@dataclass(frozen=True)
class Patch:
    """A smooth blob: centre in figure units about the figure's emblem spot, mean radius, radii at equal angles, color."""

    x: float
    y: float
    radius: float
    shape: tuple[float, ...]
    color: Color


@dataclass(frozen=True)
class Concept:
    """One particular thing.

    Attributes:
        number: identifies it; see `SPLITS`.
        category: name of its category.
        colors: main, second and third color.
        pattern: on its main parts.
        patches: two to four patches, or a single larger emblem.
        proportions: four numbers in 0..1.
        name: a proper name for the four named characters, else "".
    """

    number: int
    category: str
    colors: tuple[Color, Color, Color]
    pattern: Pattern
    patches: tuple[Patch, ...]
    proportions: tuple[float, float, float, float]
    name: str = ""

    @property
    def kind(self) -> Category:
        """Its category, whole."""
        return BY_NAME[self.category]

    def figure(self) -> Figure:
        """Its outline."""
        return _figure(self.category, self.proportions)


@lru_cache(maxsize=4096)
def _figure(category: str, proportions: tuple[float, float, float, float]) -> Figure:
    return BY_NAME[category].figure(proportions)


def sample_color(rng: np.random.Generator, names: tuple[str, ...] = tuple(COLORS)) -> Color:
    """A color: first a name, all alike, then a place inside its region."""
    name = names[rng.integers(len(names))]
    hue, saturation, value = (rng.uniform(*ends) for ends in COLORS[name])
    return Color(name, ((hue / 360) % 1.0, saturation, value))


def _contrasting(rng: np.random.Generator, *others: Color, gap: float = 0.22) -> Color:
    """A color whose name differs from all others' and whose luma is at least `gap` from the first one's."""
    for _ in range(64):
        color = sample_color(rng)
        if color.name not in {o.name for o in others} and abs(color.luma - others[0].luma) >= gap:
            return color
    return color


_SMALLEST_PATCH = 19.0  # figure units: 8 pixels of 64 at scale 1


def _extent(shape: np.ndarray) -> float:
    """The largest distance between two points of a patch's outline of mean radius 1."""
    angles = np.arange(len(shape)) * 2 * np.pi / len(shape)
    corners = shape * np.exp(1j * angles)
    middles = (corners + np.roll(corners, 1)) / 2  # the outline runs from middle to middle, drawn towards the corners
    points = np.concatenate([middles, 0.25 * middles + 0.5 * corners + 0.25 * np.roll(middles, -1)])
    return float(np.abs(points[:, None] - points).max())


def _patch(
    rng: np.random.Generator, main: Color, pattern: Pattern, *, reach: float, radius: tuple[float, float]
) -> Patch:
    count = int(rng.integers(5, 9))
    angle, distance = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.uniform())
    shape = rng.uniform(0.62, 1.38, count)
    size = max(float(rng.uniform(*radius)), _SMALLEST_PATCH / _extent(shape))
    return Patch(
        x=float(distance * np.cos(angle)),
        y=float(distance * np.sin(angle)),
        radius=size,
        shape=tuple(float(v) for v in shape),
        color=_contrasting(rng, main, pattern.color, gap=0.15),
    )


def sample_concept(rng: np.random.Generator, number: int, category: str) -> Concept:
    """Everything about a concept but its category, drawn from `rng`."""
    main = sample_color(rng)
    second = _contrasting(rng, main, gap=0.12)
    third = _contrasting(rng, main, second, gap=0.12)
    # Half of all concepts are plain, so that patches and proportions carry identity as often as patterns do. A patterned one
    # bears one emblem; patches upon a pattern were a tangle at 64 pixels.
    kind = "plain" if rng.uniform() < 0.5 else PATTERNS[1 + rng.integers(len(PATTERNS) - 1)]
    pattern = Pattern(kind, _contrasting(rng, main, gap=0.25), float(rng.uniform(13, 24)), float(rng.uniform(0, 180)))
    if kind != "plain" or rng.uniform() < 0.4:
        patches: tuple[Patch, ...] = (_patch(rng, main, pattern, reach=6, radius=(11, 15)),)
    else:
        patches = tuple(_patch(rng, main, pattern, reach=32, radius=(9, 12.5)) for _ in range(rng.integers(2, 5)))
    proportions = tuple(float(v) for v in rng.uniform(0, 1, 4))
    return Concept(number, category, (main, second, third), pattern, patches, proportions)  # type: ignore[arg-type]


@lru_cache(maxsize=65536)
def concept(number: int) -> Concept:
    """The concept of a number.

    Raises:
        Refusal: for a number outside all `SPLITS` and not one of the named characters.
    """
    if number >= _CHARACTER_BASE and number - _CHARACTER_BASE < len(CHARACTERS):
        return CHARACTERS[number - _CHARACTER_BASE]
    if not any(number in numbers for numbers in SPLITS.values()):
        raise Refusal(f"There is no concept {number}; give a number in one of {dict(SPLITS)}.")
    return sample_concept(np.random.default_rng([number, 0x5EED]), number, CATEGORIES[number % len(CATEGORIES)].name)


def number_of(split: str, category: str, index: int) -> int:
    """The number of the `index`-th concept of a category in a split.

    Raises:
        Refusal: a split or a category that there is not, or an index below 0 or beyond the split.
    """
    names = [c.name for c in CATEGORIES]
    check_name("split", split, SPLITS)
    check_name("category", category, names)
    if not 0 <= index < count_of(split):
        raise Refusal(
            f"There is no concept {index:,} of a category in {split}; 0 to {count_of(split) - 1:,} are there."
        )
    numbers, order = SPLITS[split], names.index(category)
    first = numbers.start + (order - numbers.start) % len(CATEGORIES)
    return numbers[first - numbers.start + index * len(CATEGORIES)]


def count_of(split: str) -> int:
    """How many concepts a split has of every category; the last round of its numbers may not be whole."""
    return len(SPLITS[split]) // len(CATEGORIES) - 1


def any_concept(rng: np.random.Generator, split: str, category: str) -> Concept:
    """A concept of a category and a split, drawn at random."""
    return concept(number_of(split, category, int(rng.integers(count_of(split)))))


def _character(index: int, name: str, category: str, colors: tuple[str, str, str]) -> Concept:
    rng = np.random.default_rng([index, 0x7073])
    made = sample_concept(rng, _CHARACTER_BASE + index, category)
    fixed = tuple(sample_color(rng, (color,)) for color in colors)
    return replace(made, name=name, colors=fixed)  # type: ignore[arg-type]


CHARACTERS: tuple[Concept, ...] = (
    _character(0, "Tom", "cat", ("gray", "pink", "teal")),
    _character(1, "Rex", "dog", ("orange", "brown", "red")),
    _character(2, "Pip", "bird", ("yellow", "orange", "blue")),
    _character(3, "Bruno", "bear", ("brown", "yellow", "red")),
)
"""Four named characters that always look the same ("Tom the cat")."""
