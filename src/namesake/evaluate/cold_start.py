"""How well a method teaches a new word from one picture: likeness, agreement with the prompt, and copying.

The picture book knows the truth, so nothing is compared with the reference picture: each prompt asks for a scene, the
truth is the same concept drawn in that scene and style, and the judge says how alike the two are. Nothing here knows a
method: whoever measures brings arms, functions from one picture to an edit.

Axes: `Q` prompts of a concept, `S` seeds, `G` concepts of a gallery.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from namesake.errors import Refusal
from namesake.files import write
from namesake.picturebook.captions import (
    PLACE_PHRASES,
    RELATION_WORDS,
    SIDE_PHRASES,
    SIZE_WORDS,
    STYLE_OPENINGS,
    STYLE_TAGS,
    TURN_WORDS,
    WORN_NOUNS,
    noun_phrase,
)
from namesake.picturebook.concept import SPLITS, Concept, concept, number_of, sample_color
from namesake.picturebook.draw import Truth, draw
from namesake.picturebook.figures import CATEGORIES
from namesake.picturebook.judge import Judge, agreement, labels
from namesake.picturebook.scene import (
    STYLES,
    WORN,
    Pose,
    Scene,
    World,
    Worn,
    sample_pose,
    sample_second,
    sample_style,
)
from namesake.train.fit import finished

if TYPE_CHECKING:
    from namesake.backbone import Backbone
    from namesake.edits import Edit

WORD = "<it>"
GALLERY = 50
KINDS = (
    "place",
    "place and side",
    "style",
    "style and size",
    "worn",
    "second thing",
    "place and style",
    "place, worn and turn",
)

Arm = Callable[["Backbone", UInt8[Tensor, "1 H W 3"], str], "Edit"]
"""Makes an edit with the word `WORD` of a reference picture and the class word."""
Note = Callable[["Backbone", "Edit", UInt8[Tensor, "1 H W 3"], Concept], Mapping[str, Any]]
"""What to keep of an arm's edit beside its figures, in values that JSON can hold: of a model, an edit, the reference
picture and the concept."""


@dataclass(frozen=True)
class Question:
    """One prompt and the scene that it asks for.

    kind: one of `KINDS`. text: the prompt; {a} stands for the thing with its article, {bare} for the thing without.
    scene: what the prompt asks; what it leaves open is plain, upright and in the studio. heads: those of the judge's
    heads that the prompt asks for. unlike: those of them in which the reference differs.
    """

    kind: str
    text: str
    scene: Scene
    heads: tuple[str, ...]
    unlike: tuple[str, ...] = ()

    def prompt(self, word: str) -> str:
        """The prompt for a new word, which stands with or without an article alike."""
        return self.text.format(a=word, bare=word)

    def about(self, phrase: str) -> str:
        """The prompt for words, such as "red cat"."""
        article = "an" if phrase[0] in "aeiou" else "a"
        return self.text.format(a=f"{article} {phrase}", bare=phrase)


def evenly(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """So many of some names, evenly through their order; all of them where `count` is 0 or not less."""
    return tuple(names[i * len(names) // count] for i in range(count)) if 0 < count < len(names) else names


def chosen(split: str, world: World, count: int) -> list[Concept]:
    """The concepts of a measurement, in the world's order: of each category as many as `count` gives, of fewer concepts
    than categories one of every so many, so that a small measurement does not see animals alone."""
    names = evenly(world.categories, count)
    return [concept(number_of(split, names[i % len(names)], i // len(names))) for i in range(count)]


def reference_of(made: Concept, world: World) -> Scene:
    """The scene of the one picture that a method sees: a place, any pose, a plain style, one thing only."""
    rng = np.random.default_rng([made.number, 0x4EF])
    place = world.places[rng.integers(len(world.places))]
    return Scene(place, sample_style(rng, "plain"), sample_pose(rng), seed=int(rng.integers(2**31)))


def questions(made: Concept, world: World, split: str) -> tuple[Question, ...]:
    """Eight prompts, one of each of `KINDS`; places and styles, and side, size and turn where asked, are other than the
    reference's."""
    rng = np.random.default_rng([made.number, 0xA5C])
    reference = reference_of(made, world)
    seen = labels(Truth(made, reference), world)
    places = [str(p) for p in rng.permutation([p for p in world.places if p != reference.place])[:4]]
    styles = [str(s) for s in rng.permutation([s for s in STYLES if s != reference.style.name])[:3]]
    worn = [str(w) for w in rng.permutation(WORN[:6])[:2]]

    def other(head: str, low: str, high: str) -> str:
        """The end of a range that the reference does not stand at."""
        end = {0: high, 2: low}.get(seen[head])
        return end or (low, high)[rng.integers(2)]

    side, size, turn = other("side", "left", "right"), other("size", "small", "big"), other("turn", "left", "right")
    phrases = [PLACE_PHRASES[place][0] for place in places]
    first, second, third = (sample_style(rng, name) for name in styles)
    things = [Worn(name, sample_color(rng)) for name in worn]
    beside = sample_second(rng, split, world, "beside")
    while beside.concept.category == made.category:  # of two cats the judge could not say which is meant
        beside = sample_second(rng, split, world, "beside")
    other_thing = noun_phrase(beside.concept, rng, 0.0, set(), plain_noun=True)

    def scene(**asked: Any) -> Scene:
        return replace(Scene(style=sample_style(rng, "plain"), seed=int(rng.integers(2**31))), **asked)

    wearing = [f"wearing {thing(name)}" for name in worn]
    pose = {
        "side": Pose(x=-15.0 if side == "left" else 15.0),
        "size": Pose(scale=0.68 if size == "small" else 1.3),
        "turn": Pose(turn=-17.0 if turn == "left" else 17.0),
    }
    return (
        Question(KINDS[0], f"{{a}} {phrases[0]}", scene(place=places[0]), ("place",), ("place",)),
        Question(
            KINDS[1],
            f"{{a}} {phrases[1]}, {SIDE_PHRASES[side][0]}",
            scene(place=places[1], pose=pose["side"]),
            ("place", "side"),
            ("place", "side"),
        ),
        Question(KINDS[2], f"{STYLE_OPENINGS[styles[0]][0]} {{a}}", scene(style=first), ("style",)),
        Question(
            KINDS[3],
            f"a {SIZE_WORDS[size][0]} {{bare}}, {STYLE_TAGS[styles[1]][0]}",
            scene(style=second, pose=pose["size"]),
            ("style", "size"),
            ("size",),
        ),
        Question(KINDS[4], f"{{a}} {wearing[0]}", scene(worn=things[0]), ("worn",)),
        Question(
            KINDS[5],
            f"{{a}} {RELATION_WORDS['beside'][1]} {other_thing}",
            scene(second=beside),
            ("relation", "second category"),
        ),
        Question(
            KINDS[6],
            f"{{a}} {phrases[2]}, {STYLE_TAGS[styles[2]][0]}",
            scene(place=places[2], style=third),
            ("place", "style"),
            ("place",),
        ),
        Question(
            KINDS[7],
            f"{{a}} {TURN_WORDS[turn][0]} {wearing[1]} {phrases[3]}",
            scene(place=places[3], worn=things[1], pose=pose["turn"]),
            ("place", "worn", "turn"),
            ("place", "turn"),
        ),
    )


def thing(worn: str) -> str:
    """A worn thing as a caption says it."""
    noun = WORN_NOUNS[worn][0]
    return noun if worn == "glasses" else f"a {noun}"


class Ruler:
    """Measures pictures of one concept against the truth.

    Args:
        judge: whose eyes.
        made: the concept.
        world: of the prompts.
        split: of the gallery.
        asked: the prompts.
    """

    def __init__(self, judge: Judge, made: Concept, world: World, split: str, asked: Sequence[Question]) -> None:
        self.judge, self.asked = judge, asked
        self.reference = labels(Truth(made, reference_of(made, world)), judge.world)
        self.truths = [Truth(made, question.scene) for question in asked]
        self.wanted = [labels(truth, judge.world) for truth in self.truths]
        self.drawn = np.stack([draw(made, question.scene).picture for question in asked])
        own = (made.number - SPLITS[split].start) // len(CATEGORIES)
        others = (concept(number_of(split, made.category, i)) for i in range(GALLERY) if i != own)
        gallery = [made, *list(others)[: GALLERY - 1]]
        self.gallery = torch.stack([self._drawn(gallery, question.scene) for question in asked])  # [Q, G, 128]

    def _drawn(self, gallery: Sequence[Concept], scene: Scene) -> Float[Tensor, "G 128"]:
        drawings = [draw(one, scene) for one in gallery]
        pictures = torch.from_numpy(np.stack([one.picture for one in drawings]))
        if scene.second is None:
            return self.judge.identity(pictures)
        boxes = torch.tensor([one.truth.objects[0].box for one in drawings], dtype=torch.float32)
        return self.judge.identity(pictures, boxes)

    def cosines(self, pictures: UInt8[Tensor, "N H W 3"], which: Sequence[int]) -> Float[Tensor, "N G"]:
        """How like each picture is to each concept of the gallery, drawn as its prompt (`which`) asks.

        Beside a second thing the concept may stand left or right. The side is taken that is more like the category,
        the mean over the gallery, so that no concept of it is favoured.
        """
        out = torch.empty(len(which), self.gallery.shape[1])
        places = torch.tensor(which)
        for place in sorted(set(which)):
            rows = places == place
            second = self.asked[place].scene.second is not None
            if not second:
                out[rows] = self.judge.identity(pictures[rows]) @ self.gallery[place].T
                continue
            left, top, right, bottom = self.truths[place].objects[0].box
            sides = []
            for box in ((left, top, right, bottom), (1 - right, top, 1 - left, bottom)):
                boxes = torch.tensor([box] * int(rows.sum()), dtype=torch.float32)
                sides.append(self.judge.identity(pictures[rows], boxes) @ self.gallery[place].T)
            likely = sides[0].mean(dim=1) >= sides[1].mean(dim=1)
            out[rows] = torch.where(likely[:, None], sides[0], sides[1])
        return out

    def measure(self, pictures: UInt8[Tensor, "N H W 3"], which: Sequence[int]) -> dict[str, Any]:
        """Figures of pictures; `which` says the prompt of each.

        Returns lists, one value for each picture: `likeness`, the cosine with the truth; `rank` of the truth among the
        gallery, 1 is best; for each head that some prompt asks `agrees`, 1, 0 or None where it is not asked; `copied`
        the same for the reference's place (place) and for its side, size or turn (pose).
        """
        cosines = self.cosines(pictures, which)
        reading = self.judge.judge(pictures)
        right = agreement(reading, [self.wanted[place] for place in which])
        said = {head: scores.argmax(dim=-1).tolist() for head, scores in reading.items()}
        agrees: dict[str, list[int | None]] = {}
        heads = ["category", *dict.fromkeys(head for question in self.asked for head in question.heads)]
        for head in heads:
            agrees[head] = [
                None if (head != "category" and head not in self.asked[place].heads) or np.isnan(value) else int(value)
                for place, value in zip(which, right[head].tolist(), strict=True)
            ]
        copied: dict[str, list[int | None]] = {"place": [], "pose": []}
        for row, place in enumerate(which):
            unlike = self.asked[place].unlike
            poses = [head for head in unlike if head != "place"]
            copied["place"].append(int(said["place"][row] == self.reference["place"]) if "place" in unlike else None)
            copied["pose"].append(
                int(any(said[head][row] == self.reference[head] for head in poses)) if poses else None
            )
        return {
            "likeness": [round(value, 4) for value in cosines[:, 0].tolist()],
            "rank": (1 + (cosines > cosines[:, :1]).sum(dim=1)).tolist(),
            "agrees": agrees,
            "copied": copied,
        }


@lru_cache(maxsize=1)
def ruler_of(judge: Judge, made: Concept, world: World, split: str) -> Ruler:
    """The ruler of a concept, with its own questions. The last one is kept: its gallery is 400 drawings, so arms that
    are measured one by one would pay more for it than for their own pictures."""
    return Ruler(judge, made, world, split, questions(made, world, split))


def measure_concept(
    backbone: "Backbone",
    judge: Judge,
    arms: Mapping[str, Arm],
    made: Concept,
    world: World,
    split: str,
    *,
    seeds: int = 2,
    steps: int = 15,
    bounds: bool = True,
    note: Note | None = None,
) -> tuple[dict[str, Any], dict[str, UInt8[np.ndarray, "Q H W 3"]], UInt8[np.ndarray, "H W 3"]]:
    """All arms of one concept, and the bounds where they are wanted; `note` says what to keep of each arm's edit.

    Returns the figures, the first seed's pictures of each arm, and the reference.
    """
    from namesake.generate import generate

    reference = draw(made, reference_of(made, world)).picture
    ruler = ruler_of(judge, made, world, split)
    asked = ruler.asked
    which = [place for place in range(len(asked)) for _ in range(seeds)]
    once = list(range(len(asked)))
    rng = np.random.default_rng([made.number, 0xF11])
    fullest = noun_phrase(made, rng, 1.0, set(), article=False, plain_noun=True)
    results: dict[str, Any] = {}
    shown: dict[str, UInt8[np.ndarray, "Q H W 3"]] = {}
    seconds: dict[str, float] = {}
    notes: dict[str, Any] = {}

    def judged(name: str, pictures: np.ndarray, places: list[int]) -> None:
        results[name] = ruler.measure(torch.from_numpy(pictures), places)
        shown[name] = pictures[:: len(places) // len(asked)]

    def generated(name: str, prompts: list[str], edit: "Edit | None") -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            drawn = generate(backbone, prompts, edit, count=seeds, seed=made.number % 2**31, steps=steps)
        judged(name, np.stack([one.pixels for one in drawn]), which)

    if bounds:
        through = backbone.decode(backbone.encode(torch.from_numpy(ruler.drawn)))
        judged("truth through the autoencoder", through.numpy(), once)
        judged("copy of the reference", np.stack([reference] * len(asked)), once)
        generated("class word", [question.about(made.category) for question in asked], None)
        generated("fullest description", [question.about(fullest) for question in asked], None)
    picture = torch.from_numpy(reference)[None]
    for name, arm in arms.items():
        begun = time.perf_counter()
        edit = finished(arm(backbone, picture, made.category))
        seconds[name] = round(time.perf_counter() - begun, 2)
        if note is not None:
            notes[name] = dict(note(backbone, edit, picture, made))
        generated(name, [question.prompt(WORD) for question in asked], edit)
    figures = {
        "concept": made.number,
        "category": made.category,
        "description": fullest,
        "prompts": [question.prompt(WORD) for question in asked],
        "seeds": seeds,
        "seconds": seconds,
        "notes": notes,
        "arms": results,
    }
    return figures, shown, reference


def mark_of(backbone: "Backbone", judge: Judge) -> str:
    """A short name of the models that figures depend on: those which draw, which say what a picture shows, the judge."""
    from namesake.edits import sketch
    from namesake.edits.base import strided_values

    found = hashlib.sha256()
    eyes = [one for one in (backbone.vae, getattr(backbone.pipeline, "image_encoder", None)) if one is not None]
    for values in (sketch(backbone), judge.sketch(), *(strided_values(one, 16) for one in eyes)):
        found.update(values.numpy().tobytes())
    return found.hexdigest()[:16]


def key_of(mark: str, told: Any) -> str:
    """A short name of everything that figures depend on: the models' mark, and what is `told` of the rest, in values that
    JSON can hold."""
    return hashlib.sha256(json.dumps([mark, told], sort_keys=True).encode()).hexdigest()[:16]


def measure(
    backbone: "Backbone",
    judge: Judge,
    arms: Mapping[str, Arm],
    folder: Path,
    world: World,
    *,
    concepts: int = 24,
    split: str = "reporting",
    seeds: int = 2,
    steps: int = 15,
    settings: Mapping[str, Any] | None = None,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], object] | None = None,
) -> list[dict[str, Any]]:
    """Measure arms on so many concepts of all categories; each concept's figures and sheet are written as soon as they are
    known, under the concept's number and a mark of the model, arms and settings.

    A concept whose file is there already is not measured again; `settings` are whatever the arms were made with, in values
    that JSON can hold. `part` (k, n) takes every n-th concept from the k-th
    on, so that n processes can share the work and a last one without parts finds all of it done.
    """
    told = [sorted(arms), settings, seeds, steps, split, world.categories, world.places]
    key = key_of(mark_of(backbone, judge), told)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    made = chosen(split, world, concepts)[part[0] :: part[1]]
    for place, one in enumerate(made):
        path = folder / f"{one.number}-{key}.json"
        if not path.exists():
            known, shown, reference = measure_concept(
                backbone, judge, arms, one, world, split, seeds=seeds, steps=steps
            )
            save_sheet(path.with_suffix(".png"), known, shown, reference)
            write(json.dumps(known).encode(), path, "measurement")
        results.append(json.loads(path.read_text()))
        if progress is not None:
            progress(place + 1, len(made))
    return results


def part_of(told: str) -> tuple[int, int]:
    """Which of how many parts "1/2" is; Refusal where it is none."""
    number, _, of = told.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise Refusal(f"The part is '{told}'; the first of two is 0/2, the second 1/2.")
    return int(number), int(of)


def save_sheet(
    path: Path,
    figures: Mapping[str, Any],
    shown: Mapping[str, UInt8[np.ndarray, "Q H W 3"]],
    reference: UInt8[np.ndarray, "H W 3"],
) -> None:
    """What `measure_concept` returns, as a picture: the reference, and a row of its prompts for each arm."""
    from namesake.sheet import contact_sheet, save_png

    rows: list[list[Any]] = [[reference if n == 0 else None, *shown[name]] for n, name in enumerate(shown)]
    titles = ["reference", *figures["prompts"]]
    sheet = contact_sheet(rows, titles, list(shown), title=f"{figures['category']}: {figures['description']}")
    save_png(np.asarray(sheet), path)


# ------------------------------------------------------------------------------------------------------------- figures
def by_concept(results: Sequence[Mapping[str, Any]], figure: str) -> dict[str, Float[np.ndarray, "K"]]:
    """One figure of every arm, the mean of each concept's pictures.

    figure: "likeness", "rank 1" (share), "prompt" (share of what was asked, category aside), "place copied" and "pose
    copied" (shares), or a head (share). Of `condensed` results those of `FIGURES`.
    """

    def of(arm: Mapping[str, Any]) -> float:
        if "means" in arm:
            mean = arm["means"][figure]
            return float("nan") if mean is None else mean
        if figure == "likeness":
            values: list[Any] = arm["likeness"]
        elif figure == "rank 1":
            values = [rank == 1 for rank in arm["rank"]]
        elif figure == "prompt":
            heads = [rows for head, rows in arm["agrees"].items() if head != "category"]
            values = [value for rows in heads for value in rows if value is not None]
        elif figure.endswith(" copied"):
            values = [value for value in arm["copied"][figure.split()[0]] if value is not None]
        else:
            values = [value for value in arm["agrees"][figure] if value is not None]
        return float(np.mean(values)) if values else float("nan")

    if not results:
        raise Refusal("There are no results; measure at least one concept.")
    return {name: np.array([of(one["arms"][name]) for one in results]) for name in results[0]["arms"]}


DRAWS = 10_000  # of the bootstrap


def interval(values: Float[np.ndarray, "K"]) -> tuple[float, float, float]:
    """The mean over concepts and its 95 % interval by the bootstrap, whole concepts drawn at a time."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    chance = np.random.default_rng(0)
    means = values[chance.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def condensed(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a concept, of each arm the means alone, which is all that tables and intervals ask for."""
    arms: dict[str, Any] = {}
    for figure in FIGURES:
        for arm, (mean,) in by_concept([result], figure).items():
            arms.setdefault(arm, {"means": {}})["means"][figure] = None if np.isnan(mean) else round(mean, 5)
    return {**{name: result[name] for name in ("concept", "category", "seconds", "notes")}, "arms": arms}


FIGURES = ("likeness", "rank 1", "category", "prompt", "place copied", "pose copied")


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """For each arm and figure the mean, its interval, and the paired difference from the class word with its own interval."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for figure in FIGURES:
        values = by_concept(results, figure)
        for name, one in values.items():
            mean, low, high = interval(one)
            gain, gain_low, gain_high = interval(one - values["class word"])
            out.setdefault(name, {})[figure] = {
                "mean": mean, "low": low, "high": high, "gain": gain, "gain low": gain_low, "gain high": gain_high
            }  # fmt: skip
    return out


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The summary in markdown: means with 95 % intervals; copying as what is above the class word's share."""
    made = summary(results)
    heads = ["", "likeness", "rank 1 of 50", "category", "prompt", "place copied", "pose copied", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, figures in made.items():
        cells = [name]
        for figure in FIGURES:
            one = figures[figure]
            if figure.endswith("copied"):
                cells.append(f"{one['gain']:+.0%} ({one['gain low']:+.0%} to {one['gain high']:+.0%})")
            elif figure == "likeness":
                cells.append(f"{one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})")
            else:
                cells.append(f"{one['mean']:.0%} ({one['low']:.0%} to {one['high']:.0%})")
        times = [one["seconds"][name] for one in results if name in one["seconds"]]
        cells.append(f"{np.mean(times):.1f}" if times else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paired(results: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> str:
    """What one arm has more than another on the same concepts, in markdown: means with 95 % intervals, shares in points."""
    shown = {name: by_concept(results, name) for name in ("likeness", "rank 1", "category", "prompt", "pose copied")}
    lines = ["| one less the other | " + " | ".join(shown) + " |", "|" + " --- |" * (len(shown) + 1)]
    for one, other in pairs:
        cells = []
        for figure, values in shown.items():
            factor, places = (1, 3) if figure == "likeness" else (100, 1)
            mean, low, high = (f"{factor * value:+.{places}f}" for value in interval(values[one] - values[other]))
            cells.append(f"{mean} ({low} to {high})")
        lines.append(f"| {one} less {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_kind(results: Sequence[Mapping[str, Any]]) -> str:
    """Rank 1 of 50 for each kind of prompt, in markdown."""
    lines = ["| rank 1 of 50 | " + " | ".join(KINDS) + " |", "|" + " --- |" * (len(KINDS) + 1)]
    for name in results[0]["arms"]:
        first = np.array([np.reshape(one["arms"][name]["rank"], (len(KINDS), -1)) == 1 for one in results])
        lines.append(f"| {name} | " + " | ".join(f"{share:.0%}" for share in first.mean(axis=(0, 2))) + " |")
    return "\n".join(lines)
