"""One recipe trains the picture book's model: tokenizer, autoencoder, U-Net with its text encoder, image encoder, judge.

    namesake picturebook train --preset cpu          (two cores: two processes of one thread, which beat one of two)
    namesake picturebook train --preset gpu          (one GPU)

Every stage writes checkpoints, its curve (`STAGE.curve.jsonl`) and sheets of samples under the work folder and, run again, goes on
where it stopped, to the bit: its first weights are a function of the stage, and which drawings, noise and timesteps a step sees one
of stage, step and process. The finished parts are written into an ordinary diffusers folder.

Training is eager. torch.compile gave wrong gradients in silence on this U-Net and autoencoder (LOG.md), so it is not offered.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from namesake.backbone.features import readings
from namesake.data.prompts import COLORED
from namesake.errors import Refusal, check_name
from namesake.files import cut_lines, folder_for, printable, write, write_array, write_state
from namesake.machine import cores, deaf, half
from namesake.picturebook import captions as grammar
from namesake.picturebook.captions import words_of
from namesake.picturebook.concept import CHARACTERS, COLORS, PATTERNS, Concept
from namesake.picturebook.dataset import SHARD, Drawings, deaf_children, draw_ahead, read_ahead
from namesake.picturebook.figures import BY_NAME
from namesake.picturebook.optim import MuonAndAdamW
from namesake.picturebook.scene import FULL_WORLD, RELATIONS, SMALL_WORLD, STYLES, WORN, Scene, World
from namesake.sheet import contact_sheet, save_png
from namesake.train.pretrain import launched

TEXT_LENGTH = 48
"""Tokens of a prompt, begin and end included; the longest caption of the grammar has fewer (a test)."""


GUIDANCE = 4.0
"""The guidance that `generate` uses on this model unless told otherwise."""


@dataclass(frozen=True)
class Stage:
    """Settings of one stage of training.

    Attributes:
        steps: optimizer steps in all; the rate is constant after `warmup` and falls linearly to zero over the last `decay` share,
            so a run can be lengthened before its decay has begun.
        batch: pictures a step, over all processes.
        lr_matrix, lr_rest, lr_gentle: rates of Muon, of AdamW, and of AdamW on the text encoder.
        save_every: seconds between checkpoints.
        sheet_every: steps between sample sheets.
    """

    steps: int
    batch: int
    lr_matrix: float
    lr_rest: float
    lr_gentle: float = 0.0
    warmup: int = 100
    decay: float = 0.3
    average: float = 0.995
    save_every: float = 120.0
    sheet_every: int = 1000


@dataclass(frozen=True)
class Preset:
    """A whole recipe: the world, how many drawings lie ahead, and the stages."""

    world: World
    drawings: int
    autoencoder: Stage
    decoder: Stage
    text_encoder: Stage
    unet: Stage
    image_encoder: Stage
    judge_drawings: int
    judge_minutes: float

    def count(self, scenes: str) -> int:
        """How many drawings of a kind lie ahead: of easy and of joined ones a third as many as of all."""
        return self.drawings if scenes == "all" else self.drawings // 3


_CPU = Preset(
    world=SMALL_WORLD,
    drawings=120_000,
    autoencoder=Stage(2_200, 24, 2e-3, 1e-3, decay=0.5, average=0.99),
    decoder=Stage(3_000, 16, 1e-3, 5e-4, decay=0.7, average=0.99),
    text_encoder=Stage(450, 96, 2e-3, 2e-3, decay=0.5, average=0.99),
    unet=Stage(20_000, 32, 3e-3, 1e-3, 2e-4, warmup=200, sheet_every=600),
    image_encoder=Stage(6_500, 64, 2e-3, 1e-3, decay=0.6),
    judge_drawings=80_000,
    judge_minutes=60,
)
PRESETS: dict[str, Preset] = {
    "cpu": _CPU,
    "gpu": Preset(
        world=FULL_WORLD,
        drawings=1_500_000,
        autoencoder=replace(_CPU.autoencoder, steps=30_000, batch=96),
        decoder=replace(_CPU.decoder, steps=10_000, batch=96),
        text_encoder=replace(_CPU.text_encoder, steps=2_000, batch=256),
        unet=replace(_CPU.unet, steps=60_000, batch=256, warmup=1000, average=0.9995, sheet_every=5000),
        image_encoder=replace(_CPU.image_encoder, steps=12_000, batch=512),
        judge_drawings=1_000_000,
        judge_minutes=15,
    ),
}
"""`cpu`: two cores, small world. `gpu`: one GPU, full world, 24 times as many pictures for the U-Net."""


# ------------------------------------------------------------------------------------------------------------------------ models
def make_tokenizer(folder: Path, samples: int = 6000) -> None:
    """Learn a CLIP byte-pair tokenizer from captions of the full world; every word of the grammar becomes one token.

    CLIP's own vocabulary begins with every byte, alone and as the end of a word; so does this one, or punctuation would become
    the unknown token, which is the end token, and cut the prompt.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    drawings = Drawings(world=FULL_WORLD, seed=1)
    corpus = [drawings.scene(i)[2].text for i in range(samples)] + [" ".join(grammar.vocabulary())] * 8
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), pre_tokenizers.Split("Ġ", "removed")]
    )
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=4000, min_frequency=2, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
        ),
    )
    merges: Any = [
        tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in json.loads(bpe.to_str())["model"]["merges"]
    ]
    tokens = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *("".join(m) for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    made = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TEXT_LENGTH, pad_token="<|endoftext|>")
    put(folder / "tokenizer", made.save_pretrained)


def world_words(world: World, samples: int = 8000) -> list[str]:
    """The words that captions of a world use, in order of first use."""
    drawings = Drawings(world=world, seed=2)
    return list(dict.fromkeys(word for i in range(samples) for word in words_of(drawings.scene(i)[2].text)))


def make_autoencoder() -> Any:
    """64 px to 16x16 with 8 channels; 1.4 M parameters. 8x8 with 16 channels was still blurred after 20 minutes (LOG.md)."""
    from diffusers import AutoencoderKL

    blocks = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
    vae: Any = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # the posterior begins narrow (log-variance -5), or its noise drowns the first picture
        vae.quant_conv.weight[8:] *= 0.1
        vae.quant_conv.bias[8:] = -5.0
    return vae


def make_text_encoder(tokenizer: Any) -> Any:
    """A two-layer CLIP text transformer whose residual branches begin at zero."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=256,
    )
    model = CLIPTextModel(config)
    with torch.no_grad():  # trained along from random branches at a useful rate, categories never come (LOG.md)
        for name, parameter in model.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight")):
                parameter.zero_()
    return model


def make_unet() -> Any:
    """SD's layout on 16x16 latents: a plain block above two with cross-attention (8x8 and 4x4); 13.5 M parameters."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 128, 224),
        layers_per_block=1,
        cross_attention_dim=256,
        attention_head_dim=8,
        norm_num_groups=16,
    )


def make_scheduler() -> Any:
    """v-prediction, zero terminal SNR, trailing timesteps."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def make_image_encoder() -> Any:
    """A small CLIP vision transformer with 8 px patches; its projection meets the text encoder's pooled output."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=576,
            num_hidden_layers=5,
            num_attention_heads=6,
            image_size=64,
            patch_size=8,
            projection_dim=256,
        )
    )


# -------------------------------------------------------------------------------------------------------------------------- loop
def rate(step: int, stage: Stage) -> float:
    """The factor on the rates at a step: linear warm-up, constant, linear fall to zero."""
    begin = stage.steps * (1 - stage.decay)
    fall = 1.0 if step < begin else max(0.0, (stage.steps - step) / (stage.steps - begin))
    return min(1.0, (step + 1) / stage.warmup) * fall


def put(folder: Path, save: Callable[[Path], object]) -> None:
    """A part of a model, saved beside its place and then renamed, so that no kill leaves half of one there.

    Raises:
        Refusal: it cannot be written, as on a full disk.
    """
    from safetensors import SafetensorError

    beside, before = (folder.with_name(f".{folder.name}.{what}") for what in ("part", "before"))
    for left in (beside, before):
        shutil.rmtree(left, ignore_errors=True)
    beside.parent.mkdir(parents=True, exist_ok=True)
    try:
        save(beside)
        for path in beside.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        if folder.exists():
            os.replace(folder, before)
        os.replace(beside, folder)
        shutil.rmtree(before, ignore_errors=True)
    except (OSError, SafetensorError) as reason:
        told = str(reason).split("\n", 1)[0].rstrip(".")
        raise Refusal(
            f"The model's {folder.name} cannot be written to {printable(folder)} ({told}); choose another place."
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def stands_at(checkpoint: Path) -> int:
    """After how many steps a checkpoint was made; 0 where there is none."""
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["step"])


def run_stage(
    name: str,
    stage: Stage,
    model: nn.Module,
    optimizer: MuonAndAdamW,
    loss: Callable[[nn.Module, Any], tuple[Tensor, dict[str, float]]],
    batches: Callable[[np.random.Generator, int, int], Any],
    folder: Path,
    accelerator: Accelerator,
    sheet: Callable[[nn.Module, int], dict[str, float]] | None = None,
) -> nn.Module:
    """Train one model and return its averaged weights.

    Args:
        loss: (model, batch) -> (scalar, figures to show).
        batches: (generator, count, step) -> one process's batch; the generator is a function of stage, step and process.
        sheet: called with the averaged model at intervals by the main process; writes pictures, returns figures for the curve.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from torch.optim.swa_utils import AveragedModel

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, curve = folder / f"{name}.ckpt", folder / f"{name}.curve.jsonl"

    def move(averaged: Any, current: Any, count: Any) -> None:
        # Without the warm-up the random beginning is still half of the average after 600 steps at 0.999.
        keep = min(stage.average, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - keep)

    average = AveragedModel(model, multi_avg_fn=move)
    step = 0
    if checkpoint.exists():
        # Not to accelerator.device: among several processes that is "cpu:0", which torch.load does not know.
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    wrapped = nn.parallel.DistributedDataParallel(model) if accelerator.num_processes > 1 else model
    share = stage.batch // accelerator.num_processes
    main = accelerator.is_main_process
    lines = cut_lines(curve, step) if main else []
    saved = time.monotonic()
    began = saved - max((line.get("seconds", 0.0) for line in lines), default=0.0)
    figures: dict[str, float] = {}

    def save() -> None:
        if main:
            state = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            write_state(state, checkpoint)

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, disable=not main) as progress:
        task = progress.add_task(name, total=stage.steps, completed=step, note="")
        while step < stage.steps:
            rng = np.random.default_rng([0, sum(name.encode()), step, accelerator.process_index])
            torch.manual_seed(int(rng.integers(2**63 - 1)))
            batch = batches(rng, share, step)
            with half(accelerator.device.type):
                value, seen = loss(wrapped, batch)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(rate(step, stage))
            average.update_parameters(model)
            step += 1
            for key, number in {"loss": float(value.detach()), **seen}.items():
                figures[key] = number if key not in figures else 0.98 * figures[key] + 0.02 * number
            # Asked of all processes: one that went on alone would wait for the others at its next gradient.
            bad = torch.tensor(float(not all(math.isfinite(v) for v in figures.values())), device=accelerator.device)
            if float(accelerator.reduce(bad, "sum")) > 0:
                raise Refusal(
                    f"Training of {name} diverged at step {step}: {figures}; lower its rates in PRESETS and begin it again "
                    f'without "{checkpoint}".'
                )
            now = time.monotonic()
            if main and (step % 25 == 0 or step == stage.steps):
                progress.update(task, completed=step, note=" ".join(f"{k} {v:.4f}" for k, v in figures.items()))
                with open(curve, "a") as file:
                    file.write(
                        json.dumps(
                            {"step": step, "seconds": round(now - began, 1), "rate": rate(step, stage), **figures}
                        )
                        + "\n"
                    )
            if sheet is not None and main and (step % stage.sheet_every == 0 or step == stage.steps):
                average.eval()
                with torch.no_grad():
                    extra = sheet(average.module, step)
                with open(curve, "a") as file:
                    file.write(json.dumps({"step": step, **extra}) + "\n")
            if now - saved > stage.save_every or step == stage.steps:
                save()
                saved = now
    return average.module


# ------------------------------------------------------------------------------------------------------------------------ stages
def _floats(pictures: Tensor) -> Tensor:
    """uint8 `[B, H, W, 3]` -> -1..1 `[B, 3, H, W]`, channels last."""
    return (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 plus half the L1 of horizontal and vertical differences, which keeps edges sharp."""
    l1 = (output - target).abs().mean()
    across = ((output[..., 1:] - output[..., :-1]) - (target[..., 1:] - target[..., :-1])).abs().mean()
    down = ((output[..., 1:, :] - output[..., :-1, :]) - (target[..., 1:, :] - target[..., :-1, :])).abs().mean()
    return l1 + 0.5 * (across + down)


class _Autoencoding(nn.Module):
    """The autoencoder's training pass as one module, so that several processes can share it."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.vae.quant_conv(self.vae.encoder(pictures)).float()  # type: ignore[operator]
        mean, logvar = moments.chunk(2, 1)
        logvar = logvar.clamp(-30, 10)
        latents = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return self.vae.decoder(self.vae.post_quant_conv(latents)).float(), kl  # type: ignore[operator]


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in -1..1."""
    return float(-10 * torch.log10((output.clamp(-1, 1) - target).square().mean() / 4))


def _reconstruction_sheet(vae: nn.Module, pictures: Tensor, path: Path) -> float:
    from PIL import Image

    x = _floats(pictures)
    moments = vae.quant_conv(vae.encoder(x))  # type: ignore[operator]
    y = vae.decoder(vae.post_quant_conv(moments.chunk(2, 1)[0])).float()  # type: ignore[operator]
    pair = torch.cat([x[:16], y[:16].clamp(-1, 1)]).permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(list(pair[i : i + 8]), 1) for i in (0, 16, 8, 24)]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(((np.concatenate(rows) + 1) * 127.5).round().astype(np.uint8))
    image.resize((image.width * 3, image.height * 3), Image.Resampling.NEAREST).save(path)
    return psnr(y, x)


def train_autoencoder(
    preset: Preset, work: Path, model: Path, accelerator: Accelerator, *, decoder_only: bool = False
) -> None:
    """Encoder and decoder on random 32 px crops and whole pictures, then latents brought to mean 0 and deviation 1.

    Args:
        decoder_only: train the decoder alone, from the weights in the model folder, on whole pictures. Latents stay what they are,
            so this can follow the U-Net's training.
    """
    from safetensors.torch import load_file

    name, stage = ("decoder", preset.decoder) if decoder_only else ("autoencoder", preset.autoencoder)
    vae = make_autoencoder()
    if (model / "vae").exists() and not (work / f"{name}.ckpt").exists():
        vae.load_state_dict(load_file(model / "vae" / "diffusion_pytorch_model.safetensors"))
    if decoder_only:
        vae.encoder.requires_grad_(False)  # type: ignore[operator,union-attr]
        vae.quant_conv.requires_grad_(False)  # type: ignore[operator,union-attr]
    module = _Autoencoding(vae).to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = torch.from_numpy(read_ahead(work / "all")[0])
    held = torch.from_numpy(
        np.stack([d.picture for d, _ in (Drawings("tuning", preset.world)[i] for i in range(64))])
    ).to(accelerator.device)
    optimizer = MuonAndAdamW(
        module.named_parameters(), stage.lr_matrix, stage.lr_rest, plain=("conv_in.weight", "conv_out.weight")
    )

    def batches(rng: np.random.Generator, count: int, step: int) -> Tensor:
        whole = decoder_only or rng.uniform() < 0.25
        chosen = pictures[rng.integers(len(pictures), size=max(1, count // 4) if whole else count)]
        if whole:
            return _floats(chosen.to(accelerator.device))
        x, y = rng.integers(33, size=(2, len(chosen)))
        crops = torch.stack([p[b : b + 32, a : a + 32] for p, a, b in zip(chosen, x, y, strict=True)])
        return _floats(crops.to(accelerator.device))

    def loss(module: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        output, kl = module(batch)
        return reconstruction_loss(output, batch) + 1e-4 * kl, {
            "kl": float(kl.detach()),
            "psnr": psnr(output.detach(), batch),
        }

    def sheet(module: nn.Module, step: int) -> dict[str, float]:
        return {"held psnr": _reconstruction_sheet(module.vae, held, work / "sheets" / f"{name}-{step:06d}.png")}  # type: ignore[arg-type]

    averaged = run_stage(name, stage, module, optimizer, loss, batches, work, accelerator, sheet)
    if accelerator.is_main_process:
        vae = cast(Any, averaged).vae.to("cpu")  # type: ignore[union-attr,operator]
        if not decoder_only:
            normalize_latents(vae, pictures[:2000])
        put(model / "vae", vae.to(torch.float16).save_pretrained)


@torch.no_grad()
def normalize_latents(vae: Any, pictures: Tensor) -> None:
    """Fold each latent channel's mean and deviation into the two 1x1 convolutions: scaled latents get mean 0, deviation 1."""
    means = torch.cat([vae.quant_conv(vae.encoder(_floats(p))).chunk(2, 1)[0] for p in pictures.split(100)])
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3))
    channels = len(mean)
    # encode: (z - mean) / std; the log-variance moves by -2 log std. decode: z * std + mean.
    vae.quant_conv.weight[:channels] /= std[:, None, None, None]
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) / std
    vae.quant_conv.bias[channels:] -= 2 * std.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= std[None, :, None, None]


def token_ids(tokenizer: Any, texts: list[str]) -> Tensor:
    """Token ids `[N, 48]` of captions, padded or cut to `TEXT_LENGTH`."""
    ids: Tensor = tokenizer(
        texts, padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
    ).input_ids
    return ids


@torch.no_grad()
def encode_ahead(folder: Path, model: Path, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Latents (posterior means, fp16 `[N, 8, 16, 16]`) and token ids (`[N, 48]`) of all drawings of a folder.

    Every shard is encoded once, by one of the processes, and kept beside its drawings as `NNNN.latents.MARK.npy`, by a mark of
    the encoder: latents of another one, which the model's decoder would not know, are thrown away.
    """
    from diffusers import AutoencoderKL
    from rich.progress import track
    from transformers import CLIPTokenizer

    shards = sorted(folder.glob("????.json"))
    # Shared by place and not by what is lacking, which changes while other processes work.
    own = shards[accelerator.process_index :: accelerator.num_processes]
    vae: Any = AutoencoderKL.from_pretrained(model / "vae").to(
        accelerator.device, torch.float32, memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    seeing = [*vae.encoder.state_dict().values(), *vae.quant_conv.state_dict().values()]
    mark = hashlib.sha256(b"".join(weight.cpu().contiguous().numpy().tobytes() for weight in seeing)).hexdigest()[:12]
    kept = f".latents.{mark}.npy"
    mine = [shard for shard in own if not shard.with_suffix(kept).exists()]
    for shard in track(mine, "encode", disable=not accelerator.is_main_process):
        parts = []
        for chunk in torch.from_numpy(np.load(shard.with_suffix(".npy"))).split(250):
            with half(accelerator.device.type):
                moments = vae.quant_conv(vae.encoder(_floats(chunk.to(accelerator.device))))
            parts.append(moments.chunk(2, 1)[0].half().cpu().contiguous())
        for stale in shard.parent.glob(f"{shard.stem}.latents.*.npy"):
            stale.unlink()
        write_array(torch.cat(parts).numpy(), shard.with_suffix(kept), "latents")
    accelerator.wait_for_everyone()
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    texts = [text for shard in shards for text in json.loads(shard.read_text())]
    ids = token_ids(tokenizer, texts)
    return torch.from_numpy(np.concatenate([np.load(shard.with_suffix(kept)) for shard in shards])), ids


class _Denoising(nn.Module):
    """U-Net and text encoder as one module to train."""

    def __init__(self, unet: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, latents: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        return self.unet(latents, timesteps, self.text(input_ids=ids)[0]).sample.float()


def answers(made: Concept, scene: Scene, named: frozenset[str], world: World) -> list[int]:
    """What a caption says, as class numbers, one for each of `QUESTIONS`; 0 where it does not say."""
    other = scene.second
    truth = {
        "category": made.category,
        "color": made.colors[0].name,
        "second color": made.colors[1].name,
        "pattern": made.pattern.kind,
        "patches": made.patches[0].color.name,
        "worn": scene.worn.name if scene.worn else "",
        "place": scene.place,
        "style": scene.style.name,
        "size": grammar.size_of(scene.pose.scale),
        "turn": "left" if scene.pose.turn < 0 else "right",
        "side": "left" if scene.pose.x < 0 else "right",
        "relation": other.relation if other else "",
        "second category": other.concept.category if other else "",
        "name": made.name,
    }
    return [possible(what, world).index(truth[what]) + 1 if what in named else 0 for what in QUESTIONS]


_POSSIBLE: dict[str, tuple[str, ...]] = {
    "category": (),  # the world's
    "color": tuple(COLORS),
    "second color": tuple(COLORS),
    "pattern": PATTERNS,
    "patches": tuple(COLORS),
    "worn": WORN,
    "place": (),
    "style": STYLES,
    "size": ("small", "big"),
    "turn": ("left", "right"),
    "side": ("left", "right"),
    "relation": RELATIONS,
    "second category": (),
    "name": tuple(c.name for c in CHARACTERS),
}
QUESTIONS = tuple(_POSSIBLE)
"""What the text encoder learns to read out of captions before it sees a picture."""


def possible(question: str, world: World) -> tuple[str, ...]:
    """The answers to one of `QUESTIONS`."""
    return _POSSIBLE[question] or (world.places if question == "place" else world.categories)


class _Reading(nn.Module):
    """The text encoder and one linear map from its states to the answers to all `QUESTIONS`; the map is not kept."""

    def __init__(self, text: nn.Module, classes: int) -> None:
        super().__init__()
        self.text = text
        self.answer = nn.Linear(256, len(QUESTIONS) * classes)

    def forward(self, ids: Tensor, where: Tensor) -> Tensor:
        states = self.text(input_ids=ids)[0]
        picked = states.gather(1, where[..., None].expand(-1, -1, states.shape[-1]))
        return self.answer(picked).float().unflatten(-1, (len(QUESTIONS), -1))


def train_text_encoder(preset: Preset, work: Path, model: Path, accelerator: Accelerator) -> None:
    """The text encoder learns to read: what a caption says must be a linear function of its end token's state.

    Trained along with the U-Net from random weights, it left all that captions say of things out of the pictures for 108
    thousand pictures (LOG.md): a word is one of 48 tokens there, most of them padding, and synonyms share nothing. Afterwards the
    end token and every padding token, which see the whole prompt through the causal mask, hold its meaning.
    """
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    drawings, stage = Drawings("training", preset.world, seed=3), preset.text_encoder
    module = _Reading(make_text_encoder(tokenizer), len(preset.world.categories) + 1).to(accelerator.device)
    optimizer = MuonAndAdamW(module.named_parameters(), stage.lr_matrix, stage.lr_rest)

    def batches(rng: np.random.Generator, count: int, step: int) -> tuple[Tensor, ...]:
        scenes = [drawings.scene(int(i)) for i in rng.integers(2**31, size=count)]
        ids = token_ids(tokenizer, [c.text for *_, c in scenes])
        end = (ids == tokenizer.eos_token_id).int().argmax(1)
        later = torch.from_numpy(rng.uniform(size=count)) * (TEXT_LENGTH - end)
        target = torch.tensor([answers(made, scene, c.named, preset.world) for made, scene, c in scenes])
        return tuple(x.to(accelerator.device) for x in (ids, torch.stack([end, end + later.long()], 1), target))

    def loss(module: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
        ids, where, target = batch
        logits = module(ids, where)
        both = target[:, None].expand(logits.shape[:-1])
        right = logits.argmax(-1) == both
        figures = {
            "all right": float(right[:, 0].all(-1).float().mean()),
            "category": float(right[..., 0].float().mean()),
        }
        return F.cross_entropy(logits.flatten(0, 2), both.flatten()), figures

    held = [Drawings("tuning", preset.world, seed=3).scene(i)[2].text for i in range(HELD)]

    def sheet(module: nn.Module, step: int) -> dict[str, float]:
        """Captions that were not learned from, and what is read in them."""
        ids = token_ids(tokenizer, held)
        end = (ids == tokenizer.eos_token_id).int().argmax(1)[:, None]
        read = module(ids.to(accelerator.device), end.to(accelerator.device))[:, 0].argmax(-1).tolist()
        told = []
        for text, numbers in zip(held, read, strict=True):
            said = [
                f"{what} {possible(what, preset.world)[number - 1]}"
                for what, number in zip(QUESTIONS, numbers, strict=True)
                if 0 < number <= len(possible(what, preset.world))
            ]
            told.append(f"{text}\n    {', '.join(said)}\n")
        path = work / "sheets" / f"text_encoder-{step:06d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(told))
        return {}

    averaged = run_stage("text_encoder", stage, module, optimizer, loss, batches, work, accelerator, sheet)
    if accelerator.is_main_process:
        put(model / "text_encoder", cast(Any, averaged).text.to("cpu", torch.float16).save_pretrained)


SCENES = ("all", "easy", "joined")
"""The kinds of drawings that lie ahead (`Drawings.scenes`); each has its folder under the work folder."""


def scene_shares(step: int, stage: Stage, begun: bool = False) -> tuple[float, float, float]:
    """The shares of all, easy and joined drawings at a step of the U-Net's stage: 20, 80, 0 % in its first half, then 30, 25, 45 %;
    the latter from the start where the stage goes on from weights that can draw things (`begun`).

    Where easy drawings fell to none at the half, the loss that a wrong category costs stopped growing; where no easy drawing was
    joined by a thing worn, 95 % of the pictures lacked it (LOG.md).
    """
    return (0.2, 0.8, 0.0) if step < stage.steps / 2 and not begun else (0.3, 0.25, 0.45)


def train_unet(preset: Preset, work: Path, model: Path, accelerator: Accelerator) -> None:
    """U-Net and text encoder together on latents from disk: v-prediction, logit-normal timesteps, one prompt in ten empty."""
    from safetensors.torch import load_file
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    sets = [encode_ahead(work / folder, model, accelerator) for folder in SCENES]
    unet, text = make_unet(), make_text_encoder(tokenizer)
    begun = (model / "unet").exists()  # a run from nothing writes there at its end
    if not (work / "unet.ckpt").exists():
        if (model / "text_encoder").exists():
            text.load_state_dict(type(text).from_pretrained(model / "text_encoder").state_dict())  # type: ignore[attr-defined]
        if begun:
            unet.load_state_dict(load_file(model / "unet" / "diffusion_pytorch_model.safetensors"))
    module = _Denoising(unet, text).to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    empty = token_ids(tokenizer, [""])[0]
    scheduler = make_scheduler()
    cumulative = scheduler.alphas_cumprod.to(accelerator.device)
    stage = preset.unet
    plain = ("conv_in.weight", "conv_out.weight")
    optimizer = MuonAndAdamW(
        module.named_parameters(), stage.lr_matrix, stage.lr_rest, plain, ("text.",), stage.lr_gentle, ns_steps=4
    )

    def batches(rng: np.random.Generator, count: int, step: int) -> tuple[Tensor, ...]:
        counts = rng.multinomial(count, scene_shares(step, stage, begun))
        picked = [(pool, rng.integers(len(pool[0]), size=n)) for pool, n in zip(sets, counts, strict=True)]
        z = torch.cat([latents[chosen] for (latents, _), chosen in picked]).float()
        words = torch.cat([ids[chosen] for (_, ids), chosen in picked])
        words[torch.from_numpy(rng.uniform(size=count) < 0.1)] = empty
        t = torch.from_numpy((1000 / (1 + np.exp(-rng.normal(0.3, 1.0, count)))).astype(np.int64).clip(0, 999))
        return tuple(x.to(accelerator.device) for x in (z, words, t))

    def loss(module: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
        z, words, t = batch
        a = cumulative[t].view(-1, 1, 1, 1).sqrt()
        s = (1 - cumulative[t]).view(-1, 1, 1, 1).sqrt()
        noise = torch.randn_like(z)
        noisy = (a * z + s * noise).contiguous(memory_format=torch.channels_last)
        return F.mse_loss(module(noisy, t, words), a * noise - s * z), {}

    def sheet(module: nn.Module, step: int) -> dict[str, float]:
        return prompt_sheet(module, model, preset.world, work / "sheets" / f"unet-{step:06d}.png", accelerator.device)

    averaged = run_stage("unet", stage, module, optimizer, loss, batches, work, accelerator, sheet)
    if accelerator.is_main_process:
        write_denoiser(averaged, model)


def write_denoiser(module: Any, model: Path) -> None:
    """U-Net, text encoder and scheduler, fp16, into a diffusers folder."""
    for part, name in ((module.unet, "unet"), (module.text, "text_encoder")):
        half_wide = part.to("cpu", torch.float16, memory_format=torch.contiguous_format)
        put(model / name, half_wide.save_pretrained)
    put(model / "scheduler", make_scheduler().save_pretrained)


@torch.no_grad()
def sample_latents(
    module: Any,
    ids: Tensor,
    empty: Tensor,
    *,
    device: Any = "cpu",
) -> Tensor:
    """Latents for prompts by DPM-Solver++; for sheets while training (users' pictures come from `generate`)."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler: Any = DPMSolverMultistepScheduler.from_config(make_scheduler().config)
    scheduler.set_timesteps(15)
    generator = torch.Generator().manual_seed(0)
    config = module.unet.config
    x = torch.randn(len(ids), config.in_channels, config.sample_size, config.sample_size, generator=generator).to(
        device
    )
    words = torch.cat([empty.expand_as(ids), ids]).to(device)
    states = module.text(input_ids=words)[0]
    for t in scheduler.timesteps:
        with half(torch.device(device).type):
            out = module.unet(torch.cat([x, x]), t.to(device), states).sample.float()
        free, asked = out.chunk(2)
        x = scheduler.step(free + GUIDANCE * (asked - free), t, x).prev_sample
    return x


@torch.no_grad()
def prompt_sheet(module: Any, model: Path, world: World, path: Path, device: Any) -> dict[str, float]:
    """Draw captions of unseen scenes and write the sheet.

    Returns:
        The share of pictures in which the judge beside the model, or the shipped one, reads the category that the caption
        names, if it knows this world; the loss does not tell whether categories come.
    """
    from diffusers import AutoencoderKL
    from PIL import Image
    from transformers import CLIPTokenizer

    from namesake.picturebook.judge import SHIPPED, Judge

    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    vae: Any = AutoencoderKL.from_pretrained(model / "vae").to(device, torch.float32)
    drawings = Drawings("tuning", world, seed=5)
    scenes = [drawings.scene(i) for i in range(64)]
    ids = token_ids(tokenizer, [c.text for *_, c in scenes] + [""])
    z = sample_latents(module, ids[:-1], ids[-1:], device=device)
    pictures = ((vae.decode(z).sample.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = pictures.numpy().reshape(-1, 16, 64, 64, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 16 * 64, 3)
    Image.fromarray(grid).resize((16 * 96, grid.shape[0] * 3 // 2), Image.Resampling.NEAREST).save(path)
    path.with_suffix(".txt").write_text("\n".join(c.text for *_, c in scenes))
    kept = [file for file in (model.parent / "judge" / SHIPPED.name, SHIPPED) if file.is_file()]
    judge = next((one for one in map(Judge.load, kept) if one.world == world), None)
    if judge is None:
        return {}
    reading = judge.judge(pictures)["category"].argmax(1).tolist()
    single = [i for i, (_, scene, c) in enumerate(scenes) if scene.second is None and "category" in c.named]
    return {"category": sum(judge.heads["category"][reading[i]] == scenes[i][0].category for i in single) / len(single)}


HELD = 24


class Held:
    """Easy drawings that no training saw, for sheets of what a network reads in them."""

    def __init__(self, world: World) -> None:
        some = [Drawings("tuning", world, seed=6, scenes="easy")[i][0] for i in range(HELD)]
        self.pictures = np.stack([one.picture for one in some])
        self._shown = [one.truth.concept.category for one in some]

    def right(self, read: list[str]) -> float:
        """The share whose category was read."""
        return sum(map(str.__eq__, read, self._shown)) / HELD

    def sheet(self, read: list[str], path: Path) -> None:
        """The drawings, with what was read in them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        starts = range(0, HELD, 8)
        rows = [list(self.pictures[i : i + 8]) for i in starts]
        save_png(np.asarray(contact_sheet(rows, captions=[read[i : i + 8] for i in starts], cell=128)), path)


TEMPERATURE = 0.03
"""Of the image encoder's cosines."""


@dataclass(frozen=True)
class _Asked:
    """A question to pictures: unit embeddings of its prompts, the answer that each of them gives, and each picture's answer;
    -1 is not known."""

    name: str
    known: Tensor
    kinds: Tensor
    right: Tensor

    def loss(self, seen: Tensor, right: Tensor) -> tuple[Tensor, float]:
        """Of unit image embeddings: minus the log of what falls on prompts with the right answer; and how often it is first."""
        fit = readings(seen, self.known).log_softmax(dim=-1)[right >= 0]
        kinds, right = self.kinds.to(right.device), right[right >= 0]
        falls = fit.masked_fill(kinds[None] != right[:, None], -torch.inf).logsumexp(dim=-1)
        count = max(1, len(right))
        return -falls.sum() / count, float((kinds[fit.argmax(dim=-1)] == right).sum()) / count


def _numbers(names: Iterable[str], words: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Of every word for some names the number of its name."""
    return {word: number for number, name in enumerate(names) for word in words.get(name, ())}


_COLOR_OF = _numbers(COLORS, grammar.COLOR_WORDS)
_PATTERN_OF = _numbers(PATTERNS, grammar.PATTERN_WORDS)
_PATTERN_AFTER = _numbers(PATTERNS, grammar.PATTERN_NOUNS)  # "with red stripes"
_STYLE_OF = _numbers(STYLES, grammar.STYLE_TAGS)
_OTHER_NAMES = {word for kind in BY_NAME.values() for word in kind.hypernyms} | {
    made.name.lower() for made in CHARACTERS
}


def style_said(caption: str) -> int:
    """The number of the style that a caption names, plain's where it names none."""
    words = " ".join(words_of(caption))
    for place, style in enumerate(STYLES):
        phrases = (*grammar.STYLE_TAGS[style], *grammar.STYLE_OPENINGS[style])
        if any(re.search(rf"\b{' '.join(words_of(phrase))}\b", words) for phrase in phrases):
            return place
    return STYLES.index("plain")


def nouns_of(category: str) -> tuple[str, ...]:
    """What a category is called: its noun, synonyms and subtypes."""
    return (category, *BY_NAME[category].words)


def subject(caption: str, nouns: Mapping[str, int]) -> int:
    """The number of the thing that a caption is about, by its noun; -1 where it is called by a hypernym or by its name.

    The thing comes first in every caption, but for styles ("a stained glass window of ..."), which have nouns of their own.
    """
    words = words_of(caption)
    return nouns.get(words[_subject_at(words, nouns)], -1)


def _subject_at(words: list[str], nouns: Mapping[str, int]) -> int:
    """Where in a caption its thing is called something."""
    return next((place for place, word in enumerate(words) if word in nouns or word in _OTHER_NAMES), 0)


def color_said(caption: str, nouns: Mapping[str, int]) -> int:
    """The number of the main color of a caption's thing, the first before its noun; -1 where none is named."""
    words = words_of(caption)
    return next((_COLOR_OF[word] for word in words[: _subject_at(words, nouns)] if word in _COLOR_OF), -1)


def pattern_said(caption: str, nouns: Mapping[str, int]) -> int:
    """The number of the pattern of a caption's thing: "a striped cat", "a cat with red stripes"; -1 where none is named."""
    words = words_of(caption)
    place = _subject_at(words, nouns)
    found = [_PATTERN_OF[word] for word in words[:place] if word in _PATTERN_OF]
    if words[place + 1 : place + 2] == ["with"]:  # and a color
        found += [_PATTERN_AFTER[word] for word in words[place + 3 : place + 4] if word in _PATTERN_AFTER]
    return found[0] if found else -1


def train_image_encoder(preset: Preset, work: Path, model: Path, accelerator: Accelerator) -> None:
    """The image encoder learns by CLIP's loss to meet the frozen text encoder's pooled output, on from the weights that are
    there; and, since it is asked what pictures show, to find the noun, style, main color and pattern of each caption."""
    from safetensors.torch import load_file
    from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

    both = [read_ahead(work / folder) for folder in ("all", "easy")]
    pictures, texts = np.concatenate([p for p, _ in both]), [text for _, told in both for text in told]
    wide = len(both[0][1])
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    ids = token_ids(tokenizer, texts)
    text: Any = CLIPTextModel.from_pretrained(model / "text_encoder")
    text.to(accelerator.device, torch.float32).eval().requires_grad_(False)
    encoder = make_image_encoder()
    if (model / "image_encoder").exists() and not (work / "image_encoder.ckpt").exists():
        encoder.load_state_dict(load_file(model / "image_encoder" / "model.safetensors"))
    module = encoder.to(accelerator.device)  # type: ignore[arg-type]
    nouns = {noun: place for place, name in enumerate(preset.world.categories) for noun in nouns_of(name)}

    @torch.no_grad()
    def ask(name: str, prompts: Mapping[str, int], said: Callable[[str], int]) -> _Asked:
        known = text(input_ids=token_ids(tokenizer, list(prompts)).to(accelerator.device)).pooler_output
        kinds, right = torch.tensor(list(prompts.values())), torch.tensor([said(caption) for caption in texts])
        return _Asked(name, F.normalize(known, dim=-1), kinds, right)

    plain = {"a picture of a thing": STYLES.index("plain")}  # of five in six captions that name no style
    asked = (
        ask("noun", {f"a picture of a {noun}": n for noun, n in nouns.items()}, lambda t: subject(t, nouns)),
        ask("style", plain | {f"a picture of a thing, {tag}": n for tag, n in _STYLE_OF.items()}, style_said),
        ask("color", {COLORED.format(word): n for word, n in _COLOR_OF.items()}, lambda t: color_said(t, nouns)),
        ask("pattern", {COLORED.format(word): n for word, n in _PATTERN_OF.items()}, lambda t: pattern_said(t, nouns)),
    )
    stage = preset.image_encoder
    optimizer = MuonAndAdamW(
        module.named_parameters(), stage.lr_matrix, stage.lr_rest, plain=("patch_embedding.weight",)
    )
    mean, std = (
        torch.tensor(v, device=accelerator.device).view(1, 3, 1, 1)
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )

    def batches(rng: np.random.Generator, count: int, step: int) -> tuple[Tensor, ...]:
        # Half easy drawings: with the others alone categories hardly come; without them small things are never named.
        easy = rng.uniform(size=count) < 1 / 2
        chosen = np.where(easy, rng.integers(wide, len(pictures), size=count), rng.integers(wide, size=count))
        with torch.no_grad():
            pooled = text(input_ids=ids[chosen].to(accelerator.device)).pooler_output
        said = (one.right[chosen].to(accelerator.device) for one in asked)
        return torch.from_numpy(pictures[chosen]).to(accelerator.device), pooled, *said

    def loss(module: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
        seen = module(pixel_values=(batch[0].permute(0, 3, 1, 2).float() / 255 - mean) / std).image_embeds.float()
        a = F.normalize(seen, dim=-1)
        b = F.normalize(batch[1], dim=-1)
        logits = a @ b.T / TEMPERATURE
        target = torch.arange(len(a), device=a.device)
        hit = float((logits.argmax(1) == target).float().mean())
        pairs = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        # In a batch place and style tell most pictures apart, so that the pairs alone teach little of things.
        answers = {one.name: one.loss(a, right) for one, right in zip(asked, batch[2:], strict=True)}
        told = {name: share for name, (_, share) in answers.items()}
        return pairs + torch.stack([loss for loss, _ in answers.values()]).sum(), {"hit": hit, **told}

    held = Held(preset.world)
    names = preset.world.categories

    def sheet(module: nn.Module, step: int) -> dict[str, float]:
        x = torch.from_numpy(held.pictures).to(accelerator.device).permute(0, 3, 1, 2).float() / 255
        seen = F.normalize(module(pixel_values=(x - mean) / std).image_embeds.float(), dim=-1)
        read = [names[int(asked[0].kinds[int(best)])] for best in readings(seen, asked[0].known).argmax(dim=-1)]
        held.sheet(read, work / "sheets" / f"image_encoder-{step:06d}.png")
        return {"held nouns": held.right(read)}

    averaged = run_stage("image_encoder", stage, module, optimizer, loss, batches, work, accelerator, sheet)
    if accelerator.is_main_process:
        put(model / "image_encoder", cast(Any, averaged).to("cpu", torch.float16).save_pretrained)
        looks = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
        put(model / "feature_extractor", looks.save_pretrained)


def write_index(model: Path, world: World) -> None:
    """`model_index.json`, which makes the folder a StableDiffusionPipeline; the words and the world beside it."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.39.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    card = {"words": world_words(world), "guidance": GUIDANCE, "kind": "picturebook"}
    write((json.dumps(card) + "\n").encode(), model / "words.json", "list of words")
    write((json.dumps(_plain(world), indent=1) + "\n").encode(), model / "world.json", "world")
    write((json.dumps(index, indent=2) + "\n").encode(), model / "model_index.json", "index")


def _plain(world: World) -> dict[str, list[str]]:
    """A world as JSON gives it back."""
    return {name: list(values) for name, values in asdict(world).items()}


def _drawn(preset: Preset, work: Path) -> Iterator[int]:
    done = 0
    for seed, scenes in enumerate(SCENES):
        count = preset.count(scenes)
        for part in draw_ahead(work / scenes, count, world=preset.world, seed=77 * seed, scenes=scenes):
            yield done + part
        done += count


STANDS_ON = {
    "autoencoder": ("drawings",),
    "text_encoder": ("tokenizer",),
    "unet": ("drawings", "tokenizer", "autoencoder", "text_encoder"),
    "image_encoder": ("drawings", "tokenizer", "text_encoder"),
    "decoder": ("drawings", "autoencoder"),
}
PARTS = {
    "autoencoder": "vae",
    "judge": "../judge/judge.safetensors",
    "text_encoder": "text_encoder",
    "unet": "unet",
    "image_encoder": "image_encoder",
    "decoder": "vae",
}
"""What a stage writes, from the model's folder."""
LEARNED_WITH = ("tokenizer", "autoencoder", "text_encoder")
"""Stages whose parts a U-Net has learned with: with others it would draw nothing."""
STAGES = ("tokenizer", "drawings", "autoencoder", "judge", "text_encoder", "unet", "image_encoder", "decoder")
SHARED = ("autoencoder", "text_encoder", "unet", "decoder")
"""Stages that two processes share on a CPU. Not the image encoder's: its loss contrasts the pairs of one process's batch."""


def _check_begun(stage: str, preset: Preset, work: Path, model: Path) -> None:
    """Refuse a work folder of another world, a stage alone before those that it stands on, and one that has gone further."""
    if (card := work / "world.json").exists() and json.loads(card.read_text()) != _plain(preset.world):
        raise Refusal(
            f'The folder "{work}" holds drawings and checkpoints of another world than the preset\'s; name another with --work.'
        )
    if stage in LEARNED_WITH and (model / "unet").exists():
        raise Refusal(
            f'The U-Net in "{model}" has learned with the {stage.replace("_", " ")} beside it; go on with --stage unet, or name '
            "another folder with --model to begin from nothing."
        )
    settings = getattr(preset, stage, None) if stage else None
    if isinstance(settings, Stage) and (found := stands_at(work / f"{stage}.ckpt")) > settings.steps:
        raise Refusal(
            f'The stage {stage} in "{work}" has gone {found:,} steps, more than {settings.steps:,}; ask for as many at least.'
        )

    def empty(folder: Path) -> bool:
        return not folder.is_dir() or not any(folder.iterdir())

    def undrawn(scenes: str) -> bool:
        return len(list((work / scenes).glob("????.json"))) < -(-preset.count(scenes) // SHARD)

    lacking = {
        "drawings": [f'are not all drawings in "{work / scenes}"' for scenes in SCENES if undrawn(scenes)],
        "tokenizer": [f'is no tokenizer in "{model}"'] if empty(model / "tokenizer") else [],
        "autoencoder": [f'is no autoencoder in "{model}"'] if empty(model / "vae") else [],
        "text_encoder": [f'is no text encoder in "{model}"'] if empty(model / "text_encoder") else [],
    }
    for before in STANDS_ON.get(stage, ()):
        if lacking[before]:
            raise Refusal(f"There {lacking[before][0]}; run the stage before it first (--stage {before}).")


def together(processes: int, function: Callable[..., object], *given: Any) -> None:
    """Call a function in several processes of this machine, which accelerate takes for one launch.

    Args:
        processes: how many; they share the cores evenly.
        function, given: what spawned processes can import and unpickle.

    Raises:
        Refusal: what one of them refused, or that one ended otherwise; the others are ended then.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("spawn")
    told = context.SimpleQueue()
    workers = [
        context.Process(target=_one_of, args=(rank, processes, port, told, function, given), daemon=True)
        for rank in range(processes)
    ]
    try:
        with deaf_children():  # Ctrl-C reaches this process, which ends them
            for worker in workers:
                worker.start()
        waiting = {worker.sentinel: worker for worker in workers}
        while waiting:
            for ended in connection.wait(list(waiting)):
                worker = waiting.pop(ended)  # type: ignore[arg-type]
                worker.join()
                if worker.exitcode:
                    raise Refusal(
                        f"A process of this training ended with status {worker.exitcode}; the same command goes on from its "
                        "last checkpoint."
                        if told.empty()
                        else told.get()
                    )
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join()


def _one_of(
    rank: int, processes: int, port: int, told: Any, function: Callable[..., object], given: tuple[Any, ...]
) -> None:
    deaf()  # where it could not be blocked
    warnings.simplefilter("ignore")
    begun_by = parent_process()
    assert begun_by is not None

    def outlives() -> None:
        """Ends with the process that began this, however that ended: who starts the command again would else have both."""
        connection.wait([begun_by.sentinel])
        os._exit(1)

    threading.Thread(target=outlives, daemon=True).start()
    places = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_PORT": port,
    }
    os.environ |= {name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(max(1, cores() // processes))
    try:
        function(*given)
    except Refusal as refusal:
        told.put(str(refusal))
        sys.exit(2)


def main(
    preset: str = "cpu",
    work: Path = Path("out/picturebook"),
    model: Path | None = None,
    stage: str = "",
    steps: int = 0,
) -> None:
    """Run the recipe, or one stage of it.

    Args:
        preset: "cpu" or "gpu".
        work: folder of drawings, checkpoints, curves and sheets.
        model: the diffusers folder to write, the shipped one by default; the judge goes into the folder `judge` beside it.
        stage: one of `STAGES`; all of them in order by default.
        steps: another number of steps for the named stage.

    Raises:
        Refusal: for an unknown preset or stage, steps for a stage without or fewer than it has gone, a stage before those that
            it stands on, a work folder of another world, a folder that cannot be written (all before any work), and a loss
            that is not finite (in every process).
    """
    check_name("preset", preset, PRESETS)
    if stage:
        check_name("stage", stage, STAGES)
    if steps < 0:
        raise Refusal(f"The number of steps is {steps}; a positive one is wanted.")
    recipe = PRESETS[preset]
    if steps and not hasattr(getattr(recipe, stage, None), "steps"):
        found = f"the stage {stage} has none" if stage else "no stage was named"
        raise Refusal(f"A number of steps was given, and {found}; name a stage that has (--stage unet).")
    model = model or Path(__file__).parent / "model"
    if steps:
        recipe = replace(recipe, **{stage: replace(getattr(recipe, stage), steps=steps)})
    _check_begun(stage, recipe, work, model)
    accelerator = launched(cpu=preset == "cpu")
    for folder, option in ((work, "--work"), (model, "--model"), (model.parent / "judge", "--model")):
        folder_for(folder, option)
    if accelerator.is_main_process:
        write((json.dumps(_plain(recipe.world)) + "\n").encode(), work / "world.json", "world")
    processes = min(2, cores()) if preset == "cpu" and accelerator.num_processes == 1 else 1
    for name in (stage,) if stage else STAGES:
        settings = getattr(recipe, name, None)
        finished = isinstance(settings, Stage) and stands_at(work / f"{name}.ckpt") >= settings.steps
        finished |= name == "judge" and (work / "judge_training" / "judge.safetensors").is_file()
        # What a finished stage made stays as later ones left it.
        if (finished and (model / PARTS[name]).exists()) or (name in LEARNED_WITH and (model / "unet").exists()):
            continue
        if processes > 1 and name in SHARED:
            together(processes, _run, name, recipe, work, model, preset == "cpu")
        else:
            _run(name, recipe, work, model, preset == "cpu")


def _run(name: str, recipe: Preset, work: Path, model: Path, cpu: bool) -> None:
    """One stage, in this process and those that accelerate was launched with."""
    accelerator = launched(cpu=cpu)
    torch.manual_seed(sum(name.encode()))  # first weights: the same whatever ran before
    if name == "tokenizer" and accelerator.is_main_process:
        make_tokenizer(model)
    elif name == "drawings" and accelerator.is_main_process:
        from rich.progress import Progress

        with Progress() as progress:
            task = progress.add_task("drawings", total=sum(map(recipe.count, SCENES)))
            for done in _drawn(recipe, work):
                progress.update(task, completed=done)
    elif name in ("autoencoder", "decoder"):
        train_autoencoder(recipe, work, model, accelerator, decoder_only=name == "decoder")
    elif name == "text_encoder":
        train_text_encoder(recipe, work, model, accelerator)
    elif name == "unet":
        train_unet(recipe, work, model, accelerator)
    elif name == "image_encoder":
        train_image_encoder(recipe, work, model, accelerator)
    elif name == "judge" and accelerator.is_main_process:
        _train_judge(recipe, work, model.parent / "judge", accelerator)
    if name == "unet" and accelerator.is_main_process:
        write_index(model, recipe.world)  # the world that the model draws
    accelerator.wait_for_everyone()


def _train_judge(recipe: Preset, work: Path, folder: Path, accelerator: Accelerator) -> None:
    from namesake.picturebook.judge import Judge, draw_judge_data, train_judge

    draw_judge_data(work / "judge", recipe.judge_drawings, world=recipe.world)
    held, kept = Held(recipe.world), folder / "judge.safetensors"
    judge = train_judge(
        work / "judge",
        work / "judge_training",
        minutes=recipe.judge_minutes,
        world=recipe.world,
        start=kept if kept.is_file() and Judge.load(kept).world == recipe.world else None,
        device=accelerator.device.type,
    )
    judge.save(kept)
    told = judge.judge(held.pictures)
    read = [[judge.heads[h][int(told[h][i].argmax())] for h in ("category", "color", "place")] for i in range(HELD)]
    held.sheet([", ".join(words) for words in read], work / "sheets" / "judge.png")
