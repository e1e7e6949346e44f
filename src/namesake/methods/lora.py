"""LoRA: offsets of low rank on the attention projections, for a rare word before the class.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section 4.1: W + (alpha / r) B A on frozen W, B
zero at the start; the loss is DreamBooth's (Ruiz et al. 2022), as in diffusers' DreamBooth script for LoRA, and so is the
sentence, beside a second one. Parameters, first values and outputs are those of peft with `LoraConfig(r, lora_alpha=r,
init_lora_weights="gaussian", target_modules=["to_q", "to_k", "to_v", "to_out.0"])`, on the text encoder with
`["q_proj", "k_proj", "v_proj", "out_proj"]`: the offsets act on every prompt, with the word or without.

Deviations: AdamW without decay; the rare word and the class answer to one placeholder, so that prompts are written as for
every other method; timesteps are stratified.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from namesake.backbone import Backbone
from namesake.train.fit import Phase, TunedEdit
from namesake.train.tune import Method, lora_of


@dataclass(frozen=True, kw_only=True)
class Lora(Method):
    """Settings of the method.

    rank: of the offsets, 1..1024; their alpha equals it. layers: they are on all other linear maps and convolutions of
    the U-Net too (peft: `target_modules="all-linear"` and the convolutions). text: they are on the attention projections
    of the text encoders too. rate: learning rate, which stays. rare_word: what stands before the class, "" for nothing.
    """

    name: ClassVar[str] = "LoRA"
    trains: ClassVar[str] = "low-rank offsets of all attention projections (-text: those of the text encoder too)"
    stores: ClassVar[str] = "1.6 MB, with the text encoder 2.2 MB"
    sentences: ClassVar[tuple[str, ...]] = ("a {}", "a picture of a {}")

    steps: int = 500
    batch: int = 1
    rank: int = 4
    layers: bool = False
    text: bool = False
    rate: float = 1e-4
    rare_word: str = "sks"

    def reads(self, class_word: str, number: int = 0) -> str:
        return f"{self.rare_word} {class_word}".strip()

    def start(self, backbone: Backbone, words: Mapping[str, str], seed: int = 0) -> TunedEdit:
        low = lora_of(backbone, self.rank, seed, self.layers, self.text)
        return TunedEdit(self.edit(backbone, words, low), backbone, rows=0)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase({"down": self.rate, "up": self.rate}, fall=1.0),)
