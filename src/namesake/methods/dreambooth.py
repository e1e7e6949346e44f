"""DreamBooth: the whole U-Net is tuned to "a [V] class", and held by pictures of the class that it drew itself before.

Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation" (2022). Equation 2:
the loss on "a [V] class" plus lambda times the loss on the base model's own pictures of "a class"; [V] is a rare word.
The autoencoder stays frozen, and so does the text encoder unless it has a rate of its own; then all of it that a prompt
passes through is tuned (both of SDXL's), except for the table of words.

With `word_rate` the vectors of [V] are learned beside the U-Net, at a rate of their own, until a `share` of the run
(pivotal tuning, as in diffusers' advanced DreamBooth scripts); after every step their spread is drawn back to that of
the table of words by (std_0 / std)^0.1. Min-SNR weights (`namesake.train.fit.min_snr`) then act on rows of both kinds.

Deviations: prior pictures are given by the caller and rows weighted by (1, lambda) / (1 + lambda), a factor that Adam
does not see; AdamW without decay (at 5e-6 and 0.01 the usual one would take 5e-5 of a weight in 1,000 steps); learned
vectors begin at the rare word, not at random, and std_0 is that of real words; timesteps are stratified. The file holds
every parameter of the U-Net, in half precision.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from namesake.backbone import Backbone
from namesake.edits import Edit, WeightEdit
from namesake.train.fit import Phase, TunedEdit
from namesake.train.tune import Method, real_vectors, text_weights, tokens


@dataclass(frozen=True, kw_only=True)
class DreamBooth(Method):
    """Settings of the method.

    rate: learning rate of the U-Net, which stays. rare_word: [V]. word_rate: learning rate of the vectors of [V]; 0
    leaves them as they are. share: of the run in which they learn, 0..1. text_rate: learning rate of the text encoder; 0
    leaves it as it is (2e-6 beside 5e-6 is diffusers' advice).
    """

    name: ClassVar[str] = "DreamBooth"
    trains: ClassVar[str] = "every weight of the U-Net (-text: those of the text encoder too; -word: the word too)"
    stores: ClassVar[str] = "1.7 GB, with the text encoder 1.9 GB"
    sentences: ClassVar[tuple[str, ...]] = ("a {}",)

    steps: int = 800
    batch: int = 1
    prior: int = 200
    rate: float = 5e-6
    rare_word: str = "sks"
    word_rate: float = 0.0
    share: float = 0.5
    text_rate: float = 0.0

    def reads(self, class_word: str, number: int = 0) -> str:
        return f"{self.rare_word} {class_word}"

    def start(self, backbone: Backbone, words: Mapping[str, str], seed: int = 0) -> TunedEdit:
        weights = {f"unet.{name}": weight for name, weight in backbone.unet.named_parameters()}
        whole = WeightEdit(weights | (text_weights(backbone) if self.text_rate else {}))
        rows = tokens(backbone, self.rare_word) if self.word_rate else 0
        return RetractedWords(self.edit(backbone, words, whole), backbone, rows)

    @property
    def phases(self) -> tuple[Phase, ...]:
        whole = {"weights": self.rate} | ({"text": self.text_rate} if self.text_rate else {})
        if not self.word_rate:
            return (Phase(whole, fall=1.0),)
        both = Phase(whole | {"words": self.word_rate}, self.share, fall=1.0)
        return (both, Phase(whole, 1 - self.share, fall=1.0))


class RetractedWords(TunedEdit):
    """A tuned edit the first `rows` vectors of whose words are learned and drawn back to the spread of real words."""

    def __init__(self, start: Edit, backbone: Backbone, rows: int) -> None:
        super().__init__(start, backbone, rows=rows)
        self.spreads = [vectors.std() for vectors in real_vectors(backbone)]

    def after_step(self) -> None:
        for words, spread in zip(self.words, self.spreads, strict=False):
            if words.requires_grad:  # they rest in the second phase
                words.copy_(retracted(words, spread))


def retracted(words: Float[Tensor, "n E"], spread: Float[Tensor, ""]) -> Float[Tensor, "n E"]:
    """Vectors times (spread / their standard deviation)^0.1; all alike, they stay."""
    own = words.std()
    return words * (spread.to(own) / own) ** 0.1 if own > 0 else words
