"""Custom Diffusion: keys and values of the cross-attention are tuned, with a new modifier before the class noun.

Kumari et al., "Multi-Concept Customization of Text-to-Image Diffusion" (2022), section 3.2: only W_k and W_v of every
cross-attention and the vector V* of a modifier are trained, in "photo of a V* class", beside real or drawn pictures of
the class with the same weight. V* begins at a rare word. Pictures are also seen at 1/3 to 1 and 1.2 to 1.4 of their
size, two in three smaller ones, and the sentence says where that is much; the loss counts on the picture only. Several
concepts can be learned in one run, each with a modifier and pictures of a class of its own.

Several concepts that were learned apart become one edit by section 3.3, in closed form (`merge`); the offsets of one
are kept at low rank by appendix C (`compress`).

Deviations: nine scales of each picture are drawn once and not one for each step, and no picture is mirrored; pictures of
the class are given by the caller, and rows weighted by (1, 1) / 2, a factor that Adam does not see; keys and values at
the first position take part in the gradient, where the authors' code detaches them; AdamW without decay (at 8e-5 and
0.01 theirs would take 2e-4 of a weight in 250 steps); timesteps are stratified. A rare word of several tokens makes a
modifier of several vectors. The captions that a merge regularises with are made of the model's own words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from namesake.backbone import Backbone
from namesake.data.prompts import NO_THINGS
from namesake.edits import Edit, LowRankEdit, SecondPath, TokenEdit, WeightEdit, about, check_base, edited, stack
from namesake.errors import Refusal
from namesake.train.examples import endings
from namesake.train.fit import Phase, TunedEdit
from namesake.train.tune import Method, tokens


@dataclass(frozen=True, kw_only=True)
class CustomDiffusion(Method):
    """Settings of the method.

    rate: learning rate of keys and values. word_rate: that of the modifier. Both stay. modifiers: the rare words that
    modifiers begin at, the first concept's at the first.
    """

    name: ClassVar[str] = "Custom Diffusion"
    trains: ClassVar[str] = "keys and values of the cross-attention, and the vector of a modifier"
    stores: ClassVar[str] = "38 MB"
    sentences: ClassVar[tuple[str, ...]] = ("photo of a {}",)
    several: ClassVar[bool] = True

    steps: int = 250
    prior: int = 200
    scaled: bool = True
    rate: float = 8e-5
    word_rate: float = 8e-5
    modifiers: str = "ktn pll ucd"

    def reads(self, class_word: str, number: int = 0) -> str:
        return f"{self.modifier(number)} {class_word}"

    def modifier(self, number: int) -> str:
        """The rare word of concept `number`, from 0."""
        rare = self.modifiers.split()
        if number >= len(rare):
            raise Refusal(
                f"There are {len(rare)} modifiers ({self.modifiers}) for {number + 1} concepts or more; give one for each."
            )
        return rare[number]

    def start(self, backbone: Backbone, words: Mapping[str, str], seed: int = 0) -> TunedEdit:
        whole = WeightEdit({f"unet.{path}.weight": _weight(backbone, path) for path in _paths(backbone)})
        edit = self.edit(backbone, words, whole)
        return TunedEdit(edit, backbone, rows=[tokens(backbone, self.modifier(number)) for number in range(len(words))])

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase({"weights": self.rate, "words": self.word_rate}, fall=1.0),)


def merge(backbone: Backbone, *edits: Edit, captions: Sequence[str] = ()) -> Edit:
    """Concepts learned apart, as one edit (section 3.3): each word gives its own model's keys and values at the tokens
    from the word to the end of "photo of a <word>", and captions give the base's as nearly as that allows.

    Args:
        backbone: the model that all were learned on.
        edits: two or more.
        captions: of C_reg, in words of the base; by default 1,000 of its real words, in places and styles that it knows.

    Raises:
        Refusal: fewer than two, other edits than of this method, a word that comes twice, another base.
    """
    words = [word for edit in edits for word in edit.placeholders]
    if len(edits) < 2 or len(set(words)) < len(words):
        raise Refusal(f"The concepts to merge bring the words {', '.join(words)}; two different concepts are wanted.")
    paths = _paths(backbone)
    for edit in edits:
        check_base(edit, backbone)
        if [set(whole.weights) for whole in edit.of(WeightEdit)] != [{f"unet.{path}.weight" for path in paths}]:
            small = ", compressed" if edit.about.method == CustomDiffusion.name else ""
            raise Refusal(
                f"The concept {', '.join(edit.placeholders)} was made by {edit.about.method}{small}; whole concepts of "
                f"{CustomDiffusion.name} can be merged, and what comes of that compressed."
            )
    filled = list(captions) or _captions(backbone)
    regular = _told(backbone, filled, None)
    targets = [_told(backbone, [f"photo of a {word}"], edit) for edit in edits for word in edit.placeholders]
    directions = merging_directions(torch.cat(targets), regular)
    weights = {}
    for path in paths:
        name = f"unet.{path}.weight"
        given = [edit.of(WeightEdit)[0].weights[name].to(regular) for edit in edits for _ in edit.placeholders]
        values = [target @ weight.T for target, weight in zip(targets, given, strict=True)]
        base = _weight(backbone, path).detach().to(regular)
        weights[name] = merged_weight(base, torch.cat(targets), torch.cat(values), directions).float().cpu()
    # Each word keeps its real word.
    words_alone = (Edit((*edit.of(TokenEdit), *edit.of(SecondPath)), edit.about) for edit in edits)
    named = stack(*words_alone, blend=1.0)
    told = about(backbone, CustomDiffusion.name, merged=[dict(edit.about.settings) for edit in edits])
    return Edit((*named.parts, WeightEdit(weights)), told)


CAPTIONS = 1000


def _captions(backbone: Backbone) -> list[str]:
    """What keys and values are to go on saying: many things, each somewhere and in some style. Of one sentence with another
    last word the text encoder's states span a small part of their space, and a merge may change the rest at no cost."""
    places, styles = endings(backbone)
    ends = ["", *(place + style for place in ["", *places] for style in ["", *styles])]
    things = [word.text for word in backbone.real_words() if word.text not in NO_THINGS]
    things = things[:: max(1, len(things) // CAPTIONS)]
    return [f"photo of a {things[n % len(things)]}{ends[n % len(ends)]}" for n in range(CAPTIONS)]


def merging_directions(targets: Float[Tensor, "_m _in"], regular: Float[Tensor, "_k _in"]) -> Float[Tensor, "_m _in"]:
    """The d of `merged_weight`, the same for all layers: d = C (C_reg' C_reg)^-1.

    A ridge of 1e-4 of the mean eigenvalue keeps W near W0 where no caption points, and does not touch the constraint.
    """
    metric = regular.T @ regular
    metric = metric + 1e-4 * metric.diagonal().mean() * torch.eye(len(metric)).to(metric)
    return torch.linalg.solve(metric, targets.T).T


def merged_weight(
    base: Float[Tensor, "_out _in"],
    targets: Float[Tensor, "_m _in"],
    values: Float[Tensor, "_m _out"],
    d: Float[Tensor, "_m _in"],
) -> Float[Tensor, "_out _in"]:
    """The W nearest to the base W0 on the rows of C_reg that maps each row of C to its value V (equations 4 and 5):

        W = W0 + (V' - W0 C') (d C')^-1 d,   d = C (C_reg' C_reg)^-1

    Give float64 on the CPU.
    """
    # Prompts share tokens, so rows of C may repeat: the least solution of a singular system, which gelsd gives.
    solved = torch.linalg.lstsq(targets @ d.T, values - targets @ base.T, rcond=1e-12, driver="gelsd").solution
    return base + solved.T @ d


def compress(backbone: Backbone, edit: Edit, mass: float = 0.6) -> tuple[Edit, float]:
    """The same concept with its changes of the weights at low rank (appendix C), and the relative error of these
    changes, 0..1: of each only the largest singular values that make up `mass`, 0..1, of their sum are kept.

    Raises:
        Refusal: a mass out of its range, an edit without whole weights of attentions, another base.
    """
    if not 0 < mass <= 1:
        raise Refusal(f"The share of singular values to keep is {mass}; a number above 0, up to 1, is wanted.")
    check_base(edit, backbone)
    factors, lost, whole = {}, 0.0, 0.0
    for name, weight in (pair for part in edit.of(WeightEdit) for pair in part.weights.items()):
        path = name.removeprefix("unet.").removesuffix(".weight")
        if path not in _paths(backbone):
            raise Refusal(f"The concept changes {name}; only keys and values of the cross-attention are compressed.")
        u, s, v = torch.linalg.svd(
            weight.double() - _weight(backbone, path).detach().cpu().double(), full_matrices=False
        )
        rank = int((s.cumsum(0) < mass * s.sum() * (1 - 1e-12)).sum()) + 1
        # An offset is (alpha / rank) up down, and ranks differ: alpha is 1, and `up` makes up for the rank.
        factors[path] = (v[:rank].float(), (rank * u[:, :rank] * s[:rank]).float())
        lost, whole = lost + float(s[rank:].square().sum()), whole + float(s.square().sum())
    if not factors:
        raise Refusal("The concept holds no whole weights, so there is nothing to compress.")
    parts = tuple(part for part in edit.parts if not isinstance(part, WeightEdit))
    low = LowRankEdit(factors, 1.0, words=())  # () as before: on every prompt
    told = replace(edit.about, settings={**edit.about.settings, "compressed to": mass})
    return Edit((*parts, low), told), (lost / whole) ** 0.5 if whole else 0.0


def _paths(backbone: Backbone) -> list[str]:
    return [site.path for site in backbone.sites if site.role in ("cross key", "cross value")]


def _weight(backbone: Backbone, path: str) -> Tensor:
    return backbone.unet.get_submodule(path).weight


@torch.no_grad()
def _told(backbone: Backbone, prompts: list[str], edit: Edit | None) -> Float[Tensor, "_rows _width"]:
    """What the cross-attention is told of prompts, float64: a row for each token to the end token; for an edit's word
    only from the word on."""
    encode = [backbone.pipeline.tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    if edit is None:
        # A few at a time: SDXL's encoders keep the states of all their layers, 13 GB of them for 1,000 prompts.
        some = [backbone.text(prompts[start : start + 32]).states.cpu() for start in range(0, len(prompts), 32)]
        states, first, ends = torch.cat(some), 0, [len(ids) + 1 for ids in encode]
    else:
        word = next(token for token in edit.of(TokenEdit) if prompts[0].endswith(token.placeholder))
        before = backbone.pipeline.tokenizer(
            prompts[0].removesuffix(word.placeholder), add_special_tokens=False
        ).input_ids
        seen: list[Tensor] = []
        key = backbone.unet.get_submodule(_paths(backbone)[0])
        hook = key.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:  # inside `edited` states carry more than the text: what arrives at a key is what counts
            with edited(backbone, Edit(tuple(edit.of(TokenEdit)), replace(edit.about, class_word=None))):
                side = backbone.multiple // backbone.factor
                latents = torch.zeros(1, backbone.unet.config.in_channels, side, side, device=backbone.device)
                backbone.denoise(latents, 0, backbone.text(prompts))
        finally:
            hook.remove()
        states, first, ends = seen[0], 1 + len(before), [1 + len(before) + word.vectors[0].shape[-2]]
    return torch.cat([row[first : end + 1] for row, end in zip(states, ends, strict=True)]).cpu().double()
