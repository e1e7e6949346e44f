"""A bare backbone around a mini, and edits for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from namesake.edits import About, Edit, LowRankEdit, SecondPath, Site, TokenEdit

WORD = "<my-thing>"
PARTS = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}


@dataclass
class Bench:
    """The least that `edited` needs of a backbone, and the two calls that tests make."""

    pipeline: Any
    name: str

    def __post_init__(self) -> None:
        self.unet = self.pipeline.unet
        pairs = [(self.pipeline.text_encoder, self.pipeline.tokenizer)]
        if hasattr(self.pipeline, "text_encoder_2"):
            pairs.append((self.pipeline.text_encoder_2, self.pipeline.tokenizer_2))
        self.text_encoders, self.tokenizers = (tuple(column) for column in zip(*pairs, strict=True))
        self.sites = tuple(
            Site(f"{path}.{part}", f"{'self' if path.endswith('attn1') else 'cross'} {role}", weight.shape[1],
                 weight.shape[0])
            for path, module in self.unet.named_modules() if path.endswith(("attn1", "attn2"))
            for part, role in PARTS.items() for weight in [module.get_submodule(part).weight]
        )  # fmt: skip
        self.dtype = next(self.unet.parameters()).dtype

    def text(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States and pooled vectors as the pipeline itself makes them."""
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            out = self.pipeline.encode_prompt(
                prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return out[0], out[2] if len(out) == 4 else None

    def inputs(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Fixed latents and timesteps; row 0 is the same at every batch size."""
        size = self.unet.config.sample_size
        latents = torch.stack([
            torch.randn(4, size, size, generator=torch.Generator().manual_seed(row), dtype=torch.float64)
            for row in range(rows)
        ])  # fmt: skip
        return latents.to(self.dtype), torch.tensor([501 - 17 * row for row in range(rows)])

    def denoise(
        self, states: torch.Tensor, pooled: torch.Tensor | None, order: list[int] | None = None
    ) -> torch.Tensor:
        latents, steps = self.inputs(len(states))
        if order is not None:
            latents, steps = latents[order], steps[order]
        extra = {}
        if pooled is not None:
            times = torch.tensor([[64, 64, 0, 0, 64, 64]] * len(states)).to(states)
            extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": times}}
        return self.unet(latents, steps, states, **extra).sample

    def __call__(self, *prompts: str) -> torch.Tensor:
        return self.denoise(*self.text(list(prompts)))


def bench(folder: Path, dtype: torch.dtype) -> Bench:
    from diffusers import DiffusionPipeline, logging

    logging.set_verbosity_error()
    pipeline = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(pipeline, component, None) is not None:
            getattr(pipeline, component).to(dtype).eval().requires_grad_(False)
    return Bench(pipeline, f"mini {folder.name}")


def random_edit(
    on: Bench, *, seed: int = 0, rank: int = 3, n: int = 1, batch: int | None = None, word: str = WORD,
    blend: float | None = 0.25, where: str = "attention", hard: str = "cat", size: float = 0.3, alpha: float = 2.0,
) -> Edit:  # fmt: skip
    """An edit with an effect at every site, in the dtype of the bench."""
    dice = torch.Generator().manual_seed(seed)
    lead = () if batch is None else (batch,)

    def noise(*shape: int) -> torch.Tensor:
        return (size * torch.randn(*lead, *shape, generator=dice, dtype=torch.float64)).to(on.dtype)

    widths = [encoder.config.hidden_size for encoder in on.text_encoders]
    parts: list = [TokenEdit(word, tuple(noise(n, width) for width in widths))]
    parts.append(LowRankEdit(
        {s.path: (noise(rank, s.in_dim) / s.in_dim**0.5, noise(s.out_dim, rank)) for s in on.sites}, alpha
    ))  # fmt: skip
    if blend is not None:
        parts.append(SecondPath(hard, blend, where))
    return Edit(tuple(parts), About("test", class_word=hard))


def row_of(edit: Edit, row: int) -> Edit:
    """One concept of an edit for a batch."""
    parts = []
    for part in edit.parts:
        if isinstance(part, TokenEdit):
            part = TokenEdit(part.placeholder, tuple(v[row] for v in part.vectors))
        elif isinstance(part, LowRankEdit):
            part = LowRankEdit({k: (d[row], u[row]) for k, (d, u) in part.factors.items()}, part.alpha)
        parts.append(part)
    return Edit(tuple(parts), edit.about)
