"""Textual Inversion: the word alone is learned, from a coarse word, in a model that stays as it is.

Gal et al., "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion" (2022).
Equation 2: v* = argmin_v E |eps - eps_theta(z_t, t, c(y, v))|^2, where y are neutral sentences with the new word; v
begins at the vector of a coarse word. Only v exists for the optimizer, and every other row of the table stays to the bit.

Deviations: sentences are ours (`namesake.data.prompts`), for a thing or, after the paper's section 4.4, for a style; the
batch of 4 and the rate are those of the usual port to Stable Diffusion (5e-4 for each of 4 rows), since the paper's 0.04
at a batch of 8 is for another model; AdamW without decay and with clipped gradients; no mirrored pictures; timesteps are
stratified. A word of several vectors begins as the coarse word several times over. An L2 pull to the coarse word (of its
authors' code, relative to the word's length here) is off unless asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from namesake.backbone import Backbone
from namesake.data.prompts import STYLE_TEMPLATES
from namesake.train.fit import Phase, TunedEdit
from namesake.train.tune import Method


@dataclass(frozen=True, kw_only=True)
class TextualInversion(Method):
    """Settings of the method.

    rate: first learning rate, which stays. copies: how many times over the coarse word is there at the start: the word
    has so many times its vectors, 8 at most. anchor: of the L2 pull to the coarse word, see `TunedEdit`.
    """

    name: ClassVar[str] = "Textual Inversion"
    trains: ClassVar[str] = "the vectors of the word"
    stores: ClassVar[str] = "6 kB and 1.5 kB for each further vector"
    several: ClassVar[bool] = True

    steps: int = 3000
    rate: float = 2e-3
    copies: int = 1
    anchor: float = 0.0

    def reads(self, class_word: str, number: int = 0) -> str:
        return " ".join([class_word] * self.copies)

    def start(self, backbone: Backbone, words: Mapping[str, str], seed: int = 0) -> TunedEdit:
        return TunedEdit(self.edit(backbone, words), backbone, word_anchor=self.anchor)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase({"words": self.rate}, fall=1.0),)


@dataclass(frozen=True, kw_only=True)
class StyleInversion(TextualInversion):
    """The same for a style: the sentences speak of things drawn in it."""

    name: ClassVar[str] = "Textual Inversion of a style"
    sentences: ClassVar[tuple[str, ...]] = STYLE_TEMPLATES
    of_style: ClassVar[bool] = True
