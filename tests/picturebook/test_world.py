"""The world: what it holds, that every drawing is a function of its numbers, and that its truth is what was drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from namesake.errors import Refusal
from namesake.picturebook import concept as concepts
from namesake.picturebook.concept import CHARACTERS, SPLITS, Color, Concept, concept, number_of
from namesake.picturebook.draw import FRAME, draw
from namesake.picturebook.figures import CATEGORIES, CORE, FAMILIES
from namesake.picturebook.places import CORE_PLACES, PLACES
from namesake.picturebook.scene import (
    RELATIONS,
    SMALL_WORLD,
    STYLES,
    WORN,
    Pose,
    Scene,
    Second,
    Style,
    Worn,
    sample_scene,
    sample_second,
    sample_style,
)

VISIBLE = 8  # levels of 255 by which a pixel must change to count as changed
TO_PIXELS = FRAME * 64 / 100  # figure units to pixels of a 64-pixel drawing at scale 1

RED, BLUE, YELLOW, GREEN = (
    Color(name, hsv)
    for name, hsv in (
        ("red", (0.0, 0.85, 0.85)),
        ("blue", (0.61, 0.8, 0.8)),
        ("yellow", (0.14, 0.8, 0.97)),
        ("green", (0.35, 0.7, 0.6)),
    )
)


def some(category: str, index: int = 0, split: str = "tuning") -> Concept:
    return concept(number_of(split, category, index))


def bare(category: str, proportions: tuple[float, ...] = (0.5,) * 4) -> Concept:
    """A thing in three clearly different colors without pattern or patches."""
    made = some(category)
    plain = replace(made.pattern, kind="plain")
    return replace(made, colors=(RED, BLUE, YELLOW), pattern=plain, patches=(), proportions=proportions)  # type: ignore[arg-type]


def changed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other).max(-1) > VISIBLE


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """The mask and all pixels up to `by` away from it."""
    padded = np.pad(mask, by)
    side = range(2 * by + 1)
    return np.any([padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in side for x in side], axis=0)


def test_the_world_is_as_large_as_it_says():
    assert len({c.name for c in CATEGORIES}) >= 40
    assert len(FAMILIES) >= 8
    assert len(PLACES) >= 12
    assert len(STYLES) >= 8
    assert len(WORN) >= 6
    assert set(RELATIONS) == {"beside", "on", "in", "under"}
    assert len(CORE) == 24
    assert len(CORE_PLACES) == 8
    assert set(CORE_PLACES) < set(PLACES)
    assert {c.family for c in CATEGORIES if c.core} == set(FAMILIES)
    for one in CATEGORIES:
        assert len(set(one.words) - {one.name}) >= 2, one.name
        assert "thing" in one.hypernyms, one.name


def test_the_three_ranges_share_no_number():
    for one, other in combinations(SPLITS.values(), 2):
        assert one.stop <= other.start or other.stop <= one.start
    for split, numbers in SPLITS.items():
        for index in (0, 7, 2399):
            made = some("teapot", index, split)
            assert made.category == "teapot"
            assert made.number in numbers
    with pytest.raises(Refusal, match="no concept 1500000000"):
        concept(1_500_000_000)
    with pytest.raises(Refusal, match=r"no concept 2,500 of a category in reporting; 0 to 2,498"):
        number_of("reporting", "cat", 2500)
    for split, category, what in (("training", "dragon", "category"), ("holiday", "cat", "split")):
        with pytest.raises(Refusal, match=f"There is no {what}"):
            number_of(split, category, 0)


def test_a_scene_is_of_what_the_world_has():
    color = concept(number_of("tuning", "cat", 0)).colors[0]
    for wrong in (lambda: Scene("beech"), lambda: Style("watercolour"), lambda: Worn("cap", color)):
        with pytest.raises(Refusal, match=r"There is no .* choose one of"):
            wrong()


def test_a_number_always_means_the_same_thing():
    numbers = [number_of("reporting", category.name, 3) for category in CATEGORIES]
    before = [concept(number) for number in numbers]
    scenes = [sample_scene(np.random.default_rng(i), "reporting") for i in range(len(numbers))]
    drawn = [draw(*pair).picture for pair in zip(before, scenes, strict=True)]
    concepts.concept.cache_clear()
    concepts._figure.cache_clear()
    assert [concept(number) for number in reversed(numbers)] == before[::-1]
    for pair, picture in zip(zip(before, scenes, strict=True), drawn, strict=True):
        assert np.array_equal(draw(*pair).picture, picture)
    assert len({picture.tobytes() for picture in drawn}) == len(drawn)
    assert len(set(before)) == len(before)


@pytest.mark.parametrize("style", STYLES)
def test_every_size_shows_the_same(style):
    smalls, larges = [], []
    for i in range(4):
        rng = np.random.default_rng(i)
        made, scene = some(CATEGORIES[9 * i].name, i), sample_scene(rng, "tuning")
        scene = replace(scene, style=sample_style(rng, style))
        smalls.append(draw(made, scene, 64).picture.astype(float))
        larges.append(draw(made, scene, 128).picture.astype(float).reshape(64, 2, 64, 2, 3).mean((1, 3)))
    own = [float(np.abs(small - large).mean()) for small, large in zip(smalls, larges, strict=True)]
    others = [float(np.abs(smalls[i] - larges[j]).mean()) for i in range(4) for j in range(4) if i != j]
    assert max(own) < 8  # levels of 255; measured 0.4 to 5.7
    assert max(own) < 0.5 * min(others)


def test_a_drawing_has_a_caption():
    told = set()
    for number in range(8):
        scene = sample_scene(np.random.default_rng(number), "tuning")
        one, again = draw(some("cat", 3), scene), draw(some("cat", 3), scene, 96)
        assert one.caption == again.caption
        told.add(one.caption)
    assert len(told) == 8
    assert any("cat" in text for text in told)


@pytest.mark.parametrize("category", [c.name for c in CATEGORIES])
def test_every_proportion_shows(category):
    for axis in range(4):
        low, high = (
            draw(bare(category, tuple(end if i == axis else 0.5 for i in range(4))), Scene()).picture
            for end in (0.0, 1.0)
        )
        assert changed(low, high).sum() >= 150, f"proportion {axis}"


def across(made: Concept) -> list[float]:
    """The largest extent of each patch in pixels of a 64-pixel drawing at scale 1, measured on its smooth outline."""
    out = []
    for patch in made.patches:
        count = len(patch.shape)
        angles = np.arange(count) * 2 * np.pi / count
        radii = patch.radius * np.asarray(patch.shape)
        corners = np.stack([radii * np.cos(angles), radii * np.sin(angles)], -1)
        middles = (corners + np.roll(corners, 1, 0)) / 2
        # A quadratic Bezier curve from middle to middle, drawn towards the corner, passes here at its half.
        points = np.concatenate([middles, 0.25 * middles + 0.5 * corners + 0.25 * np.roll(middles, -1, 0)])
        out.append(float(np.hypot(*(points[:, None] - points).transpose(2, 0, 1)).max()) * TO_PIXELS)
    return out


def test_concepts_have_an_emblem_or_patches():
    assert {len(concept(SPLITS["reporting"].start + i).patches) for i in range(400)} == {1, 2, 3, 4}


def test_every_patch_is_8_pixels_across():
    assert min(size for i in range(400) for size in across(concept(SPLITS["reporting"].start + i))) >= 8


def test_colors_patches_and_patterns_change_what_is_drawn():
    made = bare("mug")
    patch = some("mug", 1).patches[0]
    plain = draw(made, Scene()).picture
    for other in (
        replace(made, colors=(GREEN, *made.colors[1:])),
        replace(made, colors=(made.colors[0], GREEN, made.colors[2])),
        replace(made, colors=(*made.colors[:2], GREEN)),
        replace(made, pattern=replace(made.pattern, kind="striped", color=YELLOW)),
        replace(made, patches=(replace(patch, x=0.0, y=0.0, color=YELLOW),)),
    ):
        assert changed(draw(other, Scene()).picture, plain).sum() >= 20


def test_four_characters_always_look_the_same():
    assert [made.name for made in CHARACTERS] == ["Tom", "Rex", "Pip", "Bruno"]
    for made in CHARACTERS:
        assert concept(made.number) == made
        assert not any(made.number in numbers for numbers in SPLITS.values())
        scene = Scene("beach", Style("oil", seed=4))
        assert np.array_equal(draw(concept(made.number), scene).picture, draw(made, scene).picture)


@pytest.mark.parametrize("pose", [Pose(), Pose(turn=20, scale=0.7, x=12), Pose(turn=-25, scale=1.4, mirror=True)])
def test_the_mask_is_where_the_thing_is_drawn(pose):
    for category in ("cat", "boat", "icecream", "windmill"):
        scene = Scene("underwater", Style(), pose, seed=5)  # where nothing throws a shadow
        drawing = draw(bare(category), scene)
        empty = draw(
            bare(category), replace(scene, pose=replace(pose, x=500))
        ).picture  # the same place, the thing outside
        seen = changed(drawing.picture, empty)
        thing = drawing.truth.objects[0]
        # A cat's whiskers are thinner than a pixel of the mask: 20 pixels of 638, the most of all categories.
        assert (seen & ~grown(thing.mask, 1)).sum() <= 0.04 * thing.mask.sum()
        assert (thing.mask & ~seen).sum() <= 0.02 * thing.mask.sum()
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 64
        assert np.abs(box - thing.box).max() <= 2 / 64
        assert (thing.turn, thing.scale, thing.mirror) == (pose.turn, pose.scale, pose.mirror)


@pytest.mark.parametrize("relation", RELATIONS)
def test_two_things_have_masks_of_their_own(relation):
    made, other = bare("cat"), bare("teapot" if relation != "in" else "bowl")
    scene = Scene(second=Second(other, relation), seed=3)
    drawing = draw(made, scene)
    one, two = drawing.truth.objects
    assert (one.concept, two.concept) == (made, other)
    assert not (one.mask & two.mask).any()
    assert min(one.mask.sum(), two.mask.sum()) > 60
    for recolored, own in (
        (draw(replace(made, colors=(GREEN, GREEN, GREEN)), scene), one),
        (draw(made, replace(scene, second=Second(replace(other, colors=(GREEN, GREEN, GREEN)), relation))), two),
    ):
        differs = changed(recolored.picture, drawing.picture)
        assert differs.sum() > 0.3 * own.mask.sum()
        assert not (differs & ~grown(own.mask, 1)).any()
    middles = [np.array([*(v.mean() for v in np.nonzero(thing.mask))]) for thing in (one, two)]
    down, right = (middles[0] - middles[1]) / 64
    assert {"beside": abs(right) > 0.3, "on": down < -0.1, "under": down > 0.1, "in": down < 0}[relation]


def test_what_is_worn_is_drawn_and_is_not_part_of_the_thing():
    made = bare("bear")
    alone = draw(made, Scene())
    for name in WORN:
        dressed = draw(made, Scene(worn=Worn(name, GREEN)))
        assert changed(dressed.picture, alone.picture).sum() >= 25, name
        assert not (dressed.truth.objects[0].mask & ~alone.truth.objects[0].mask).any(), name


def test_particular_styles_differ():
    made = bare("robot")
    for style in STYLES:
        one, other = (draw(made, Scene("city", Style(style, end, end, end, 1))).picture for end in (0.1, 0.9))
        assert changed(one, other).sum() >= 400, style


def test_the_example_pictures_are_reporting_concepts():
    examples = sorted((Path(concepts.__file__).parent / "examples").glob("*.png"))
    assert len(examples) >= 3
    for path in examples:
        told = json.loads(path.with_suffix(".json").read_text())
        made = concept(told["concept"])
        assert told["class"] == made.category
        assert made.kind.core
        assert made.number in SPLITS["reporting"]
        picture = np.asarray(Image.open(path).convert("RGB"))
        thing = draw(made, Scene(pose=Pose(scale=1.1)))  # the backdrop has another hue
        assert (~changed(picture, thing.picture))[thing.truth.objects[0].mask].mean() > 0.9


def test_a_world_without_openings_has_nothing_inside():
    """The four categories that an ablation's encoder sees have none."""
    world = replace(SMALL_WORLD, categories=("cat", "cactus", "lighthouse", "robot"))
    rng = np.random.default_rng(0)
    relations = {sample_second(rng, "training", world).relation for _ in range(100)}
    assert relations == set(RELATIONS) - {"in"}
