"""The kinds of edit, and the little that an edit must know of a model.

An `Edit` is a value: some parts of different kinds, and what is needed to trust them. It knows no model; `edited`
puts it on one, `stack` joins several, `Edit.save` and `Edit.load` keep it in one file.

A part says for which words it stands: `words` are placeholders of the same edit, () means every prompt. The default
None means all words of the edit, and in an edit without words every prompt. Only a stack needs to say more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from namesake.errors import Refusal

BLENDS = ("attention", "block", "unet")
MAX_VECTORS = 64  # a prompt has room for 75 tokens
MAX_ALPHA = 1_000_000
MAX_RANK = 1024  # no attention matrix of SD or SDXL is wider than 2,048; a higher rank saves nothing over the matrix


@dataclass(frozen=True)
class Site:
    """A place where a low-rank offset can act, as data: an attention projection of the U-Net, or another layer.

    `path` is the module's path in the U-Net ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"), `role` is
    "self" or "cross" with "query", "key", "value" or "out" ("cross key"), outside the attentions "linear" or "convolution",
    or "text", an attention projection of a text encoder ("text_encoder.encoder.layers.0.self_attn.q_proj"); `in_dim` and
    `out_dim` are the widths of its weight `[out_dim, in_dim]`, a convolution's `[out, in, k, k]` taken as `[out, in * k * k]`.
    """

    path: str
    role: str
    in_dim: int
    out_dim: int

    @property
    def attention(self) -> str:
        """The path of the attention that the projection belongs to."""
        return self.path.rpartition(".to_")[0]


@runtime_checkable
class Editable(Protocol):
    """What `edited` needs of a backbone: a thin wrapper around a diffusers pipeline."""

    @property
    def pipeline(self) -> Any: ...
    @property
    def unet(self) -> nn.Module: ...
    @property
    def text_encoders(self) -> tuple[nn.Module, ...]: ...
    @property
    def tokenizers(self) -> tuple[Any, ...]: ...
    @property
    def sites(self) -> tuple[Site, ...]: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, eq=False)
class TokenEdit:
    """A new word: the placeholder it answers to, and its vectors for each text encoder.

    A tensor of `vectors` is `[n, width]` of that encoder's token embedding, in reading order; while an encoder is
    trained `[B, n, width]`, one word for each row of the batch.
    """

    placeholder: str
    vectors: tuple[Float[Tensor, "... _n _width"], ...]

    def __post_init__(self) -> None:
        if not self.vectors or any(
            v.ndim not in (2, 3) or 0 in v.shape or v.shape[-2] > MAX_VECTORS for v in self.vectors
        ):
            shapes = [tuple(v.shape) for v in self.vectors]
            raise Refusal(
                f"The word {self.placeholder} has vectors of shape {shapes}; [n, width] with n from 1 to "
                f"{MAX_VECTORS} is wanted for each text encoder."
            )


@dataclass(frozen=True, eq=False)
class LowRankEdit:
    """Offsets of low rank: at each site `W + (alpha / r) up @ down` (LoRA, Hu et al. 2021; DATE, eq. 4).

    `factors` maps a site's path to `(down [r, in], up [out, r])`. With a leading batch axis on both there is one offset
    for each row of the batch; they are then applied to activations, and no weight per sample is ever built.

    Sites outside the U-Net's attentions serve every row; in the weights, or one for each row. Both
    paths of a `SecondPath` see the same input there, so equation 3 makes of them `W + blend * (alpha / r) up @ down`;
    those of a text encoder serve both paths in this form too.
    """

    factors: Mapping[str, tuple[Float[Tensor, "... _r _in"], Float[Tensor, "... _out _r"]]]
    alpha: float | int
    words: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not abs(self.alpha) <= MAX_ALPHA:
            raise Refusal(f"The alpha of the low-rank offsets is {self.alpha}; a number up to {MAX_ALPHA:,} is wanted.")
        batches = set()
        for path, (down, up) in self.factors.items():
            if not (
                down.ndim == up.ndim in (2, 3)
                and down.shape[:-2] == up.shape[:-2]
                and 0 < down.shape[-2] == up.shape[-1] <= MAX_RANK
            ):
                raise Refusal(
                    f"The low-rank offset at {path} has factors of shape {tuple(down.shape)[-4:]} and "
                    f"{tuple(up.shape)[-4:]}; [r, in] and [out, r] with r from 1 to {MAX_RANK} are wanted."
                )
            batches.add(down.shape[:-2])
        if len(batches) > 1:
            raise Refusal("The low-rank offsets have different batch sizes at different sites; one batch is wanted.")

    @property
    def batch(self) -> int | None:
        """The number of rows that each have their own offsets, or None where all rows share them."""
        down = next(iter(self.factors.values()))[0] if self.factors else None
        return down.shape[0] if down is not None and down.ndim == 3 else None


@dataclass(frozen=True)
class SecondPath:
    """The dual path of DATE (eq. 3): `blend * f(soft word, offsets) + (1 - blend) * f(hard word, no offsets)`.

    `hard_word` is the real word (or words) that stands in the new word's place on the second path, `blend` the paper's
    alpha_blend, 0..1, the share of the soft path. `where` says what f is: each attention output (the paper's figure),
    each transformer block ("block"), or each whole U-Net block with attention ("unet", the paper's text).
    """

    hard_word: str
    blend: float | int = 0.25
    where: str = "attention"
    words: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.blend <= 1:
            raise Refusal(
                f"The blend is {self.blend}; wanted is a number from 0 (only the real word) to 1 (only the new word)."
            )
        if self.where not in BLENDS:
            raise Refusal(f"The paths are to be blended at '{self.where}'; one of {', '.join(BLENDS)} is wanted.")


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """Whole parameters, by name: "unet.<parameter>", "text_encoder.<parameter>" or "text_encoder_2.<parameter>".

    They serve the whole batch, on both paths.
    """

    weights: Mapping[str, Float[Tensor, "..."]]


Part = TokenEdit | LowRankEdit | SecondPath | WeightEdit
P = TypeVar("P", TokenEdit, LowRankEdit, SecondPath, WeightEdit)


@dataclass(frozen=True, eq=False)
class About:
    """What is needed to trust an edit.

    `base` names the model it was made on, and `sketch` is that model's (see `namesake.edits.sketch`), None while it is
    not known. `created` is a time in ISO 8601, `versions` the libraries', `settings` how it was made.
    """

    method: str
    class_word: str | None = None
    base: str = ""
    sketch: Float[Tensor, "1024"] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Edit:
    """A concept: what to change where in a frozen text-to-image model, and what is needed to trust it."""

    parts: tuple[Part, ...]
    about: About

    def __post_init__(self) -> None:
        words = self.placeholders
        if twice := sorted({word for word in words if words.count(word) > 1}):
            raise Refusal(f"The word {twice[0]} comes twice in one edit; each word may come once.")
        for part in self.parts:
            named = part.words or () if isinstance(part, (LowRankEdit, SecondPath)) else ()
            if strange := set(named) - set(words):
                raise Refusal(f"A part of the edit stands for the word {sorted(strange)[0]}, which the edit lacks.")
        paths = self.of(SecondPath)
        stood = [word for path in paths for word in (words if path.words is None else path.words)]
        if len({(path.blend, path.where) for path in paths}) > 1 or len(set(stood)) < len(stood):
            raise Refusal(
                "The second paths of the edit disagree; wanted are one blend, one place and one hard word for each word."
            )

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The words that the edit brings."""
        return tuple(part.placeholder for part in self.of(TokenEdit))

    def of(self, kind: type[P]) -> tuple[P, ...]:
        """The parts of one kind."""
        return tuple(part for part in self.parts if isinstance(part, kind))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Edit":
        """The edit with each tensor of its parts changed."""
        parts: list[Part] = []
        for part in self.parts:
            if isinstance(part, TokenEdit):
                part = replace(part, vectors=tuple(map(change, part.vectors)))
            elif isinstance(part, LowRankEdit):
                part = replace(part, factors={path: (change(a), change(b)) for path, (a, b) in part.factors.items()})
            elif isinstance(part, WeightEdit):
                part = replace(part, weights={name: change(weight) for name, weight in part.weights.items()})
            parts.append(part)
        return replace(self, parts=tuple(parts))

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file, whole or not at all; a Refusal where the place cannot be written."""
        from namesake.edits.file import save

        save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> "Edit":
        """Read a file that `save` wrote, tensors as fp32; a Refusal for anything else, hostile files included."""
        from namesake.edits.file import load

        return load(Path(path))
