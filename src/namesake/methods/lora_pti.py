"""LoRA-PTI: first the word is learned, then low-rank offsets around it.

Simo Ryu's `lora` (github.com/cloneofsimo/lora, 2023), after Roich et al., "Pivotal Tuning for Latent-based Editing of
Real Images" (2021); the baseline of DATE. There is no paper. Phase 1 learns the word at all timesteps and pulls its
length towards that of real words after every step:

    |v| <- |v| + lambda (L - |v|),   lambda = min(1, 100 rate)

Phase 2 goes on with the word at a lower rate and learns offsets on every attention projection, at timesteps below 0.8 T.

Deviations: L is the mean length of the model's real words (0.39 in Stable Diffusion 1.5), where the code has 0.4;
lambda stays that of the first rate; the word begins at the class word, not at random; no offsets of the text encoder,
and of the feed-forward layers only with `layers`, so that it differs from LoRA by its phases alone; rates fall along a
cosine to 0, not a line; 4 rows in both phases; no decay (the code has 1e-3); masks weigh the squared error, where the
code multiplies prediction and target.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from namesake.backbone import Backbone
from namesake.edits import Edit
from namesake.train.fit import Phase, TunedEdit
from namesake.train.tune import Method, lora_of, word_norms


@dataclass(frozen=True, kw_only=True)
class LoraPti(Method):
    """Settings of the method.

    word_rate: of the word in phase 1. late_word_rate, rate: of the word and the offsets in phase 2. share: of the steps
    in phase 1, 0..1. latest: phase 2 draws timesteps below this share of the schedule. rank: of the offsets, 1..1024;
    their alpha equals it. layers: they are on all other linear maps and convolutions of the U-Net too.
    """

    name: ClassVar[str] = "LoRA-PTI"
    trains: ClassVar[str] = "the vectors of the word, then also low-rank offsets of all attention projections"
    stores: ClassVar[str] = "1.6 MB"

    steps: int = 2000
    rank: int = 4
    layers: bool = False
    word_rate: float = 5e-4
    late_word_rate: float = 1e-4
    rate: float = 1e-4
    share: float = 0.5
    latest: float = 0.8

    def start(self, backbone: Backbone, words: Mapping[str, str], seed: int = 0) -> TunedEdit:
        edit = self.edit(backbone, words, lora_of(backbone, self.rank, seed, self.layers))
        return PulledWords(edit, backbone, min(1.0, 100 * self.word_rate))

    @property
    def phases(self) -> tuple[Phase, ...]:
        first = Phase({"words": self.word_rate}, self.share, fall=0.0)
        rates = {"words": self.late_word_rate, "down": self.rate, "up": self.rate}
        return (first, Phase(rates, 1 - self.share, (0.0, self.latest), fall=0.0))


class PulledWords(TunedEdit):
    """A tuned edit whose words, while they learn alone, are pulled towards the length of real words."""

    def __init__(self, start: Edit, backbone: Backbone, pull: float) -> None:
        super().__init__(start, backbone)
        self.pull, self.norms = pull, word_norms(backbone)

    def after_step(self) -> None:
        if self.down[0].requires_grad:  # the second phase
            return
        for words, norm in zip(self.words, self.norms, strict=True):
            words.copy_(pulled(words, norm, self.pull))


def pulled(words: Float[Tensor, "n E"], norm: Float[Tensor, ""], pull: float) -> Float[Tensor, "n E"]:
    """Vectors with lengths moved by the share `pull`, 0..1, of the way to `norm`; a vector of length 0 stays."""
    lengths = words.norm(dim=-1, keepdim=True)
    tiny = torch.finfo(words.dtype).tiny
    return words * torch.where(lengths > tiny, torch.lerp(lengths, norm.to(lengths), pull) / lengths.clamp(min=tiny), 1)
