"""Captions: a small grammar that reads like what people type.

A caption names a varying part of the truth and leaves the rest out. Which parts it named is returned with it, since
measuring needs to know what was asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from namesake.picturebook.concept import COLORS, PATTERNS, Concept
from namesake.picturebook.figures import CATEGORIES
from namesake.picturebook.scene import RELATIONS, STYLES, WORN, Scene

Rng = np.random.Generator

COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet", "crimson", "ruby"),
    "orange": ("orange", "tangerine", "amber"),
    "yellow": ("yellow", "golden", "lemon"),
    "green": ("green", "emerald", "lime"),
    "teal": ("teal", "turquoise", "cyan"),
    "blue": ("blue", "navy", "azure"),
    "purple": ("purple", "violet", "lilac"),
    "pink": ("pink", "rose", "salmon"),
    "brown": ("brown", "chocolate", "tan"),
    "black": ("black", "ebony", "dark"),
    "gray": ("gray", "grey", "silver"),
    "white": ("white", "ivory", "snowy"),
}
PATTERN_WORDS: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy", "banded"),
    "spotted": ("spotted", "dotted", "speckled"),
    "checkered": ("checkered", "chequered", "checked"),
    "zigzag": ("zigzag", "wavy"),
    "starry": ("starry", "starred"),
    "hearts": ("heart", "hearted"),
}
PATTERN_NOUNS: dict[str, tuple[str, ...]] = {
    "striped": ("stripes", "bands"),
    "spotted": ("spots", "dots"),
    "checkered": ("checks", "squares"),
    "zigzag": ("zigzags", "waves"),
    "starry": ("stars",),
    "hearts": ("hearts",),
}
PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "by the sea", "on the sand", "at the seaside", "on holiday at the shore"),
    "forest": ("in the forest", "in the woods", "among the firs", "in a pine forest", "in the jungle"),
    "snow": ("in the snow", "in the snowy mountains", "in winter", "in the alps", "on the ice"),
    "city": ("in the city", "in the street", "downtown", "in town", "on the road", "among skyscrapers"),
    "desert": ("in the desert", "on a dune", "in the sahara", "among rocks"),
    "underwater": ("underwater", "under the sea", "in the ocean", "in deep water", "on the seabed"),
    "space": ("in space", "on the moon", "in outer space", "among the planets", "in the galaxy"),
    "kitchen": ("in the kitchen", "on a table", "on the kitchen counter", "on a wooden table"),
    "meadow": ("in a meadow", "in the grass", "in the park", "in a field", "in the garden", "in spring"),
    "sunset": ("at sunset", "at dusk", "in the evening", "at dawn", "at sunrise"),
    "night": ("at night", "in the dark", "under the moonlight", "at midnight"),
    "bedroom": ("in the bedroom", "in a room", "at home", "on the rug", "indoors"),
}
STYLE_TAGS: dict[str, tuple[str, ...]] = {
    "plain": ("flat illustration", "storybook", "cartoon", "clipart"),
    "sketch": ("sketch", "pencil drawing", "pencil", "doodle"),
    "pixelart": ("pixel art", "pixelated", "retro game", "pixels"),
    "watercolor": ("watercolor", "watercolour", "aquarelle", "gouache"),
    "neon": ("neon", "glowing lights", "neon sign"),
    "blueprint": ("blueprint", "technical drawing", "schematic"),
    "stainedglass": ("stained glass", "mosaic", "glass window"),
    "oil": ("oil painting", "oil", "canvas", "impressionist"),
}
STYLE_OPENINGS: dict[str, tuple[str, ...]] = {
    "plain": ("a storybook illustration of", "a cartoon of", "a flat illustration of"),
    "sketch": ("a sketch of", "a pencil drawing of", "a doodle of"),
    "pixelart": ("pixel art of", "a pixel art picture of", "a retro game sprite of"),
    "watercolor": ("a watercolor of", "a watercolor painting of", "an aquarelle of"),
    "neon": ("a neon sign of", "a glowing neon picture of"),
    "blueprint": ("a blueprint of", "a technical drawing of", "a schematic of"),
    "stainedglass": ("a stained glass window of", "a mosaic of", "stained glass of"),
    "oil": ("an oil painting of", "an impressionist painting of"),
}
OPENINGS = ("a picture of", "a drawing of", "an image of", "an illustration of", "a photo of")
WORN_NOUNS: dict[str, tuple[str, ...]] = {
    "hat": ("hat", "top hat", "cylinder"),
    "crown": ("crown", "tiara"),
    "partyhat": ("party hat", "birthday hat"),
    "scarf": ("scarf", "shawl"),
    "glasses": ("glasses", "spectacles", "goggles"),
    "bowtie": ("bow tie", "bow", "ribbon"),
    "balloon": ("balloon",),
    "flag": ("flag", "banner"),
}
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "beside": ("beside", "next to", "with", "and", "near"),
    "on": ("on", "on top of", "atop"),
    "in": ("in", "inside", "sitting in"),
    "under": ("under", "below", "beneath"),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
TURN_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("leaning left", "tilted left"),
    "right": ("leaning right", "tilted right"),
}
SIDE_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "to the left"),
    "right": ("on the right", "to the right"),
}


@dataclass(frozen=True)
class Caption:
    """A caption and what it named: a subset of category, color, second color, third color, pattern, patches, worn, place,
    style, relation, size, turn, side, name."""

    text: str
    named: frozenset[str]


def _pick(rng: Rng, options: tuple[str, ...], first: float = 0.6) -> str:
    """The first option (the plainest word) most often, the others alike."""
    return options[0] if len(options) == 1 or rng.uniform() < first else options[1 + rng.integers(len(options) - 1)]


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def size_of(scale: float) -> str:
    """The word for a scale: small below 0.8, big above 1.15, else nothing."""
    return "small" if scale < 0.8 else "big" if scale > 1.15 else ""


def noun_phrase(
    made: Concept, rng: Rng, share: float, named: set[str], *, article: bool = True, plain_noun: bool = False
) -> str:
    """What a thing is called.

    Args:
        made: the thing.
        rng: chance.
        share: how likely each attribute is named, 0 (the bare noun) to 1 (all that words can say).
        named: what was named is added here.
        article: whether an article leads.
        plain_noun: always the category's own noun, never a synonym or a hypernym.
    """

    def says(what: str, weight: float = 1.0) -> bool:
        if rng.uniform() < share * weight or share >= 1:
            named.add(what)
            return True
        return False

    if made.name and rng.uniform() < 0.7:
        named.update({"category", "name"})
        return made.name.lower() if rng.uniform() < 0.4 else f"{made.name.lower()} the {made.category}"
    kind = made.kind
    if plain_noun or rng.uniform() < 0.93:
        named.add("category")
        noun = kind.name if plain_noun else _pick(rng, (kind.name, *kind.words), 0.62)
    else:
        noun = kind.hypernyms[rng.integers(len(kind.hypernyms))]
    words = []
    main, second, third = (_pick(rng, COLOR_WORDS[c.name], 0.8) for c in made.colors)
    if says("color"):
        if says("second color", 0.3):
            words.append(f"{main}, {second} and {third}" if says("third color", 0.4) else f"{main} and {second}")
        else:
            words.append(main)
    after = ""
    if made.pattern.kind == "plain":
        if says("pattern", 0.15):
            words.append(_pick(rng, PATTERN_WORDS["plain"]))
    elif says("pattern", 0.8):
        if rng.uniform() < 0.6:
            words.append(_pick(rng, PATTERN_WORDS[made.pattern.kind]))
        else:
            after = f" with {_pick(rng, COLOR_WORDS[made.pattern.color.name], 0.8)} {_pick(rng, PATTERN_NOUNS[made.pattern.kind])}"
    if says("patches", 0.2):
        patch = _pick(rng, COLOR_WORDS[made.patches[0].color.name], 0.8)
        what = _pick(rng, ("patches", "blotches")) if len(made.patches) > 1 else _article(patch)
        phrase = f"{patch} {what}" if len(made.patches) > 1 else f"{what} {_pick(rng, ('emblem', 'patch', 'badge'))}"
        after += f" and {phrase}" if after else f" with {phrase}"
    if rng.uniform() < 0.12 * share:
        words.insert(0, _pick(rng, ("cute", "lovely", "nice", "pretty", "funny"), 0.3))
    phrase = " ".join([*words, noun])
    return (_article(phrase) if article else phrase) + after


def caption(made: Concept, scene: Scene, rng: Rng, share: float | None = None, called: str | None = None) -> Caption:
    """A caption of a picture.

    Args:
        made: the concept.
        scene: its scene.
        rng: chance.
        share: how much it tells, 0..1; 1 is the fullest caption; None draws it afresh.
        called: what the thing is called, in the place of words for how it looks.
    """
    full = share is not None and share >= 1
    share = float(rng.choice([0.15, 0.5, 0.9], p=[0.25, 0.45, 0.30])) if share is None else share
    named: set[str] = set()

    def says(what: str, likely: float) -> bool:
        if full or rng.uniform() < likely:
            named.add(what)
            return True
        return False

    size = size_of(scene.pose.scale) if scene.second is None else ""
    article = not (size and says("size", 0.45))
    phrase = called or noun_phrase(made, rng, share, named, article=article, plain_noun=full)
    if not article:
        phrase = _article(f"{_pick(rng, SIZE_WORDS[size])} {phrase}")
    if abs(scene.pose.turn) > 8 and scene.second is None and says("turn", 0.25):
        phrase += " " + _pick(rng, TURN_WORDS["left" if scene.pose.turn < 0 else "right"])
    if scene.worn is not None and says("worn", 0.9):
        noun = _pick(rng, WORN_NOUNS[scene.worn.name])
        tint = f"{_pick(rng, COLOR_WORDS[scene.worn.color.name], 0.8)} " if full or rng.uniform() < 0.4 else ""
        thing = f"{tint}{noun}" if scene.worn.name == "glasses" else _article(f"{tint}{noun}")
        verb = ("holding", "with", "carrying") if scene.worn.name in ("balloon", "flag") else ("wearing", "with", "in")
        phrase += f" {_pick(rng, verb)} {thing}"
    if scene.second is not None and says("relation", 0.93):
        other: set[str] = set()
        phrase += f" {_pick(rng, RELATION_WORDS[scene.second.relation])} {noun_phrase(scene.second.concept, rng, 0.6 * share if not full else 0.5, other)}"
        if "category" in other:
            named.add("second category")
    tags = []
    if scene.place != "studio" and says("place", 0.92):
        where = _pick(rng, PLACE_PHRASES[scene.place], 0.5)
        if rng.uniform() < 0.75:
            phrase += " " + where
        else:
            tags.append(where if rng.uniform() < 0.5 else scene.place)
    side = "left" if scene.pose.x < -9 else "right" if scene.pose.x > 9 else ""
    if scene.second is None and side and says("side", 0.2):
        tags.append(_pick(rng, SIDE_PHRASES[side]))
    style = scene.style.name
    if says("style", 0.25 if style == "plain" else 0.92):
        if rng.uniform() < 0.45:
            phrase = f"{_pick(rng, STYLE_OPENINGS[style])} {phrase}"
        else:
            tags.append(_pick(rng, STYLE_TAGS[style], 0.65))
    elif rng.uniform() < 0.35:
        phrase = f"{OPENINGS[rng.integers(len(OPENINGS))]} {phrase}"
    return Caption(", ".join([phrase, *tags]), frozenset(named))


def words_of(text: str) -> list[str]:
    """The words of a caption, lower case, without punctuation."""
    return re.findall(r"[a-z]+", text.lower())


def vocabulary() -> tuple[str, ...]:
    """Every word that the grammar of the full world can say."""
    tables: list[dict[str, tuple[str, ...]]] = [
        COLOR_WORDS,
        PATTERN_WORDS,
        PATTERN_NOUNS,
        PLACE_PHRASES,
        STYLE_TAGS,
        STYLE_OPENINGS,
        WORN_NOUNS,
        RELATION_WORDS,
        SIZE_WORDS,
        TURN_WORDS,
        SIDE_PHRASES,
    ]
    texts = [text for table in tables for options in table.values() for text in options]
    texts += [" ".join((c.name, *c.words, *c.hypernyms)) for c in CATEGORIES]
    texts += [
        *OPENINGS,
        *PLACE_PHRASES,
        "patches blotches emblem patch badge cute lovely nice pretty funny holding with carrying",
    ]
    texts += ["wearing in the and an a", "tom rex pip bruno"]
    return tuple(dict.fromkeys(word for text in texts for word in words_of(text)))


for _table, _names in (
    (COLOR_WORDS, COLORS),
    (PATTERN_WORDS, PATTERNS),
    (STYLE_TAGS, STYLES),
    (WORN_NOUNS, WORN),
    (RELATION_WORDS, RELATIONS),
):
    assert set(_table) == set(_names), "every name has its words"
