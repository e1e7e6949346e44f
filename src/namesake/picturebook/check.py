"""Whether the picture book's model and judge meet their bars, with the pictures that they were measured on.

Three measurements, all on reporting concepts: the judge on drawings that it never saw; the judge on the same drawings
after the model's autoencoder; the model on prompts that no training saw, as the judge sees its pictures. Only what a
prompt asks is judged: where it names no color, any color is right.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from namesake.errors import Refusal
from namesake.files import check_writable, folder_for, write
from namesake.picturebook.captions import Caption
from namesake.picturebook.concept import Concept
from namesake.picturebook.dataset import Drawings
from namesake.picturebook.draw import Truth
from namesake.picturebook.judge import IGNORE, SHIPPED, Judge, agreement, labels, measure_judge
from namesake.picturebook.scene import Scene, World

if TYPE_CHECKING:
    from namesake.backbone import Backbone

JUDGE_BARS = {"category": 0.97, "place": 0.97, "style": 0.97, "color": 0.97, "pattern": 0.90, "worn": 0.90}
IDENTITY_BAR, TWINS_BAR = 0.90, 0.20
KEPT_BAR, KEPT_IDENTITY_BAR = 0.95, 0.85
MODEL_BARS = {"category": 0.90, "place": 0.90, "style": 0.90, "color": 0.85, "worn": 0.75, "second category": 0.60}
JUDGE_PICTURES, GALLERY, GROUPS = 2000, 50, 20

HEADER = ("what", "in which respect", "pictures", "measured", "bar", "verdict")
MARK, END = "<!-- bars -->", "<!-- /bars -->"
_NAMES = {"color": "main color", "worn": "worn thing", "second category": "second thing"}
_CHUNK = 16  # prompts that share a seed: what `generate` draws at a time
_DOCS_PICTURES = 32


@dataclass(frozen=True)
class Bar:
    """One bar and what was measured against it.

    Attributes:
        of: what was measured.
        name: in which respect.
        measured, wanted: shares in 0..1; NaN where there was nothing to measure.
        count: of how many pictures.
        at_most: whether less is better.
    """

    of: str
    name: str
    measured: float
    wanted: float
    count: int
    at_most: bool = False

    @property
    def spare(self) -> float:
        """By how much it is held; negative by how much it is missed."""
        return self.wanted - self.measured if self.at_most else self.measured - self.wanted

    @property
    def held(self) -> bool:
        """Whether it is met; what could not be measured is not."""
        return self.spare >= 0

    @property
    def cells(self) -> tuple[str, ...]:
        """Its row under `HEADER`; the verdict in hundredths."""
        limit = f"at {'most' if self.at_most else 'least'} {self.wanted * 100:.0f} %"
        verdict = f"{'held' if self.held else 'MISSED'} by {abs(self.spare) * 100:.1f}"
        if math.isnan(self.measured):
            return self.of, self.name, f"{self.count:,}", "nothing", limit, "MISSED"
        return self.of, self.name, f"{self.count:,}", f"{self.measured * 100:.1f} %", limit, verdict


# ---------------------------------------------------------------------------------------------------------- the judge
class Through(Judge):
    """A judge that sees pictures only after something was done to them, such as an autoencoder's round trip.

    Args:
        judge: whose eyes.
        change: uint8 `[B, H, W, 3]` to the same.
        seen: called with how many pictures were changed, a hundred at a time.
    """

    def __init__(self, judge: Judge, change: Callable[[Tensor], Tensor], seen: Callable[[int], object]) -> None:
        super().__init__(judge._network, judge.world)
        self._change, self._seen = change, seen

    def _see(
        self, pictures: UInt8[Tensor, "B H W 3"] | np.ndarray, boxes: Float[Tensor, "B 4"] | np.ndarray | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        parts = []
        for part in torch.as_tensor(pictures).split(100):
            parts.append(self._change(part))
            self._seen(len(part))
        return super()._see(torch.cat(parts), boxes)


def judge_bars(read: Mapping[str, Any], again: Mapping[str, Any], count: int, queries: int) -> list[Bar]:
    """The bars of the judge.

    Args:
        read: what `measure_judge` says of drawings.
        again: what it says of the same drawings after the autoencoder.
        count: drawings that the heads read.
        queries: drawings whose identity was asked.
    """
    straight, trip = "judge on unseen drawings", "judge on autoencoder round trips"
    rank = f"identity, rank 1 among {GALLERY}"
    bars = [Bar(straight, _NAMES.get(head, head), read["heads"][head], bar, count) for head, bar in JUDGE_BARS.items()]
    bars.append(Bar(straight, rank, read["identity"], IDENTITY_BAR, queries))
    bars.append(Bar(straight, "twins taken for the concept", read["twins"], TWINS_BAR, queries, at_most=True))
    for head in JUDGE_BARS:
        before, after = read["heads"][head], again["heads"][head]
        kept = after / before if before > 0 else math.nan
        bars.append(Bar(trip, f"{_NAMES.get(head, head)}, share kept", kept, KEPT_BAR, count))
    bars.append(Bar(trip, rank, again["identity"], KEPT_IDENTITY_BAR, queries))
    return bars


# ---------------------------------------------------------------------------------------------------------- the model
def asked(made: Concept, scene: Scene, words: Caption, world: World) -> tuple[dict[str, int], bool]:
    """What a prompt asks for, in the judge's terms.

    A second thing that the prompt does not mention is not expected. No prompt says which of two things beside each
    other stands left: here the concept does, and `agreement` takes the other order as well.

    Returns:
        The judge's labels, `IGNORE` for all that the prompt leaves open; and whether the prompt's first thing is the
        judge's second one, as a thing under another is.
    """
    if scene.second is not None:
        scene = replace(scene, seed=scene.seed | 1) if "relation" in words.named else replace(scene, second=None)
    named, under = set(words.named), False
    if scene.second is not None:
        under = scene.second.relation == "under"
        if under:  # what the prompt says of its first thing it says of the lower one; the judge's first is the upper
            swap = {"category": "second category", "second category": "category"}
            named = {swap.get(name, name) for name in named}
        alike = scene.second.concept.category == made.category or not named & {"category", "second category"}
        if under or (scene.second.relation == "beside" and alike):  # colors of which of the two?
            named -= {"color", "second color", "pattern"}
    told = labels(Truth(made, scene), world)
    return {head: label if head in named else IGNORE for head, label in told.items()}, under


def heeded(
    reading: Mapping[str, Float[Tensor, "B _"]], wanted: Sequence[tuple[dict[str, int], bool]]
) -> dict[str, Float[Tensor, " B"]]:
    """Whether pictures show what was asked: for each head 1, 0, or NaN where nothing was asked.

    "category" is that of the prompt's first thing and "second category" that of its second, wherever they stand.

    Args:
        reading: log-probabilities, from `Judge.judge`.
        wanted: `asked` of each picture.
    """
    one, two = "category", "second category"
    out = agreement(reading, [row for row, _ in wanted])
    # Beside each other, things may stand either way round. One of two found: which? Ask for the first alone.
    only = [row | {one if under else two: IGNORE} for row, under in wanted]
    alone = agreement(reading, only)
    first = torch.where(alone[one].isnan(), alone[two], alone[one])
    found = torch.stack([out[one], out[two]]).nansum(0)
    second = torch.tensor([row[one if under else two] != IGNORE for row, under in wanted])
    return out | {one: first, two: torch.where(second, found - first.nan_to_num(), torch.nan)}


@torch.no_grad()
def draw_prompts(
    backbone: Backbone, prompts: Sequence[str], seed: int = 0, progress: Callable[[int], object] = int
) -> UInt8[np.ndarray, "B H W 3"]:
    """One picture of each prompt with the settings that a user gets by default; sixteen prompts share a seed.

    `progress` is called with the number of pictures that are done.
    """
    from namesake.generate import generate

    pictures = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of words that captions of the full world share with this one
        for start in range(0, len(prompts), _CHUNK):
            chunk = list(prompts[start : start + _CHUNK])
            pictures += [made.pixels for made in generate(backbone, chunk, seed=seed + start // _CHUNK)]
            progress(len(pictures))
    return np.stack(pictures)


# ---------------------------------------------------------------------------------------------------------- the check
def measure(
    backbone: Backbone, judge: Judge, world: World, output: Path, count: int = 600, seed: int = 0
) -> tuple[list[Bar], dict[str, Any]]:
    """Measure all bars, and write sheets of the pictures into `output`.

    Args:
        backbone: the picture book's model.
        judge: of the same categories and places, or more.
        world: what the model knows.
        output: a folder that is there.
        count: prompts.
        seed: of drawings, prompts and noise.

    Returns:
        The bars, and everything else that was measured on the way, as JSON values.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    groups = min(GROUPS, len(judge.world.categories))
    reads = JUDGE_PICTURES + groups * GALLERY * 7
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        jobs = [
            progress.add_task(title, total=total)
            for title, total in (("drawings", reads), ("round trips", reads), ("prompts", count))
        ]

        def round_trip(pictures: Tensor) -> Tensor:
            return backbone.decode(backbone.encode(pictures))

        told = []
        for job, change in zip(jobs, (lambda pictures: pictures, round_trip), strict=False):
            through = Through(judge, change, lambda done, job=job: progress.advance(job, done))  # type: ignore[misc]
            told.append(measure_judge(through, "reporting", JUDGE_PICTURES, seed, GALLERY, groups))
        drawings = Drawings("reporting", world, seed)
        scenes = [drawings.scene(i) for i in range(count)]
        prompts = [words.text for *_, words in scenes]
        pictures = draw_prompts(backbone, prompts, seed, lambda done: progress.update(jobs[2], completed=done))
    wanted = [asked(made, scene, words, judge.world) for made, scene, words in scenes]
    right = heeded(judge.judge(pictures), wanted)
    shares = {head: (float(values.nanmean()), int((~values.isnan()).sum())) for head, values in right.items()}
    bars = judge_bars(told[0], told[1], JUDGE_PICTURES, groups * GALLERY)
    for head, bar in MODEL_BARS.items():
        bars.append(Bar("model on unseen prompts", _NAMES.get(head, head), shares[head][0], bar, shares[head][1]))
    misses = [[_NAMES.get(h, h) for h in MODEL_BARS if float(right[h][i]) == 0] for i in range(count)]
    some = np.stack([drawings[i][0].picture for i in range(min(count, 36))])
    _write_sheets(output, some, round_trip(torch.from_numpy(some)).numpy(), pictures, prompts, misses)
    also = {head: {"share": share, "pictures": n} for head, (share, n) in shares.items() if n}
    return bars, {"drawings": told[0], "round trips": told[1], "prompts": also}


def _write_sheets(
    output: Path,
    drawn: np.ndarray,
    again: np.ndarray,
    pictures: np.ndarray,
    prompts: Sequence[str],
    misses: Sequence[Sequence[str]],
) -> None:
    from namesake.sheet import contact_sheet, save_png

    rows = [list(some[i : i + 12]) for i in range(0, len(drawn), 12) for some in (drawn, again)]
    names = ["drawn", "through the autoencoder"] * (len(rows) // 2)
    save_png(np.asarray(contact_sheet(rows, row_titles=names, cell=128)), output / "round_trips.png")
    notes = [
        text + (f" (missed: {', '.join(miss)})" if miss else "") for text, miss in zip(prompts, misses, strict=True)
    ]

    def page(name: str, start: int, stop: int, across: int, title: str) -> None:
        starts = range(start, min(stop, len(pictures)), across)
        ends = [min(i + across, stop, len(pictures)) for i in starts]
        rows = [list(pictures[i:end]) for i, end in zip(starts, ends, strict=True)]
        captions = [notes[i:end] for i, end in zip(starts, ends, strict=True)]
        save_png(np.asarray(contact_sheet(rows, captions=captions, title=title, cell=128)), output / name)

    for old in output.glob("prompts-*.png"):  # of a longer check
        old.unlink()
    for number, start in enumerate(range(0, len(pictures), 120)):
        page(f"prompts-{number + 1}.png", start, start + 120, 12, "Unseen prompts, and what the judge missed")
    page("first.png", 0, _DOCS_PICTURES, 8, f"The first {_DOCS_PICTURES} unseen prompts, and what the judge missed")


def markdown(bars: Sequence[Bar]) -> str:
    """The bars as a table."""
    lines = [HEADER, ("---",) * len(HEADER), *(bar.cells for bar in bars)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def summary(bars: Sequence[Bar]) -> str:
    """One line: how many bars hold, and by how much the others are missed."""
    missed = [f"{bar.of}, {bar.name} ({bar.cells[3]}, {bar.cells[4]})" for bar in bars if not bar.held]
    if not missed:
        return f"All {len(bars)} bars hold."
    return f"{len(bars) - len(missed)} of {len(bars)} bars hold; missed: {'; '.join(missed)}."


def into_page(page: str, table: str) -> str:
    """A page with `table` in the place between its marks.

    Raises:
        Refusal: for a page without the two marks.
    """
    start, end = page.find(MARK), page.find(END)
    if not 0 <= start < end:
        raise Refusal(f"The page has no place for the table; write the marks {MARK} and {END} into it, in this order.")
    return f"{page[: start + len(MARK)]}\n{table.strip()}\n{page[end:]}"


def write_page(docs: Path, table: str) -> None:
    """Put a table into the place that a page has for it."""
    write(into_page(docs.read_text(encoding="utf-8"), table).encode(), docs, "page")


def check_page(docs: Path) -> None:
    """Refuse a page that cannot get a table, before anything is measured for it."""
    if not docs.is_file():
        raise Refusal(f'There is no page "{docs}" to write the table to.')
    try:
        into_page(docs.read_text(encoding="utf-8"), "")
    except UnicodeDecodeError:
        raise Refusal(f'"{docs}" is no text in UTF-8; give a page to write the table to.') from None
    check_writable(docs.parent, "--docs")


def world_of(model: Path) -> World:
    """The categories and places that a model's folder names in its `world.json`.

    Raises:
        Refusal: for a folder that names none.
    """
    try:
        told = json.loads((model / "world.json").read_text())
        return World(tuple(told["categories"]), tuple(told["places"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise Refusal(
            f'"{model}" has no world.json that names categories and places; give a folder that '
            "'namesake picturebook train' wrote."
        ) from None


def main(
    output: Path,
    model: Path | None = None,
    judge: Path | None = None,
    count: int = 600,
    seed: int = 0,
    docs: Path | None = None,
) -> bool:
    """Measure, print the bars, and write `check.json`, `check.md` and the sheets.

    Args:
        output: the folder to write to; made where it is missing.
        model: the folder of the model; the shipped one by default.
        judge: the judge's file; the shipped one by default.
        count: prompts, 16 to 100,000.
        seed: 0 to 2**31 - 1.
        docs: a page whose marked place gets the table; a sheet goes beside it.

    Returns:
        Whether all bars hold. The last line printed says so.

    Raises:
        Refusal: for a number out of range, a page without its marks, a model or judge that does not fit, and a place that
            cannot be written; all before anything is measured.
    """
    from rich.console import Console
    from rich.table import Table

    from namesake.backbone import Backbone

    for name, value, low, high in (("count", count, 16, 100_000), ("seed", seed, 0, 2**31 - 1)):
        if not low <= value <= high:
            raise Refusal(f"The {name} is {value}; a number from {low:,} to {high:,} is wanted.")
    if docs is not None:
        check_page(docs)
    folder = model or Path(__file__).parent / "model"
    world, reader = world_of(folder), Judge.load(judge or SHIPPED)
    if missing := [
        n for n in (*world.categories, *world.places) if n not in (*reader.world.categories, *reader.world.places)
    ]:
        raise Refusal(f"The judge does not know {', '.join(missing)}; train it on the world of the model.")
    folder_for(output)
    bars, more = measure(Backbone.load(str(folder)), reader, world, output, count, seed)

    table = Table(*HEADER)
    for bar in bars:
        table.add_row(*bar.cells, style=None if bar.held else "bold red")
    console = Console()
    console.print(table)
    last = summary(bars)
    text = f"{markdown(bars)}\n{last}\n"
    settings = {"count": count, "seed": seed, "world": asdict(world)}
    told = {"held": all(bar.held for bar in bars), "summary": last, "settings": settings,
            "bars": [asdict(bar) | {"held": bar.held, "spare": bar.spare} for bar in bars], "also": more}  # fmt: skip
    write((json.dumps(_plain(told), indent=1) + "\n").encode(), output / "check.json", "figures")
    write(text.encode(), output / "check.md", "table")
    if docs is not None:
        sheet = docs.with_name(f"{docs.stem}_check.png")
        write((output / "first.png").read_bytes(), sheet, "sheet")
        shown = f"\n![Unseen prompts, drawn by the model]({sheet.name})\n"
        write_page(docs, text + shown)
    console.print(last, soft_wrap=True, highlight=False)
    return bool(told["held"])


def _plain(value: Any) -> Any:
    """JSON has no NaN; null stands for it."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
