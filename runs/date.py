"""DATE's claims on the picture book: `docs/date.md`.

    python runs/date.py --encoder E --cost               what all of it takes, by one measured unit
    python runs/date.py --train full,four,none           the encoders of the ablations, 40 thousand samples each
    python runs/date.py --split tuning                   choose LoRA's rate and best number of steps, on tuning concepts
    python runs/date.py --encoder E --docs docs/date.md  32 reporting concepts x 8 prompts x 2 seeds

`--claims 1,2` measures what these claims need and nothing else. Two processes share the work with `--part 0/2` and
`--part 1/2`; the same command without a part then finds all measured and prints the tables, with `--docs PAGE` into the
marked place of a page as well. Whatever is there already is kept, so every part of it can be stopped and taken up again.

Into the folder go `encoders/` (of the ablations, with `drawings/` that they see), `choice.json` (LoRA's), one JSON file
and one sheet for each arm and concept under `given/` (with the class word) and `read/` (with the word that the encoder
under test comes nearest to), and `summary.json`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from jaxtyping import UInt8
from torch import Tensor

from namesake.backbone import Backbone
from namesake.data.prompts import TEMPLATES
from namesake.data.sources import Mixture
from namesake.edits import Edit, TokenEdit
from namesake.errors import Refusal
from namesake.evaluate import claims
from namesake.evaluate.claims import LORA_STEPS, Taught
from namesake.evaluate.cold_start import WORD, Arm, by_concept, measure, reference_of, ruler_of, table
from namesake.generate import generate
from namesake.methods import date
from namesake.methods.date import Date, DateEncoder
from namesake.methods.lora import Lora
from namesake.picturebook.check import into_page, world_of
from namesake.picturebook.concept import Concept
from namesake.picturebook.dataset import draw_ahead
from namesake.picturebook.draw import draw
from namesake.picturebook.judge import Judge
from namesake.picturebook.scene import World
from namesake.recipes import COLD_START, method_of, pretrain_recipes, tuning_of
from namesake.train import pretrain, tune
from namesake.train.examples import sentences
from namesake.train.fit import Batch

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
WAYS = {"given": False, "read": True}  # where the class word comes from


@dataclass
class Bench:
    """What all measurements share. chosen: LoRA's rate and best number of steps; needed: the longest of its runs."""

    backbone: Backbone
    judge: Judge
    world: World
    out: Path
    tested: Path | None
    seeds: int
    steps: int  # of the scheduler
    chosen: dict[str, float]
    needed: Sequence[int] = LORA_STEPS
    _encoders: dict[str, DateEncoder] = field(default_factory=dict)
    _words: dict[bytes, str] = field(default_factory=dict)
    _run: tuple[Any, dict[int, Edit]] = field(default_factory=lambda: (None, {}))

    def path(self, what: str) -> Path:
        """The file of an encoder."""
        if what == "encoder":
            if self.tested is None:
                raise Refusal("No encoder was named to test; give its file with --encoder.")
            return self.tested
        path = self.out / "encoders" / f"{what}.safetensors"
        if not path.is_file():
            raise Refusal(f"The encoder '{what}' was not trained yet; do so with --train {what}.")
        return path

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
                return tune.personalize(
                    backbone, method_of(COLD_START, "picturebook"), picture, class_word=word, **told
                )
            settings = replace(tuning_of("picturebook"), blend=taught.blend)
            told |= {"class_word": None if read else word, "hard": word}
            return date.personalize(backbone, self.encoder(taught.what), picture, settings=settings, **told)

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
            tune.personalize(
                self.backbone, _lora(rate), picture, word=WORD, class_word=word, steps=longest, strip=keep,
                strip_at=sorted({*self.needed, steps}),
            )  # fmt: skip
            self._run = (key, seen)
        return self._run[1][steps]

    def made_with(self, taught: Taught, read: bool, rate: float | None = None) -> dict[str, Any]:
        """All that an arm's figures depend on beside the model and the concept."""
        told: dict[str, Any] = {"arm": asdict(taught), "bounds": False}
        if taught.what == "cold start":
            told["method"] = asdict(method_of(COLD_START, "picturebook"))
        elif taught.what == "LoRA":
            told["method"] = asdict(_lora(self.chosen.get("rate", RATES[0]) if rate is None else rate))
        else:
            told |= {"method": asdict(tuning_of("picturebook")), "encoder": _digest(self.path(taught.what))}
        return told | ({"reader": _digest(self.path("encoder"))} if read else {})

    def measured(
        self, split: str, made: Concept, place: str, arms: Mapping[str, Arm], settings: Any, bounds: bool = False
    ) -> dict[str, Any]:
        """The figures of one concept, from its file where it was measured already."""
        folder = self.out / split / place
        return measure(
            self.backbone, self.judge, arms, folder, self.world, concepts=[made], split=split, seeds=self.seeds,
            steps=self.steps, bounds=bounds, note=claims.note, settings=settings,
        )[0]  # fmt: skip

    def concept(self, split: str, made: Concept, arms: Sequence[Taught], way: str) -> dict[str, Any]:
        """A concept's bounds and arms."""
        read = WAYS[way]
        parts = [self.measured(split, made, "bounds", {}, {"bounds": True}, bounds=True)]
        for one in arms:
            place = f"{way}/{one.name}"
            parts.append(self.measured(split, made, place, {one.name: self.arm(one, read)}, self.made_with(one, read)))
        return claims.joined([[part] for part in parts])[0]


def _lora(rate: float) -> Lora:
    """The recipe's LoRA with the batch of DATE's tuning, since seconds are compared."""
    usual = method_of("lora", "picturebook")
    assert isinstance(usual, Lora)
    return replace(usual, batch=tuning_of("picturebook").batch, rate=rate)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ encoders
def settings_of(name: str) -> tuple[Date, int]:
    """The settings of an ablation's encoder, and the number of categories that it sees."""
    if name not in ENCODERS:
        raise Refusal(f"There is no encoder '{name}' among the ablations; choose of {', '.join(ENCODERS)}.")
    changes, count = ENCODERS[name]
    return replace(pretrain_recipes()["picturebook"].encoder, **changes), count


def train(name: str, backbone: Backbone, world: World, out: Path, samples: int = SAMPLES) -> Path:
    """Pre-train an ablation's encoder, all alike but for its name; what is trained is not trained again."""
    settings, count = settings_of(name)
    path = out / "encoders" / f"{name}.safetensors"
    if path.is_file():
        print(f"{path} is there already")
        return path
    known = claims.spread(world, count)
    drawings = out / "drawings" / str(len(known.categories))
    for done in draw_ahead(drawings, DRAWINGS, world=known, seed=4, size=backbone.size, cut=True):
        print(f"{done} of {DRAWINGS} drawings", flush=True)
    accelerator = pretrain.launched()
    encoder = settings.network(backbone)
    kept = pretrain.keep(sorted(drawings.glob("????.npy")), backbone, encoder.features, accelerator)
    plan = pretrain_recipes()["picturebook"].plan
    steps = max(1, samples // plan.batch)
    plan = replace(plan, steps=steps, warmup=min(plan.warmup, max(1, steps // 10)))
    done = pretrain.pretrain(
        backbone, encoder, pretrain.Stream(backbone, Mixture([kept]), kept), sentences(backbone, encoder.word, TEMPLATES),
        plan, out / "encoders" / name, accelerator=accelerator, resume=True, say=print,
        told={"ablation": name, "encoder": asdict(settings), "categories": list(known.categories)},
    )  # fmt: skip
    if done < steps:
        raise Refusal(f"The training of '{name}' was stopped after {done} of {steps} steps; the same command goes on.")
    encoder.save(path, ablation=name, samples=steps * plan.batch, categories=list(known.categories))
    return path


@torch.no_grad()
def monitors(bench: Bench, what: str, concepts: Sequence[Concept]) -> dict[str, Any]:
    """What an encoder predicts of the references, before any tuning: signs of collapse and drift, the commonest of the
    real words that its words are nearest to, how often these name the category, the attention that falls on its words."""
    backbone, encoder = bench.backbone, bench.encoder(what)
    pictures = torch.from_numpy(np.stack([draw(one, reference_of(one, bench.world)).picture for one in concepts]))
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
def cost(bench: Bench, arms: Sequence[Taught], concepts: Sequence[Concept], split: str, missing: Sequence[str]) -> str:
    """What a grid takes in one process, by the first concept's ruler, drawing and 4 steps of tuning."""
    made = concepts[0]
    backbone, picture = bench.backbone, torch.from_numpy(draw(made, reference_of(made, bench.world)).picture)[None]
    encoder = bench.encoder("encoder") if bench.tested else settings_of("full")[0].network(backbone)

    def seconds(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    def tuned(steps: int) -> Callable[[], Edit]:
        return lambda: date.personalize(
            backbone, encoder, picture, word=WORD, class_word=made.category, steps=steps, settings=tuning_of("picturebook")
        )  # fmt: skip

    ruler = seconds(lambda: ruler_of(bench.judge, made, bench.world, split))
    prompts = [one.about(made.category) for one in ruler_of(bench.judge, made, bench.world, split).asked]
    drawing = seconds(lambda: generate(backbone, prompts, count=bench.seeds, steps=bench.steps))
    tuned(1)()  # warms up
    start = seconds(tuned(0))
    step = max(0.0, seconds(tuned(4)) - start) / 4
    runs = len(WAYS) * len(concepts)
    steps = sum(one.steps for one in arms if one.what != "LoRA")
    steps += max((one.steps for one in arms if one.what == "LoRA"), default=0)
    # A row of a pre-training step goes through the same U-Net, forth and back, as one of tuning.
    lines = [
        (
            "pre-training",
            f"{len(missing)} encoders x {SAMPLES:,} samples",
            len(missing) * SAMPLES * step / tuning_of("picturebook").batch,
        ),
        ("tuning", f"{runs} x {steps} steps of {step:.2f} s", runs * steps * step),
        ("drawing", f"{runs} x {len(arms)} arms of {drawing:.1f} s", (runs * len(arms) + 2 * len(concepts)) * drawing),
        ("rulers", f"{len(concepts)} of {ruler:.1f} s", len(concepts) * ruler),
    ]
    whole = sum(hours for *_, hours in lines)
    told = [f"{name:<13} {what:<45} {spent / 3600:6.2f} hours" for name, what, spent in lines]
    return "\n".join([*told, f"{'in all':<13} {'in one process':<45} {whole / 3600:6.2f} hours"])


# ----------------------------------------------------------------------------------------------------------- the choice
def choose(bench: Bench, concepts: Sequence[Concept], own: Sequence[Concept], tell: Callable[[], object]) -> str | None:
    """LoRA's rate and number of steps with the greatest mean likeness, into `choice.json`; None where other processes
    have a part of the concepts."""
    found: dict[tuple[float, int], list[float]] = {}
    for made in own:
        for rate in RATES:
            for steps in LORA_STEPS:
                arm = Taught("LoRA", steps)
                name = f"rate {rate:g}, {arm.name}"
                one = bench.measured(
                    "tuning", made, name, {name: bench.arm(arm, rate=rate)}, bench.made_with(arm, False, rate)
                )
                found.setdefault((rate, steps), []).append(float(by_concept([one], "likeness")[name][0]))
        tell()
    if len(own) < len(concepts):
        return None
    means = {key: float(np.mean(values)) for key, values in found.items()}
    rate, steps = max(means, key=lambda key: means[key])
    told = {f"rate {rate:g}, {steps} steps": round(value, 4) for (rate, steps), value in means.items()}
    choice = {"rate": rate, "steps": steps, "concepts": len(concepts), "likeness": told}
    (bench.out / "choice.json").write_text(json.dumps(choice, indent=1) + "\n")
    return "\n".join(
        [*(f"{value:.3f}  {name}" for name, value in told.items()), f"chosen: rate {rate:g}, {steps} steps"]
    )


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
    trained: str = typer.Option("", "--train"),
    samples: int = SAMPLES,
    docs: Path | None = None,
) -> None:
    """Measure DATE's claims, train the encoders of its ablations, or choose LoRA's settings."""
    from importlib.resources import files

    from rich.progress import Progress

    folder = Path(model) if Path(model).is_dir() else Path(str(files("namesake"))) / "picturebook" / "model"
    world = world_of(folder)
    if split not in ("reporting", "tuning"):
        raise Refusal(f"The split is '{split}'; 'reporting', or 'tuning' to choose LoRA's settings, is wanted.")
    backbone = Backbone.load(model)
    if trained:
        for name in trained.split(","):
            train(name, backbone, world, out, samples)
        return
    tuning = split == "tuning"
    made = claims.pick(world, split, concepts or (8 if tuning else 32))
    number, of = (int(value) for value in part.split("/"))
    own = made[number::of]
    wanted = {int(one) for one in claim.split(",")}
    choice = out / "choice.json"
    chosen = json.loads(choice.read_text()) if choice.exists() else {}
    if 7 in wanted and not (chosen or tuning or cost_only):
        raise Refusal("LoRA's rate and steps were not chosen yet; do so with --split tuning, or leave out claim 7.")
    comparisons = [one for one in claims.claims(int(chosen.get("steps", 300))) if one.claim in wanted]
    arms = claims.arms_of(comparisons)
    seeing = Judge.load(judge) if judge is not None else Judge.load()
    needed = LORA_STEPS if tuning else [one.steps for one in arms if one.what == "LoRA"] or LORA_STEPS
    bench = Bench(backbone, seeing, world, out, encoder, seeds, draw_steps, chosen, needed)
    if cost_only:
        needs = {one.what for one in arms} & set(ENCODERS)
        missing = sorted(name for name in needs if not (out / "encoders" / f"{name}.safetensors").exists())
        print(cost(bench, arms, made, split, missing))
        return
    # Refused before anything is measured; the encoder under test also gives the word that is read.
    for what in {"encoder", *(one.what for one in arms)} - {"LoRA", "cold start"} if not tuning else ():
        bench.path(what)
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with Progress() as progress:
        bar = progress.add_task("concepts", total=len(own))
        if tuning:
            told = choose(bench, made, own, lambda: progress.advance(bar))
        else:
            for one in own:
                for way in WAYS:
                    results[way].append(bench.concept(split, one, arms, way))
                progress.advance(bar)
            told = None if of > 1 else report(bench, results, comparisons, made)
    if told is None:
        return
    print(told)
    if docs is not None and not tuning:
        docs.write_text(into_page(docs.read_text(), told))


def report(
    bench: Bench,
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    comparisons: Sequence[claims.Comparison],
    made: Sequence[Concept],
) -> str:
    """The tables in markdown, and `summary.json`."""
    arms = claims.arms_of(comparisons)
    encoders = dict.fromkeys(one.what for one in arms if one.what not in ("LoRA", "cold start"))
    watched = {name: monitors(bench, name, made) for name in ("encoder", *encoders) if name in encoders or bench.tested}
    summary = {"claims": claims.judged(results, comparisons), "encoders": watched, "LoRA": bench.chosen}
    (bench.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    told = [
        f"{len(made)} reporting concepts x 8 prompts x {bench.seeds} seeds",
        claims.claims_table(results, comparisons),
    ]
    for way, measured in results.items():
        told += [f"The class word {way}:", table(measured), claims.shares_table(measured)]
    return "\n\n".join([*told, claims.notes_table(results), monitors_table(watched)])


if __name__ == "__main__":
    typer.run(main)
