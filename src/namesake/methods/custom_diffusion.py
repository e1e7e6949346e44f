"""Custom Diffusion: keys and values of the cross-attention are tuned, with a new modifier before the class noun.

Kumari et al., "Multi-Concept Customization of Text-to-Image Diffusion" (2022), section 3.2: only W_k and W_v of every
cross-attention and the vector V* of a modifier are trained, in "photo of a V* class", beside real or drawn pictures of
the class with the same weight. V* begins at a rare word.

Deviations: no scale augmentation yet; pictures of the class are given by the caller, and rows weighted by (1, 1) / 2, a
factor that Adam does not see; keys and values at the first position take part in the gradient, where the authors' code
detaches them; AdamW without decay (at 8e-5 and 0.01 theirs would take 2e-4 of a weight in 250 steps); timesteps are
stratified. A rare word of several tokens makes a modifier of several vectors.
"""

from dataclasses import dataclass
from typing import ClassVar

from namesake.backbone import Backbone
from namesake.edits import WeightEdit
from namesake.train.fit import Phase, TunedEdit
from namesake.train.tune import Method, tokens


@dataclass(frozen=True, kw_only=True)
class CustomDiffusion(Method):
    """Settings of the method.

    rate: learning rate of keys and values. word_rate: that of the modifier. Both stay. modifier: the rare word that it
    begins at.
    """

    name: ClassVar[str] = "Custom Diffusion"
    trains: ClassVar[str] = "keys and values of the cross-attention, and the vector of a modifier"
    stores: ClassVar[str] = "38 MB"
    sentences: ClassVar[tuple[str, ...]] = ("photo of a {}",)

    steps: int = 250
    prior: int = 200
    rate: float = 8e-5
    word_rate: float = 8e-5
    modifier: str = "ktn"

    def reads(self, class_word: str) -> str:
        return f"{self.modifier} {class_word}"

    def start(self, backbone: Backbone, word: str, class_word: str, seed: int = 0) -> TunedEdit:
        paths = [site.path for site in backbone.sites if site.role in ("cross key", "cross value")]
        whole = WeightEdit({f"unet.{path}.weight": backbone.unet.get_submodule(path).weight for path in paths})
        edit = self.edit(backbone, word, class_word, whole)
        return TunedEdit(edit, backbone, rows=tokens(backbone, self.modifier))

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase({"weights": self.rate, "words": self.word_rate}, fall=1.0),)
