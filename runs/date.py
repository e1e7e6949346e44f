"""DATE's claims on the picture book: `docs/date.md`.

    python runs/date.py --encoder E --cost               what all of it takes, by one measured unit
    python runs/date.py --train full,four,none           the encoders of the ablations, 40 thousand samples each
    python runs/date.py --choose                         LoRA's rate and best number of steps, on 8 tuning concepts
    python runs/date.py --encoder E --docs docs/date.md  32 reporting concepts x 8 prompts x 2 seeds

`--claims 1,2` measures what these claims need and nothing else. Two processes share the work with `--part 0/2` and
`--part 1/2`; the same command without a part then finds all measured and prints the tables, with `--docs PAGE` into the
marked place of a page as well, and with `--sheet PICTURE` it draws some of them. Whatever is there already is kept, so
every part of it can be stopped and taken up again: the figures of each arm and concept are a line of `--keep FILE`, by
default `figures.jsonl` in the folder, which can be carried to another machine. `--split tuning` measures other concepts
than are reported, where something is to be chosen.

Into the folder go `encoders/` (of the ablations, with `drawings/` that they see), `choice.json` (LoRA's), a sheet for
each arm and concept under `reporting/given/` (with the class word) and `reporting/read/` (with the word that the encoder
under test comes nearest to), and `summary.json`. What compares an encoder that is not trained yet is left out and said
to be not measured.
"""

import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from jaxtyping import UInt8
from torch import Tensor

from namesake.backbone import Backbone
from namesake.cli import script
from namesake.data.prompts import TEMPLATES
from namesake.data.sources import Mixture
from namesake.edits import Edit, SecondPath, TokenEdit
from namesake.errors import Refusal
from namesake.evaluate import claims
from namesake.evaluate.claims import LORA_STEPS, Taught
from namesake.evaluate.cold_start import (
    WORD,
    Arm,
    by_concept,
    condensed,
    key_of,
    mark_of,
    measure_concept,
    paired,
    part_of,
    questions,
    reference_of,
    ruler_of,
    save_sheet,
    table,
)
from namesake.generate import generate
from namesake.methods import date
from namesake.methods.date import Date, DateEncoder
from namesake.methods.lora import Lora
from namesake.picturebook.check import check_page, world_of, write_page
from namesake.picturebook.concept import Concept
from namesake.picturebook.dataset import draw_ahead
from namesake.picturebook.draw import draw
from namesake.picturebook.judge import Judge
from namesake.picturebook.scene import World
from namesake.recipes import COLD_START, method_of, pretrain_recipes, shipped_encoder, tuning_of
from namesake.sheet import contact_sheet, save_png
from namesake.train import pretrain, tune
from namesake.train.examples import sentences
from namesake.train.fit import Batch, finished
from namesake.train.tune import Method

# The encoders of the ablations: what differs from the recipe's settings, and how many categories they see (0 for all).
ENCODERS: dict[str, tuple[dict[str, Any], int]] = {
    "full": ({}, 0),
    "no-hypernetwork": ({"rank": 0}, 0),
    "nearest": ({"regularizer": "nearest"}, 0),
    "norm": ({"regularizer": "norm"}, 0),
    "none": ({"regularizer": "none"}, 0),
    "four": ({}, 4),
    "sixteen": ({}, 16),
}
SAMPLES = 40_000  # of each
DRAWINGS = 20_000  # so each is seen twice, of however many categories
RATES = (1e-3, 2e-3, 4e-3, 8e-3)  # LoRA's, to choose from
TIMED = 4  # concepts whose seconds are compared with LoRA's
WAYS = {"given": False, "read": True}  # where the class word comes from


@dataclass
class Bench:
    """What all measurements share. chosen: LoRA's rate and best number of steps. samples: that an ablation's encoder sees.
    needed: LoRA's lengths that one run keeps."""

    backbone: Backbone
    judge: Judge
    world: World
    out: Path
    tested: Path | None
    seeds: int
    steps: int  # of the scheduler
    chosen: dict[str, float]
    ledger: claims.Ledger
    samples: int = SAMPLES
    needed: Sequence[int] = LORA_STEPS
    _encoders: dict[str, DateEncoder] = field(default_factory=dict)
    _words: dict[bytes, str] = field(default_factory=dict)
    _run: tuple[Any, dict[int, Edit]] = field(default_factory=lambda: (None, {}))

    @cached_property
    def mark(self) -> str:
        return mark_of(self.backbone, self.judge)

    def path(self, what: str) -> Path:
        """The file of an encoder."""
        if what == "encoder":
            if self.tested is None:
                raise Refusal("No encoder was named to test; give its file with --encoder.")
            return self.tested
        path = self.place(what)
        if path is None:
            raise Refusal(f"The encoder '{what}' was not trained yet; do so with --train {what}.")
        return path

    def place(self, what: str) -> Path | None:
        """Where an ablation's encoder is, if it was trained; Refusal where it was otherwise than is asked for now. The
        shipped encoder of the paper's form is the full one, where it was trained as this one would be."""
        told = trained_as(what, self.world, self.samples)
        path = self.out / "encoders" / f"{what}.safetensors"
        if path.is_file():
            return _same(path, told)
        shipped = shipped_encoder("picturebook")
        return shipped if what == "full" and not _different(shipped, told) else None

    def encoder(self, what: str) -> DateEncoder:
        if what not in self._encoders:
            self._encoders[what] = DateEncoder.load(self.path(what), self.backbone)
        return self._encoders[what]

    def hard(self, picture: UInt8[Tensor, "1 H W 3"]) -> str:
        """The real word that the encoder under test comes nearest to."""
        key = picture.numpy().tobytes()
        if key not in self._words:
            edit = date.personalize(self.backbone, self.encoder("encoder"), picture, word=WORD, steps=0)
            self._words[key] = edit.about.class_word or ""
        return self._words[key]

    def arm(self, taught: Taught, read: bool = False, rate: float | None = None) -> Arm:
        """Makes the edits of an arm. read: the class word is not given, and all arms take the tested encoder's."""
        pace = self.chosen.get("rate", RATES[0]) if rate is None else rate

        def teach(backbone: Backbone, picture: UInt8[Tensor, "1 H W 3"], category: str) -> Edit:
            word = self.hard(picture) if read else category
            if taught.what == "LoRA":
                return self.lora(picture, word, pace, taught.steps)
            told: dict[str, Any] = {"word": WORD, "steps": taught.steps}
            if taught.what == "cold start":
                return tune.personalize(backbone, _cold(), picture, class_word=word, **told)
            settings = replace(_tuning(taught.what), blend=taught.blend)
            told |= {"class_word": None if read else word, "hard": word}
            edit = date.personalize(backbone, self.encoder(taught.what), picture, settings=settings, **told)
            if taught.drawn is None:
                return edit
            parts = [part for part in edit.parts if not isinstance(part, SecondPath)]
            return replace(edit, parts=(*parts, SecondPath(word, taught.drawn)))

        return teach

    def lora(self, picture: UInt8[Tensor, "1 H W 3"], word: str, rate: float, steps: int) -> Edit:
        """LoRA after some steps. Its rate stays, so that a shorter run is the beginning of a longer one: one run serves
        all, and its edits say after how many seconds they were there."""
        key = (picture.numpy().tobytes(), word, rate)
        if self._run[0] != key:
            seen: dict[int, Edit] = {}
            begun = time.perf_counter()

            def keep(done: int, edit: Edit) -> None:
                spent = {"seconds": round(time.perf_counter() - begun, 2)}
                seen[done] = replace(edit, about=replace(edit.about, settings={**edit.about.settings, **spent}))

            longest = max(*self.needed, steps)
            finished(
                tune.personalize(
                    self.backbone, _lora(rate), picture, word=WORD, class_word=word, steps=longest, strip=keep,
                    strip_at=sorted({*self.needed, steps}),
                )
            )  # fmt: skip
            self._run = (key, seen)
        return self._run[1][steps]

    def word(self, picture: UInt8[Tensor, "1 H W 3"], made: Concept, way: str) -> str:
        """The class word that an arm is told."""
        return self.hard(picture) if WAYS[way] else made.category

    def made_with(self, taught: Taught, word: str, read: bool, rate: float | None = None) -> dict[str, Any]:
        """All that an arm's figures depend on beside the models and the concept. Cold start and LoRA begin at the word
        that they are told, wherever it comes from; an encoder's own word begins elsewhere where the class is read."""
        told: dict[str, Any] = {"arm": taught.told(), "word": word}
        if taught.what == "cold start":
            return told | {"method": asdict(_cold())}
        if taught.what == "LoRA":
            return told | {"method": asdict(_lora(self.chosen.get("rate", RATES[0]) if rate is None else rate))}
        return told | {"method": asdict(_tuning(taught.what)), "encoder": self.identity(taught.what), "read": read}

    def identity(self, what: str) -> Any:
        """What tells an encoder from others: its file, or how an ablation's was trained, which can be done again."""
        if what == "encoder":
            return hashlib.sha256(self.path(what).read_bytes()).hexdigest()[:16]
        return trained_as(what, self.world, self.samples)

    def key(self, split: str, made: Concept, told: Any) -> str:
        fixed = [self.seeds, self.steps, self.world.categories, self.world.places]
        return f"{split} {made.number} {key_of(self.mark, [told, fixed])}"

    def measured(
        self, split: str, made: Concept, place: str, arms: Mapping[str, Arm], told: Any, bounds: bool = False
    ) -> dict[str, Any]:
        """The figures of one concept, from the ledger where they are known."""

        def anew() -> dict[str, Any]:
            figures, shown, picture = measure_concept(
                self.backbone, self.judge, arms, made, self.world, split, seeds=self.seeds, steps=self.steps,
                bounds=bounds, note=claims.note,
            )  # fmt: skip
            folder = self.out / split / place
            folder.mkdir(parents=True, exist_ok=True)
            save_sheet(folder / f"{made.number}.png", figures, shown, picture)
            return condensed(figures)

        return self.ledger.get(self.key(split, made, told), anew)

    def concept(self, split: str, made: Concept, arms: Sequence[Taught], way: str) -> dict[str, Any]:
        """A concept's bounds and arms."""
        word, read = self.word(reference(made, self.world), made, way), WAYS[way]
        parts = [self.measured(split, made, "bounds", {}, BOUNDS, bounds=True)]
        for one in arms:
            told = self.made_with(one, word, read)
            parts.append(self.measured(split, made, f"{way}/{one.name}", {one.name: self.arm(one, read)}, told))
        return claims.joined([[part] for part in parts])[0]

    def timed(self, made: Concept, best: int) -> dict[str, float]:
        """The seconds of the encoder's tuning and of LoRA's best, one after the other in this process: those of the other
        figures were taken beside other work, or elsewhere."""
        pair = (Taught("encoder", claims.TUNED), Taught("LoRA", best))
        told = [self.made_with(one, made.category, False) for one in pair]
        picture = reference(made, self.world)

        def anew() -> dict[str, float]:
            spent = {}
            for one in pair:
                begun = time.perf_counter()
                if one.what == "LoRA":  # alone: `lora` would go on to its longest length
                    method = _lora(self.chosen["rate"])
                    edit = tune.personalize(
                        self.backbone, method, picture, word=WORD, class_word=made.category, steps=best
                    )
                else:
                    edit = self.arm(one)(self.backbone, picture, made.category)
                spent[one.name] = round(time.perf_counter() - begun, 2)
                finished(edit)
            return spent

        return self.ledger.get(self.key("seconds", made, {"seconds": told, "host": platform.node()}), anew)

    def lacking(self, split: str, concepts: Sequence[Concept], arms: Sequence[Taught]) -> list[Taught | None]:
        """What of a grid is not measured yet, once for each concept and class word; None are bounds."""
        keys: dict[str, Taught | None] = {}
        for made in concepts:
            keys[self.key(split, made, BOUNDS)] = None
            for way, read in WAYS.items():
                # Without an encoder to read with every word is another one.
                word = way if read and not self.tested else self.word(reference(made, self.world), made, way)
                for one in arms:
                    told = {"arm": one.told(), "word": word} if one.what == "encoder" and not self.tested else None
                    keys[self.key(split, made, told or self.made_with(one, word, read))] = one
        return [one for key, one in keys.items() if key not in self.ledger]


BOUNDS = {"bounds": True}  # what is told of them


def reference(made: Concept, world: World) -> UInt8[Tensor, "1 H W 3"]:
    return torch.from_numpy(draw(made, reference_of(made, world)).picture)[None]


def _tuning(what: str) -> date.Tuning:
    """How an encoder's prediction is tuned. With the ablations' no rank is appended, so that what their encoders predict is
    all that is tuned; the tested one's has the recipe's (where it made no difference, LOG.md)."""
    usual = tuning_of("picturebook")
    return usual if what == "encoder" else replace(usual, extra_rank=0)


def _cold() -> Method:
    """The recipe's cold start, which says all that DATE's tuning says."""
    told = tuning_of("picturebook")
    return replace(method_of(COLD_START, "picturebook"), context=told.context, sides=told.sides)


def _lora(rate: float) -> Lora:
    """The recipe's LoRA with the batch of DATE's tuning, since seconds are compared, which says all that that one says."""
    usual, told = method_of("lora", "picturebook"), tuning_of("picturebook")
    assert isinstance(usual, Lora)
    return replace(usual, batch=told.batch, context=told.context, sides=told.sides, rate=rate)


# ------------------------------------------------------------------------------------------------------------ encoders
def settings_of(name: str) -> tuple[Date, int]:
    """The settings of an ablation's encoder, and the number of categories that it sees."""
    if name not in ENCODERS:
        raise Refusal(f"There is no encoder '{name}' among the ablations; choose of {', '.join(ENCODERS)}.")
    changes, count = ENCODERS[name]
    return replace(pretrain_recipes()["picturebook"].encoder, **changes), count


def training(name: str, world: World, samples: int) -> tuple[Date, pretrain.Plan, World]:
    """An ablation's encoder, how long it is trained (all alike but for what the name says), and what it sees."""
    settings, count = settings_of(name)
    plan = pretrain_recipes()["picturebook"].plan
    steps = max(1, samples // plan.batch)
    plan = replace(plan, steps=steps, warmup=min(plan.warmup, max(1, steps // 10)))
    return settings, plan, claims.spread(world, count)


def trained_as(name: str, world: World, samples: int) -> dict[str, Any]:
    """How an ablation's encoder is trained, in values that JSON can hold."""
    settings, plan, known = training(name, world, samples)
    told = {"encoder": asdict(settings), "plan": asdict(plan), "categories": list(known.categories)}
    return {"ablation": name, **told, "drawings": DRAWINGS}


def train(name: str, backbone: Backbone, world: World, out: Path, samples: int = SAMPLES) -> Path:
    """Pre-train an ablation's encoder; what is trained is not trained again."""
    settings, plan, known = training(name, world, samples)
    told = trained_as(name, world, samples)
    path = out / "encoders" / f"{name}.safetensors"
    if path.is_file():
        print(f"{_same(path, told)} is there already")
        return path
    drawings = out / "drawings" / str(len(known.categories))
    for done in draw_ahead(drawings, DRAWINGS, world=known, seed=4, size=backbone.size, cut=True):
        print(f"{done} of {DRAWINGS} drawings", flush=True)
    accelerator = pretrain.launched()
    encoder = settings.network(backbone)
    kept = pretrain.keep(sorted(drawings.glob("????.npy")), backbone, encoder.features, accelerator)
    done = pretrain.pretrain(
        backbone, encoder, pretrain.Stream(backbone, Mixture([kept]), kept), sentences(backbone, encoder.word, TEMPLATES),
        plan, out / "encoders" / name, accelerator=accelerator, resume=True, say=print, told=told,
    )  # fmt: skip
    if done < plan.steps:
        raise Refusal(
            f"The training of '{name}' was stopped after {done} of {plan.steps} steps; the same command goes on."
        )
    encoder.save(path, **told)
    return path


def _different(path: Path, told: Mapping[str, Any]) -> list[str]:
    """What is told otherwise in the file of an ablation's encoder, by its names."""
    trained = date.read_note(path)["trained"]
    return [name for name in {**trained, **told} if trained.get(name) != told.get(name)]


def _same(path: Path, told: Mapping[str, Any]) -> Path:
    """The file of an ablation's encoder; Refusal where it was trained otherwise than is `told`."""
    different = _different(path, told)
    if different:
        raise Refusal(
            f"{path} was trained with another {different[0]} than is asked for now; move it away and train anew."
        )
    return path


def monitors(bench: Bench, what: str, concepts: Sequence[Concept]) -> dict[str, Any]:
    """What an encoder predicts of the references, before any tuning, from the ledger where it is known."""
    told = {"before tuning": bench.identity(what), "concepts": [one.number for one in concepts]}
    return bench.ledger.get(bench.key("monitors", concepts[0], told), lambda: _watched(bench, what, concepts))


@torch.no_grad()
def _watched(bench: Bench, what: str, concepts: Sequence[Concept]) -> dict[str, Any]:
    """Signs of collapse and drift, the commonest of the real words that an encoder's words are nearest to, how often these
    name the category, the attention that falls on its words."""
    backbone, encoder = bench.backbone, bench.encoder(what)
    pictures = torch.cat([reference(one, bench.world) for one in concepts])
    edit = encoder(Batch(backbone.encode(pictures), [""] * len(pictures), pictures=pictures))
    rows = [date.row(edit, number) for number in range(len(concepts))]
    words = [date.hard_word(backbone, row.of(TokenEdit)[0].vectors) for row in rows]
    shares = [claims.attention_share(backbone, row, picture[None]) for row, picture in zip(rows, pictures, strict=True)]
    right: dict[str, list[bool]] = {}
    for word, one in zip(words, concepts, strict=True):
        right.setdefault(claims.group_of(one.category), []).append(claims.is_called(word, one))
    told = ", ".join(f"{group} {np.mean(found):.0%}" for group, found in right.items())
    return {
        **{name: f"{value:.2f}" for name, value in encoder.figures(edit).items()},
        "attention": f"{np.mean(shares):.1%}",
        "nearest words": claims.common(words),
        "right category": told,
    }


def monitors_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    heads = list(dict.fromkeys(name for one in found.values() for name in one))
    rows = [[name, *(str(one.get(head, "")) for head in heads)] for name, one in found.items()]
    return claims.markdown(["encoder, before tuning", *heads], rows)


# ---------------------------------------------------------------------------------------------------------------- cost
def cost(bench: Bench, lacking: Sequence[Taught | None], made: Concept, split: str, missing: Sequence[str]) -> str:
    """What is left of a grid takes in one process, by one concept's ruler, an arm of no steps and 4 steps of tuning."""
    backbone, picture = bench.backbone, reference(made, bench.world)
    encoder = bench.encoder("encoder") if bench.tested else settings_of("full")[0].network(backbone)

    def seconds(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    def predicted(backbone: Backbone, picture: UInt8[Tensor, "1 H W 3"], word: str, steps: int = 0) -> Edit:
        settings = tuning_of("picturebook")
        return date.personalize(backbone, encoder, picture, word=WORD, class_word=word, steps=steps, settings=settings)

    def whole() -> None:
        measure_concept(
            backbone, bench.judge, {"": predicted}, made, bench.world, split, seeds=bench.seeds, steps=bench.steps,
            bounds=False, note=claims.note,
        )  # fmt: skip

    ruler = seconds(lambda: ruler_of(bench.judge, made, bench.world, split))
    predicted(backbone, picture, made.category, 1)  # warms up
    look = seconds(lambda: predicted(backbone, picture, made.category))
    step = max(0.0, seconds(lambda: predicted(backbone, picture, made.category, 4)) - look) / 4
    arm = seconds(whole)
    arms = [one for one in lacking if one is not None]
    bounds, longest = len(lacking) - len(arms), max((one.steps for one in arms if one.what == "LoRA"), default=0)
    # One run of LoRA, the longest, serves its other lengths.
    steps = sum(one.steps for one in arms if one.what != "LoRA" or one.steps == longest)
    # A row of a pre-training step goes through the same U-Net, forth and back, as one of tuning.
    rows = len(missing) * SAMPLES / tuning_of("picturebook").batch
    concepts = max([bounds, *Counter(arms).values()])
    lines = [
        ("pre-training", f"{len(missing)} encoders x {SAMPLES:,} samples", rows * step),
        ("tuning", f"{steps:,} steps of {step:.2f} s", steps * step),
        ("measuring", f"{len(arms)} arms of {arm:.1f} s, {bounds} bounds of two", (len(arms) + 2 * bounds) * arm),
        ("rulers", f"{concepts} of {ruler:.1f} s", concepts * ruler),
    ]
    told = [f"{name:<13} {what:<45} {spent / 3600:6.2f} hours" for name, what, spent in lines]
    hours = sum(spent for *_, spent in lines) / 3600
    return "\n".join([*told, f"{'in all':<13} {'in one process':<45} {hours:6.2f} hours"])


# ----------------------------------------------------------------------------------------------------------- the choice
def choose(bench: Bench, concepts: Sequence[Concept], own: Sequence[Concept], tell: Callable[[], object]) -> str | None:
    """LoRA's rate and number of steps with the greatest mean likeness, into `choice.json`; None where other processes
    have a part of the concepts."""
    found: dict[tuple[float, int], list[float]] = {}
    for made in own:
        for rate in RATES:
            for steps in LORA_STEPS:
                arm = Taught("LoRA", steps)
                told = bench.made_with(arm, made.category, False, rate)
                made_so = {arm.name: bench.arm(arm, rate=rate)}
                one = bench.measured("tuning", made, f"rate {rate:g}, {arm.name}", made_so, told)
                found.setdefault((rate, steps), []).append(float(by_concept([one], "likeness")[arm.name][0]))
        tell()
    if len(own) < len(concepts):
        return None
    means = {key: float(np.mean(values)) for key, values in found.items()}
    rate, steps = max(means, key=lambda key: means[key])
    likeness = {f"rate {rate:g}, {steps} steps": round(value, 4) for (rate, steps), value in means.items()}
    choice = {"rate": rate, "steps": steps, "concepts": len(concepts), "models": bench.mark, "likeness": likeness}
    bench.out.mkdir(parents=True, exist_ok=True)
    (bench.out / "choice.json").write_text(json.dumps(choice, indent=1) + "\n")
    lines = [f"{value:.3f}  {name}" for name, value in likeness.items()]
    return "\n".join([*lines, f"chosen: rate {rate:g}, {steps} steps"])


def main(
    encoder: Path | None = None,
    out: Path = Path("out/date"),
    concepts: int = 0,
    split: str = "reporting",
    claim: str = typer.Option("1,2,3,4,5,6,7", "--claims"),
    seeds: int = 2,
    draw_steps: int = 15,
    model: str = "picturebook",
    judge: Path | None = None,
    part: str = "0/1",
    cost_only: bool = typer.Option(False, "--cost"),
    choice_only: bool = typer.Option(False, "--choose"),
    trained: str = typer.Option("", "--train"),
    samples: int = SAMPLES,
    keep: Path | None = None,
    docs: Path | None = None,
    sheet: Path | None = None,
) -> None:
    """Measure DATE's claims, train the encoders of its ablations, or choose LoRA's settings."""
    from importlib.resources import files

    from rich.progress import Progress

    folder = Path(model) if Path(model).is_dir() else Path(str(files("namesake"))) / "picturebook" / "model"
    world = world_of(folder)
    if split not in ("reporting", "tuning"):
        raise Refusal(f"The split is '{split}'; 'reporting', or 'tuning' to choose something by, is wanted.")
    wanted = {int(one) for one in claim.split(",") if one.isdecimal()}
    if not wanted or not wanted <= {one.claim for one in claims.claims()}:
        raise Refusal(f"The claims are '{claim}'; numbers from 1 to 7 with commas between are wanted.")
    number, of = part_of(part)
    if docs is not None:
        check_page(docs)
    backbone = Backbone.load(model, dtype=torch.float32)  # on any machine, which the ledger's keys do not tell
    if trained:
        for name in trained.split(","):
            train(name, backbone, world, out, samples)
        return
    if choice_only:
        split = "tuning"
    made = claims.pick(world, split, concepts or (32 if split == "reporting" else 8))
    own = made[number::of]
    choice = out / "choice.json"
    chosen = json.loads(choice.read_text()) if choice.exists() else {}
    if 7 in wanted and not (chosen or choice_only or cost_only):
        raise Refusal("LoRA's rate and steps were not chosen yet; do so with --choose, or leave claim 7 out.")
    comparisons = [one for one in claims.claims(int(chosen.get("steps", 300))) if one.claim in wanted]
    arms = claims.arms_of(comparisons)
    seeing = Judge.load(judge) if judge is not None else Judge.load()
    needed = LORA_STEPS if choice_only else [one.steps for one in arms if one.what == "LoRA"] or LORA_STEPS
    ledger = claims.Ledger(keep or out / "figures.jsonl")
    bench = Bench(backbone, seeing, world, out, encoder, seeds, draw_steps, chosen, ledger, samples, needed)
    if not choice_only:
        if not cost_only:
            bench.path("encoder")  # the one under test also gives the word that is read
        if 7 in wanted and chosen and chosen.get("models") != bench.mark:
            raise Refusal(f'LoRA\'s settings in "{choice}" were chosen with other models; choose anew with --choose.')
        lacking = bench.lacking(split, own, arms)
        needs = {one.what for one in lacking if one is not None} & set(ENCODERS)
        missing = sorted(name for name in needs if bench.place(name) is None)
        if cost_only:
            print(cost(bench, lacking, made[0], split, missing))
            return
        if missing:
            print(f"left out, since they are not trained yet (--train {','.join(missing)}): {', '.join(missing)}")
            arms = tuple(one for one in arms if one.what not in missing)
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with Progress() as progress:
        bar = progress.add_task("concepts", total=len(own))
        if choice_only:
            told = choose(bench, made, own, lambda: progress.advance(bar))
        else:
            for one in own:
                for way in WAYS:
                    results[way].append(bench.concept(split, one, arms, way))
                progress.advance(bar)
            if 7 in wanted and of == 1:
                for place, one in enumerate(made[:TIMED]):
                    for found in results.values():
                        found[place]["timed"] = bench.timed(one, int(chosen["steps"]))
            told = None if of > 1 else report(bench, results, comparisons, arms, made, split)
    if told is None:
        return
    print(told)
    if choice_only:
        return
    if docs is not None:
        write_page(docs, told)
    if sheet is not None:
        pictured(bench, made, split, sheet)


def pictured(bench: Bench, made: Sequence[Concept], split: str, path: Path) -> None:
    """Claims 1 to 4 as pictures: the first two concepts of each group, each at the next prompt of its own."""
    kinds: dict[str, list[Concept]] = {}
    for one in made:
        kinds.setdefault(claims.group_of(one.category), []).append(one)
    arms = [Taught("cold start", 0), Taught("cold start", claims.TUNED)]
    arms += [Taught("encoder", steps) for steps in (0, claims.TUNED, claims.STEPS[-1])]
    arms += [Taught("encoder", claims.TUNED, claims.PAPERS)]
    arms += [Taught(what, claims.TUNED) for what in ("full", "no-hypernetwork") if bench.place(what) is not None]
    rows: list[list[Any]] = []
    told = []
    for number, one in enumerate(one for some in kinds.values() for one in some[:2]):
        asked = questions(one, bench.world, split)[number]
        picture = reference(one, bench.world)
        drawn = []
        for arm in arms:
            edit = finished(bench.arm(arm)(bench.backbone, picture, one.category))
            seed = one.number % 2**31  # as it was measured
            drawn += generate(bench.backbone, asked.prompt(WORD), edit, seed=seed, steps=bench.steps)
        rows.append([picture[0].numpy(), *(one.pixels for one in drawn), draw(one, asked.scene).picture])
        told.append(f"{asked.prompt(WORD)} ({one.category}, {claims.group_of(one.category)})")
    columns = ["the picture", *("color and class" if not n else arm.name for n, arm in enumerate(arms)), "the truth"]
    save_png(np.asarray(contact_sheet(rows, columns, told, cell=128)), path)


def report(
    bench: Bench,
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    comparisons: Sequence[claims.Comparison],
    arms: Sequence[Taught],
    made: Sequence[Concept],
    split: str,
) -> str:
    """The tables in markdown, and `summary.json`."""
    encoders = dict.fromkeys(one.what for one in arms if one.what not in ("LoRA", "cold start"))
    watched = {name: monitors(bench, name, made) for name in ("encoder", *encoders) if name in encoders or bench.tested}
    summary = {"claims": claims.judged(results, comparisons), "encoders": watched, "LoRA": bench.chosen}
    bench.out.mkdir(parents=True, exist_ok=True)
    (bench.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    told = [
        f"{len(made)} {split} concepts x 8 prompts x {bench.seeds} seeds",
        claims.claims_table(results, comparisons),
    ]
    pairs = dict.fromkeys((one.a[0].name, one.b[0].name) for one in comparisons if len(one.a) == 1 and not one.other)
    pairs = [pair for pair in pairs if {*pair} <= {arm.name for arm in arms}]
    for way, measured in results.items():
        tables = [table(measured), claims.shares_table(measured), *([paired(measured, pairs)] if pairs else [])]
        told += folded(f"All figures, the class word {way}", *tables)
    told += folded("The words", claims.notes_table(results), monitors_table(watched))
    return "\n\n".join(told)


def folded(title: str, *parts: str) -> list[str]:
    """Markdown that a page shows when asked."""
    return [f"<details><summary>{title}</summary>", *parts, "</details>"]


if __name__ == "__main__":
    raise SystemExit(script(main))
