"""The tuned methods in numbers and pictures: `docs/methods.md` and the strips under `docs/methods/`.

    python runs/methods.py --docs docs                        every method, 8 reporting concepts, 1 picture and 5
    python runs/methods.py --method lora,dreambooth --concepts 1

Tables are printed; with `--docs FOLDER` page and strips are written there. Settings are chosen on other concepts, one field
at a time:

    python runs/methods.py --method lora --split tuning --vary rate=0.001,0.002,0.004

n processes share the work with `--part 0/n`, `--part 1/n`, ...; the same command without a part then finds all of it
measured. Whatever is measured is kept, one JSON file for each setting, concept
and number of pictures, so a run can be stopped and taken up again.
"""

import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from namesake.backbone import Backbone
from namesake.cli import script
from namesake.data.pictures import read_picture
from namesake.data.prompts import COARSE_STYLE
from namesake.edits import Edit
from namesake.errors import Refusal
from namesake.evaluate.cold_start import (
    WORD,
    Question,
    Ruler,
    by_concept,
    chosen,
    key_of,
    mark_of,
    part_of,
    questions,
    reference_of,
    ruler_of,
    summary,
)
from namesake.files import write
from namesake.generate import generate
from namesake.machine import peak_memory
from namesake.methods import METHODS
from namesake.methods.textual_inversion import StyleInversion
from namesake.picturebook.captions import PLACE_PHRASES
from namesake.picturebook.check import check_page, world_of, write_page
from namesake.picturebook.concept import Concept, concept
from namesake.picturebook.draw import draw
from namesake.picturebook.judge import Judge
from namesake.picturebook.scene import STYLES, Scene, World, sample_pose, sample_style
from namesake.recipes import class_pictures, method_of
from namesake.sheet import contact_sheet, read_settings, save_png
from namesake.train.fit import finished
from namesake.train.tune import Method, personalize


@dataclass(frozen=True)
class Setting:
    """A method with its settings, under the name of its folder and rows."""

    label: str
    method: Method

    @property
    def style(self) -> bool:
        return isinstance(self.method, StyleInversion)


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    model: str
    judge: Judge
    world: World
    split: str
    seeds: int
    steps: int  # of the scheduler
    masked: bool
    out: Path

    @cached_property
    def backbone(self) -> Backbone:
        return Backbone.load(self.model)

    @cached_property
    def mark(self) -> str:
        """Of everything but the setting that figures depend on."""
        said = [self.split, self.seeds, self.steps, self.masked, self.world.categories, self.world.places]
        return key_of(mark_of(self.backbone, self.judge), said)

    def kept(self, path: Path, setting: Setting | None, measure: Any) -> dict[str, Any]:
        """The figures in a file, where they are of this bench and setting; else those that `measure` returns, kept."""
        made = json.dumps(asdict(setting.method) if setting else None, sort_keys=True)
        key = hashlib.sha256((self.mark + made).encode()).hexdigest()[:16]
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.get("key") != key:
            known = {**measure(), "key": key}
            path.parent.mkdir(parents=True, exist_ok=True)
            write(json.dumps(known).encode(), path, "measurement")
        return known

    def draw(self, prompts: Sequence[str], seed: int, edit: Edit | None = None) -> np.ndarray:
        """Pictures `[prompts * seeds, H, W, 3]`, prompt by prompt."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            drawn = generate(self.backbone, prompts, edit, count=self.seeds, seed=seed % 2**31, steps=self.steps)
        return np.stack([one.pixels for one in drawn])


@lru_cache(maxsize=1)  # jobs come concept by concept
def asked(bench: Bench, made: Concept) -> tuple[Sequence[Question], Ruler, np.ndarray]:
    """The prompts of a concept, what measures them, and what the base draws of them with the class word."""
    ruler = ruler_of(bench.judge, made, bench.world, bench.split)
    plain = bench.draw([one.about(made.category) for one in ruler.asked], made.number)
    return ruler.asked, ruler, plain


def measured(bench: Bench, ruler: Ruler, pictures: np.ndarray) -> dict[str, Any]:
    which = [place for place in range(len(ruler.asked)) for _ in range(bench.seeds)]
    return ruler.measure(torch.from_numpy(pictures), which)


def scenes(made: Concept, world: World, count: int) -> list[Scene]:
    """The reference's scene, and others like it."""
    found = [reference_of(made, world)]
    for number in range(1, count):
        rng = np.random.default_rng([made.number, 0x4EF, number])
        place = world.places[rng.integers(len(world.places))]
        found.append(Scene(place, sample_style(rng, "plain"), sample_pose(rng), seed=int(rng.integers(2**31))))
    return found


def example() -> tuple[Concept, UInt8[np.ndarray, "1 H W 3"]]:
    """The first of the package's example pictures, which strips are of: it stands upright, as people's pictures do."""
    folder = Path(str(files("namesake"))) / "picturebook" / "examples"
    path = min(folder.glob("*.png"))
    made = concept(json.loads(path.with_suffix(".json").read_text())["concept"])
    return made, read_picture(path).pixels[None]


def taught(
    bench: Bench, setting: Setting, made: Concept, count: int, strip: Any = None, own: np.ndarray | None = None
) -> tuple[Edit, float, Any]:
    """The edit of a concept (for a style: of the style that goes with it), its seconds, and the pictures shown: `own`, or
    drawings."""
    if setting.style:
        shown = style_drawings(bench, made, count)
        class_word, prior = COARSE_STYLE, None
    else:
        shown = [draw(made, scene) for scene in scenes(made, bench.world, count)]
        class_word, prior = made.category, None
        if setting.method.prior:
            prior = class_pictures(bench.backbone, setting.method.sentences[0].format(class_word), setting.method.prior)
    pictures = np.stack([one.picture for one in shown])
    masks = torch.from_numpy(np.stack([one.truth.objects[0].mask for one in shown])) if bench.masked else None
    if own is not None and not setting.style:
        pictures, masks = own, None
    begun = time.perf_counter()
    edit = personalize(
        bench.backbone,
        setting.method,
        torch.from_numpy(pictures),
        word=WORD,
        class_word=class_word,
        masks=None if setting.style else masks,
        prior=prior,
        strip=strip,
    )
    return finished(edit), time.perf_counter() - begun, pictures


def size_of(edit: Edit) -> int:
    with tempfile.TemporaryDirectory() as folder:
        edit.save(Path(folder) / "edit.safetensors")
        return (Path(folder) / "edit.safetensors").stat().st_size


def measure(bench: Bench, setting: Setting, made: Concept, count: int) -> dict[str, Any]:
    """A concept with its word, and the class word while the edit is on the model: how far that has drifted."""
    prompts, ruler, before = asked(bench, made)
    edit, seconds, _ = taught(bench, setting, made, count)
    after = bench.draw([one.about(made.category) for one in prompts], made.number, edit)
    return {
        "word": measured(bench, ruler, bench.draw([one.prompt(WORD) for one in prompts], made.number, edit)),
        "class": measured(bench, ruler, after),
        "drift": float(np.abs(after.astype(int) - before).mean()),
        "seconds": round(seconds, 2),
        "bytes": size_of(edit),
        "steps": edit.about.settings["steps"],
    }


# ---------------------------------------------------------------------------------------------------------------- styles
def style_of(made: Concept) -> str:
    return STYLES[1 + made.number % (len(STYLES) - 1)]  # all but the plain one


def style_drawings(bench: Bench, made: Concept, count: int) -> list[Any]:
    """Different things, other than the concept's kind, drawn in one style of its family."""
    rng = np.random.default_rng([made.number, 0x57F1])
    style = sample_style(rng, style_of(made))
    things = [
        one for one in chosen(bench.split, bench.world, len(bench.world.categories)) if one.category != made.category
    ]
    picked = [things[i] for i in rng.permutation(len(things))[:count]]
    return [
        draw(one, Scene(str(rng.choice(bench.world.places)), style, sample_pose(rng), seed=int(rng.integers(2**31))))
        for one in picked
    ]


def measure_style(bench: Bench, setting: Setting, made: Concept, count: int) -> dict[str, Any]:
    """How often the judge sees the style, the category and the place of "a cat on the beach, <it>"; and without it."""
    edit, seconds, _ = taught(bench, setting, made, count)
    places = bench.world.places[:4]
    classes = bench.judge.heads
    out: dict[str, Any] = {"seconds": round(seconds, 2), "bytes": size_of(edit), "style": style_of(made)}
    for name, word, one in (("word", WORD, edit), ("base", COARSE_STYLE, None)):
        prompts = [f"a {made.category} {PLACE_PHRASES[place][0]}, {word}" for place in places]
        said = bench.judge.judge(torch.from_numpy(bench.draw(prompts, made.number, one)))
        wanted = {
            "style": [style_of(made)] * len(prompts),
            "category": [made.category] * len(prompts),
            "place": list(places),
        }
        for head, names in wanted.items():
            numbers = torch.tensor([classes[head].index(n) for n in names]).repeat_interleave(bench.seeds)
            out[f"{name} {head}"] = float((said[head].argmax(-1).cpu() == numbers).float().mean())
    return out


# ---------------------------------------------------------------------------------------------------------------- memory
def peak(model: str, method: Method, class_word: str) -> int:
    """Peak bytes of a process that loads the model and makes two steps: of the device where that is a GPU."""
    backbone = Backbone.load(model)
    picture = torch.full((1, backbone.size, backbone.size, 3), 127, dtype=torch.uint8)
    personalize(backbone, method, picture, class_word=class_word, prior=picture if method.prior else None, steps=2)
    if backbone.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_memory()


def measure_memory(bench: Bench, setting: Setting, class_word: str) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # a process of its own, or peaks would add up
        return {"peak": pool.submit(peak, bench.model, setting.method, class_word).result()}


# ---------------------------------------------------------------------------------------------------------------- strips
def write_strip(bench: Bench, setting: Setting, path: Path) -> None:
    """Reference, base, after few steps, after the recipe's steps, in another place, in another style."""
    made, own = example()
    made_with = json.dumps([bench.mark, setting.label, asdict(setting.method), made.number])
    key = hashlib.sha256(made_with.encode()).hexdigest()[:16]
    with suppress(Refusal):  # a picture of another make
        if path.exists() and read_settings(path).get("key") == key:
            return
    few = 2 ** max(0, (max(1, setting.method.steps) // 8).bit_length() - 1)  # `fit` shows the edit after powers of two
    seen: dict[int, Edit] = {}
    edit, _, pictures = taught(
        bench, setting, made, 1, strip=lambda done, one: seen.setdefault(done, one) if done == few else None, own=own
    )
    prompts = questions(made, bench.world, bench.split)
    other = next(p.text for p in prompts if p.kind == "place")
    styled = next(p.text for p in prompts if p.kind == "style")
    plain, place, style = "a picture of {bare}", other, styled
    base = f"a picture of a {made.category}"
    if setting.style:
        plain, place, style = (
            "a {category}, {bare}",
            "a {category} " + other.partition(" ")[2] + ", {bare}",
            "a house, {bare}",
        )
        base = f"a {made.category}, {COARSE_STYLE}"

    def said(text: str) -> str:
        return text.format(a=WORD, bare=WORD, category=made.category)

    cells = [("the picture", pictures[0])]
    for title, prompt, one in (
        ("the base", base, None),
        (f"{few} steps", said(plain), seen.get(few, edit)),
        (f"{edit.about.settings['steps']} steps", said(plain), edit),
        (said(place), said(place), edit),
        (said(style), said(style), edit),
    ):
        cells.append((title, bench.draw([prompt], made.number, one)[0]))
    title = f"{setting.label}, one picture"
    sheet = contact_sheet([[picture for _, picture in cells]], [name for name, _ in cells], title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(
        np.asarray(sheet), path, {"key": key, "prompt": said(plain), "seed": made.number % 2**31, "steps": bench.steps}
    )


# ------------------------------------------------------------------------------------------------------------------ page
def table(
    results: Mapping[tuple[str, int], list[dict[str, Any]]], base: list[dict[str, Any]], memory: Mapping[str, int]
) -> str:
    """Means over concepts in markdown; copying and what the class word draws as differences from the base."""
    rows: list[dict[str, Any]] = []
    for place, one in enumerate(base):
        arms = {"class word": one["class"]}
        for (label, count), found in results.items():
            arms[f"{label}, {count}"], arms[f"{label}, {count}, class"] = found[place]["word"], found[place]["class"]
        rows.append({"arms": arms})
    means, without = summary(rows), by_concept(rows, "prompt")
    heads = (
        "method, pictures", "likeness", "rank 1 of 50", "category", "prompt", "place copied", "pose copied",
        "drift, levels", "drift, prompt", "seconds", "peak MiB", "kB",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]

    def cells(name: str) -> list[str]:
        figures = means[name]
        return [
            f"{figures['likeness']['mean']:.3f} ({figures['likeness']['low']:.3f} to {figures['likeness']['high']:.3f})",
            *(f"{figures[one]['mean']:.0%}" for one in ("rank 1", "category", "prompt")),
            *(f"{figures[one]['gain']:+.0%}" for one in ("place copied", "pose copied")),
        ]

    lines.append("| " + " | ".join(["the class word, base", *cells("class word"), *[""] * 5]) + " |")
    for (label, count), found in results.items():
        name = f"{label}, {count}"
        drift = float(np.nanmean(without[f"{name}, class"] - without["class word"]))
        last = [
            f"{np.mean([one['drift'] for one in found]):.1f}",
            f"{drift:+.0%}",
            f"{np.median([one['seconds'] for one in found]):.0f}",
            f"{memory[label] / 2**20:,.0f}" if label in memory else "",
            f"{np.mean([one['bytes'] for one in found]) / 1000:,.0f}",
        ]
        lines.append("| " + " | ".join([name, *cells(name), *last]) + " |")
    return "\n".join(lines)


def style_table(results: Mapping[tuple[str, int], list[dict[str, Any]]]) -> str:
    """What the judge sees of prompts with the style's word, and in brackets of the same with the coarse word."""
    heads = ("style", "category", "place")
    lines = [f"| method, pictures | {' | '.join(heads)} | seconds | kB |", "|" + " --- |" * 6]
    for (label, count), found in results.items():
        mean = {name: float(np.mean([one[name] for one in found])) for name in found[0] if name not in ("key", "style")}
        cells = [f"{mean[f'word {head}']:.0%} ({mean[f'base {head}']:.0%})" for head in heads]
        last = [f"{np.median([one['seconds'] for one in found]):.0f}", f"{mean['bytes'] / 1000:,.0f}"]
        lines.append("| " + " | ".join([f"{label}, {count}", *cells, *last]) + " |")
    return "\n".join(lines)


STYLES_TOLD = """A style as the concept, shown on other things; what the judge sees of "a cat on the beach, <it>", in brackets
with the word "{coarse}" in its place."""


def main(
    out: Path = Path("out/methods"),
    docs: Path | None = None,
    method: str = "",
    concepts: int = 8,
    split: str = "reporting",
    pictures: str = "1,5",
    vary: str = "",
    steps: int = -1,
    seeds: int = 1,
    draw_steps: int = 15,
    masks: bool = False,
    model: str = "picturebook",
    judge: Path | None = None,
    part: str = "0/1",
) -> None:
    """Measure the tuned methods, and write their page and strips."""
    number, of = part_of(part)
    if docs is not None:
        check_page(docs / "methods.md")
    names = [one for one in method.split(",") if one] or list(METHODS)
    settings = [Setting(name, method_of(name, "picturebook")) for name in names]
    if steps >= 0:
        settings = [Setting(one.label, replace(one.method, steps=steps)) for one in settings]
    if vary:
        field, _, values = vary.partition("=")
        if strange := [one.label for one in settings if not hasattr(one.method, field)]:
            raise Refusal(f"The method {strange[0]} has no setting {field}; name methods that have it with --method.")
        settings = [
            Setting(
                f"{one.label}, {field} {value}",
                replace(one.method, **{field: _like(getattr(one.method, field), value)}),
            )
            for one in settings
            for value in values.split(",")
        ]
    folder = Path(model) if Path(model).is_dir() else Path(str(files("namesake"))) / "picturebook" / "model"
    bench = Bench(
        model,
        Judge.load(judge) if judge is not None else Judge.load(),
        world_of(folder),
        split,
        seeds,
        draw_steps,
        masks,
        out,
    )
    counts = [int(count) for count in pictures.split(",")]
    things = chosen(split, bench.world, concepts)
    if docs is not None and (set(names) != set(METHODS) or split != "reporting" or vary or steps >= 0 or masks):
        raise Refusal("The page shows all methods with their own settings on reporting concepts; leave out --docs.")
    base: dict[int, dict[str, Any]] = {}
    found: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    memory: dict[str, int] = {}

    def do_base(made: Concept) -> None:
        def now() -> dict[str, Any]:
            _, ruler, plain = asked(bench, made)
            return {"class": measured(bench, ruler, plain)}

        base[made.number] = bench.kept(out / "base" / f"{made.number}.json", None, now)

    def do(made: Concept, setting: Setting, count: int) -> None:
        way = measure_style if setting.style else measure
        path = out / setting.label / f"{made.number}-{count}.json"
        figures = bench.kept(path, setting, partial(way, bench, setting, made, count))
        found.setdefault((setting.label, count), {})[made.number] = figures

    def do_memory(setting: Setting) -> None:
        now = partial(measure_memory, bench, setting, COARSE_STYLE if setting.style else things[0].category)
        memory[setting.label] = bench.kept(out / setting.label / "memory.json", setting, now)["peak"]

    jobs = [partial(do_memory, setting) for setting in settings] if docs is not None else []
    for made in things:
        jobs.append(partial(do_base, made))
        jobs += [partial(do, made, setting, count) for setting in settings for count in counts]
    if docs is not None:
        jobs += [partial(write_strip, bench, one, docs / "methods" / f"{one.label}.png") for one in settings]
    for place, job in enumerate(jobs[number::of]):
        begun = time.perf_counter()
        job()
        print(f"{place + 1} of {len(jobs[number::of])}, {time.perf_counter() - begun:.0f} s", flush=True)
    if of > 1:
        return

    def rows(style: bool) -> dict[tuple[str, int], list[dict[str, Any]]]:
        wanted = {one.label for one in settings if one.style == style}
        return {key: [one[made.number] for made in things] for key, one in found.items() if key[0] in wanted}

    numbers = table(rows(False), [base[made.number] for made in things], memory) if rows(False) else ""
    styles = style_table(rows(True)) if rows(True) else ""
    print("\n\n".join(text for text in (numbers, styles) if text))
    if docs is not None:
        strips = "\n\n".join(f"![{one.label}](methods/{one.label}.png)" for one in settings)
        told = [f"{concepts} reporting concepts x 8 prompts x {seeds} seed{'s' * (seeds > 1)}", numbers]
        told += [STYLES_TOLD.format(coarse=COARSE_STYLE), styles, strips]
        write_page(docs / "methods.md", "\n\n".join(told))


def _like(usual: Any, value: str) -> Any:
    """A value of the command line as the kind of the usual one."""
    return value.lower() in ("true", "1", "yes") if isinstance(usual, bool) else type(usual)(value)


if __name__ == "__main__":
    raise SystemExit(script(main))
