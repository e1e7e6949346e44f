"""DATE's claims as data, and what decides them: `docs/date.md`.

A claim is one or more comparisons of two arms (or of two curves of arms), each with a measure and the direction in which
the difference is expected, written down here before anything was measured; but for two, claim 3's at one blend of drawing
and claim 4's of predictions, which were added when claim 3's first had been seen on 14 concepts. The measures and bounds
are those of `namesake.evaluate.cold_start`. Nothing here makes an edit: `Taught` says what an arm is, and who measures
makes it.

Axes: `K` concepts, `Q` pictures of a concept.
"""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from namesake.errors import Refusal
from namesake.evaluate.cold_start import DRAWS, by_concept, chosen, evenly, interval
from namesake.files import read_lines
from namesake.picturebook.concept import Concept
from namesake.picturebook.dataset import HELD_OUT_FAR, HELD_OUT_NEAR, seen
from namesake.picturebook.scene import World

if TYPE_CHECKING:
    from namesake.backbone import Backbone
    from namesake.edits import Edit

BASE, TRUTH = "class word", "truth through the autoencoder"  # the bounds between which figures are told as shares
GROUPS = {
    "seen": ("seen",),
    "near": ("near",),
    "far": ("far",),
    "held out": ("near", "far"),
    "all": ("seen", "near", "far"),
}
STEPS = (0, 4, 8, 12, 25)
TUNED = 12  # the paper's, where one point is compared
BLEND = 1.0  # the picture book's recipe, so that encoder, cold start and LoRA differ in nothing else
PAPERS = 0.25  # the paper's
PACE = 25  # an encoder's step stands against so many of LoRA's (claim 7)
LORA_STEPS = (50, 100, 200, 300, 500)


@dataclass(frozen=True)
class Taught:
    """An arm: from what a word is tuned, how long, and at which blend it is tuned and drawn.

    what: "encoder" (the one under test), "cold start", "LoRA", or the name of an ablation's encoder. blend: of the two
    paths, for encoders; the cold start and LoRA have their recipe's. drawn: the blend of drawing, where it is another.
    """

    what: str
    steps: int
    blend: float = BLEND
    drawn: float | None = None

    @property
    def name(self) -> str:
        """As tables and folders have it."""
        told = f"{self.what}, {self.steps} steps" + (f", blend {self.blend:g}" if self.blend != BLEND else "")
        return told + (f", drawn at {self.drawn:g}" if self.drawn is not None else "")

    def told(self) -> dict[str, Any]:
        """In values that JSON can hold."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Comparison:
    """What is compared, and the direction that was written down beforehand.

    claim: its number. says: what is expected, in words. a, b: arms; several are a curve, whose points are paired in
    order. measure: see `figures`. more: whether a is expected above b, or below it. among: the concepts, a name of
    `GROUPS`. other: the concepts of b where they are others than those of a; then both are told as gains over the class
    word, and the groups are drawn apart. times: what a's figures are multiplied by.
    """

    claim: int
    says: str
    a: tuple[Taught, ...]
    b: tuple[Taught, ...]
    measure: str
    more: bool
    among: str = "all"
    other: str = ""
    times: float = 1.0

    def __post_init__(self) -> None:
        if len(self.a) != len(self.b) or not self.a:
            raise Refusal(f"The curves of claim {self.claim} have {len(self.a)} and {len(self.b)} points; pair them.")


def claims(best: int = 300) -> tuple[Comparison, ...]:
    """The seven claims. `best`: LoRA's number of steps, chosen on the tuning concepts."""

    def encoder(*steps: int, blend: float = BLEND) -> tuple[Taught, ...]:
        return tuple(Taught("encoder", count, blend) for count in steps)

    def others(what: str, *steps: int) -> tuple[Taught, ...]:
        return tuple(Taught(what, count) for count in steps)

    tuned, full = encoder(TUNED), others("full", TUNED)
    paced = tuple(count for count in STEPS if count * PACE in LORA_STEPS)
    made = [
        Comparison(1, "the encoder above a cold start, 0 to 25 steps", encoder(*STEPS), others("cold start", *STEPS),
                   "likeness", True),
        Comparison(1, f"the same after {TUNED} steps", tuned, others("cold start", TUNED), "likeness", True),
        Comparison(2, f"{TUNED} steps above none, blend 1", tuned, encoder(0), "likeness", True),
        Comparison(2, f"{TUNED} steps above none, blend 0.25", encoder(TUNED, blend=PAPERS), encoder(0, blend=PAPERS),
                   "likeness", True),
        Comparison(3, "two paths (0.25) above one, 0 to 25 steps", encoder(*STEPS, blend=PAPERS), encoder(*STEPS), "prompt",
                   True),
        Comparison(3, f"tuned on two paths above one, both drawn at 0.25, {TUNED} steps",
                   encoder(TUNED, blend=PAPERS), (Taught("encoder", TUNED, drawn=PAPERS),), "prompt", True),
        Comparison(3, f"blends 0.25 and 0.5 above 1, {TUNED} steps",
                   (*encoder(TUNED, blend=PAPERS), *encoder(TUNED, blend=0.5)), encoder(TUNED, TUNED), "prompt", True),
    ]  # fmt: skip
    bare = others("no-hypernetwork", TUNED)
    for measure, more in (("prompt", True), ("likeness", True), ("norm", False), ("attention", False)):
        made.append(Comparison(4, f"the hypernetwork against none, {TUNED} steps", full, bare, measure, more))
    for measure in ("prompt", "likeness"):
        a, b = others("full", 0), others("no-hypernetwork", 0)
        made.append(Comparison(4, "the hypernetwork against none, the predictions", a, b, measure, True))
    for what, measure, more in (
        ("none", "prompt", True),
        ("none", "pose copied", False),
        ("norm", "likeness", True),
        ("nearest", "likeness", True),
    ):
        told = {"none": "no regulariser", "norm": "L2 alone", "nearest": "the cosine to the nearest word"}[what]
        made.append(Comparison(5, f"the contrastive loss against {told}", full, others(what, TUNED), measure, more))
    for group in ("near", "far"):
        cold = others("cold start", TUNED)
        made.append(Comparison(6, f"the encoder above a cold start, held out {group}", tuned, cold, "likeness", True,
                               group))  # fmt: skip
    for group in ("near", "far"):
        made.append(Comparison(6, f"gain over the class word, seen above held out {group}", tuned, tuned, "likeness",
                               True, "seen", group))  # fmt: skip
    for what in ("four", "sixteen"):
        made.append(Comparison(6, f"an encoder of all categories above one of {what}, held out", full, others(what, TUNED),
                               "likeness", True, "held out"))  # fmt: skip
    slow = others("LoRA", *(count * PACE for count in paced))
    for says, a, b in (
        (f"{' '.join(map(str, paced))} steps against LoRA's {PACE} times as many", encoder(*paced), slow),
        (f"{TUNED} steps against LoRA's best", tuned, others("LoRA", best)),
    ):
        for measure, more in (("likeness", True), ("prompt", True), ("place copied", False), ("pose copied", False)):
            made.append(Comparison(7, says, a, b, measure, more))
    says = f"{PACE} times the seconds of {TUNED} steps against LoRA's best"
    made.append(Comparison(7, says, tuned, others("LoRA", best), "seconds", False, times=PACE))
    return tuple(made)


def arms_of(comparisons: Sequence[Comparison]) -> tuple[Taught, ...]:
    """What must be measured for some comparisons: every arm once, those of one kind together, by steps.

    Where LoRA is compared, all of its lengths up to the longest are shown: its likeness, agreement and copying have a
    course of their own, and one run serves them all.
    """
    found = {arm for one in comparisons for arm in (*one.a, *one.b)}
    longest = max((arm.steps for arm in found if arm.what == "LoRA"), default=0)
    found |= {Taught("LoRA", steps) for steps in LORA_STEPS if steps <= longest}
    return tuple(sorted(found, key=lambda arm: (arm.what, arm.blend, arm.drawn or 0.0, arm.steps)))


# ------------------------------------------------------------------------------------------------------------ concepts
def group_of(category: str) -> str:
    """Whether encoders have seen a category ("seen"), its siblings ("near") or nothing like it ("far")."""
    return "near" if category in HELD_OUT_NEAR else "far" if category in HELD_OUT_FAR else "seen"


def pick(world: World, split: str, count: int) -> list[Concept]:
    """The concepts of the claims: half of categories that encoders see, a quarter near, the rest far."""

    def of(group: str, number: int) -> list[Concept]:
        names = tuple(name for name in world.categories if group_of(name) == group)
        return chosen(split, replace(world, categories=names), number) if names else []

    half, quarter = count // 2, count // 4
    return [*of("seen", half), *of("near", quarter), *of("far", count - half - quarter)]


def spread(world: World, count: int) -> World:
    """A world that encoders may see, with so many of its categories, evenly through their order (and so their
    families); with all of them where `count` is 0."""
    return replace(world, categories=evenly(seen(world).categories, count))


# --------------------------------------------------------------------------------------------------------------- notes
@torch.no_grad()
def attention_share(backbone: "Backbone", edit: "Edit", picture: UInt8[Tensor, "1 H W 3"]) -> float:
    """How much of the cross-attention falls on the word, 0..1: the mean over layers, heads and places.

    Of the picture, noised to the middle of the schedule, read as "a picture of <word>". The soft path alone is asked,
    since on the other one a real word stands.
    """
    from namesake.edits import SecondPath, TokenEdit, edited
    from namesake.train.fit import dice

    soft = replace(edit, parts=tuple(part for part in edit.parts if not isinstance(part, SecondPath)))
    lead = "a picture of"
    first = len(backbone.tokenizers[0](lead).input_ids) - 1  # the end token comes last
    stop = first + len(edit.of(TokenEdit)[0].vectors[0])
    latents = backbone.encode(picture)
    noise = torch.randn(latents.shape, generator=dice(0, 0)).to(latents)
    t = torch.full((1,), backbone.train_timesteps // 2, device=latents.device)
    heard: dict[tuple[str, str], Tensor] = {}

    def listen(place: tuple[str, str]) -> Callable[[Any, Any, Tensor], None]:
        return lambda module, args, output: heard.__setitem__(place, output)

    places = {
        site.path: (site.attention, site.role) for site in backbone.sites if site.role in ("cross query", "cross key")
    }
    with edited(backbone, soft, blend=1.0):
        hooks = [backbone.unet.get_submodule(path).register_forward_hook(listen(p)) for path, p in places.items()]
        try:
            text = backbone.text([f"{lead} {edit.placeholders[0]}"])
            backbone.denoise(backbone.add_noise(latents, noise, t), t, text)
        finally:
            for hook in hooks:
                hook.remove()
    shares = []
    for path in dict.fromkeys(path for path, _ in places.values()):
        attention = backbone.unet.get_submodule(path)
        query, key = (
            heard[path, f"cross {part}"].float().unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for part in ("query", "key")
        )
        scores = (query @ key.mT * attention.scale).softmax(dim=-1)
        shares.append(scores[..., first:stop].sum(dim=-1).mean())
    return torch.stack(shares).mean().item()


def is_called(hard: str | None, made: Concept) -> bool:
    """Whether the last of some real words names a concept's category: its noun or one of its synonyms."""
    return (hard or "").rpartition(" ")[2] in (made.category, *made.kind.words)


def note(backbone: "Backbone", edit: "Edit", picture: UInt8[Tensor, "1 H W 3"], made: Concept) -> dict[str, Any]:
    """What is kept of an arm's edit: its hard word and whether that is right, the word's norm relative to real words',
    the real words nearest to its last vector, its share of the attention, and the seconds that it says it took."""
    from namesake.edits import TokenEdit
    from namesake.train.tune import real_vectors

    word, real = edit.of(TokenEdit)[0].vectors[0].float(), real_vectors(backbone)[0].cpu()
    near = F.cosine_similarity(real, word[-1:]).topk(3).indices.tolist()
    names = backbone.real_words()
    return {
        "hard word": edit.about.class_word,
        "right": is_called(edit.about.class_word, made),
        "norm": round((word.square().mean() / real.square().mean()).sqrt().item(), 4),
        "nearest": [names[place].text for place in near],
        "attention": round(attention_share(backbone, edit, picture), 5),
        "seconds": edit.about.settings.get("seconds"),
    }


# ------------------------------------------------------------------------------------------------------------- figures
class Ledger:
    """Figures that were measured, in a file of JSON lines small enough to be kept: a long grid is measured in parts, by
    several processes, on machines that do not last. A line is added for each arm of a concept; the last one of a key holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, dict[str, Any]] = {}
        for line in read_lines(path):  # what a cut one told is measured again
            self._known.update(line)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def get(self, key: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The figures of a key, measured where they are not known."""
        if key not in self._known:
            # As a file would give them back.
            self._known[key] = json.loads(json.dumps(measured(), allow_nan=False))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            cut = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
            with open(self.path, "a") as file:  # one write, so that lines of several processes stay whole
                file.write("\n" * cut + json.dumps({key: self._known[key]}) + "\n")
        return self._known[key]


def joined(parts: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The figures of the same concepts, measured arm by arm, as one list with all arms."""
    out = []
    for rows in zip(*parts, strict=True):
        if len({row["concept"] for row in rows}) != 1:
            raise Refusal("The parts of a measurement are of different concepts; measure them again together.")
        whole: dict[str, Any] = {name: rows[0][name] for name in ("concept", "category")}
        for name in ("arms", "seconds", "notes"):
            whole[name] = {arm: value for row in rows for arm, value in row[name].items()}
        told = {arm: one["seconds"] for arm, one in whole["notes"].items() if one.get("seconds") is not None}
        out.append({**whole, "seconds": {**whole["seconds"], **told}})
    return out


def figures(results: Sequence[Mapping[str, Any]], measure: str) -> dict[str, Float[np.ndarray, "K"]]:
    """One measure of every arm, concept by concept: what `by_concept` has, "seconds" of learning (where arms were timed one
    after the other, NaN elsewhere), or of an edit's note "norm", "attention" and "right" (a share)."""
    if measure == "seconds":
        timed = [one.get("timed", {}) for one in results]
        names = dict.fromkeys(name for one in timed for name in one)
        return {name: np.array([float(one.get(name, "nan")) for one in timed]) for name in names}
    if measure in ("norm", "attention", "right"):
        arms = results[0]["notes"]
        return {name: np.array([float(one["notes"][name][measure]) for one in results]) for name in arms}
    return by_concept(results, measure)


def gap(
    values: Mapping[str, Float[np.ndarray, "K"]], a: Sequence[Taught], b: Sequence[Taught], times: float = 1.0
) -> Float[np.ndarray, "K"]:
    """By how much a lies above b in each concept. Of curves it is the mean over their points of the paired differences:
    the area between them where the points count alike. A point that either lacks counts for neither."""
    pairs = np.array([times * values[one.name] - values[other.name] for one, other in zip(a, b, strict=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a concept that lacks all points has no gap
        return np.nanmean(pairs, axis=0)


def apart(one: Float[np.ndarray, "_K1"], other: Float[np.ndarray, "_K2"]) -> tuple[float, float, float]:
    """The difference of the means of two groups of concepts and its 95 % interval; each group is drawn by itself."""
    groups = [values[~np.isnan(values)] for values in (one, other)]
    if not all(map(len, groups)):
        return float("nan"), float("nan"), float("nan")
    chance = np.random.default_rng(0)
    means = [v[chance.integers(len(v), size=(DRAWS, len(v)))].mean(axis=1) for v in groups]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return float(groups[0].mean() - groups[1].mean()), float(low), float(high)


def difference(results: Sequence[Mapping[str, Any]], one: Comparison) -> tuple[float, float, float]:
    """The mean difference of a comparison and its 95 % interval: paired by concept, whole concepts drawn at a time."""
    values = figures(results, one.measure)
    if any(arm.name not in values for arm in (*one.a, *one.b)):  # one of an encoder that is not trained yet
        return float("nan"), float("nan"), float("nan")
    kinds = [group_of(row["category"]) for row in results]
    mine, others = (np.array([kind in GROUPS.get(name, ()) for kind in kinds]) for name in (one.among, one.other))
    if one.other:
        gains = [np.mean([values[arm.name] for arm in side], axis=0) - values[BASE] for side in (one.a, one.b)]
        return apart(gains[0][mine], gains[1][others])
    return interval(gap(values, one.a, one.b, one.times)[mine])


def verdict(low: float, high: float, more: bool) -> str:
    """A claim "holds" when its interval excludes zero in the direction written down; when it excludes zero in the other
    one "the opposite" holds, and else it is "open"."""
    if np.isnan(low):
        return "not measured"
    if low <= 0 <= high:
        return "open"
    return "holds" if (low > 0) == more else "the opposite"


def share(values: Mapping[str, Float[np.ndarray, "K"]], arm: str) -> tuple[float, float, float]:
    """How far an arm is on the way from the base to the truth, (x - base) / (truth - base), and its 95 % interval.

    The ratio of the means over concepts, which are drawn together; a ratio for each concept would be ruled by those
    whose base stands near the truth. NaN where the truth is not clearly above the base (their own interval holds 0).
    """
    rows = np.stack([values[arm] - values[BASE], values[TRUTH] - values[BASE]])
    rows = rows[:, ~np.isnan(rows).any(axis=0)]
    if not rows.shape[1]:
        return float("nan"), float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(rows.shape[1], size=(DRAWS, rows.shape[1]))
    above, whole = rows[:, drawn].mean(axis=2)
    if np.quantile(whole, 0.025) <= 0:
        return float("nan"), float("nan"), float("nan")
    low, high = np.quantile(above / whole, [0.025, 0.975])
    return float(rows[0].mean() / rows[1].mean()), float(low), float(high)


# -------------------------------------------------------------------------------------------------------------- tables
def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join([_row(heads), "|" + " --- |" * len(heads), *map(_row, rows)])


def judged(
    results: Mapping[str, Sequence[Mapping[str, Any]]], comparisons: Sequence[Comparison]
) -> list[dict[str, Any]]:
    """Every comparison with its figures in each way that the class word came, in values that JSON can hold."""
    rows = []
    for one in comparisons:
        found = {}
        for way, measured in results.items():
            mean, low, high = difference(measured, one)
            found[way] = {"mean": mean, "low": low, "high": high, "verdict": verdict(low, high, one.more)}
        expected = "more" if one.more else "less"
        rows.append({"claim": one.claim, "says": one.says, "measure": one.measure, "expected": expected, **found})
    return rows


def claims_table(results: Mapping[str, Sequence[Mapping[str, Any]]], comparisons: Sequence[Comparison]) -> str:
    """The claims in markdown: what was expected, the difference with its interval, the verdict."""
    rows = []
    for one in judged(results, comparisons):
        cells = [str(one["claim"]), one["says"], f"{one['measure']}, {one['expected']}"]
        for way in results:
            told = one[way]
            known = not np.isnan(told["low"])
            numbers = f"{told['mean']:+.3f} ({told['low']:+.3f} to {told['high']:+.3f}): " if known else ""
            cells.append(numbers + told["verdict"])
        rows.append(cells)
    return markdown(["claim", "compared", "expected", *(f"class word {way}" for way in results)], rows)


def shares_table(results: Sequence[Mapping[str, Any]]) -> str:
    """How far each arm is on the way from the class word to the truth, in markdown."""
    measures = ("likeness", "rank 1", "category", "prompt")
    values = {measure: by_concept(results, measure) for measure in measures}

    def cell(measure: str, arm: str) -> str:
        mean, low, high = share(values[measure], arm)
        return "" if np.isnan(mean) else f"{mean:.0%} ({low:.0%} to {high:.0%})"

    arms = [name for name in results[0]["arms"] if name in results[0]["notes"]]
    rows = [[arm, *(cell(measure, arm) for measure in measures)] for arm in arms]
    return markdown(["(x - class word) / (truth - class word)", *measures], rows)


def notes_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Of each arm's word, in markdown: norm, attention, the commonest of the real words nearest to it; and how often the
    hard word named the right category."""
    rows = []
    for arm in next(iter(results.values()))[0]["notes"]:
        cells = [arm]
        for measured in results.values():
            told = [one["notes"][arm] for one in measured]
            cells += [
                f"{np.mean([one['norm'] for one in told]):.2f}",
                f"{np.mean([one['attention'] for one in told]):.1%}",
                common([one["nearest"][0] for one in told]),
                f"{np.mean([one['right'] for one in told]):.0%}",
            ]
        rows.append(cells)
    heads = ("norm", "attention", "nearest words", "hard word right")
    return markdown(["", *(f"{head}, {way}" for way in results for head in heads)], rows)


def common(words: Sequence[str]) -> str:
    """The commonest of some words and how often they come: "cat 5, thing 2"."""
    return ", ".join(f"{word} {times}" for word, times in Counter(words).most_common(3))
