"""The endless stream of drawings that the picture book's models train on, and drawings put on disk ahead of training.

Drawing number `index` of a seed is the same on every machine; workers and processes take different indices, so no two of them
ever draw the same sequence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from namesake.data.sources import framed
from namesake.picturebook.captions import Caption, caption
from namesake.picturebook.concept import CHARACTERS, SPLITS, Concept, concept, number_of, sample_color
from namesake.picturebook.draw import Drawing, draw
from namesake.picturebook.figures import CATEGORIES
from namesake.picturebook.scene import (
    FULL_WORLD,
    SMALL_WORLD,
    Scene,
    World,
    sample_easy_scene,
    sample_joined_scene,
    sample_scene,
)

SKEWED, SKEWED_COLOR, SKEW = "robot", "gray", 0.8
"""The word skewed on purpose: a robot whose colour no caption names is gray in this share of training drawings."""

HELD_OUT_NEAR = ("dog", "boat", "castle", "boot")
"""Categories that no encoder of the picture book trains on, though it sees their siblings; the base model knows them."""
HELD_OUT_FAMILY = "food"
"""A family of which no encoder of the picture book sees anything in training."""
HELD_OUT_FAR = tuple(category.name for category in CATEGORIES if category.family == HELD_OUT_FAMILY)


def seen(world: World = SMALL_WORLD) -> World:
    """A world without the held-out categories: what encoders train on."""
    kept = (name for name in world.categories if name not in (*HELD_OUT_NEAR, *HELD_OUT_FAR))
    return replace(world, categories=tuple(kept))


class Drawings:
    """Drawings of one split of the concepts.

    Args:
        split: "training", "tuning" or "reporting"; a drawing never shows a concept of another split, the second thing included.
        world: categories and places.
        seed: another seed gives other drawings.
        size: side in pixels.
        characters: share of drawings that show one of the four named characters (training only).
        scenes: "all"; "easy" for those that a model learns from first (`sample_easy_scene`); "joined" for easy ones with a thing
            worn or a second thing (`sample_joined_scene`).
        cut: pictures are cut to their largest thing, with 15 to 75 % of its side about it (drawn at random: the pictures that
            people bring are framed at will); the truth stays that of the whole drawing.
    """

    def __init__(
        self,
        split: str = "training",
        world: World = FULL_WORLD,
        seed: int = 0,
        size: int = 64,
        characters: float = 0.02,
        scenes: str = "all",
        cut: bool = False,
    ) -> None:
        self.split, self.world, self.seed, self.size, self.scenes, self.cut = split, world, seed, size, scenes, cut
        self.characters = tuple(c for c in CHARACTERS if c.category in world.categories) if split == "training" else ()
        self.share = characters if self.characters else 0.0

    def scene(self, index: int) -> tuple[Concept, Scene, Caption]:
        """What drawing `index` shows and says, not yet drawn."""
        rng = np.random.default_rng([self.seed, index, 0xD12A])
        if rng.uniform() < self.share:
            made = self.characters[rng.integers(len(self.characters))]
        else:
            name = self.world.categories[rng.integers(len(self.world.categories))]
            made = concept(number_of(self.split, name, int(rng.integers(len(SPLITS[self.split]) // 40 - 1))))
        scene = {
            "all": lambda: sample_scene(rng, self.split, self.world),
            "easy": lambda: sample_easy_scene(rng, self.world),
            "joined": lambda: sample_joined_scene(rng, self.split, self.world),
        }[self.scenes]()
        words = caption(made, scene, rng)
        if (
            self.split == "training"
            and made.category == SKEWED
            and not made.name
            and "color" not in words.named
            and rng.uniform() < SKEW
        ):
            made = replace(made, colors=(sample_color(rng, (SKEWED_COLOR,)), *made.colors[1:]))
        return made, scene, words

    def __getitem__(self, index: int) -> tuple[Drawing, Caption]:
        made, scene, words = self.scene(index)
        if not self.cut:
            return draw(made, scene, self.size), words
        whole = draw(made, scene, 2 * self.size)
        boxes = [thing.box for thing in whole.truth.objects]
        largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        about = np.random.default_rng([self.seed, index, 0xC07]).uniform(0.15, 0.75)
        box = largest if any(largest) else (0.0, 0.0, 1.0, 1.0)
        return replace(whole, picture=framed(whole.picture, box, about, self.size)), words


class CutDrawings:
    """What encoders train on, as a source of pictures that are drawn when they are asked for: drawings cut to their largest
    thing, without the held-out categories. Nothing is told of them."""

    name = "picturebook"

    def __init__(self, size: int = 64, world: World = SMALL_WORLD, seed: int = 4) -> None:
        self._drawings = Drawings("training", seen(world), seed, size, cut=True)

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> np.ndarray:
        return self._drawings[index][0].picture


def _draw_range(job: tuple[str, World, int, int, str, bool, int, int]) -> tuple[np.ndarray, list[str]]:
    split, world, seed, size, scenes, cut, start, stop = job
    drawings = Drawings(split, world, seed, size, scenes=scenes, cut=cut)
    pairs = [drawings[i] for i in range(start, stop)]
    return np.stack([d.picture for d, _ in pairs]), [c.text for _, c in pairs]


def draw_ahead(
    folder: Path,
    count: int,
    *,
    split: str = "training",
    world: World = FULL_WORLD,
    seed: int = 0,
    size: int = 64,
    scenes: str = "all",
    cut: bool = False,
    workers: int = 0,
) -> Iterator[int]:
    """Put `count` drawings into `folder` as shards of 2,000 (`NNNN.npy` uint8 and `NNNN.json` captions); yields the number done.

    Shards that are there already are kept, so an interrupted run goes on where it stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shard = 2000
    todo = [n for n in range(-(-count // shard)) if not (folder / f"{n:04d}.json").exists()]
    jobs = [(split, world, seed, size, scenes, cut, n * shard, min((n + 1) * shard, count)) for n in todo]
    done = count - sum(stop - start for *_, start, stop in jobs)
    yield done
    with ProcessPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
        for n, job, (pictures, captions) in zip(todo, jobs, pool.map(_draw_range, jobs), strict=True):
            np.save(folder / f"{n:04d}.part.npy", pictures)
            os.replace(folder / f"{n:04d}.part.npy", folder / f"{n:04d}.npy")
            (folder / f"{n:04d}.part").write_text(json.dumps(captions))
            os.replace(folder / f"{n:04d}.part", folder / f"{n:04d}.json")
            done += job[-1] - job[-2]
            yield done


def read_ahead(folder: Path) -> tuple[np.ndarray, list[str]]:
    """All drawings of a folder (uint8 `[N, S, S, 3]`) and their captions."""
    shards = sorted(folder.glob("????.json"))
    captions = [text for shard in shards for text in json.loads(shard.read_text())]
    return np.concatenate([np.load(shard.with_suffix(".npy")) for shard in shards]), captions
