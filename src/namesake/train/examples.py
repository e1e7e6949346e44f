"""The pictures of one concept as tuning sees them, whichever method tunes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from namesake.backbone import Backbone
from namesake.data.prompts import PLACES, STYLES, fill
from namesake.errors import Refusal
from namesake.train.fit import Batch, dice

VARIANTS = 8  # of each picture, where they are shifted


def describe(backbone: Backbone, pictures: UInt8[Tensor, "B H W 3"], thing: str) -> str:
    """What pictures show beside their thing, such as " in the snow, watercolor"; "" where nothing describes them better.

    A tuned word takes up all that its pictures show and its prompts do not say, a place as readily as the thing. What
    the prompts say, it need not (measured in LOG.md). A model that cannot see pictures says nothing.

    Args:
        thing: the class word.
    """
    said = ""
    for options in ([f" {place}" for place in PLACES], [f", {style}" for style in STYLES]):
        ends = [said, *(said + option for option in options if not backbone.unknown_words(option))]
        similarity = backbone.similarity(pictures, [f"a picture of a {thing}{end}" for end in ends])
        if similarity is None:
            return ""
        said = ends[int(similarity.argmax())]
    return said


@dataclass(frozen=True, eq=False)
class Examples:
    """The pictures of one concept as tuning sees them, encoded once.

    latents, masks: variants of all pictures, one picture after the other. prompts: the templates with the new word.
    """

    latents: Float[Tensor, "K C h w"]
    masks: Float[Tensor, "K 1 h w"] | None
    prompts: tuple[str, ...]
    pictures: int
    rows: int

    @staticmethod
    def of(
        backbone: Backbone,
        pictures: UInt8[Tensor, "B H W 3"],
        word: str,
        masks: Bool[Tensor, "B H W"] | None,
        rows: int,
        shift: float = 0.0,
        seed: int = 0,
        beside: str = "",
    ) -> "Examples":
        """Encode pictures, `rows` to a batch; where `shift` (a share of the side) is not 0, each in variants moved
        about by up to so much. `beside` is what the pictures show beside the thing (`describe`); every prompt says it.
        """
        known = tuple(prompt for prompt in fill(word, beside) if not backbone.unknown_words(prompt))
        seen, kept = [pictures], [masks]
        if shift:
            reach = round(shift * pictures.shape[1])
            chance = dice(seed, 1 << 20)
            for _ in range(VARIANTS - 1):
                x, y = torch.randint(-reach, reach + 1, (2,), generator=chance).tolist()
                seen.append(_moved(pictures, x, y))
                kept.append(None if masks is None else _moved(masks[..., None], x, y)[..., 0])
        latents = torch.stack([backbone.encode(one) for one in seen], dim=1).flatten(0, 1)
        pooled = None
        if masks is not None:
            if not masks.flatten(1).any(dim=1).all():
                raise Refusal("A picture's mask is empty; give a picture whose alpha shows the thing, or no mask.")
            whole = torch.stack([one for one in kept if one is not None], dim=1).flatten(0, 1)
            pooled = F.adaptive_avg_pool2d(whole[:, None].float(), (latents.shape[2], latents.shape[3]))
        return Examples(latents, pooled, known or (word + beside,), len(pictures), rows)

    def batch(self, step: int, chance: torch.Generator) -> Batch:
        """Every picture as often as any other over the run, in a variant and a sentence drawn at random."""
        variants = len(self.latents) // self.pictures
        which = (step * self.rows + torch.arange(self.rows)) % self.pictures
        which = which[torch.randperm(self.rows, generator=chance)]
        places = which * variants + torch.randint(variants, (self.rows,), generator=chance)
        sentences = torch.cat([torch.randperm(len(self.prompts), generator=chance) for _ in range(self.rows)])
        return Batch(
            self.latents[places.to(self.latents.device)],
            [self.prompts[i] for i in sentences[: self.rows].tolist()],
            mask=None if self.masks is None else self.masks[places],
        )


def _moved(pictures: Tensor, x: int, y: int) -> Tensor:
    """Pictures `[B, H, W, ...]` moved by whole pixels; what comes in at the edge is the edge's own pixels."""
    height, width = pictures.shape[1:3]
    rows = (torch.arange(height) - y).clamp(0, height - 1)
    columns = (torch.arange(width) - x).clamp(0, width - 1)
    return pictures[:, rows][:, :, columns]
