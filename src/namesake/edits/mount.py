"""Putting edits on a model: `edited`, which is `mount`, `load` and `unmount`.

`mount` installs hooks for a layout of fixed shape, `load` copies an edit's values into its buffers, `unmount` leaves
the model as it was, to the bit and object by object. Two mechanisms:

- What the whole batch shares and is linear in the weights is merged into a copy, and the parameter object is swapped.
  So are offsets outside the U-Net's attentions: no text reaches the layers there, so nothing could tell on which rows
  they are to act, and the text encoders' states are what rows are told apart by. With one for each row of the batch,
  which then must be all rows that there are, those of the U-Net are hooks too.
- Everything else is hooks. A hook reads its buffers and its arguments. Which rows an edit acts on is told by features
  that travel with the text states: a transformer block reads them from its own arguments and holds them, for the time
  of its call, for the attentions and projections inside, since self-attention receives no text. diffusers checkpoints
  whole transformer blocks, so recomputing enters by the same door and finds the same rows.

Text states inside the U-Net have one of three widths, and the width alone says which path a block is on: `D` the base,
`D + A` one path, `2 D + A` two paths (soft, hard), where `A` features tell, for each low-rank part, whether it acts on
the row. Rows on which nothing acts come out as the base's to the bit: their states are the same on both paths, their
offsets exact zeros, and torch.lerp of equal ends is exact.
"""

import functools
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from namesake.edits.base import check_base, embedding, layer_at, owner, sites_at
from namesake.edits.kinds import Edit, Editable, LowRankEdit, SecondPath, TokenEdit, WeightEdit
from namesake.edits.stack import stack
from namesake.edits.words import Reader, Word
from namesake.errors import Refusal

STATES = "encoder_hidden_states"


@dataclass(frozen=True)
class Layout:
    """The fixed shape of a mount: every edit of this layout, or of less, can be loaded into it.

    `words`: the most new words. `ranks`: for each site path the largest rank, summed over the low-rank parts, of which
    there are at most `parts`; with `batch`, one offset for each of so many rows. `paths`: "soft", "hard" or "both",
    blended at `where`. `everywhere`: offsets act on all rows. `merged`: they go into the weights. `weights`: the
    parameters that whole-weight edits replace.
    """

    words: int
    ranks: Mapping[str, int]
    parts: int
    batch: int | None
    paths: str
    where: str
    everywhere: bool
    merged: bool
    weights: frozenset[str]

    @staticmethod
    def of(edit: Edit, blend: float | int | None = None, rows: str = "word") -> "Layout":
        """The smallest layout for an edit. A blend of exactly 1 or 0 leaves the other path out."""
        if rows not in ("word", "all"):
            raise Refusal(f"The rows are '{rows}'; 'word' (those whose prompt holds the word) or 'all' is wanted.")
        share = _blend(edit, blend)
        paths = "soft" if share == 1 else "hard" if share == 0 else "both"
        lows = edit.of(LowRankEdit) if paths != "hard" else ()
        ranks: dict[str, int] = {}
        for low in lows:
            for path, (down, _) in low.factors.items():
                ranks[path] = ranks.get(path, 0) + down.shape[-2]
        batches = {low.batch for low in lows} - {None}
        if len(batches) > 1:
            raise Refusal(f"The low-rank parts have several batch sizes ({sorted(map(str, batches))}); wanted is one.")
        everywhere = rows == "all" or all(not _stands_for(low, edit) for low in lows)
        alive = any(f.requires_grad for low in lows for factors in low.factors.values() for f in factors)
        return Layout(
            words=len(edit.placeholders),
            ranks=ranks,
            parts=len(lows),
            batch=next(iter(batches), None),
            paths=paths,
            where=next((path.where for path in edit.of(SecondPath)), "attention"),
            everywhere=everywhere,
            merged=bool(ranks) and everywhere and paths == "soft" and not batches and not alive,
            weights=frozenset(name for whole in edit.of(WeightEdit) for name in whole.weights),
        )


def _stands_for(part: LowRankEdit | SecondPath, edit: Edit) -> tuple[str, ...]:
    return edit.placeholders if part.words is None else part.words


def _blend(edit: Edit, blend: float | int | None) -> float:
    """The blend asked for, else the edit's; 1 where the edit has no second path."""
    seconds = edit.of(SecondPath)
    if blend is None:
        return seconds[0].blend if seconds else 1.0
    if not 0 <= blend <= 1:
        raise Refusal(f"The blend is {blend}; a number from 0 (only the real word) to 1 (only the new word) is wanted.")
    if blend < 1 and not seconds and not edit.about.class_word:
        raise Refusal(
            f"The blend is {blend}, but the concept has neither a second path nor a class word to blend "
            "with; use a blend of 1."
        )
    return float(blend)


def _words(edit: Edit) -> tuple[Word, ...]:
    """The edit's words, each with the real word of the hard path: the second path's, else the class word."""
    hard: dict[str, str] = {}
    for second in edit.of(SecondPath):
        hard |= dict.fromkeys(_stands_for(second, edit), second.hard_word)
    if not edit.of(SecondPath) and edit.about.class_word:
        hard = dict.fromkeys(edit.placeholders, edit.about.class_word)
    return tuple(Word(t.placeholder, t.vectors, hard.get(t.placeholder)) for t in edit.of(TokenEdit))


class _Scope(NamedTuple):
    """What the hooks inside a transformer block may know while it runs."""

    active: Tensor  # [B, A]: 1 where a low-rank part acts on the row
    hard: Tensor | None  # [B, N, D]: the hard states, where the paths meet at each attention


class _Slot:
    """The buffers of one site: `down [r, in]`, `up [out, r]` (with a batch axis where per sample), `gate [A, r]`.

    The gate holds a rank's factor (alpha / r times scale) in the row of the part that it belongs to.
    """

    def __init__(self, module: nn.Module, in_dim: int, out_dim: int, rank: int, layout: Layout, dtype: torch.dtype):
        device = next(module.parameters()).device
        lead = () if layout.batch is None else (layout.batch,)
        self.module, self.rank = module, rank
        self.down_buffer = torch.zeros(*lead, rank, in_dim, device=device, dtype=dtype)
        self.up_buffer = torch.zeros(*lead, out_dim, rank, device=device, dtype=dtype)
        self.gate = torch.zeros(layout.parts, rank, device=device, dtype=dtype)
        self.down, self.up = self.down_buffer, self.up_buffer
        self.fresh = True  # whether the last load brought anything new
        self._factors: list[tuple[int, float, int]] | None = None
        self._copied: dict[int, list[tuple[Tensor, int]]] = {}

    def load(self, parts: list[tuple[int, float, Tensor, Tensor]]) -> None:
        """Take the factors of some parts, each with its number and its factor."""
        factors = [(number, factor, down.shape[-2]) for number, factor, down, _ in parts]
        used = sum(rank for *_, rank in factors)
        self.fresh = factors != self._factors
        if self.fresh:
            self._factors = factors
            self.gate.zero_()
            start = 0
            for number, factor, rank in factors:
                self.gate[number, start : start + rank] = factor
                start += rank
        self.down = self._taken(self.down_buffer, [down for _, _, down, _ in parts], -2, used)
        self.up = self._taken(self.up_buffer, [up for _, _, _, up in parts], -1, used)

    def _taken(self, buffer: Tensor, pieces: list[Tensor], axis: int, used: int) -> Tensor:
        if any(piece.requires_grad for piece in pieces):  # by reference: the graph must live
            self.fresh = True
            pieces = [
                piece if piece.ndim == buffer.ndim else piece.expand(len(buffer), *piece.shape) for piece in pieces
            ]
            if used < self.rank:
                shape = list(pieces[0].shape)
                shape[axis] = self.rank - used
                pieces.append(pieces[0].new_zeros(shape))
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=axis)
        # What has not changed is not written: a backward pass that is still to come may need it.
        copied = [(piece, -1 if piece.is_inference() else piece._version) for piece in pieces]
        before = self._copied.get(axis, [])
        if len(before) == len(copied) and all(
            p is q and v == w >= 0 for (p, v), (q, w) in zip(before, copied, strict=True)
        ):
            return buffer
        self._copied[axis], self.fresh = copied, True
        with torch.no_grad():
            buffer.zero_()
            start = 0
            for piece in pieces:
                buffer.narrow(axis, start, piece.shape[axis]).copy_(piece)
                start += piece.shape[axis]
        return buffer

    def offset(self, x: Float[Tensor, "B N _in"], active: Float[Tensor, "B A"]) -> Float[Tensor, "B N _out"]:
        """What the site adds to its output; exactly zero in rows on which no part acts."""
        # Not a matmul: under autocast it would round alpha / r to bf16.
        gate = (active[:, :, None] * self.gate.to(x)).sum(dim=1)
        return ((x @ self.down.to(x).transpose(-1, -2)) * gate[:, None]) @ self.up.to(x).transpose(-1, -2)

    def merged(self, weight: Float[Tensor, "_out _in"]) -> Float[Tensor, "_out _in"]:
        precise = torch.promote_types(weight.dtype, torch.float32)
        up, down, gate = self.up.to(precise), self.down.to(precise), self.gate.to(precise).sum(dim=0)
        return (weight.to(precise) + (up * gate) @ down).to(weight.dtype)


class _Turn:
    """Whose turn it is on one U-Net."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: int | None = None
        self.mounted: Mount | None = None


_turns: "WeakKeyDictionary[nn.Module, _Turn]" = WeakKeyDictionary()
_turns_lock = threading.Lock()


class Mount:
    """Hooks and buffers of one layout on one backbone. Made by `mount`; `load` an edit, then use the model."""

    def __init__(self, backbone: Editable, layout: Layout) -> None:
        self.backbone, self.layout = backbone, layout
        self._undo: list[Callable[[], None]] = []
        self._scope: _Scope | None = None
        self._batch: int | None = None
        self._share = 1.0
        self._loads = 0
        self._on = False
        self._aside = 0  # how many `bypassed` are open
        self._swapped: list[tuple[nn.Module, str, nn.Parameter, Tensor]] = []  # module, name, the base's, the edit's
        self._plain: set[int] = set()  # which of them are the base's and a slot's offsets, and nothing else
        with _turns_lock:
            self._turn = _turns.setdefault(backbone.unet, _Turn())
        if self._turn.thread == threading.get_ident():
            raise Refusal("The model already carries an edit; it cannot be nested: pass both edits to one `edited`.")
        self._turn.lock.acquire()
        self._turn.thread, self._turn.mounted = threading.get_ident(), self
        try:
            self._install()
        except BaseException:
            self.unmount()
            raise

    # Installing

    def _install(self) -> None:
        backbone, layout, unet = self.backbone, self.layout, self.backbone.unet
        parts = (unet, *backbone.text_encoders)
        _refuse_compiled(parts)
        if getattr(unet, "encoder_hid_proj", None) is not None:
            raise Refusal("The U-Net carries an image adapter, which changes the text states; unload it first.")
        if not getattr(backbone, "hollow", False) and any(
            weight.is_meta for part in parts for weight in part.parameters()
        ):
            raise Refusal(
                "The model's weights are not in memory (it is offloaded layer by layer); use enable_model_cpu_offload "
                "in the place of enable_sequential_cpu_offload."
            )
        sites = {site.path: site for site in backbone.sites}
        self._attentions = {site.attention: unet.get_submodule(site.attention) for site in backbone.sites}
        self._sites = sites_at(backbone, layout.ranks)
        if strange := set(layout.ranks) - set(self._sites):
            raise Refusal(
                f"The model {backbone.name} has no site {min(strange)}; use the concept with its own base model."
            )
        if any(getattr(attention, "fused_projections", False) for attention in self._attentions.values()):
            raise Refusal("The attention projections are fused; call unfuse_qkv_projections first.")
        weight = next(p for p in unet.parameters() if p.is_floating_point())
        # A projection that is not a plain linear (quantised, or wrapped by peft) takes its offset by a hook.
        inside = [path for path in layout.ranks if path in sites]
        outside = {path: layer_at(backbone, path) for path in layout.ranks if path not in sites}
        self._outside = {id(module): path for path, module in outside.items()}
        rowwise = layout.batch is not None
        if rowwise and any(path.startswith("text_encoder") for path in outside):
            raise Refusal("Offsets of a text encoder cannot differ from row to row; give one for all rows.")
        self._rowwise: dict[str, list[tuple[float, Tensor, Tensor]]] = {path: [] for path in outside if rowwise}
        for path in self._rowwise:
            self._undo.append(outside[path].register_forward_hook(functools.partial(self._add_rows, path)).remove)
        self._merged = layout.merged and all(type(unet.get_submodule(path)) is nn.Linear for path in inside)
        self._hooked = bool(inside) and not self._merged
        self._width = sum(embedding(encoder).shape[1] for encoder in backbone.text_encoders)
        self._flags = max(layout.words, 1)
        self.blend = torch.ones((), device=weight.device, dtype=weight.dtype)
        self._owners = torch.zeros(self._flags, max(layout.parts, 1), device=weight.device)
        self._always = torch.zeros(max(layout.parts, 1), device=weight.device)
        frozen = not any(name.startswith("text_encoder") for name in (*layout.weights, *layout.ranks))
        self._readers = [
            Reader(number, encoder, tokenizer, layout.paths, self._flags, self.blend, frozen)
            for number, (encoder, tokenizer) in enumerate(zip(backbone.text_encoders, backbone.tokenizers, strict=True))
        ]
        for reader in self._readers:
            self._surround(reader.encoder, functools.partial(self._text, reader))
            table = reader.encoder.get_input_embeddings()  # type: ignore[operator]
            self._undo.append(table.register_forward_hook(reader.write).remove)
        self._slots: dict[str, _Slot] = {}
        for path in inside:
            module, site = unet.get_submodule(path), sites[path]
            rank = layout.ranks[path]
            self._slots[path] = slot = _Slot(module, site.in_dim, site.out_dim, rank, layout, weight.dtype)
            if self._hooked:
                self._undo.append(module.register_forward_hook(functools.partial(self._add, slot)).remove)
        self._surround(unet, self._enter_unet)
        if self._hooked or layout.paths == "both":
            self._install_blocks()
        swaps = [(self._slots[path].module, "weight") for path in self._slots if self._merged]
        swaps += [(module, "weight") for path, module in outside.items() if path not in self._rowwise]
        for name in layout.weights:
            found = owner(backbone, name)
            if found is None:
                raise Refusal(f"The model {backbone.name} has no parameter {name}, which the concept changes.")
            if found not in swaps:
                swaps.append(found)
        for module, name in swaps:
            base = module._parameters[name]
            assert base is not None
            self._swapped.append((module, name, base, nn.Parameter(base.detach().clone(), requires_grad=False)))

    def _install_blocks(self) -> None:
        unet, layout = self.backbone.unet, self.layout
        for path in dict.fromkeys(path.rpartition(".")[0] for path in self._attentions):
            self._surround(unet.get_submodule(path), self._enter_block)
        if layout.paths == "both" and layout.where == "unet":
            # "down_blocks.1", "mid_block", "up_blocks.2": the U-Net's own children that hold attentions.
            parts = (path.split(".") for path in self._attentions)
            for path in dict.fromkeys(".".join(p[: 2 if p[1].isdigit() else 1]) for p in parts):
                self._surround(unet.get_submodule(path), self._two_paths)
        if layout.paths == "both" and layout.where == "attention":
            for path, attention in self._attentions.items():
                changed = any(slot.startswith(f"{path}.") for slot in self._slots)
                self._surround(attention, functools.partial(self._two_attentions, changed))

    def _surround(self, module: nn.Module, around: Callable[..., Any]) -> None:
        """Put `around(forward, place, args, kwargs)` in the place of a module's forward, for the time of the mount.

        `place` is where its text states stand among positional arguments. Not a pair of hooks: what must be left when
        the call ends is left in a `finally`.

        A module that accelerate moves to the GPU for each call keeps its own forward aside, in `_old_forward`, and its
        hooks come off and go on again after each call of a pipeline, which puts what stands there in its place.
        """
        held = "_old_forward" if "_old_forward" in module.__dict__ else "forward"
        before, original = module.__dict__.get(held), getattr(module, held)
        names = list(inspect.signature(original).parameters)
        place = names.index(STATES) if STATES in names else -1

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return around(original, place, args, kwargs)

        def undo() -> None:
            for now in ("forward", "_old_forward"):
                if module.__dict__.get(now) is forward:
                    module.__dict__[now] = original
                    if now == "forward" and before is None:
                        del module.__dict__[now]

        module.__dict__[held] = forward
        self._undo.append(undo)

    # Loading

    def load(self, edit: Edit, *, blend: float | int | None = None, scale: float | int = 1.0) -> "Mount":
        """Take an edit in the place of the one before; it must fit into the layout.

        `blend` 0..1 overrides the edit's; `scale` is the factor on weight offsets (1 the edit's own, 0 none). Tensors
        that require gradients are taken by reference and keep their graph: load again after each step of training.
        All others are copied in place. The base is not checked here (see `check_base`).
        """
        layout = self.layout
        if not (math.isfinite(scale) and abs(scale) <= 100):
            raise Refusal(f"The scale is {scale}; a number from -100 to 100 is wanted (1 is the concept's own).")
        share, words, lows = _blend(edit, blend), _words(edit), edit.of(LowRankEdit)
        self._check_fit(edit, share, words, lows)
        self._loads += 1
        if share != self._share:  # what has not changed is not written: a backward pass to come may need it
            self._share = share
            self.blend.fill_(share)
        names = [word.placeholder for word in words]
        owners, always = torch.zeros_like(self._owners), torch.zeros_like(self._always)
        loads: dict[str, list[tuple[int, float, Tensor, Tensor]]] = {path: [] for path in layout.ranks}
        for number, low in enumerate(lows if layout.paths != "hard" else ()):
            holders = _stands_for(low, edit)
            if layout.everywhere or not holders:
                always[number] = 1
            for name in holders:
                owners[names.index(name), number] = 1
            for path, (down, up) in low.factors.items():
                loads[path].append((number, scale * low.alpha / down.shape[-2], down, up))
        self._owners.copy_(owners)
        self._always.copy_(always)
        for path, slot in self._slots.items():
            slot.load(loads[path])
        self._batch = next((low.batch for low in lows if low.batch is not None), None)
        self._rowwise = {path: [(share * f, down, up) for _, f, down, up in loads[path]] for path in self._rowwise}
        self._put_back()
        self._load_weights(edit, scale, loads, share)
        for reader in self._readers:
            reader.load(words)
        if not self._aside:
            self._put_on()
        return self

    def _check_fit(self, edit: Edit, share: float, words: tuple[Word, ...], lows: tuple[LowRankEdit, ...]) -> None:
        layout = self.layout
        widths = [embedding(reader.encoder).shape[1] for reader in self._readers]
        if any([v.shape[-1] for v in word.vectors] != widths for word in words):
            raise Refusal(
                "The vectors of the word have other widths than the model's text encoders; use the concept "
                "with its own base model."
            )
        needs = Layout.of(edit, blend=share)
        lacking = [
            len(words) > layout.words and "words",
            layout.paths != "both" and needs.paths != layout.paths and "paths",
            layout.paths == "both" and bool(edit.of(SecondPath)) and needs.where != layout.where and "place to blend",
            layout.paths != "hard" and len(lows) > layout.parts and "low-rank parts",
            layout.paths != "hard" and any(r > layout.ranks.get(path, 0) for path, r in needs.ranks.items()) and "rank",
            needs.batch not in (None, layout.batch) and "batch size",
            layout.merged
            and any(f.requires_grad for low in lows for pair in low.factors.values() for f in pair)
            and "gradients",
            needs.weights - layout.weights and "weights",
        ]
        if wrong := [what for what in lacking if what]:
            raise Refusal(
                f"The edit does not fit into what is mounted ({', '.join(map(str, wrong))}); mount a layout "
                "that holds it."
            )
        sites = self._sites
        for low in lows if layout.paths != "hard" else ():
            for path, (down, up) in low.factors.items():
                if (down.shape[-1], up.shape[-2]) != (sites[path].in_dim, sites[path].out_dim):
                    raise Refusal(
                        f"The low-rank offset at {path} is {down.shape[-1]} to {up.shape[-2]} wide, the site "
                        f"{sites[path].in_dim} to {sites[path].out_dim}; use the concept with its own base."
                    )

    def _load_weights(
        self, edit: Edit, scale: float, loads: Mapping[str, list[tuple[int, float, Tensor, Tensor]]], share: float
    ) -> None:
        """The edit's parameters: whole weights first, low rank on top where it is merged, which outside the attentions
        it always is, at the blend's share."""
        given: dict[tuple[int, str], Tensor] = {}
        for whole in edit.of(WeightEdit):
            for name, value in whole.weights.items():
                module, parameter = owner(self.backbone, name) or (None, "")
                if module is None or module._parameters[parameter].shape != value.shape:  # type: ignore[union-attr]
                    raise Refusal(f"The concept's {name} does not fit the model; use it with its own base model.")
                given[id(module), parameter] = value
        slots = {id(slot.module): slot for slot in self._slots.values()} if self._merged else {}
        for number, (module, name, base, own) in enumerate(self._swapped):
            own_weight = given.get((id(module), name))
            offsets = loads.get(self._outside.get(id(module), ""), []) if name == "weight" else []
            slot = slots.get(id(module)) if name == "weight" else None
            plain = slot is not None and own_weight is None and not offsets
            if slot is not None and plain and number in self._plain and not slot.fresh:
                continue  # LoRA-PTI's first phase trains words beside offsets that rest: all sites of SDXL at every step
            (self._plain.add if plain else self._plain.discard)(number)
            alive = any(
                t.requires_grad
                for t in (own_weight, *(factor for *_, down, up in offsets for factor in (down, up)))
                if t is not None
            )
            with torch.set_grad_enabled(alive):
                result: Tensor = base.detach()
                if own_weight is not None:
                    own_weight = own_weight.to(base.device, base.dtype)
                    result = own_weight if scale == 1 else result + scale * (own_weight - result)
                if slot is not None:
                    result = slot.merged(result)
                for _, factor, down, up in offsets:
                    precise = torch.promote_types(result.dtype, torch.float32)
                    down, up = down.to(result.device, precise), up.to(result.device, precise)
                    result = (result.to(precise) + share * factor * (up @ down).view_as(result)).to(result.dtype)
            if alive:
                self._swapped[number] = (module, name, base, result)
            elif own.requires_grad:  # the graph of the edit before
                self._swapped[number] = (module, name, base, nn.Parameter(result.clone(), requires_grad=False))
            else:
                own.copy_(result)

    # On and off

    def _put_on(self) -> None:
        self._on = True
        for module, name, base, own in self._swapped:
            if (base.device, base.dtype) != (own.device, own.dtype):  # the model was moved while it went without
                own.data = own.data.to(base.device, base.dtype)
            module._parameters[name] = own  # type: ignore[assignment]
        self._worn = [reader.tokenizer for reader in self._readers]
        for reader in self._readers:
            _exchange(self.backbone.pipeline, reader.original, reader.tokenizer)

    def _put_back(self) -> None:
        if not self._on:
            return
        self._on = False
        for module, name, base, own in self._swapped:
            if (base.device, base.dtype) != (own.device, own.dtype):  # the model was moved meanwhile
                base.data = base.data.to(own.device, own.dtype)
            module._parameters[name] = base
        for reader, worn in zip(self._readers, self._worn, strict=True):
            _exchange(self.backbone.pipeline, worn, reader.original)

    def unmount(self) -> None:
        """Leave the model as it was before `mount`: the same objects, no hook, the lock free. Twice does no harm."""
        if self._turn.mounted is not self:
            return
        try:
            self._put_back()
        finally:
            for undo in reversed(self._undo):
                undo()
            self._undo.clear()
            self._turn.thread = self._turn.mounted = None
            self._turn.lock.release()

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        if not self._aside:
            self._put_back()
        self._aside += 1
        try:
            yield
        finally:
            self._aside -= 1
            if not self._aside and self._turn.mounted is self:
                self._put_on()

    # While the model runs

    @contextmanager
    def _within(self, scope: _Scope | None) -> Iterator[None]:
        before, self._scope = self._scope, scope
        try:
            yield
        finally:
            self._scope = before

    def _text(self, reader: Reader, original: Callable[..., Any], _: int, args: Any, kwargs: Any) -> Any:
        return original(*args, **kwargs) if self._aside else reader.forward(original, args, kwargs)

    def _enter_unet(self, original: Callable[..., Any], place: int, args: Any, kwargs: Any) -> Any:
        """From the pipeline's text states, segment by segment for each text encoder, to the blocks'."""
        states = _states(place, args, kwargs)
        both = self.layout.paths == "both"
        widths = [embedding(reader.encoder).shape[1] * (2 if both else 1) + self._flags for reader in self._readers]
        if self._aside:
            return original(*args, **kwargs)
        if states is None or states.shape[-1] != sum(widths):
            found = "none" if states is None else f"{states.shape[-1]} features wide"
            raise Refusal(
                f"The prompt embeddings ({found}; {sum(widths)} are wanted) were not made in this `edited` "
                "context; encode the prompt inside it."
            )
        if self._batch is not None and (self._hooked or self._rowwise) and self._batch != len(states):
            raise Refusal(
                f"The edit holds offsets for each of {self._batch} rows, the batch has {len(states)}; give "
                "one row for each."
            )
        segments = states.split(widths, dim=-1)
        flags = torch.stack([segment[:, 0, -self._flags :] for segment in segments]).amax(dim=0)
        parts = [segment[..., : -self._flags] for segment in segments]
        halves = [part.chunk(2, dim=-1) for part in parts] if both else [(part,) for part in parts]
        paths = [torch.cat(path, dim=-1) for path in zip(*halves, strict=True)]
        if self._hooked or both:
            owners, always = self._owners.to(flags), self._always.to(flags)
            active = torch.maximum((flags[:, :, None] * owners).amax(dim=1), always)
            paths.append(active[:, None].expand(-1, states.shape[1], -1))
        return _call(original, self._marked(torch.cat(paths, dim=-1)), place, args, kwargs)

    def _marked(self, states: Tensor) -> Tensor:
        """States that know which load they belong to, while gradients are wanted.

        A checkpointed block that is recomputed after another `load` would take the wrong factors in silence;
        torch.utils.checkpoint hands it the very same tensor again, and so it is noticed.
        """
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            states._load = self._loads  # type: ignore[attr-defined]
        return states

    def _split(self, states: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Soft states `[B, N, D]`, hard ones or None, and activity `[B, A]`."""
        width, extra = self._width, self._owners.shape[1]
        # Contiguous, so that the base's own matrix product runs on them and gives its very bits.
        soft, active = states[..., :width].contiguous(), states[:, 0, -extra:].detach()
        two = states.shape[-1] == 2 * width + extra
        return soft, states[..., width : 2 * width].contiguous() if two else None, active

    def _enter_block(self, original: Callable[..., Any], place: int, args: Any, kwargs: Any) -> Any:
        states = _states(place, args, kwargs)
        if states is None or states.shape[-1] == self._width:
            with self._within(None):
                return original(*args, **kwargs)
        if not torch.compiler.is_compiling() and getattr(states, "_load", self._loads) != self._loads:
            raise Refusal("Another edit was loaded between a forward and its backward pass; call backward() first.")
        if states.shape[-1] > self._width + self._owners.shape[1] and self.layout.where == "block":
            return self._two_paths(original, place, args, kwargs)
        soft, hard, active = self._split(states)
        with self._within(_Scope(active, hard)):
            return _call(original, soft, place, args, kwargs)

    def _two_paths(self, original: Callable[..., Any], place: int, args: Any, kwargs: Any) -> Any:
        """A whole block on both paths: the states that it is given tell the blocks inside which one they are on."""
        states = _states(place, args, kwargs)
        if states is None or states.shape[-1] == self._width:
            return original(*args, **kwargs)
        soft, hard, active = self._split(states)
        assert hard is not None
        first = self._marked(torch.cat([soft, active[:, None].expand(-1, soft.shape[1], -1)], dim=-1))
        if self.layout.where == "block":
            with self._within(_Scope(active, None)):
                a = _call(original, soft, place, args, kwargs)
            with self._within(None):
                return self._blended(a, _call(original, hard, place, args, kwargs))
        return self._blended(_call(original, first, place, args, kwargs), _call(original, hard, place, args, kwargs))

    def _two_attentions(self, changed: bool, original: Callable[..., Any], place: int, args: Any, kwargs: Any) -> Any:
        scope = self._scope
        cross = _states(place, args, kwargs) is not None
        if scope is None or scope.hard is None or not (cross or changed):
            return original(*args, **kwargs)
        soft = original(*args, **kwargs)
        with self._within(None):
            hard = _call(original, scope.hard, place, args, kwargs) if cross else original(*args, **kwargs)
        return self._blended(soft, hard)

    def _blended(self, soft: Any, hard: Any) -> Any:
        if isinstance(soft, tuple):
            return tuple(self._blended(a, b) for a, b in zip(soft, hard, strict=True))
        return torch.lerp(hard, soft, self.blend.to(soft))

    def _add(self, slot: _Slot, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """The hook on a site."""
        scope = self._scope
        return None if scope is None else output + slot.offset(args[0], scope.active).to(output.dtype)

    def _add_rows(self, path: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """The hook on a layer outside the attentions whose offsets differ from row to row."""
        if self._aside:
            return None
        for factor, down, up in self._rowwise[path]:
            rows = (down.expand(len(output), *down.shape[-2:]), up.expand(len(output), *up.shape[-2:]))
            output = output + (factor * _row_by_row(module, args[0], *rows)).to(output.dtype)
        return output


def _row_by_row(
    module: nn.Module, x: Float[Tensor, "B ..."], down: Float[Tensor, "B r _in"], up: Float[Tensor, "B _out r"]
) -> Float[Tensor, "B ..."]:
    """What each row's own offset of a linear map or convolution makes of that row."""
    if not isinstance(module, nn.Conv2d):
        flat = x.reshape(len(x), -1, x.shape[-1])
        return (flat @ down.to(x).mT @ up.to(x).mT).reshape(*x.shape[:-1], -1)
    conv = functools.partial(F.conv2d, stride=module.stride, padding=module.padding, dilation=module.dilation)
    if down.stride(0) == 0:  # expanded: one for all rows, and three times as fast so
        seen = conv(x, down[0].to(x).unflatten(-1, module.weight.shape[1:]))
    else:  # a row is a group of channels of one picture
        kernels = down.to(x).unflatten(-1, module.weight.shape[1:]).flatten(0, 1)
        seen = conv(x.reshape(1, -1, *x.shape[2:]), kernels, groups=len(x)).unflatten(1, (len(x), -1))[0]
    return (up.to(x) @ seen.flatten(2)).unflatten(2, seen.shape[2:])


def _states(place: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    return kwargs.get(STATES, args[place] if place < len(args) else None)


def _call(original: Callable[..., Any], states: Tensor, place: int, args: Any, kwargs: Any) -> Any:
    """The call with other text states."""
    if STATES in kwargs:
        return original(*args, **{**kwargs, STATES: states})
    return original(*args[:place], states, *args[place + 1 :], **kwargs)


def _exchange(pipeline: Any, before: Any, after: Any) -> None:
    for name in ("tokenizer", "tokenizer_2"):
        if before is not after and getattr(pipeline, name, None) is before:
            setattr(pipeline, name, after)


def _refuse_compiled(models: tuple[nn.Module, ...]) -> None:
    for model in models:
        if hasattr(model, "_orig_mod") or any(getattr(m, "_compiled_call_impl", None) for m in model.modules()):
            raise Refusal(
                "The model is compiled, and a compiled model ignores edits; put the edit on first, then compile."
            )


def mount(backbone: Editable, layout: Layout) -> Mount:
    """Install the hooks and buffers of a layout; another thread that mounts on the same U-Net waits until `unmount`.

    Refused: a second mount in the same thread, a compiled model, a U-Net with an image adapter or fused projections.
    """
    return Mount(backbone, layout)


@contextmanager
def edited(
    backbone: Editable,
    *edits: Edit,
    blend: float | int | None = None,
    scale: float | int = 1.0,
    rows: str = "all",
    any_base: bool = False,
) -> Iterator[Mount]:
    """Put edits on a model for the time of a `with` block; afterwards the model is as it was, to the bit.

    Inside, the pipeline's own calls know the new words. `blend` 0..1 overrides the share of the soft path, `scale` is
    the factor on weight offsets. With `rows="all"` offsets act on every row, as LoRA does; with "word" on the rows whose
    prompt holds the edit's word, all others (the unconditional half of guidance) stay the base's. Guidance then
    enlarges, with the thing, whatever else the offsets took up from the picture (measured in LOG.md). `backward()`
    belongs inside the block. `any_base` allows other weights of the same architecture.
    """
    edit = stack(*edits, blend=blend if len(edits) > 1 else None)
    check_base(edit, backbone, any_base=True)
    mounted = mount(backbone, Layout.of(edit, blend, rows))
    try:
        check_base(edit, backbone, any_base)  # once it is our turn: another thread's edit may have been on
        yield mounted.load(edit, blend=blend, scale=scale)
    finally:
        mounted.unmount()


@contextmanager
def bypassed(backbone: Editable) -> Iterator[None]:
    """The base itself inside an `edited` block: its weights, its words, embeddings of its own width.

    Outside one it does nothing. A backward pass that recomputes (gradient checkpointing) belongs inside too.
    """
    turn = _turns.get(backbone.unet)
    if turn is None or turn.mounted is None or turn.thread != threading.get_ident():
        yield
        return
    with turn.mounted._set_aside():
        yield
