"""What all methods that tune one concept from real words share: their settings, their start, and the run.

A method is a frozen value of a class derived from `Method`. It says what the new word means before the first step
(`reads`), what is trained (`start`), how (`phases`) and in which sentences; `personalize` does the rest for all.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from namesake.backbone import Backbone
from namesake.backbone.backbone import CLIP
from namesake.data.prompts import COARSE_STYLE, TEMPLATES
from namesake.edits import Edit, LowRankEdit, Part, SecondPath, Site, TokenEdit, about, layer_sites, text_sites
from namesake.edits.base import embedding, layer_at, text_rooms
from namesake.errors import Refusal
from namesake.train.examples import Examples, Mixture, check_shown, class_of, describe, looks
from namesake.train.fit import (
    Batch,
    Moment,
    Phase,
    TunedEdit,
    dice,
    fit,
    idle_offsets,
    loss_of,
    min_snr,
    stratified,
    timesteps,
)

LONGEST = 8  # tokens that a new word may begin as
FROZEN = 4  # rows of each concept, at least, in the batch that DVAR looks at


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings that every tuned method has.

    Attributes:
        name: the field's name for the method.
        trains, stores: what it trains, in a few words, and the size of its file for Stable Diffusion 1.5.
        several: whether it learns several concepts in one run.
        of_style: whether the word is to mean how the pictures are drawn, and not what they show.
        sentences: the templates of its sentences, "{}" being the new word.
        steps: of a run, by default; 0 or more.
        batch: rows of the concept in each step, 1..64.
        prior: how many pictures of the class the base model is to draw for prior preservation; 0 for none.
        prior_weight: lambda of the prior's loss, 0 or more.
        snr_gamma: of `min_snr`, on rows of the concept and of the prior alike; 0 leaves all timesteps alike.
        scaled: whether the pictures are also seen smaller and larger, and the sentences say so.
        context: whether the sentences say what the pictures show beside the thing, where an image encoder can tell.
        sides: whether they also say on which side it stands (`describe`).
        looks: whether the thing's color is read from the pictures and belongs to its class word from then on.
    """

    name: ClassVar[str]
    trains: ClassVar[str]
    stores: ClassVar[str]
    sentences: ClassVar[tuple[str, ...]] = TEMPLATES
    several: ClassVar[bool] = False
    of_style: ClassVar[bool] = False

    steps: int = 1000
    batch: int = 4
    prior: int = 0
    prior_weight: float = 1.0
    snr_gamma: float = 0.0
    scaled: bool = False
    context: bool = False
    sides: bool = False
    looks: bool = False

    def __post_init__(self) -> None:
        bounds = {"steps": (0, 1e6), "batch": (1, 64), "prior": (0, 10_000), "rank": (1, 1024)}
        bounds |= dict.fromkeys(("share", "blend", "latest"), (0, 1))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            low, high = bounds.get(field.name, (0, 1e6))
            if not (math.isfinite(value) and low <= value <= high):
                raise Refusal(
                    f"The {field.name.replace('_', ' ')} of {self.name} is {value}; a number from {low:g} to {high:g} "
                    "is wanted."
                )

    def paced(self, steps: int) -> "Method":
        """These settings for a run of so many steps; a method whose rates do not depend on it is left as it is."""
        return self

    def reads(self, class_word: str, number: int = 0) -> str:
        """The real words that a new word, `number` in its run, means before the first step."""
        return class_word

    def start(self, backbone: Backbone, words: Mapping[str, str], seed: int = 0) -> TunedEdit:
        """The edit module before the first step, of new words and their class words; its parameters are exactly what is
        trained."""
        raise NotImplementedError

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What is trained when, and at which rate."""
        raise NotImplementedError

    def edit(self, backbone: Backbone, words: Mapping[str, str], *parts: Part) -> Edit:
        """The edit to begin with: the new words as `reads` says, and further parts."""
        tokens = [
            TokenEdit(word, word_vectors(backbone, self.reads(class_word, number)))
            for number, (word, class_word) in enumerate(words.items())
        ]
        settings = {name: value for name, value in asdict(self).items() if name != "steps"}  # `fit` says how many
        if len(words) == 1:
            return Edit((*tokens, *parts), about(backbone, self.name, *words.values(), **settings))
        # Each word has a real word of its own; at blend 1 that path is left out until it is asked for.
        paths = [SecondPath(class_word, 1.0, words=(word,)) for word, class_word in words.items()]
        return Edit((*tokens, *parts, *paths), about(backbone, self.name, **settings))


def word_vectors(backbone: Backbone, text: str) -> tuple[Float[Tensor, "_n _E"], ...]:
    """The token vectors of a real word or a few, for each text encoder, fp32.

    Raises:
        Refusal: no token, more than 8, or one of the vocabulary's special tokens.
    """
    vectors = []
    for tokenizer, encoder in zip(backbone.tokenizers, backbone.text_encoders, strict=True):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if not 0 < len(ids) <= LONGEST or set(ids) & set(tokenizer.all_special_ids):
            raise Refusal(
                f"The word would begin as {text!r}, {len(ids)} tokens of the model; 1 to {LONGEST} ordinary tokens are "
                "wanted, such as those of cat."
            )
        vectors.append(embedding(encoder).detach()[ids].float())
    return tuple(vectors)


def tokens(backbone: Backbone, text: str) -> int:
    """How many tokens of the model a text has."""
    return len(backbone.tokenizers[0](text, add_special_tokens=False).input_ids)


def real_vectors(backbone: Backbone) -> tuple[Float[Tensor, "V _E"], ...]:
    """The embeddings of the model's real words for each text encoder, fp32, in the order of `real_words`."""
    ids = [word.ids for word in backbone.real_words()]
    return tuple(
        embedding(encoder).detach()[[one[number] for one in ids]].float()
        for number, encoder in enumerate(backbone.text_encoders)
    )


def word_norms(backbone: Backbone) -> tuple[Float[Tensor, ""], ...]:
    """The mean length of the vectors of the model's real words, for each text encoder."""
    return tuple(vectors.norm(dim=-1).mean() for vectors in real_vectors(backbone))


def text_weights(backbone: Backbone) -> dict[str, Tensor]:
    """The weights of the text encoders that a prompt passes through, by the names of a `WeightEdit`, without the table of
    words. SDXL reads the first encoder before its last layer, so what comes after is not among them."""
    named = {
        f"{room}.{name}": weight
        for room, encoder in text_rooms(backbone).items()
        for name, weight in encoder.named_parameters()
        if weight is not embedding(encoder)
    }
    asked = [weight.requires_grad for weight in named.values()]
    try:
        for weight in named.values():
            weight.requires_grad_(True)
        with torch.enable_grad():
            told = backbone.text(["a"])
            total = told.states.sum() + (0 if told.pooled is None else told.pooled.sum())
            gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    finally:
        for weight, before in zip(named.values(), asked, strict=True):
            weight.requires_grad_(before)
    return {name: weight for (name, weight), one in zip(named.items(), gradients, strict=True) if one is not None}


def sites_of(backbone: Backbone, layers: bool, text: bool = False) -> tuple[Site, ...]:
    """The U-Net's attention projections, with `layers` every other linear map and convolution of it too, with `text` the
    attention projections of the text encoders that a prompt passes through."""
    sites = list(backbone.sites)
    if layers:
        sites += layer_sites(backbone).values()
    if text:
        reached = {id(weight) for weight in text_weights(backbone).values()}
        sites += [s for path, s in text_sites(backbone).items() if id(layer_at(backbone, path).weight) in reached]
    return tuple(sites)


def lora_of(backbone: Backbone, rank: int, seed: int, layers: bool = False, text: bool = False) -> LowRankEdit:
    """Offsets of no effect on every attention projection, for every prompt: LoRA as peft has it. layers, text: see
    `sites_of`.

    `down` is normal with standard deviation 1 / r (peft's "gaussian"), `up` zero, alpha = r.
    """
    return replace(idle_offsets(sites_of(backbone, layers, text), rank, seed, shrink=rank), words=())


def variance_ratio(losses: list[float], window: int) -> float:
    """DVAR's measure: the variance of the last `window` losses over that of all; 1 while there are fewer, and 0 where
    none of them differ."""
    if len(losses) < window:
        return 1.0
    whole = float(np.var(losses))
    return float(np.var(losses[-window:])) / whole if whole else 0.0


@dataclass(frozen=True)
class Dvar:
    """A run ends when the loss on one frozen batch has settled (Voronov et al., "Is This Loss Informative? Faster
    Text-to-Image Customization by Tracking Objective Dynamics", 2023).

    The batch, its noise and its timesteps are drawn once. The run ends when the variance of the last `window` losses is
    below `threshold` of the variance of all (0.15 and 200 in its authors' code).

    Deviations: the loss is taken every `every`-th step, so that a short window serves; `window` counts these. Of a run in
    phases only the last can end early, and its losses alone count, at its own timesteps.
    """

    window: int = 20
    threshold: float = 0.15
    every: int = 10

    @staticmethod
    def of(steps: int) -> "Dvar":
        """The rule for a run of at most so many steps: it looks a hundred times, and may end after a fifth of them.

        Raises:
            Refusal: of so few steps that it could not end any earlier.
        """
        rule = Dvar(every=max(1, steps // 100))
        if steps <= rule.window:
            raise Refusal(
                f"A run of {steps} steps is over before it can be seen to settle; leave that out, or ask for more than "
                f"{rule.window} steps (--steps)."
            )
        return rule

    def __post_init__(self) -> None:
        if self.window < 2 or self.every < 1 or not 0 < self.threshold < 1:
            raise Refusal(
                f"The stopping rule looks at {self.window} losses, one in {self.every} steps, for a share of "
                f"{self.threshold}; 2 or more, 1 or more, and a share between 0 and 1 are wanted."
            )

    def rule(self, backbone: Backbone, batch: Batch, seed: int = 0, snr_gamma: float = 0.0) -> Callable[[Moment], bool]:
        """What `fit` takes as `stop`."""
        latents = batch.latents.to(backbone.device)
        noise = torch.randn(latents.shape, generator=dice(seed, 1 << 21)).to(latents)
        losses: list[float] = []

        @torch.no_grad()
        def settled(moment: Moment) -> bool:
            if moment.done % self.every or not moment.last:
                return False
            t = timesteps(stratified(seed, 0, len(latents)), moment.phase.timesteps, backbone.train_timesteps)
            t = t.to(latents.device)
            target = backbone.target(latents, noise, t)
            factor = min_snr(backbone.snr(t), snr_gamma, backbone.prediction) if snr_gamma else None
            moment.load()
            output = backbone.denoise(backbone.add_noise(latents, noise, t), t, backbone.text(batch.prompts))
            losses.append(loss_of(output, target, batch, factor)[0].item())
            return variance_ratio(losses, self.window) < self.threshold

        return settled


def frozen_batch(concepts: Sequence[Examples], seed: int = 0) -> Batch:
    """What DVAR looks at: of each concept 4 rows at least, since a loss at one timestep would say little."""
    some = tuple((replace(one, rows=max(one.rows, FROZEN)), 1.0) for one in concepts)
    return Mixture(some).batch(0, dice(seed, 1 << 21))


@dataclass(frozen=True, eq=False)
class Shown:
    """One concept to learn.

    pictures: one or several of one thing (or in one style), sides that the autoencoder takes. word: the new word, such
    as <my-cat>. class_word: what the pictures show: the coarse word, the class noun; by default `class_of` the
    pictures, and "illustration" where they are shown for their style. masks: True where the thing is, `[B, H, W]`; the
    loss then counts there alone. prior: pictures of the class, of the same sides, drawn by the base model or real;
    without them, or at a `prior_weight` of 0, the method goes without prior preservation.
    """

    pictures: UInt8[Tensor, "B H W 3"]
    word: str = "<it>"
    class_word: str | None = None
    masks: Bool[Tensor, "_ _ _"] | None = None
    prior: UInt8[Tensor, "_ _ _ 3"] | None = None

    def checked(self, backbone: Backbone) -> "Shown":
        """The same with a class word; Refusal for what cannot be learned from."""
        pictures, masks, prior = self.pictures, self.masks, self.prior
        check_shown(backbone, self.word, pictures)
        if masks is not None and masks.shape != pictures.shape[:3]:
            raise Refusal(
                f"The masks are {_sides(masks)} and the pictures {_sides(pictures)}; one mask for each picture, of the "
                "same size, is wanted."
            )
        if prior is not None and (not len(prior) or prior.shape[1:3] != pictures.shape[1:3]):
            raise Refusal(
                f"The pictures of the class are {_sides(prior)} and those of the concept {_sides(pictures)}; one at "
                "least, of the same size, is wanted."
            )
        if self.class_word is not None:
            return self
        class_word, near = class_of(backbone, pictures, masks)
        if near is None:
            warnings.warn(
                f"The model cannot see pictures without {CLIP} (hf download {CLIP}), so this one is taken for "
                f'"{class_word}"; say what it shows with the class.',
                stacklevel=4,
            )
        return replace(self, class_word=class_word)


def personalize(
    backbone: Backbone,
    method: Method,
    pictures: UInt8[Tensor, "B H W 3"],
    *,
    word: str = "<it>",
    class_word: str | None = None,
    masks: Bool[Tensor, "_ _ _"] | None = None,
    prior: UInt8[Tensor, "_ _ _ 3"] | None = None,
    **options: Any,
) -> Edit:
    """Teach a model a new word for the one thing (or style) that some pictures show, by a tuned method.

    After 0 steps the new word means `method.reads(class_word)`, with the thing's color where the method `looks`, and what is
    drawn with it is the base model's. The
    arguments are those of `Shown`; the options and refusals those of `learn`.
    """
    return learn(backbone, method, [Shown(pictures, word, class_word, masks, prior)], **options)


def learn(
    backbone: Backbone,
    method: Method,
    concepts: Sequence[Shown],
    *,
    steps: int | None = None,
    seed: int = 0,
    dvar: Dvar | None = None,
    progress: Callable[[int, int], object] | None = None,
    strip: Callable[[int, Edit], object] | None = None,
    strip_at: Sequence[int] | None = None,
) -> Edit:
    """Teach a model the words of one concept, or of several in one run, each step seeing all of them.

    Args:
        backbone: the model.
        method: with its settings; its `batch` is shared among the concepts, one row of each at least.
        concepts: one, or more where the method takes `several`.
        steps: by default the method's, for each of the concepts.
        seed: of everything random.
        dvar: ends the run when the loss has settled.
        progress, strip, strip_at: see `fit`.

    Raises:
        Refusal: no picture, a word that is malformed, taken or given twice, a class of no or too many tokens, masks or
            prior pictures of another size, an empty mask, several concepts where one is wanted, a number of steps below
            0.
    """
    steps = method.steps * len(concepts) if steps is None else steps
    method = method.paced(steps)
    if not concepts or (len(concepts) > 1 and not method.several):
        raise Refusal(
            f"{method.name} learns one concept in a run, and {len(concepts)} were given; learn them one by one."
        )
    if method.of_style:
        concepts = [replace(one, class_word=one.class_word or COARSE_STYLE) for one in concepts]
    shown = [one.checked(backbone) for one in concepts]
    words = {one.word: one.class_word or "" for one in shown}
    if len(words) < len(shown):
        raise Refusal(f"{len(shown)} concepts share the words {', '.join(words)}; a word for each is wanted.")
    classes = words  # of which the pictures of the class are
    if method.looks:
        words = {one.word: looks(backbone, one.pictures, words[one.word], one.masks) for one in shown}
    module = method.start(backbone, words, seed)
    own, prior, said = [], [], []
    rows = max(1, method.batch // len(shown))
    for one in shown:
        thing = None if method.of_style else words[one.word]
        said.append(describe(backbone, one.pictures, thing, method.sides) if method.context else ())
        own.append(
            Examples.of(
                backbone,
                one.pictures,
                one.word,
                one.masks,
                rows,
                seed,
                method.sentences,
                method.scaled,
                said[-1],
            )
        )
        if one.prior is not None and method.prior_weight:
            prior.append(
                Examples.of(backbone, one.prior, classes[one.word], None, rows, seed=seed, templates=method.sentences)
            )
    concept = own[0] if len(own) == 1 else Mixture(tuple((one, 1.0) for one in own))
    both = Mixture(tuple((one, 1.0) for one in own) + tuple((one, method.prior_weight) for one in prior))
    edit = fit(
        backbone,
        module,
        both.batch if prior else concept.batch,
        method.phases,
        steps=steps,
        seed=seed,
        snr_gamma=method.snr_gamma,
        progress=progress,
        strip=strip,
        strip_at=strip_at,
        stop=None if dvar is None else dvar.rule(backbone, frozen_batch(own, seed), seed, method.snr_gamma),
    )
    return told_context(edit, [frame for one in said for frame in one])


def told_context(edit: Edit, frames: Sequence[str]) -> Edit:
    """The edit, which tells what its sentences said of each picture beside the word."""
    beside = "; ".join(frame.format("...") for frame in frames if frame != "{}")
    return replace(edit, about=replace(edit.about, settings={**edit.about.settings, "context": beside}))


def _sides(pictures: Tensor) -> str:
    count, height, width = pictures.shape[:3]
    return f"{count} of {width}x{height} pixels"
