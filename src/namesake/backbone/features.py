"""What the frozen networks see in a picture, place by place: the input of an encoder that predicts a concept."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from namesake.backbone.backbone import Backbone, TextStates, clip_pixels
from namesake.backbone.load import quiet
from namesake.edits import bypassed
from namesake.edits.base import embedding, strided_values
from namesake.errors import Refusal

VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # DATE, appendix A
OWN = "own"


def readings(seen: Float[Tensor, "B P"], known: Float[Tensor, "N P"]) -> Float[Tensor, "B N"]:
    """Logits of which of N prompts fits each picture, of unit embeddings: cosines over a tenth of how far the prompts lie
    from each other (root mean square). A fixed temperature would not do: styles lie 0.35 of a unit apart in the picture
    book, nouns 0.10, colors 0.01."""
    return seen @ known.T * (10 / (2 * known.var(dim=0).sum()).sqrt())


@dataclass(frozen=True)
class _Name:
    """One question to the image encoder: unit embeddings of its prompts, and its words for each text encoder."""

    known: Float[Tensor, "N P"]
    tables: tuple[Float[Tensor, "N _E"], ...]

    @staticmethod
    def of(backbone: Backbone, frame: str, words: Sequence[str]) -> "_Name":
        ids = {word.text: word.ids for word in backbone.real_words()}
        known = backbone._text_embeddings([frame.format(word) for word in words])
        tables = [
            embedding(encoder).detach()[[ids[word][number] for word in words]].float()
            for number, encoder in enumerate(backbone.text_encoders)
        ]
        return _Name(known, tuple(tables))

    def between(self, seen: Float[Tensor, "B P"]) -> Float[Tensor, "B _E"]:
        """The mean word for each picture, as long as its words are."""
        fit = readings(seen, self.known.to(seen)).softmax(dim=-1)
        lengths = (fit @ table.norm(dim=-1, keepdim=True) for table in self.tables)
        return torch.cat(
            [F.normalize(fit @ table, dim=-1) * length for table, length in zip(self.tables, lengths, strict=True)],
            dim=1,
        )


class Features:
    """Spatial features of pictures from the last layers of two frozen networks (DATE, appendix A).

    The one is a CLIP image encoder: the tokens of its last layer, without the class token. The other is the encoder
    half of the model's own U-Net, down to the middle block where the way up begins, told the empty prompt. It runs once
    on the reference latent with a little noise. Ours, where the paper is silent: the timestep is fixed, and so is the
    noise (one draw for all pictures), so that the features depend on the picture alone and can be kept.

    Args:
        backbone: the model. Inside `edited` its base is asked, without the edit.
        image_encoder: "own" (the model's, aligned with its text), a hub id, or a folder; by default the model's own, and
            for a model without one ViT-H/14, which DATE uses. From the hub's cache only, since 4 GB should not come
            unasked.
        timestep: of the reference latent, as a share of the schedule, 0 (hardly any noise) to 1.
        names: prompts with their words, such as ("a picture of a {}", ("cat", "dog")), each word a real word of the model.
            Given, a further feature is what the model's own image encoder takes the picture for, for each prompt a word
            between all of its words (`named`).
        ends: how a sentence about a picture may end, a row for each place and a column for each style, the first of each
            saying nothing. Given, the last feature is which of them fits the picture (`beside`).

    Attributes:
        image_encoder: the name of the image encoder: "own", a hub id or a folder.
        names, ends: as given.
        eye: the image encoder, frozen.
        widths: channels of the two maps.
    """

    def __init__(
        self,
        backbone: Backbone,
        image_encoder: str | None = None,
        timestep: float = 0.1,
        names: Sequence[tuple[str, Sequence[str]]] = (),
        ends: Sequence[Sequence[str]] = (),
    ) -> None:
        if not 0 <= timestep <= 1:
            raise Refusal(f"The features' timestep is {timestep}; a share of the schedule from 0 to 1 is wanted.")
        if (names or ends) and not backbone._own_eye:
            raise Refusal(
                f"The model {backbone.name} has no image encoder of its own to name pictures; start at a base word, "
                "without context."
            )
        self.backbone, self.names, self.ends = backbone, tuple(names), tuple(map(tuple, ends))
        self.image_encoder = image_encoder or (OWN if backbone._own_eye else VIT_H)
        self.eye = _eye(backbone, self.image_encoder)
        self.timestep = min(round(timestep * backbone.train_timesteps), backbone.train_timesteps - 1)
        self.widths: tuple[int, int] = (
            self.eye.config.hidden_size,
            backbone.unet.config.block_out_channels[-1],
        )
        self._empty: TextStates | None = None

    def sketch(self) -> Float[Tensor, "512"]:
        """Of the image encoder and the autoencoder, as `namesake.edits.sketch` is of the rest of the model."""
        return torch.cat([strided_values(module, 16) for module in (self.eye, self.backbone.vae)])

    def __call__(self, pictures: UInt8[Tensor, "B H W 3"], latents: Float[Tensor, "B C h w"]) -> tuple[Tensor, ...]:
        """The two maps `[B, C, h, w]` of some pictures and their scaled latents, and what `named` and `beside` say where that
        is wanted, fp32 and without a graph."""
        with self.backbone.at_work(self.eye, instead=[self.backbone.unet]):
            image = self.image(pictures)
        maps = (image.to(latents.device), self.reference(latents))
        read = [way for way, wanted in ((self._named, self.names), (self._beside, self.ends)) if wanted]
        return (*maps, *self._read(pictures, *read)) if read else maps

    @torch.no_grad()
    def image(self, pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B _C _h _w"]:
        """The image encoder's last layer: a vector for each patch of the picture's middle square."""
        extractor = getattr(self.backbone.pipeline, "feature_extractor", None) if self.image_encoder == OWN else None
        pixels = clip_pixels(self.eye, pictures, extractor)
        places = self.eye(pixel_values=pixels).last_hidden_state[:, 1:].float()
        side = isqrt(places.shape[1])
        return places.transpose(1, 2).unflatten(2, (side, side))

    def named(self, pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B _n _E"]:
        """For each of the names the mean of its words, weighed by how well the prompt with each of them fits a picture
        (softmax of `readings`), and as long as these words are, since a mean of many is short and a short word is not
        heard beside others (LOG.md); the vectors of all text encoders one after the other."""
        return self._read(pictures, self._named)[0]

    def beside(self, pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 1"]:
        """The number of the end, row by row, that fits each picture of a thing: the best place, and the best style there."""
        return self._read(pictures, self._beside)[0]

    @torch.no_grad()
    def _read(self, pictures: UInt8[Tensor, "B H W 3"], *read: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        """What is read of the pictures' unit embeddings, for which the image encoder looks once."""
        with _exact(self.backbone.device.type), bypassed(self.backbone):
            seen = self.backbone.see(pictures)
            assert seen is not None
            seen = F.normalize(seen.float(), dim=-1)
            return tuple(way(seen) for way in read)

    def _named(self, seen: Float[Tensor, "B P"]) -> Float[Tensor, "B _n _E"]:
        return torch.stack([name.between(seen) for name in self._asked], dim=1)

    def _beside(self, seen: Float[Tensor, "B P"]) -> Float[Tensor, "B 1"]:
        fit = (seen @ self._known_ends.T.to(seen)).unflatten(1, (len(self.ends), len(self.ends[0])))
        place = fit[:, :, 0].argmax(dim=1)
        style = fit[torch.arange(len(fit), device=fit.device), place].argmax(dim=1)
        return (place * len(self.ends[0]) + style).float()[:, None]

    @cached_property
    def _asked(self) -> list[_Name]:
        return [_Name.of(self.backbone, frame, words) for frame, words in self.names]

    @cached_property
    def _known_ends(self) -> Float[Tensor, "N P"]:
        return self.backbone._text_embeddings([f"a picture of a thing{end}" for row in self.ends for end in row])

    def reference(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B _C _h _w"]:
        """The U-Net's encoder half on reference latents, at the fixed timestep and with the fixed noise."""
        chance = torch.Generator().manual_seed(0)  # on the CPU, so that every device draws the same
        noise = torch.randn(latents.shape[1:], generator=chance).to(latents).expand_as(latents)
        timesteps = torch.full((len(latents),), self.timestep, device=latents.device)
        return self.denoiser(self.backbone.add_noise(latents, noise, timesteps), timesteps)

    @torch.no_grad()
    def denoiser(self, noisy: Float[Tensor, "B C h w"], timesteps: Int[Tensor, "B"]) -> Float[Tensor, "B _C _h _w"]:
        """The U-Net's encoder half on noisy latents, told the empty prompt; nothing after the middle block is run."""
        seen: list[Tensor] = []

        def leave(module: nn.Module, args: Any, output: Tensor) -> None:
            seen.append(output.float())
            raise _Enough

        with bypassed(self.backbone):
            if self._empty is None or self._empty.states.device != self.backbone.device:
                with _exact(noisy.device.type):  # they outlive this call
                    self._empty = self.backbone.against("", self.backbone.text([""]))
            # Leaving by an exception, and not a copy of the U-Net's forward: that differs from version to version.
            hook = self.backbone.unet.mid_block.register_forward_hook(leave)
            try:
                self.backbone.denoise(noisy, timesteps, self._empty.rows([0] * len(noisy)))
            except _Enough:
                pass
            finally:
                hook.remove()
        if not seen:
            raise Refusal("The U-Net is compiled and hides its middle block; use the model before compiling it.")
        return seen[0]


def _exact(kind: str) -> AbstractContextManager[Any]:
    """No autocast, on a kind of device that has it; the meta device has none."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


class _Enough(Exception):
    """What is wanted of the U-Net has been seen."""


def _eye(backbone: Backbone, name: str) -> Any:
    """The image encoder of a name, frozen, on the model's device; in main memory where the model is frugal."""
    if name == OWN:
        if not backbone._own_eye:
            raise Refusal(f"The model {backbone.name} has no image encoder of its own; name one, such as {VIT_H}.")
        return backbone.pipeline.image_encoder
    with quiet():
        from transformers import CLIPVisionModel

        try:
            eye = CLIPVisionModel.from_pretrained(
                name, use_safetensors=True, local_files_only=True, dtype=backbone.dtype
            )
        except (OSError, ValueError):
            where = "holds no CLIP image encoder" if Path(name).is_dir() else "is not in the hub's cache"
            raise Refusal(
                f"The image encoder {name} {where}; fetch it first (hf download {VIT_H}), or name another."
            ) from None
    if not backbone.frugal:
        nn.Module.to(eye, backbone.device)
    return eye.eval().requires_grad_(False)
