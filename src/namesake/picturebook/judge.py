"""The judge: a small network that reads drawings. It measures and does nothing else.

It reads from a picture what was drawn (category, colors, pattern, place, style, ...) and says how alike two things
are. It is trained on drawings alone, never on a model's pictures; no model and no method trains on it or looks
through it.

What a picture cannot tell is not asked. "A cat under a ball" and "a ball on a cat" are one picture, and "beside" has
no first thing. So the judge names things by where they are: its *first* thing is the only one, the upper one, the one
inside, or the one on the left; the other is its *second*. `labels` says the truth in these terms, `agreement`
compares a reading with it.

Identity is learned by contrast (InfoNCE; van den Oord et al., "Representation Learning with Contrastive Predictive
Coding", equation 4; with labels as in Khosla et al., "Supervised Contrastive Learning", equation 2): two drawings of
one concept in different scenes attract, all others repel, and most of all a concept's *twin* (`twin`), of which the
same words are true.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from namesake.edits.base import strided_values
from namesake.errors import Refusal
from namesake.files import cut_lines, write, write_array, write_state
from namesake.machine import bf16_pays
from namesake.picturebook.concept import (
    COLORS,
    PATTERNS,
    Concept,
    any_concept,
    concept,
    count_of,
    number_of,
    sample_color,
    sample_concept,
)
from namesake.picturebook.dataset import in_order
from namesake.picturebook.draw import FRAME, Truth, draw, pixel_cells
from namesake.picturebook.optim import MuonAndAdamW
from namesake.picturebook.scene import FULL_WORLD, STYLES, WORN, Pose, Scene, World, sample_scene

SHIPPED = Path(__file__).parent / "judge" / "judge.safetensors"
SIDE = 64
"""Side in pixels of what the network sees."""
EMBEDDING = 128
IGNORE = -100
"""The label of what a picture does not show."""

_CONTEXT = 1.25  # a crop's side over its box's longer side
_CHECKPOINT_EVERY = 200  # steps; about two minutes of one core
_SMALLEST = 60  # pixels of 4,096 that a thing must show before anything is asked about it


# --------------------------------------------------------------------------------------------------------------- labels
def heads(world: World = FULL_WORLD) -> dict[str, tuple[str, ...]]:
    """What the judge reads, and the classes of each; their order is that of the labels."""
    return {
        "category": world.categories,
        "color": tuple(COLORS),
        "second color": tuple(COLORS),
        "pattern": PATTERNS,
        "place": (*world.places, "studio"),
        "style": STYLES,
        "worn": (*WORN, "none"),
        "mirror": ("as drawn", "mirrored"),
        "turn": ("left", "upright", "right"),
        "size": ("small", "medium", "big"),
        "side": ("left", "middle", "right"),
        "relation": ("beside", "on", "in", "none"),
        "second category": world.categories,
    }


@lru_cache(maxsize=64)
def _has_sides(category: str) -> bool:
    """Whether a category's figure differs from its mirror image by more than a fifth of its area."""
    made = replace(sample_concept(np.random.default_rng(7), 0, category), proportions=(0.5,) * 4, patches=())
    made = replace(made, pattern=replace(made.pattern, kind="plain"))
    here, there = (draw(made, Scene(pose=Pose(mirror=mirror))) for mirror in (False, True))
    differs = np.abs(here.picture.astype(int) - there.picture).max(-1) > 24
    return bool(differs.sum() > 0.2 * here.truth.objects[0].mask.sum())


def _bin(value: float, low: float, high: float) -> int:
    return int(value >= low) + int(value > high)


def labels(truth: Truth, world: World = FULL_WORLD) -> dict[str, int]:
    """The truth of a picture in the judge's terms.

    Args:
        truth: what `draw` returned, or `Truth(concept, scene)` of a picture that was asked of a model.
        world: whose categories and places are numbered.

    Returns:
        For each of `heads(world)` the number of its class, or `IGNORE` where the picture does not show it: colors in
        a blueprint; a pattern whose tile is below three pixels; a hat under a second thing; turn, size, side and
        mirror beside a second thing; the mirroring of symmetric figures; all about a thing that is hidden.
    """
    scene, classes = truth.scene, heads(world)

    def index(head: str, name: str) -> int:
        return classes[head].index(name) if name in classes[head] else IGNORE

    order = [0] if scene.second is None else [0, 1]
    relation = "none" if scene.second is None else scene.second.relation
    if relation == "under" or (relation == "beside" and truth.objects[0].center[0] > truth.objects[1].center[0]):
        order.reverse()
    first = truth.objects[order[0]]
    made = first.concept
    out = dict.fromkeys(classes, IGNORE)
    out["place"] = index("place", scene.place)
    out["style"] = index("style", scene.style.name)
    out["relation"] = index("relation", "on" if relation == "under" else relation)
    out["worn"] = index("worn", "none" if scene.worn is None else scene.worn.name)
    if relation == "under" and scene.worn is not None:
        out["worn"] = IGNORE
    if first.mask.sum() >= _SMALLEST:
        out["category"] = index("category", made.category)
        if scene.style.name != "blueprint":
            out["color"] = index("color", made.colors[0].name)
            out["second color"] = index("second color", made.colors[1].name)
        pixels = pixel_cells(scene.style) if scene.style.name == "pixelart" else SIDE
        if made.pattern.kind == "plain" or made.pattern.tile * first.scale * FRAME / 100 * pixels >= 3:
            out["pattern"] = index("pattern", made.pattern.kind)
        if scene.second is None:
            out["turn"] = _bin(scene.pose.turn, -8, 8)
            out["size"] = _bin(scene.pose.scale, 0.8, 1.15)
            out["side"] = _bin(scene.pose.x, -9, 9)
            if _has_sides(made.category):
                out["mirror"] = int(first.mirror)
    if scene.second is not None and truth.objects[order[1]].mask.sum() >= _SMALLEST:
        out["second category"] = index("second category", truth.objects[order[1]].concept.category)
    return out


def agreement(
    reading: Mapping[str, Float[Tensor, "B _"]], wanted: Sequence[Mapping[str, int]]
) -> dict[str, Float[Tensor, " B"]]:
    """Whether a reading says what was wanted, picture by picture.

    Two things beside each other may stand either way round; the order in which more categories agree counts, and what
    is said about the first thing alone (colors, pattern) is left out where the other order was drawn.

    Args:
        reading: log-probabilities, from `Judge.judge`.
        wanted: `labels` of each picture.

    Returns:
        For each head 1 where it agrees, 0 where not, NaN where nothing was wanted.
    """
    said = {head: scores.argmax(-1) for head, scores in reading.items()}
    want = {head: torch.tensor([row[head] for row in wanted]) for head in said}
    beside = list(heads()["relation"]).index("beside")
    one, two = "category", "second category"
    straight = (said[one] == want[one]).int() + (said[two] == want[two])
    crossed = (said[one] == want[two]).int() + (said[two] == want[one])
    swap = (want["relation"] == beside) & (crossed > straight)
    want[one], want[two] = torch.where(swap, want[two], want[one]), torch.where(swap, want[one], want[two])
    for head in ("color", "second color", "pattern"):
        want[head] = torch.where(swap, IGNORE, want[head])
    nan = torch.tensor(torch.nan)
    return {head: torch.where(want[head] == IGNORE, nan, (said[head] == want[head]).float()) for head in said}


# ----------------------------------------------------------------------------------------------------------------- data
def twin(made: Concept, rng: np.random.Generator) -> Concept:
    """Another concept of which the same words are true.

    It has the category, the names of the three colors, the pattern's kind and the names of its color and of the
    first patch's color, and one emblem or several patches as `made` has; hues, patches, proportions, scale and turn
    of the pattern are drawn afresh.
    """
    while True:  # one emblem or several: a coin, so two tries on average
        other = sample_concept(rng, made.number, made.category)
        if (len(other.patches) > 1) == (len(made.patches) > 1):
            break

    def again(name: str) -> Any:
        return sample_color(rng, (name,))

    first, *rest = other.patches
    return replace(
        other,
        colors=tuple(again(color.name) for color in made.colors),
        pattern=replace(other.pattern, kind=made.pattern.kind, color=again(made.pattern.color.name)),
        patches=(replace(first, color=again(made.patches[0].color.name)), *rest),
    )


def _views(
    made: Concept, rng: np.random.Generator, split: str, world: World, count: int
) -> list[tuple[np.ndarray, Truth]]:
    """Drawings of one concept in scenes of their own: uint8 `[64, 64, 3]` and the truth."""
    drawings = [draw(made, sample_scene(rng, split, world), SIDE) for _ in range(count)]
    return [(drawing.picture, drawing.truth) for drawing in drawings]


def _box_of(truth: Truth) -> tuple[float, float, float, float]:
    """The concept's box; all zero where too little of it is seen to know it by."""
    thing = truth.objects[0]
    return thing.box if thing.mask.sum() >= 1.5 * _SMALLEST else (0.0, 0.0, 0.0, 0.0)


def _draw_shard(job: tuple[Path, int, int, int, World]) -> int:
    """Four drawings for each record: two of a concept, two of a twin of it."""
    path, seed, start, count, world = job
    names = heads(world)
    pictures = np.empty((count, 4, SIDE, SIDE, 3), np.uint8)
    truths = np.empty((count, 4, len(names)), np.int16)
    boxes = np.empty((count, 4, 4), np.float32)
    numbers = np.full((count, 4, 2), -1, np.int64)
    for i in range(count):
        rng = np.random.default_rng([seed, start + i, 0x10D6E])
        category = world.categories[(start + i) % len(world.categories)]
        made = any_concept(rng, "training", category)
        for j, (picture, truth) in enumerate(
            [view for one in (made, twin(made, rng)) for view in _views(one, rng, "training", world, 2)]
        ):
            pictures[i, j] = picture
            truths[i, j] = list(labels(truth, world).values())
            boxes[i, j] = _box_of(truth)
            numbers[i, j] = (
                truth.concept.number,
                -1 if truth.scene.second is None else truth.scene.second.concept.number,
            )
    for name, array in (("pictures", pictures), ("labels", truths), ("boxes", boxes), ("numbers", numbers)):
        write_array(array, path / f"{name}-{start:08d}.npy", "drawings")
    return count


def draw_judge_data(folder: Path, count: int, seed: int = 0, workers: int = 0, world: World = FULL_WORLD) -> None:
    """Put at least `count` drawings of training concepts and the truth about them into `folder`.

    They come in records of four (two of a concept, two of its twin, each in a scene of its own) and shards of 500
    records: `pictures-*.npy` uint8 `[R, 4, 64, 64, 3]`, `labels-*.npy` `[R, 4, heads]`, `boxes-*.npy` `[R, 4, 4]` and
    `numbers-*.npy` `[R, 4, 2]` (the concept's number, which a twin shares, and the second thing's or -1). Shards that
    are there already are kept. A drawing and its truth cost about 7 ms of one core; `workers` 0 takes all cores.
    """
    from rich.progress import Progress

    folder.mkdir(parents=True, exist_ok=True)
    records = 500
    starts = range(0, -(-count // 4), records)
    todo = [start for start in starts if not (folder / f"numbers-{start:08d}.npy").exists()]
    jobs = [(folder, seed, start, min(records, -(-count // 4) - start), world) for start in todo]
    # "spawn": a fork of a process whose torch has threads may hang.
    context = multiprocessing.get_context("spawn")
    with Progress() as progress:
        bar = progress.add_task(
            "judge: drawings", total=-(-count // 4), completed=-(-count // 4) - sum(job[3] for job in jobs)
        )
        for done in in_order(_draw_shard, jobs, workers, context):
            progress.advance(bar, done)


class JudgeData:
    """The drawings of a folder, read from disk as they are needed.

    Args:
        folder: where `draw_judge_data` wrote.
        world: the world they were drawn in.

    Raises:
        Refusal: for a folder without drawings, or with drawings of another world.
    """

    def __init__(self, folder: Path, world: World = FULL_WORLD) -> None:
        shards = sorted(folder.glob("numbers-*.npy"))
        if not shards:
            raise Refusal(
                f"There are no drawings for the judge in {folder}; draw them first (namesake picturebook train --stage judge)."
            )
        self._pictures = [
            np.load(shard.with_name(shard.name.replace("numbers", "pictures")), mmap_mode="r") for shard in shards
        ]
        truths, boxes = (
            [np.load(s.with_name(s.name.replace("numbers", kind))) for s in shards] for kind in ("labels", "boxes")
        )
        self.labels, self.boxes = np.concatenate(truths), np.concatenate(boxes)
        self._where = [(i, j) for i, shard in enumerate(self._pictures) for j in range(len(shard))]
        self._kinds = [np.arange(k, len(self._where), len(world.categories)) for k in range(len(world.categories))]
        if self.labels.shape[-1] != len(heads(world)):
            raise Refusal(
                f"The drawings in {folder} have other labels than this judge; draw them again into an empty folder."
            )

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sixteen categories, two records of each.

        Eight and four left fewer labels that differ: from one checkpoint and 100 steps on (one run each, AdamW's rate
        lowered too), the losses of category, color and pattern were 2.44, 1.51, 1.55 then and 2.39, 1.42, 1.48 now.

        Returns:
            Pictures uint8 `[128, 64, 64, 3]`, labels `[128, heads]`, boxes `[128, 4]` and objects `[128]`: numbers
            that are equal for two drawings of one thing and differ in the last bit only for twins.
        """
        filled = [kind for kind in self._kinds if len(kind)]
        chosen = rng.choice(len(filled), min(16, len(filled)), replace=False)
        rows = np.concatenate([rng.choice(filled[k], min(2, len(filled[k])), replace=False) for k in chosen])
        pictures = np.stack([self._pictures[i][j] for i, j in (self._where[row] for row in rows)])
        objects = np.repeat(np.arange(2 * len(rows)), 2)
        return (
            torch.from_numpy(pictures).flatten(0, 1),
            torch.from_numpy(self.labels[rows].astype(np.int64)).flatten(0, 1),
            torch.from_numpy(self.boxes[rows]).flatten(0, 1),
            torch.from_numpy(objects),
        )


# -------------------------------------------------------------------------------------------------------------- network
class _Block(nn.Module):
    """Two convolutions about a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        inner = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(inner)))


class _Network(nn.Module):
    """Pictures `[B, 3, 64, 64]` in -1..1 -> logits of each head, and an embedding `[B, 128]` of unit length."""

    def __init__(
        self,
        classes: Mapping[str, int],
        widths: Sequence[int] = (32, 64, 128, 192),
        blocks: Sequence[int] = (1, 1, 2, 0),
        looks: int = 6,
    ) -> None:
        super().__init__()
        self.classes = dict(classes)
        body: list[nn.Module] = [nn.PixelUnshuffle(2)]
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            before, stride = (12, 1) if i == 0 else (widths[i - 1], 2)
            body += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            body += [_Block(width) for _ in range(count)]
        ends = [1 + 3 * (i + 1) + sum(blocks[: i + 1]) for i in range(len(widths))]
        self.middle = nn.Sequential(*body[: ends[1]])
        self.fine = nn.Sequential(*body[ends[1] : ends[2]])
        self.coarse = nn.Sequential(*body[ends[2] :])
        # A thing fills a tenth of many a picture, and a mean over all places drowns its pattern and colors (with means
        # and maxima alone pattern stayed at chance). So a few learned looks say where to read.
        self.context = nn.Conv2d(widths[-1], widths[-2], 1)
        self.looks = nn.Conv2d(widths[-2], looks, 1)
        # Looks forget where things are, which side, turn and relation need; so a few channels keep their 4 x 4 places.
        self.places = nn.Conv2d(widths[-1], 16, 1)
        width = looks * (widths[-2] + widths[-3]) + widths[-1] + 16 * 16
        self.norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, sum(self.classes.values()))
        self.identity = nn.Sequential(nn.Linear(width, 192), nn.ReLU(), nn.Linear(192, EMBEDDING))

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> tuple[dict[str, Float[Tensor, "B _"]], Float[Tensor, "B E"]]:
        middle = self.middle(x)
        fine = self.fine(middle)
        coarse = self.coarse(fine)
        where = self.looks(F.relu(fine + F.interpolate(self.context(coarse), fine.shape[-2:]))).float()
        seen = []
        for map_ in (fine, middle):
            scores = F.interpolate(where, map_.shape[-2:]).flatten(2)
            seen.append((scores.softmax(-1) @ map_.float().flatten(2).transpose(1, 2)).flatten(1))
        features = self.norm(torch.cat([*seen, coarse.mean((2, 3)), self.places(coarse).flatten(1)], 1))
        logits = self.heads(features).float().split(list(self.classes.values()), 1)
        return dict(zip(self.classes, logits, strict=True)), F.normalize(self.identity(features).float(), dim=-1)


def _network(world: World) -> _Network:
    return _Network({head: len(names) for head, names in heads(world).items()}).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _windows(boxes: Float[Tensor, "B 4"], context: Float[Tensor, " B"] | float = _CONTEXT) -> Float[Tensor, "B 3"]:
    """Square windows about boxes: middle x, middle y and half a side, in the frame -1..1 of the picture."""
    left, top, right, bottom = boxes.unbind(-1)
    half = torch.maximum(right - left, bottom - top) * context
    return torch.stack([left + right - 1, top + bottom - 1, half], -1)


def _look(pictures: Float[Tensor, "B 3 H W"], windows: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 64 64"]:
    """What windows show, 64 x 64; beyond the edge the edge goes on. (0, 0, 1) shows a 64-pixel picture as it is."""
    x, y, half = windows.unbind(-1)
    zero = torch.zeros_like(half)
    theta = torch.stack([torch.stack([half, zero, x], -1), torch.stack([zero, half, y], -1)], 1)
    grid = F.affine_grid(theta, [len(pictures), 3, SIDE, SIDE], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _floats(pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


# ------------------------------------------------------------------------------------------------------------- training
def _spoil(x: Float[Tensor, "B 3 H W"], rng: np.random.Generator, noise: torch.Generator) -> Float[Tensor, "B 3 H W"]:
    """Blur, noise or resampling, each on a fifth of the pictures, and small changes of brightness on all."""
    fate = torch.from_numpy(rng.permutation(len(x)) * 5 // len(x))
    gain = torch.from_numpy(rng.normal(1, 0.02, (2, len(x), 1, 1, 1)).astype(np.float32))
    x = x * gain[0] + (gain[1] - 1)
    blurred, noisy, coarse = (torch.nonzero(fate == k).flatten() for k in range(3))
    sigma = torch.from_numpy(rng.uniform(0.35, 1.2, (len(blurred), 1)).astype(np.float32))
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = F.pad(x[blurred], (3, 3, 3, 3), mode="replicate").flatten(0, 1)[None]
    flat = F.conv2d(F.conv2d(flat, taps[:, None, None, :], groups=len(taps)), taps[:, None, :, None], groups=len(taps))
    x = x.index_copy(0, blurred, flat[0].unflatten(0, (len(blurred), 3)))
    size = int(rng.integers(28, 57))
    small = F.interpolate(x[coarse], (size, size), mode="bilinear", antialias=True)
    x = x.index_copy(
        0, coarse, F.interpolate(small, x.shape[-2:], mode="bicubic" if rng.uniform() < 0.5 else "bilinear")
    )
    level = torch.from_numpy(rng.uniform(0.02, 0.16, (len(noisy), 1, 1, 1)).astype(np.float32))
    grain = torch.randn(x[noisy].shape, generator=noise)
    return x.index_copy(0, noisy, x[noisy] + level * grain).clamp(-1, 1)


def identity_loss(
    embeddings: Float[Tensor, "B E"],
    objects: Int[Tensor, " B"],
    temperature: float = 0.1,
    twin_weight: float = 16.0,
) -> Float[Tensor, ""]:
    """InfoNCE over a batch, with labels (Khosla et al. 2020, equation 2), in which a twin counts as many negatives.

    Args:
        embeddings: of unit length.
        objects: equal for drawings of one thing; differing in the last bit only for twins; negative ones take no
        part.
        temperature: divides cosines.
        twin_weight: how many strangers a drawing of the twin counts for. Twins are 2 of a batch's 126 negatives, yet
            shall be no nearer than strangers are.

    Returns:
        The mean over all drawings that have a partner; 0 when none has.
    """
    part = objects >= 0
    embeddings, objects = embeddings[part], objects[part]
    same = objects[:, None] == objects[None]
    self_ = torch.eye(len(objects), dtype=torch.bool, device=objects.device)
    weights = 1 + (twin_weight - 1) * (objects[:, None] == (objects ^ 1)[None]).float()
    scores = embeddings @ embeddings.T / temperature + weights.log()
    scores = scores.masked_fill(self_, -torch.inf)
    partners = same & ~self_
    log_share = scores.log_softmax(1).masked_fill(~partners, 0.0).sum(1) / partners.sum(1).clamp(min=1)
    chosen = partners.any(1)
    return -log_share[chosen].mean() if bool(chosen.any()) else embeddings.sum() * 0.0


def _loss(
    network: _Network, batch: tuple[Tensor, Tensor, Tensor, Tensor], rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The training loss of a batch, with all chance from `rng`; and its parts."""
    pictures, wanted, boxes, objects = batch
    count = len(pictures)
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def chance(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, *shape)).astype(np.float32))

    # Whole pictures, most of them moved a little; and crops, which only tell identity.
    moved = torch.cat([chance(-0.05, 0.05, 2), chance(0.95, 1.05, 1)], 1)
    whole = torch.where(chance(0, 1, 1) < 0.3, torch.tensor([0.0, 0.0, 1.0]), moved)
    around = _windows(boxes, chance(1.1, 1.45))
    around = torch.cat([around[:, :2] + around[:, 2:] * chance(-0.07, 0.07, 2), around[:, 2:]], 1)
    seen = boxes[:, 2] > boxes[:, 0]
    cropped = seen & (chance(0, 1) < 0.3)
    paired = wanted[:, list(network.classes).index("relation")] != heads()["relation"].index("none")
    device = next(network.parameters()).device
    x = _spoil(_look(_floats(pictures), torch.where(cropped[:, None], around, whole)), rng, noise).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=network.training and bf16_pays(device.type)):
        logits, embeddings = network(x.contiguous(memory_format=torch.channels_last))
    wanted = wanted.masked_fill(cropped[:, None], IGNORE).to(device)
    # A whole picture of two things has no one identity.
    terms = {"identity": identity_loss(embeddings, objects.masked_fill(~seen | (paired & ~cropped), -1).to(device))}
    for i, (head, scores) in enumerate(logits.items()):
        asked = (wanted[:, i] != IGNORE).sum().clamp(min=1)
        terms[head] = F.cross_entropy(scores, wanted[:, i], ignore_index=IGNORE, reduction="sum") / asked
    return torch.stack(list(terms.values())).sum(), {name: float(term.detach()) for name, term in terms.items()}


def train_judge(
    data_folder: Path,
    out_folder: Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 9,
    start: Path | None = None,
    world: World = FULL_WORLD,
    device: torch.device | str = "cpu",
) -> Judge:
    """Train a judge on drawings.

    Batches of 128, Muon on matrices and AdamW on the rest, the rate rising over 100 steps and falling to zero by
    cosine. All chance of step n comes from (seed, n), so a run that was killed and taken up again is the run that was
    not killed (same machine).

    Args:
        data_folder: where `draw_judge_data` wrote.
        out_folder: `judge.safetensors` at the end; `checkpoint.pt` (every 200 steps, and it is gone on from where it is there) and
            `curve.jsonl` on the way.
        minutes: how long; after ten steps this becomes a number of steps, which a resumed run keeps.
        steps: how many steps; give this or `minutes`.
        seed: of weights and batches.
        start: weights to begin from.
        world: of the drawings.
        device: to train on.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if (minutes is None) == (steps is None):
        raise Refusal("Say how long the judge shall train: either minutes or steps.")
    data = JudgeData(data_folder, world)
    out_folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = _network(world)
    if start is not None:
        network.load_state_dict(Judge.load(start)._network.state_dict())
    network.to(device).train()
    # A head's 704 inputs have unit size, so AdamW may move a logit by 704 rates in one step: hence the third.
    optimizer = MuonAndAdamW(network.named_parameters(), 3e-3, 1e-3, plain=("middle.1.weight", "heads.weight"))
    checkpoint, curve = out_folder / "checkpoint.pt", out_folder / "curve.jsonl"
    step, total = 0, steps
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=next(network.parameters()).device, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step, total = state["step"], steps or state["total"]
    kept = cut_lines(curve, step)
    columns = (
        TextColumn("judge"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    began = time.monotonic() - (kept[-1]["seconds"] if kept else 0.0)
    mean: dict[str, float] = {}
    with Progress(*columns) as progress, curve.open("a") as log:
        bar = progress.add_task("judge", total=total, completed=step, loss="")
        while total is None or step < total:
            rng = np.random.default_rng([seed, step, 0x7EAC])
            loss, parts = _loss(network, data.batch(rng), rng)
            loss.backward()  # type: ignore[no-untyped-call]
            rate = min(1.0, (step + 1) / 100)
            if total is not None:
                rate *= 0.5 + 0.5 * float(np.cos(np.pi * step / total))
            optimizer.step(rate)
            step += 1
            mean = {name: mean.get(name, 0.0) + value / 50 for name, value in parts.items()}
            if total is None and step == 10:
                assert minutes is not None
                total = max(11, round(minutes * 60 / ((time.monotonic() - began) / 10)))
                progress.update(bar, total=total)
            if step % 50 == 0:
                log.write(
                    json.dumps(
                        {
                            "step": step,
                            "seconds": round(time.monotonic() - began, 1),
                            **{k: round(v, 4) for k, v in mean.items()},
                        }
                    )
                    + "\n"
                )
                log.flush()
                progress.update(bar, loss=f"category {mean['category']:.2f} identity {mean['identity']:.2f}")
                mean = {}
            # As soon as the number of steps is known too: it is taken from the clock.
            if step % _CHECKPOINT_EVERY == 0 or step in (total, 10):
                state = {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "total": total,
                }
                write_state(state, checkpoint)
            progress.update(bar, completed=step)
    judge = Judge(network.eval().cpu(), world)
    judge.save(out_folder / "judge.safetensors")
    return judge


# ------------------------------------------------------------------------------------------------------------ the judge
class Judge:
    """Reads pictures. Make one with `Judge.load()`."""

    def __init__(self, network: _Network, world: World) -> None:
        self._network, self.world = network.eval().requires_grad_(False), world
        self.heads = heads(world)

    @classmethod
    def load(cls, path: Path = SHIPPED) -> Judge:
        """The judge of a file; the shipped one by default.

        Raises:
            Refusal: for a file that is missing or is not a judge.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise Refusal(
                f"There is no judge at {path}; train one (namesake picturebook train --stage judge), or name another."
            )
        try:
            with safe_open(path, "pt") as file:
                told = json.loads((file.metadata() or {})["world"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            world = World(tuple(told["categories"]), tuple(told["places"]))
            network = _network(world)
            counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
            network.load_state_dict({**{name: value.float() for name, value in weights.items()}, **counters})
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise Refusal(
                f"{path} is not a judge of this version; train one (namesake picturebook train --stage judge)."
            ) from error
        return cls(network, world)

    def sketch(self) -> Float[Tensor, 256]:
        """Some of its weights, to tell what was measured by another judge."""
        return strided_values(self._network, 16)

    def save(self, path: Path) -> None:
        """Write weights (fp16) and the world as one safetensors file, whole or not at all."""
        from safetensors.torch import save

        weights = {
            k: v.half().contiguous()
            for k, v in self._network.state_dict().items()
            if not k.endswith("num_batches_tracked")
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write(save(weights, {"world": json.dumps(asdict(self.world))}), path, "judge")

    @torch.no_grad()
    def _see(
        self, pictures: UInt8[Tensor, "B H W 3"] | np.ndarray, boxes: Float[Tensor, "B 4"] | np.ndarray | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        pictures = torch.as_tensor(pictures)
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != torch.uint8:
            found = f"{str(pictures.dtype).removeprefix('torch.')} {list(pictures.shape)}"
            raise Refusal(f"The judge reads uint8 pictures [B, H, W, 3], not {found}.")
        readings, embeddings = [], []
        for i in range(0, len(pictures), 256):
            x = _floats(pictures[i : i + 256])
            if boxes is not None:
                x = _look(x, _windows(torch.as_tensor(boxes, dtype=torch.float32)[i : i + 256]))
            elif x.shape[-2:] != (SIDE, SIDE):
                # Means over whole blocks where they fit: the smooth filter blurs what is sharp at twice the size.
                fits = x.shape[-2] % SIDE == 0 and x.shape[-1] % SIDE == 0
                x = (
                    F.adaptive_avg_pool2d(x, SIDE)
                    if fits
                    else F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
                )
            logits, embedding = self._network(x.contiguous(memory_format=torch.channels_last))
            readings.append(logits)
            embeddings.append(embedding)
        return {head: torch.cat([r[head] for r in readings]).log_softmax(-1) for head in self.heads}, torch.cat(
            embeddings
        )

    def judge(self, pictures: UInt8[Tensor, "B H W 3"] | np.ndarray) -> dict[str, Float[Tensor, "B _"]]:
        """What pictures show: for each of `self.heads` the log-probabilities of its classes `[B, classes]`.

        Pictures of another side than 64 are resampled.
        """
        return self._see(pictures, None)[0]

    def identity(
        self, pictures: UInt8[Tensor, "B H W 3"] | np.ndarray, boxes: Float[Tensor, "B 4"] | np.ndarray | None = None
    ) -> Float[Tensor, "B 128"]:
        """Embeddings of unit length of the thing in each picture; the cosine of two says how alike the things are.

        Args:
            pictures: uint8.
            boxes: left, top, right, bottom in 0..1 of the thing meant; None takes the picture as a whole, which must
                then show one thing only.
        """
        return self._see(pictures, boxes)[1]


# ------------------------------------------------------------------------------------------------------------ measuring
def measure_judge(
    judge: Judge, split: str = "reporting", count: int = 2000, seed: int = 0, gallery: int = 50, groups: int = 20
) -> dict[str, Any]:
    """How well a judge reads drawings that it never saw.

    Identity: for each of `groups` categories, `gallery` concepts. A concept's prototype is the mean embedding of four
    drawings in scenes of their own; a query is one more drawing, whole, of that concept (or of its twin), again in a
    scene of its own. No scene holds a second thing.

    Args:
        judge: whose.
        split: of the concepts.
        count: drawings for the heads.
        seed: of the drawings.
        gallery: concepts of one category.
        groups: categories.

    Returns:
        `heads`: accuracy of each head; `by style`: accuracy of category, colors and pattern in each style;
        `identity`: share of queries whose concept is nearest (rank 1); `identity of one plain drawing`: the same,
        where the prototype is one drawing in the studio, plain, upright; `twins`: share of the twins' drawings that
        are taken for the concept; `twins accepted`: the same, where to be taken the cosine must also be one that 95 %
        of own drawings reach; `cosines`: their means, for own, twins' and others' drawings.
    """
    rng = np.random.default_rng([seed, 0x3EA5])
    world = judge.world

    def sample(category: str) -> Concept:
        return any_concept(rng, split, category)

    pictures, wanted, styles = [], [], []
    for i in range(count):
        [(picture, truth)] = _views(sample(world.categories[i % len(world.categories)]), rng, split, world, 1)
        pictures.append(picture)
        wanted.append(labels(truth, world))
        styles.append(truth.scene.style.name)
    agrees = agreement(judge.judge(np.stack(pictures)), wanted)
    style = np.asarray(styles)
    read = {head: float(right.nanmean()) for head, right in agrees.items()}
    by_style = {
        name: {
            head: float(agrees[head][torch.from_numpy(style == name)].nanmean())
            for head in ("category", "color", "second color", "pattern")
        }
        for name in STYLES
    }

    def seen(made: Concept, times: int) -> list[np.ndarray]:
        scenes = (replace(sample_scene(rng, split, world), second=None) for _ in range(times))
        return [draw(made, scene, SIDE).picture for scene in scenes]

    ranks: dict[str, list[Tensor]] = {"identity": [], "identity of one plain drawing": [], "twins": []}
    cosines: dict[str, list[Tensor]] = {"own": [], "twins": [], "others": []}
    order = rng.permutation(len(world.categories))[:groups]
    for category in (world.categories[k] for k in order):
        index = rng.permutation(count_of(split))[:gallery]
        made = [concept(number_of(split, category, int(i))) for i in index]
        many = judge.identity(np.stack([p for one in made for p in seen(one, 4)])).unflatten(0, (len(made), 4)).mean(1)
        plain = judge.identity(np.stack([draw(one, Scene(), SIDE).picture for one in made]))
        own = judge.identity(np.stack([p for one in made for p in seen(one, 1)]))
        twins = judge.identity(np.stack([p for one in made for p in seen(twin(one, rng), 1)]))
        here, same = torch.arange(len(made)), torch.eye(len(made), dtype=torch.bool)
        many = F.normalize(many, dim=-1)
        own_cosine, twin_cosine = own @ many.T, twins @ many.T
        ranks["identity"].append(own_cosine.argmax(1) == here)
        ranks["identity of one plain drawing"].append((own @ plain.T).argmax(1) == here)
        ranks["twins"].append(twin_cosine.argmax(1) == here)
        cosines["own"].append(own_cosine[same])
        cosines["twins"].append(twin_cosine[same])
        cosines["others"].append(own_cosine[~same])
    cos = {name: torch.cat(values) for name, values in cosines.items()}
    accept = cos["own"].quantile(0.05)
    out: dict[str, Any] = {name: float(torch.cat(values).float().mean()) for name, values in ranks.items()}
    out["twins accepted"] = float((torch.cat(ranks["twins"]) & (cos["twins"] >= accept)).float().mean())
    return {"heads": read, "by style": by_style, **out, "cosines": {name: float(v.mean()) for name, v in cos.items()}}
