"""Minis: the real module trees of SD 1.5, SD 2.1 and SDXL at narrow widths with random weights, as diffusers folders.

They prove loading and contracts, never quality. A mini is written in about a second and holds 2 to 4 MB.
"""

from concurrent.futures import Executor, Future
from pathlib import Path

import torch

from namesake.backbone.shapes import assembled, tokenizer, unet_config

KINDS = ("sd15", "sd21", "sdxl")
WORDS = (
    *("a", "an", "the", "of", "in", "on", "and", "at", "with", "picture", "photo", "drawing", "painting"),
    *("cat", "dog", "robot", "object", "beach", "thing", "toy", "house", "tree", "hat"),
    *("red", "blue", "green", "big", "small"),
)


def fill(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random values in every parameter, so that no part of the network is idle: no zero bias, no unit norm."""
    dice = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=dice)
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            noise = noise * (0.3 if "embedding.weight" in name else fan_in**-0.5)
        else:
            noise = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        parameter.data = noise
    return module


def mini_unet_config(kind: str) -> dict:
    """The same tree, narrow: at 16 (SD) and 8 (SDXL) latents the middle block still attends over 2 x 2 places."""
    narrow = {"norm_num_groups": 4}
    if kind == "sdxl":
        narrow |= {
            "sample_size": 8,
            "block_out_channels": (16, 32, 32),
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (2, 4, 4),
            "cross_attention_dim": 32 + 48,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 48 + 6 * 8,
        }
    else:
        narrow |= {
            "sample_size": 16,
            "block_out_channels": (16, 16, 32, 32),
            "cross_attention_dim": 32,
            "attention_head_dim": {"sd15": 4, "sd21": (2, 2, 4, 4)}[kind],
        }
    return unet_config(kind) | narrow


def text_encoder(tokenizer, width: int, seed: int, projection: bool = False):
    """A three-layer CLIP text encoder of `width` for `tokenizer`; with `projection`, SDXL's second one."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=width,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return fill((CLIPTextModelWithProjection if projection else CLIPTextModel)(config), seed)


def image_encoder(width: int, seed: int):
    """A tiny CLIP image encoder of 32 pixel pictures whose projection is `width` wide."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=width,
    )
    return fill(CLIPVisionModelWithProjection(config), seed)


def clip_model(seed: int):
    """A tiny whole CLIP, its image encoder of 32 pixel pictures: ViT-H/14 as people have it is a folder of one."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 64, "bos_token_id": 62, "eos_token_id": 63},
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    return fill(CLIPModel(config), seed).eval()


def write_mini(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the mini of `kind` ("sd15", "sd21", "sdxl") as an ordinary diffusers folder, and return the folder.

    sd15 and sdxl predict the noise, sd21 the velocity. 128 attention linears for sd15 and sd21; sdxl's transformers are
    1 and 2 layers deep in the place of 2 and 10 (136 linears). Pictures are 128 (SD) or 64 (SDXL) pixels wide. The
    weights depend on `kind` only.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    seed = KINDS.index(kind)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=64 if kind == "sdxl" else 128,
        scaling_factor=0.13025 if kind == "sdxl" else 0.18215,
    )
    unet = UNet2DConditionModel(**mini_unet_config(kind))
    words = [tokenizer(WORDS)]
    texts = [text_encoder(words[0], 32, seed + 30)]
    if kind == "sdxl":
        words.append(tokenizer(WORDS, pad="!"))
        texts.append(text_encoder(words[1], 48, seed + 40, projection=True))
    pipeline = assembled(kind, fill(unet, seed + 20), fill(vae, seed + 10), texts, words)
    if dtype != torch.float32:  # diffusers warns at every cast
        pipeline.to(dtype)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return Path(folder)


class Pool(Executor):
    """The pool of workers, in this process."""

    def __init__(self, max_workers=None, mp_context=None, initializer=None): ...

    def submit(self, function, job):
        done = Future()
        done.set_result(function(job))
        return done

    def shutdown(self, wait=True, cancel_futures=False): ...
