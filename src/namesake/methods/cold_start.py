"""The cold start: a new word for any checkpoint, tuned from the class word, without a pre-trained encoder.

It is the tuning stage of DATE (Arar et al., "Domain-Agnostic Tuning-Encoder for Fast Personalization of Text-To-Image
Models", 2023; section 3.4 and appendix B) begun from nothing. Deviations: no encoder predicts the word and the offsets,
so the word begins as the hard word itself and the offsets at zero effect; the hard word is the class word or what the
CLIP image encoder takes the picture for, with the color that it sees there, and not the word nearest to a prediction,
and the new word has a vector for each word of that ("white cat"); anchors are relative to the size of the word and of the
weights, where the paper gives no form; with `layers` offsets act outside the attentions too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from namesake.backbone import Backbone
from namesake.edits import SecondPath
from namesake.train.fit import Phase, TunedEdit, idle_offsets
from namesake.train.tune import Method, sites_of


@dataclass(frozen=True, kw_only=True)
class ColdStart(Method):
    """Settings of the method.

    rank: of the offsets, on every attention projection; their alpha equals it. layers: they are on all other linear maps
    and convolutions of the U-Net too, which a U-Net without attention on its finest level needs. blend: the share of
    the new word's path, when tuning and when drawing, 0..1 (DATE: 0.25); 1 leaves the hard path out. word_rate,
    offset_rate: first learning rates (DATE: 2e-3). word_anchor, offset_anchor: see `TunedEdit`.
    """

    name: ClassVar[str] = "cold start"
    trains: ClassVar[str] = "the vectors of the word and low-rank offsets, blended with the real word"
    stores: ClassVar[str] = "1.6 MB"

    steps: int = 100
    context: bool = True
    looks: bool = True
    rank: int = 4
    layers: bool = False
    blend: float = 0.25
    word_rate: float = 2e-3
    offset_rate: float = 2e-3
    word_anchor: float = 1e-2
    offset_anchor: float = 1e-3

    def start(self, backbone: Backbone, words: Mapping[str, str], seed: int = 0) -> TunedEdit:
        paths = [SecondPath(class_word, self.blend) for class_word in words.values() if self.blend < 1]
        edit = self.edit(backbone, words, idle_offsets(sites_of(backbone, self.layers), self.rank, seed), *paths)
        return TunedEdit(edit, backbone, self.word_anchor, self.offset_anchor)

    def paced(self, steps: int) -> "ColdStart":
        """A longer run than the method's own has rates lower by the root of how much longer it is: after 200 steps at the
        rates that suit 50 the picture book's word is the copy of one picture (LOG.md)."""
        factor = min(1.0, (self.steps / max(steps, 1)) ** 0.5)
        return replace(self, word_rate=factor * self.word_rate, offset_rate=factor * self.offset_rate)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One: word and offsets together, all timesteps."""
        return (Phase({"words": self.word_rate, "down": self.offset_rate, "up": self.offset_rate}),)
