"""A scene: where a concept stands, how it is held, what it wears, what is with it, and in which style all is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from namesake.errors import check_name
from namesake.picturebook.concept import Color, Concept, concept, number_of, sample_color
from namesake.picturebook.figures import BY_NAME, CATEGORIES, CORE
from namesake.picturebook.places import CORE_PLACES, PLACES

STYLES = ("plain", "sketch", "pixelart", "watercolor", "neon", "blueprint", "stainedglass", "oil")
"""Families of styles; each has a palette, a line and a grain of its own in every scene."""

WORN = ("hat", "crown", "partyhat", "scarf", "glasses", "bowtie", "balloon", "flag")
"""Things worn (the first six) or held (the last two)."""

RELATIONS = ("beside", "on", "in", "under")
"""Where the concept is, seen from the second thing."""


@dataclass(frozen=True)
class Style:
    """One member of a family of styles; `palette`, `line` and `grain` lie in 0..1."""

    name: str = "plain"
    palette: float = 0.5
    line: float = 0.5
    grain: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_name("style", self.name, STYLES)


@dataclass(frozen=True)
class Pose:
    """Where and how the concept stands.

    Attributes:
        turn: degrees, -25 to 25, clockwise.
        scale: 0.6 to 1.4; at 1 the figure's frame is 66 % of the picture.
        mirror: left and right exchanged.
        x, y: offset of the figure's middle from the usual place, in hundredths of the picture.
    """

    turn: float = 0.0
    scale: float = 1.0
    mirror: bool = False
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Worn:
    """Something worn or held and its color."""

    name: str
    color: Color

    def __post_init__(self) -> None:
        check_name("thing to wear", self.name, WORN)


@dataclass(frozen=True)
class Second:
    """A second thing, a full concept, and how the first stands to it."""

    concept: Concept
    relation: str
    mirror: bool = False

    def __post_init__(self) -> None:
        check_name("relation", self.relation, RELATIONS)


@dataclass(frozen=True)
class Scene:
    """Everything about a picture but its concept. `seed` lays out the place."""

    place: str = "studio"
    style: Style = field(default_factory=Style)
    pose: Pose = field(default_factory=Pose)
    worn: Worn | None = None
    second: Second | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_name("place", self.place, ("studio", *PLACES))


@dataclass(frozen=True)
class World:
    """Which categories and places a model knows.

    Attributes:
        categories: names, out of `CATEGORIES`.
        places: names, out of `PLACES`.
    """

    categories: tuple[str, ...] = tuple(category.name for category in CATEGORIES)
    places: tuple[str, ...] = tuple(PLACES)


FULL_WORLD = World()
SMALL_WORLD = World(CORE, CORE_PLACES)
"""Twenty-four categories and eight places: what the weights trained on two cores know."""


def sample_style(rng: np.random.Generator, name: str | None = None) -> Style:
    """A style; four in eleven are plain, since most prompts name none."""
    if name is None:
        name = STYLES[max(0, int(rng.integers(-3, len(STYLES))))]
    palette, line, grain = (float(v) for v in rng.uniform(0, 1, 3))
    return Style(name, palette, line, grain, int(rng.integers(2**31)))


def sample_pose(rng: np.random.Generator) -> Pose:
    """Turn, scale, mirror and offset, each over its whole range; most things are rather large, half of them stand upright."""
    turn = float(rng.uniform(-25, 25)) if rng.uniform() < 0.5 else 0.0
    scale = float(rng.triangular(0.6, 1.2, 1.4))
    room = 50 - 31 * scale
    x = float(rng.uniform(-room, room)) * 0.9
    return Pose(turn, scale, bool(rng.integers(2)), x, float(rng.uniform(-5, 5)))


def sample_second(rng: np.random.Generator, split: str, world: World, relation: str | None = None) -> Second:
    """A second thing from the same split; only what has an opening can have something in it, and where a world knows no such
    thing it stands beside."""
    relation = relation or RELATIONS[rng.integers(len(RELATIONS))]
    names = [n for n in world.categories if relation != "in" or BY_NAME[n].figure((0.5,) * 4).inside is not None]
    if not names:
        relation, names = "beside", list(world.categories)
    name = names[rng.integers(len(names))]
    return Second(concept(number_of(split, name, int(rng.integers(2000)))), relation, bool(rng.integers(2)))


def sample_easy_scene(rng: np.random.Generator, world: World = FULL_WORLD) -> Scene:
    """A scene that a model learns from first: one large thing, upright, in the middle, half in the studio, mostly plain."""
    place = "studio" if rng.uniform() < 0.5 else world.places[rng.integers(len(world.places))]
    style = sample_style(rng, "plain" if rng.uniform() < 0.7 else None)
    scale, x, y = (float(rng.uniform(*ends)) for ends in ((1.05, 1.35), (-4, 4), (-2, 2)))
    return Scene(place, style, Pose(scale=scale, x=x, y=y), seed=int(rng.integers(2**31)))


def sample_joined_scene(rng: np.random.Generator, split: str = "training", world: World = FULL_WORLD) -> Scene:
    """An easy scene that something joins: in six of ten a thing worn, in the others a second thing."""
    scene = sample_easy_scene(rng, world)
    if rng.uniform() < 0.6:
        return replace(scene, worn=Worn(WORN[rng.integers(len(WORN))], sample_color(rng)))
    return replace(scene, second=sample_second(rng, split, world))


def sample_scene(rng: np.random.Generator, split: str = "training", world: World = FULL_WORLD) -> Scene:
    """A scene as training sees them: a quarter in the studio, a quarter with something worn, a fifth with a second thing."""
    place = "studio" if rng.uniform() < 0.25 else world.places[rng.integers(len(world.places))]
    style, pose = sample_style(rng), sample_pose(rng)
    worn = Worn(WORN[rng.integers(len(WORN))], sample_color(rng)) if rng.uniform() < 0.25 else None
    second = sample_second(rng, split, world) if rng.uniform() < 0.2 else None
    return Scene(place, style, pose, worn, second, int(rng.integers(2**31)))
