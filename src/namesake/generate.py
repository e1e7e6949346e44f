"""The sampling loop: short and ours, around diffusers' schedulers."""

import inspect
import math
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from namesake.errors import Refusal

if TYPE_CHECKING:
    from namesake.backbone import Backbone, TextStates
    from namesake.edits import Edit

BATCH_PIXELS = 4 * 512 * 512  # four SD pictures, or one of SDXL, at a time: about 6 GB with guidance in half precision
BATCH_ROWS = 16  # small pictures gain nothing beyond on two cores
LARGEST_SIDE = 4096


@dataclass(frozen=True, eq=False)
class Picture:
    """A generated picture (uint8, sRGB) with what is needed to draw it again, in `settings` as `save_png` takes it."""

    pixels: UInt8[np.ndarray, "H W 3"]
    prompt: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)


def generate(
    backbone: "Backbone",
    prompt: str | Sequence[str],
    edit: "Edit | Sequence[Edit] | None" = None,
    *,
    count: int = 1,
    seed: int = 0,
    steps: int = 25,
    guidance: float | None = None,
    negative: str = "",
    blend: float | None = None,
    scale: float = 1.0,
    scheduler: str = "dpm++",
    size: int | tuple[int, int] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Picture]:
    """Draw `count` pictures of each prompt, in the prompts' order, with or without an edit.

    Picture `i` of every prompt has the seed `seed + i` and its own generator on the CPU. So the same seed means the
    same noise on every device, with any batch, and under another prompt or edit.

    Args:
        backbone: the model.
        prompt: one prompt or several.
        edit: one edit, several that are put on together, or none.
        count: pictures for each prompt, 1..10,000.
        seed: 0..2**63 - 1.
        steps: 1..1,000 steps of the scheduler.
        guidance: classifier-free guidance, 0..100; 1 and below draw without it. By default what suits the model.
        negative: what guidance moves away from.
        blend: the share of the new word's path, 0..1; by default what the edit says.
        scale: the factor on the edit's weight offsets.
        scheduler: a name from `backbone.schedulers`.
        size: the side, or (height, width), in pixels; by default the model's own.
        progress: called with (steps done, steps in all) after every step.

    Raises:
        Refusal: a number out of its range, a size that the model cannot draw, an unknown scheduler, an edit that does
            not fit the model, latents that are not finite.

    Warns:
        UserWarning: a prompt that is cut off, a word that the model never saw, a picture that the model's own safety
            checker blacked out.
    """
    return list(
        drawn(
            backbone,
            prompt,
            edit,
            count=count,
            seed=seed,
            steps=steps,
            guidance=guidance,
            negative=negative,
            blend=blend,
            scale=scale,
            scheduler=scheduler,
            size=size,
            progress=progress,
        )
    )


@torch.no_grad()
def drawn(
    backbone: "Backbone",
    prompt: str | Sequence[str],
    edit: "Edit | Sequence[Edit] | None" = None,
    *,
    count: int = 1,
    seed: int = 0,
    steps: int = 25,
    guidance: float | None = None,
    negative: str = "",
    blend: float | None = None,
    scale: float = 1.0,
    scheduler: str = "dpm++",
    size: int | tuple[int, int] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Generator[Picture, None, None]:
    """The pictures of `generate`, those of each batch as soon as they are drawn, so that a long run need not be kept.

    The edit stays on the model until the last one is taken or the iterator is closed.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    guidance = backbone.guidance if guidance is None else guidance
    height, width = _size(backbone, size)
    _range("count", count, 1, 10_000)
    _range("seed", seed, 0, 2**63 - count)
    _range("number of steps", steps, 1, min(1_000, backbone.train_timesteps))
    _range("guidance", guidance, 0, 100)
    if not prompts:
        raise Refusal("There is no prompt; at least one is wanted.")
    solver = backbone.scheduler(scheduler)
    from namesake.edits import Edit, edited

    edits = () if edit is None else (edit,) if isinstance(edit, Edit) else tuple(edit)
    settings = {"model": backbone.name, "steps": steps, "guidance": guidance, "negative": negative, "blend": blend,
                "scale": scale, "scheduler": scheduler, "size": [height, width]}  # fmt: skip
    if edits:
        settings["concepts"] = [
            {
                "words": list(one.placeholders),
                "class": one.about.class_word,
                "method": one.about.method,
                "created": one.about.created,
            }
            for one in edits
        ]
    for word in dict.fromkeys(word for text in (*prompts, negative) for word in backbone.unknown_words(text)):
        warnings.warn(f'The model {backbone.name} never saw the word "{word}".', stacklevel=4)

    context: Any = nullcontext() if edit is None else edited(backbone, *edits, blend=blend, scale=scale)
    jobs = [(row, seed + place) for row in range(len(prompts)) for place in range(count)]
    batch = max(1, min(BATCH_ROWS, BATCH_PIXELS // (height * width)))
    with context:
        text = backbone.text(prompts)
        empty = backbone.against(negative, text) if guidance > 1 else None
        for start in range(0, len(jobs), batch):
            chunk = jobs[start : start + batch]
            rows = [row for row, _ in chunk]
            latents = _sample(
                backbone,
                solver,
                text.rows(rows),
                None if empty is None else empty.rows(rows),
                [number for _, number in chunk],
                steps,
                guidance,
                (height // backbone.factor, width // backbone.factor),
                _share(progress, start, len(chunk), len(jobs), steps),
            )
            if not latents.isfinite().all():
                raise Refusal(
                    f"The model {backbone.name} computed no numbers for a picture in {str(backbone.dtype).removeprefix('torch.')}; "
                    "load it in float32 (NAMESAKE_DTYPE=float32), or use a concept at a smaller scale."
                )
            pixels = backbone.decode(latents)
            objections = backbone.screened(pixels)
            if any(objections):
                warnings.warn(
                    "The model's safety checker blacked out a picture; try another seed or prompt.", stacklevel=4
                )
            pixels[torch.tensor(objections)] = 0
            for one, (row, number) in zip(pixels.numpy(), chunk, strict=True):
                yield Picture(one, prompts[row], number, {**settings, "prompt": prompts[row], "seed": number})


def _sample(
    backbone: "Backbone",
    solver: Any,
    text: "TextStates",
    empty: "TextStates | None",
    seeds: list[int],
    steps: int,
    guidance: float,
    places: tuple[int, int],
    done: Callable[[int, int], None],
) -> Float[Tensor, "B C h w"]:
    """Scaled latents of one batch, one seed for each row."""
    from diffusers.utils.torch_utils import randn_tensor

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    shape = (len(seeds), backbone.unet.config.in_channels, *places)
    # fp32 in any case, or fp64 where the model is: in half precision the solver's own rounding shows.
    dtype = torch.promote_types(backbone.dtype, torch.float32)
    try:
        solver.set_timesteps(steps, device=backbone.device)
    except (ValueError, IndexError) as error:  # some solvers need a few steps to begin with
        raise Refusal(f"The scheduler {type(solver).__name__} cannot sample in {steps} steps; try more.") from error
    noise = randn_tensor(shape, generator=generators, device=backbone.device, dtype=dtype)
    latents = noise * solver.init_noise_sigma
    takes_generator = "generator" in inspect.signature(solver.step).parameters
    extra = {"generator": generators} if takes_generator else {}
    if hasattr(solver, "noise_sampler_seed"):  # it takes no generator, and would draw from torch's own
        solver.noise_sampler_seed = seeds
    denoise = _guided(backbone, text, empty, guidance)
    for number, timestep in enumerate(solver.timesteps):
        output = denoise(solver.scale_model_input(latents, timestep), timestep)
        latents = solver.step(output, timestep, latents, **extra, return_dict=False)[0].to(dtype)
        done(number + 1, len(solver.timesteps))
    return latents


def _guided(
    backbone: "Backbone", text: "TextStates", empty: "TextStates | None", guidance: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser under classifier-free guidance (Ho and Salimans, 2022), or plain where `empty` is None."""
    if empty is None:
        return lambda latents, timestep: backbone.denoise(latents, timestep, text)
    both = type(text).joined(empty, text)

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        without, given = backbone.denoise(torch.cat([latents, latents]), timestep, both).chunk(2)
        return without + guidance * (given - without)

    return denoise


def _share(
    progress: Callable[[int, int], object] | None, start: int, rows: int, jobs: int, steps: int
) -> Callable[[int, int], None]:
    """Progress of one batch as progress of the whole, counted in steps of pictures (a solver may take more calls)."""

    def done(number: int, calls: int) -> None:
        if progress is not None:
            progress(start * steps + rows * steps * number // calls, jobs * steps)

    return done


def _size(backbone: "Backbone", size: int | tuple[int, int] | None) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size or (backbone.size, backbone.size)
    for side in (height, width):
        if side % backbone.multiple or not 0 < side <= LARGEST_SIDE:
            raise Refusal(
                f"The size {width}x{height} cannot be drawn by {backbone.name}; sides that are multiples of "
                f"{backbone.multiple}, up to {LARGEST_SIDE} pixels, are wanted."
            )
    return height, width


def _range(name: str, value: float, least: int, most: int) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise Refusal(f"The {name} is {value}; a number from {least} to {most} is wanted.")
