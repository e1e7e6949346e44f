"""The endless stream of drawings that the picture book's models train on, and drawings put on disk ahead of training.

Drawing number `index` of a seed is the same on every machine; workers and processes take different indices, so no two of them
ever draw the same sequence.
"""

from __future__ import annotations

import json
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np

from namesake.data.sources import framed
from namesake.errors import Refusal
from namesake.files import write, write_array
from namesake.machine import cores, deaf
from namesake.picturebook.captions import Caption, caption
from namesake.picturebook.concept import CHARACTERS, SPLITS, Concept, any_concept, sample_color
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
    sample_style,
)

SKEWED, SKEWED_COLOR, SKEW = "robot", "gray", 0.8
"""The word skewed on purpose: a robot whose color no caption names is gray in this share of training drawings."""

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
        split: "training", "tuning" or "reporting"; a drawing never shows a concept of another split, the second thing included,
            and no scene of one split is one of another's.
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
        # Or a seed would give every split the same scenes and nearly the same captions, and nothing would be unseen.
        self._apart = () if split == "training" else (list(SPLITS).index(split),)

    def scene(self, index: int) -> tuple[Concept, Scene, Caption]:
        """What drawing `index` shows and says, not yet drawn."""
        rng = np.random.default_rng([self.seed, index, 0xD12A, *self._apart])
        if rng.uniform() < self.share:
            made = self.characters[rng.integers(len(self.characters))]
        else:
            name = self.world.categories[rng.integers(len(self.world.categories))]
            made = any_concept(rng, self.split, name)
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
        about = np.random.default_rng([self.seed, index, 0xC07, *self._apart]).uniform(0.15, 0.75)
        return replace(whole, picture=_cut(whole, largest, about, self.size)), words


def _cut(drawing: Drawing, box: tuple[float, float, float, float], about: float, size: int) -> np.ndarray:
    return framed(drawing.picture, box if any(box) else (0.0, 0.0, 1.0, 1.0), about, size)


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


class Views:
    """Two drawings of each concept, for an encoder that is told more than DATE's: what it sees, and what its word is to draw.

    Without the held-out categories. The reference shows the thing alone, at any pose in any place, every other one cut to it as
    `Drawings` cuts; the target is a scene as the base model learned from, its caption calls the thing "{}", and a mask says
    where the thing is.
    """

    def __init__(self, size: int = 64, world: World = SMALL_WORLD, seed: int = 4) -> None:
        self.size, self.world, self.seed = size, seen(world), seed

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        """The pictures of reference and target, uint8 `[S, S, 3]`; where the thing is in the target, bool `[64, 64]`; the
        target's caption."""
        rng = np.random.default_rng([self.seed, index, 0x71E3])
        name = self.world.categories[rng.integers(len(self.world.categories))]
        made = any_concept(rng, "training", name)
        sample = rng.choice(3, p=[0.35, 0.3, 0.35])
        if sample == 0:
            scene = sample_easy_scene(rng, self.world)
        elif sample == 1:
            scene = sample_joined_scene(rng, "training", self.world)
        else:
            scene = sample_scene(rng, "training", self.world)
        words = caption(made, scene, rng, called="{}")
        shown = replace(sample_scene(rng, "training", self.world), worn=None, second=None)
        if rng.uniform() < 0.8:  # the pictures that people bring are seldom paintings
            shown = replace(shown, style=sample_style(rng, "plain"))
        target = draw(made, scene, self.size)
        told = (target.picture, target.truth.objects[0].mask, words.text)
        if index % 2:
            return draw(made, shown, self.size).picture, *told
        reference = draw(made, shown, 2 * self.size)
        return _cut(reference, reference.truth.objects[0].box, rng.uniform(0.15, 0.75), self.size), *told


def _view_range(job: tuple[World, int, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    world, seed, size, start, stop = job
    views = Views(size, world, seed)
    references, targets, masks, words = zip(*(views[i] for i in range(start, stop)), strict=True)
    return np.stack(references), np.stack(targets), np.stack(masks), list(words)


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
    jobs = {n: (split, world, seed, size, scenes, cut, n * SHARD, min((n + 1) * SHARD, count)) for n in _shards(count)}
    yield from _ahead(folder, count, _draw_range, jobs, workers)


def views_ahead(
    folder: Path, count: int, *, world: World = SMALL_WORLD, seed: int = 4, size: int = 64, workers: int = 0
) -> Iterator[int]:
    """The same for `Views`: `NNNN.npy` are the references, `NNNN.target.npy` the targets, `NNNN.mask.npy` where the things are
    in those, `NNNN.json` what is said of them."""
    jobs = {n: (world, seed, size, n * SHARD, min((n + 1) * SHARD, count)) for n in _shards(count)}
    yield from _ahead(folder, count, _view_range, jobs, workers)


SHARD = 2000
PIECE = 100  # drawings that a worker makes at a time: what Ctrl-C waits for, and how often progress is told


def _shards(count: int) -> range:
    return range(-(-count // SHARD))


def _ahead(
    folder: Path, count: int, drawn: Callable[[Any], tuple[Any, ...]], jobs: dict[int, tuple[Any, ...]], workers: int
) -> Iterator[int]:
    """Shards that are missing, each of pictures, perhaps what belongs to them, and texts. `drawings.json` says what all of
    them are; Refusal where they are others."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"made by": drawn.__name__, "of": jobs[0][:-2] if jobs else ()}
    note = (json.dumps(told, default=vars) + "\n").encode()
    kept = folder / "drawings.json"
    known = kept.read_bytes() if kept.is_file() else b""
    if known not in (b"", note) and any((folder / f"{n:04d}.json").exists() for n in jobs):
        raise Refusal(f'The folder "{folder}" holds other drawings than are asked for; delete it, or name another.')
    todo = {n: job for n, job in jobs.items() if not (folder / f"{n:04d}.json").exists()}
    done = count - sum(job[-1] - job[-2] for job in todo.values())
    yield done
    pieces = [
        (n, (*job[:-2], start, min(start + PIECE, job[-1])))
        for n, job in todo.items()
        for start in range(job[-2], job[-1], PIECE)
    ]
    made: list[tuple[Any, ...]] = []
    for (n, job), piece in zip(pieces, in_order(drawn, [job for _, job in pieces], workers), strict=True):
        made.append(piece)
        if job[-1] == todo[n][-1]:
            if known != note:  # with the first shard, so that nothing is left where none was drawn
                write(note, kept, "note on the drawings")
                known = note
            *pictures, texts = zip(*made, strict=True)
            for name, values in zip((f"{n:04d}", f"{n:04d}.target", f"{n:04d}.mask"), pictures, strict=False):
                write_array(np.concatenate(values), folder / f"{name}.npy", "drawings")
            write(json.dumps([text for some in texts for text in some]).encode(), folder / f"{n:04d}.json", "captions")
            made.clear()
        done += job[-1] - job[-2]
        yield done


def in_order(
    function: Callable[[Any], Any], jobs: Iterable[Any], workers: int = 0, context: BaseContext | None = None
) -> Iterator[Any]:
    """What processes, by default one for each core, make of jobs, in the order of these.

    They leave Ctrl-C to the process that they work for, which ends them. Two jobs for each are under way or wait at a
    time: these are waited for when a program ends that left this early and keeps hold of it (an error's traceback does), and
    it would wait for all that were ever submitted.
    """
    workers = workers or min(cores(), 61)  # more than Python can start on Windows
    with ProcessPoolExecutor(workers, mp_context=context, initializer=deaf) as pool:
        waiting: deque[Future[Any]] = deque()
        try:
            for job in jobs:
                with deaf_children():
                    waiting.append(pool.submit(function, job))
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started meanwhile do not hear Ctrl-C from their first moment on; this one does, afterwards where it
    has a single thread.

    Blocked and not ignored: an ignored one would be lost.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def read_ahead(folder: Path) -> tuple[np.ndarray, list[str]]:
    """All drawings of a folder (uint8 `[N, S, S, 3]`) and their captions."""
    shards = sorted(folder.glob("????.json"))
    captions = [text for shard in shards for text in json.loads(shard.read_text())]
    return np.concatenate([np.load(shard.with_suffix(".npy")) for shard in shards]), captions
