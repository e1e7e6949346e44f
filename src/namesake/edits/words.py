"""The new words in the prompt, on the side of one text encoder.

The ids of new words never reach the encoder. The private copy of the tokenizer gives each new word one id of its own;
before the encoder runs, that id gives way to n carrier ids whose embeddings are replaced by the word's n vectors (the
soft prompt), or to the ids of the real word (the hard prompt). So every position after it is where it belongs, and
pooling at the end token stays right, also in configurations whose pooling takes the largest id.
"""

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from namesake.errors import Refusal

KNOWN = 64  # hard prompts that are remembered: a run's sentences; SDXL's states are 8 MB each
WORD = re.compile(r"<[a-z0-9]+(-[a-z0-9]+)*>")


def check_word(word: str, tokenizers: Sequence[Any], others: Sequence[str] = ()) -> None:
    """Refuse a new word that is empty, malformed, already a token of a vocabulary, or one of `others`.

    The form is <letters-digits-dashes>, lower case. The brackets keep it from being found inside a longer word, and
    CLIP's tokenizers read all text in lower case.
    """
    if not word.strip():
        raise Refusal("The new word is empty; give one such as <my-cat>.")
    if not WORD.fullmatch(word) or len(word) > 64:
        raise Refusal(
            f"The new word {word[:80]!r} is malformed; wanted are lower-case letters, digits and single "
            "dashes in angle brackets, at most 64 characters, such as <my-cat>."
        )
    if word in others:
        raise Refusal(f"The new word {word} is taken by another concept in use; give one of them another word.")
    for tokenizer in tokenizers:
        if word in tokenizer.get_vocab():
            raise Refusal(f"The new word {word} is already in the model's vocabulary; choose another.")


@dataclass(frozen=True, eq=False)
class Word:
    """A new word as the text side needs it: its vectors for each encoder, and the real word of the hard prompt."""

    placeholder: str
    vectors: tuple[Float[Tensor, "... _n _width"], ...]
    hard: str | None


class Reader:
    """One text encoder that reads new words.

    `forward` stands in the place of the encoder's own. It gives the encoder's output with every `[B, N, D]` state
    widened on the feature axis: `[soft | flags]`, `[hard | flags]` or `[soft | hard | flags]` as `paths` says, where
    `flags` `[F]`, the same at each position, tell which words the row's prompt holds. Pooled vectors `[B, D]` are the
    lerp of the hard and the soft one. The feature axis, because diffusers concatenates the negative prompt on the batch
    axis, repeats for several pictures, and joins two encoders on the feature axis.
    """

    def __init__(
        self,
        number: int,
        encoder: nn.Module,
        tokenizer: Any,
        paths: str,
        flags: int,
        blend: Float[Tensor, ""],
        frozen: bool = False,
    ) -> None:
        self.frozen = frozen  # no edit changes the encoder's weights
        self.encoder, self.number, self.original, self.paths = encoder, number, tokenizer, paths
        self.flags, self.blend = flags, blend
        self.tokenizer: Any = tokenizer
        self.names: list[str] = []
        self.ids: dict[int, int] = {}  # of the private tokenizer, to the word's number
        self.soft: list[list[int]] = []  # for each word its codes: an id of the vocabulary, or -1 - row of the table
        self.hard: list[list[int]] = []
        self.table: Tensor | None = None
        self._known: dict[Any, Any] = {}  # hard prompts and their states, while words are trained
        self._rows: Tensor | None = None  # while the encoder runs on a soft prompt: [B, N], a row of the table or -1

    def load(self, words: Sequence[Word]) -> None:
        """Take new words in the place of those before. Vectors that require gradients keep their graph."""
        names = [word.placeholder for word in words]
        if names != self.names:  # a copy takes 30 ms at CLIP's size, too much for each step of training
            for index, name in enumerate(names):
                check_word(name, [self.original], names[:index])
            self.tokenizer = self.original
            if names:
                self.tokenizer = copy.deepcopy(self.original)
                self.tokenizer.add_tokens(names)
            self.ids = {self.tokenizer.convert_tokens_to_ids(name): index for index, name in enumerate(names)}
            self.names = names
        self.soft, self.hard, self.table = [], [], None
        if not words:
            return
        vectors = [word.vectors[self.number] for word in words]
        batches = {v.shape[0] for v in vectors if v.ndim == 3}
        if len(batches) > 1:
            raise Refusal(f"The words have different batch sizes ({sorted(batches)}); one batch is wanted.")
        if batches:
            vectors = [v if v.ndim == 3 else v.expand(*batches, *v.shape) for v in vectors]
        like = self.encoder.get_input_embeddings().weight  # type: ignore[operator]
        self.table = torch.cat([v.to(like.device, like.dtype) for v in vectors], dim=-2)
        row = 0
        for v in vectors:
            self.soft.append([-1 - r for r in range(row, row + v.shape[-2])])
            row += v.shape[-2]
        self.hard = [self.soft[i] if word.hard is None else self._real(word.hard) for i, word in enumerate(words)]

    def _real(self, word: str) -> list[int]:
        ids = self.original(word, add_special_tokens=False).input_ids
        if not ids or self.original.eos_token_id in ids:
            raise Refusal(f"The real word {word!r} is not in the model's vocabulary; give a word that it knows.")
        return ids

    def write(self, _: nn.Module, __: Any, output: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"] | None:
        """The hook on the token embedding: the words' vectors in the place of the carriers'."""
        if self._rows is None:
            return None
        assert self.table is not None
        table, rows = self.table.to(output), self._rows.clamp(min=0)
        if table.ndim == 3:
            if len(table) != len(rows):
                raise Refusal(
                    f"The edit holds a word for each of {len(table)} rows, there are {len(rows)} prompts; "
                    "give one prompt for each."
                )
            values = table[torch.arange(len(rows), device=rows.device)[:, None], rows]
        else:
            values = table[rows]
        return torch.where(self._rows.to(output.device)[..., None] >= 0, values, output)

    def forward(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ids = kwargs.pop("input_ids", None)
        if ids is None and args:
            ids, args = args[0], args[1:]
        if ids is None:
            raise Refusal("The text encoder got no token ids; inside `edited` prompts are given as ids.")
        prompts = ids.reshape(-1, ids.shape[-1]).tolist()
        soft_codes, lost = self._spliced(prompts, self.soft)
        if lost and self.paths != "hard":
            warnings.warn(
                f"The prompt is too long with its new words; its end is cut off: {self.tokenizer.decode(lost)!r}.",
                stacklevel=2,
            )
        held = [[float(any(code in row for code in word)) for word in self.soft] for row in soft_codes]
        soft = hard = None
        if self.paths != "hard":
            soft = self._run(original, soft_codes, ids, args, kwargs)
        if self.paths != "soft":
            hard_codes = self._spliced(prompts, self.hard)[0]
            # Prompts without new words are the same on both paths; where none holds one, one run serves both.
            same = soft is not None and hard_codes == soft_codes
            hard = soft if same else self._hard(original, hard_codes, soft, soft_codes, ids, args, kwargs)
        flags = torch.zeros(len(prompts), 1, self.flags, device=ids.device)
        if self.soft:
            flags[:, 0, : len(self.soft)] = torch.tensor(held, device=ids.device)
        return self._joined(soft if soft is not None else hard, hard if self.paths == "both" else None, flags)

    def _hard(
        self,
        original: Callable[..., Any],
        codes: list[list[int]],
        soft: Any,
        soft_codes: list[list[int]],
        ids: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The encoder's output for the hard prompts.

        While words are trained, the real words in their place stay what they are: each hard prompt is then read once,
        alone, and remembered; rows without a new word are those of the soft path.
        """
        fixed = self.frozen and not args and not any(isinstance(value, Tensor) for value in kwargs.values())
        trained = torch.is_grad_enabled() and self.table is not None and self.table.requires_grad
        if soft is None or not fixed or not trained or torch.compiler.is_compiling() or min(map(min, codes)) < 0:
            return self._run(original, codes, ids, args, kwargs)
        kind = ids.device.type
        setting = (
            str(sorted(kwargs.items())),
            ids.device,
            torch.is_autocast_enabled(kind),
            torch.get_autocast_dtype(kind),
        )
        rows = []
        for number, (code, other) in enumerate(zip(codes, soft_codes, strict=True)):
            if code == other:
                rows.append(_each(lambda tensor, number=number: tensor[number : number + 1], soft))
                continue
            key = (*setting, tuple(code))
            if key not in self._known:
                if len(self._known) >= KNOWN:
                    self._known.clear()
                with torch.no_grad():
                    self._known[key] = self._run(original, [code], ids, args, kwargs)
            rows.append(self._known[key])
        return _each(lambda *tensors: torch.cat(tensors), *rows)

    def _spliced(self, prompts: list[list[int]], words: list[list[int]]) -> tuple[list[list[int]], list[int]]:
        """Each prompt with the codes of `words` in the place of their ids, as long as before; and the ids cut off."""
        end, pad = self.original.eos_token_id, self.original.pad_token_id
        pad = end if pad is None else pad
        done, lost = [], []
        for prompt in prompts:
            codes: list[int] = []
            spelt: list[int] = []  # the token that each code comes from
            for token in prompt:
                word = self.ids.get(token)
                codes += [token] if word is None else words[word]
                spelt += [token] * (len(codes) - len(spelt))
            room = len(prompt)
            codes = codes[:room] + [pad] * (room - len(codes))
            if end in prompt and end not in codes:
                codes[-1] = end
                lost += [token for token in spelt[room - 1 :] if token not in (end, pad)]
            done.append(codes)
        return done, lost

    def _run(
        self,
        original: Callable[..., Any],
        codes: list[list[int]],
        ids: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        table = torch.tensor(codes, device=ids.device)
        if min(map(min, codes)) < 0:  # asked of the lists, since a GPU would be waited for
            self._rows = -1 - table  # an id of the vocabulary gives a negative row
            # Any id can carry a vector but the end token's, at which the encoder pools.
            table = torch.where(table < 0, 0 if self.original.eos_token_id != 0 else 1, table)
        if kwargs.get("attention_mask") is not None:
            ends = (table == self.original.eos_token_id).int().argmax(dim=1, keepdim=True)
            mask = torch.arange(table.shape[1], device=ids.device) <= ends
            kwargs = {**kwargs, "attention_mask": mask.to(kwargs["attention_mask"].dtype)}
        try:
            return original(table, *args, **kwargs)
        finally:
            self._rows = None

    def _joined(self, first: Any, second: Any, flags: Float[Tensor, "B 1 F"]) -> Any:
        """One output of the encoder from those of the two paths (`second` is None where there is one)."""
        if isinstance(first, Tensor):
            if first.ndim == 3:
                told = flags.to(first).expand(-1, first.shape[1], -1)
                return torch.cat([first, told] if second is None else [first, second, told], dim=-1)
            if first.ndim == 2 and second is not None:
                return torch.lerp(second, first, self.blend.to(first))
            return first
        if isinstance(first, dict):  # transformers' ModelOutput
            return type(first)(**{k: self._joined(v, second and second[k], flags) for k, v in first.items()})
        if isinstance(first, tuple):
            return tuple(self._joined(v, second and second[i], flags) for i, v in enumerate(first))
        return first


def _each(function: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """A function of the tensors of outputs of one form (tensors, tuples, transformers' ModelOutputs)."""
    if isinstance(first, Tensor):
        return function(first, *others)
    if isinstance(first, dict):
        return type(first)(**{k: _each(function, v, *(other[k] for other in others)) for k, v in first.items()})
    if isinstance(first, tuple):
        return tuple(_each(function, v, *(other[i] for other in others)) for i, v in enumerate(first))
    return first
