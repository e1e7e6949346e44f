"""Stable Diffusion 1.5, 2.1 and XL in their true shapes, with random weights or with none.

What a run takes is a matter of shapes: on the meta device a model is only counted (`namesake.train.plan`), and random
weights on a GPU take the time and memory of trained ones. Nothing is downloaded. The numbers are those of the models' own
configurations; the image encoder is the one that DATE uses, CLIP ViT-H/14.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import nn

from namesake.backbone.backbone import Backbone, TextStates
from namesake.backbone.load import quiet
from namesake.errors import Refusal

KINDS = ("sd15", "sd21", "sdxl")
VOCABULARY = 49_408  # of CLIP's tokenizer
WHOLE = 30_000  # of these are whole alphabetic words of three letters or more, about
# Words that the tokenizer of a true shape reads as one token, as CLIP's does; it has no other real ones.
WORDS = tuple(
    """a an the of in on and at with is as it here to picture photo image drawing painting illustration view likeness art
    style cat dog robot object thing toy house tree hat beach red blue green big small nice lovely clear good looks nothing
    else""".split()  # noqa: SIM905
)
_L: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_H: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
}
_BIG_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
}
TEXT: dict[str, tuple[dict[str, Any], ...]] = {  # the second one of SDXL has a projection
    "sd15": ({**_L, "hidden_act": "quick_gelu", "projection_dim": 768},),
    "sd21": ({**_H, "hidden_act": "gelu", "projection_dim": 512},),
    "sdxl": (
        {**_L, "hidden_act": "quick_gelu", "projection_dim": 768},
        {**_BIG_G, "hidden_act": "gelu", "projection_dim": 1280},
    ),
}
VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "hidden_act": "gelu",
}


def unet_config(kind: str) -> dict[str, Any]:
    """The U-Net's configuration, as its model ships it (only the keys that are not defaults)."""
    if kind == "sdxl":
        return {
            "sample_size": 128,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    heads = {"sd15": 8, "sd21": (5, 10, 20, 20)}
    return {
        "sample_size": {"sd15": 64, "sd21": 96}[kind],
        "cross_attention_dim": {"sd15": 768, "sd21": 1024}[kind],
        "attention_head_dim": heads[kind],
        "use_linear_projection": kind == "sd21",
    }


def vae_config(kind: str) -> dict[str, Any]:
    """The autoencoder's configuration, which is one for all but for the scale of its latents."""
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "sample_size": {"sd15": 512, "sd21": 768, "sdxl": 1024}[kind],
        "scaling_factor": 0.13025 if kind == "sdxl" else 0.18215,
    }


def tokenizer(words: Sequence[str] = WORDS, size: int | None = None, pad: str = "<|endoftext|>") -> Any:
    """A CLIP byte-pair tokenizer that holds every byte and every one of `words` as one token; with `size`, tokens that no
    text has fill it up, whole words among them as in CLIP's own."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    merges: Any = []
    for word in words:
        # Apply the merges there are, then join what is left; later merges rank lower, so earlier words stay whole.
        pieces = [*word[:-1], word[-1] + "</w>"]
        for left, right in merges:
            for place in range(len(pieces) - 2, -1, -1):
                if pieces[place : place + 2] == [left, right]:
                    pieces[place : place + 2] = [left + right]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
            tokens.append(pieces[0])
    if size is not None:
        whole = WHOLE - len(words)
        for number in range(size - len(tokens) - 2):
            letters = "".join(chr(ord("a") + number // 26**place % 26) for place in range(4))
            tokens.append(f"zq{letters}" + "</w>" * (number < whole))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    made = CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=merges, pad_token=pad, model_max_length=77
    )
    for word in words:
        assert len(made(word).input_ids) == 3, f"{word} is not one token"
    return made


def assembled(
    kind: str, unet: Any, vae: Any, text_encoders: Sequence[Any], words: Sequence[Any], eye: Any = None
) -> Any:
    """The diffusers pipeline of a kind from its parts (`words`: the tokenizers), with the scheduler that it ships."""
    from diffusers import (
        DDIMScheduler,
        EulerDiscreteScheduler,
        PNDMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoders[0], "tokenizer": words[0], "image_encoder": eye}
    if kind == "sdxl":
        return StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=text_encoders[1],
            tokenizer_2=words[1],
            scheduler=EulerDiscreteScheduler(**betas),
            add_watermarker=False,
        )
    plain = PNDMScheduler(**betas, skip_prk_steps=True, set_alpha_to_one=False)
    velocity = DDIMScheduler(**betas, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False)
    return StableDiffusionPipeline(
        **parts,
        scheduler=velocity if kind == "sd21" else plain,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def true_shape(kind: str, device: str | torch.device = "meta", dtype: torch.dtype = torch.bfloat16) -> Backbone:
    """A model of the true shapes of "sd15", "sd21" or "sdxl": with no weights on the meta device, with random ones on any
    other.

    The image encoder counts as the model's own: its projection (1,024 wide in ViT-H, 0.2 % of its weights) is as wide as
    the model's text.

    Raises:
        Refusal: another kind.
    """
    if kind not in KINDS:
        raise Refusal(f"There is no true shape '{kind}'; choose one of {', '.join(KINDS)}.")
    with quiet():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import (
            CLIPTextConfig,
            CLIPTextModel,
            CLIPTextModelWithProjection,
            CLIPVisionConfig,
            CLIPVisionModelWithProjection,
        )

        tokenizers = [tokenizer(size=VOCABULARY, pad=pad) for pad in ("<|endoftext|>", "!")[: len(TEXT[kind])]]
        ids: dict[str, Any] = {"bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1}
        configs = [CLIPTextConfig(vocab_size=VOCABULARY, **ids, **sizes) for sizes in TEXT[kind]]
        pooled: Any = configs[-1].projection_dim if kind == "sdxl" else configs[-1].hidden_size
        with torch.device(device):
            unet, vae = UNet2DConditionModel(**unet_config(kind)), AutoencoderKL(**vae_config(kind))
            texts = [(CLIPTextModelWithProjection if n else CLIPTextModel)(config) for n, config in enumerate(configs)]
            eye = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=pooled, **VIT_H))
        modules: list[Any] = [unet, vae, *texts, eye]
        for module in modules:
            nn.Module.to(module, dtype)
        pipeline = assembled(kind, unet, vae, texts, tokenizers, eye)
    return Hollow(pipeline, kind) if torch.device(device).type == "meta" else Backbone(pipeline, kind)


class Hollow(Backbone):
    """A model on the meta device: shapes and no weights. It can be edited and run, and nothing can be read from it."""

    hollow = True
    counter: Any = None  # a `namesake.train.plan.Counter`, while one counts for a GPU

    @staticmethod
    def of(backbone: Backbone) -> "Hollow":
        """A model without its weights, which are gone."""
        for module in backbone.pipeline.components.values():
            if isinstance(module, nn.Module):
                nn.Module.to(module, "meta")
        made = Hollow(backbone.pipeline, backbone.name)
        made._card = backbone._card
        return made

    @contextmanager
    def frugally(self) -> Iterator[None]:
        """What waits elsewhere is not counted."""
        before, self._home = self._home, self.device
        try:
            with self.waiting(*self.bystanders):
                yield
        finally:
            self._home = before

    @contextmanager
    def waiting(self, *modules: nn.Module) -> Iterator[None]:
        with nullcontext() if self.counter is None or not self.frugal else self.counter.without(*modules):
            yield

    @contextmanager
    def at_work(self, *modules: nn.Module, instead: Sequence[nn.Module] = ()) -> Iterator[None]:
        counted = self.frugal and self.counter is not None
        with self.waiting(*instead), self.counter.within(*modules) if counted else nullcontext():
            yield

    def similarity(self, pictures: UInt8[torch.Tensor, "B H W 3"], prompts: Sequence[str]) -> Float[torch.Tensor, "N"]:
        """What it takes to compare is computed; all prompts fit alike."""
        if (seen := self._mean_seen(pictures)) is not None:
            self._text_embeddings(prompts) @ seen
        return torch.zeros(len(prompts))

    def text(self, prompts: list[str]) -> TextStates:
        """As diffusers encodes prompts; but the ids stay on the CPU, where an edit finds its words among them."""
        states: list[torch.Tensor] = []
        pooled = None
        two = len(self.text_encoders) == 2
        for encoder, words in zip(self.text_encoders, self.tokenizers, strict=True):
            ids = words(
                prompts, padding="max_length", max_length=words.model_max_length, truncation=True, return_tensors="pt"
            ).input_ids
            output = encoder(ids, output_hidden_states=two)
            states.append(output.hidden_states[-2] if two else output.last_hidden_state)
            pooled = output.text_embeds if "text_embeds" in output else None
        return TextStates(torch.cat(states, dim=-1).to(self.dtype), None if pooled is None else pooled.to(self.dtype))
