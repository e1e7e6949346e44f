"""What a run will take, counted on a model that has shapes and no weights (`namesake.backbone.shapes.Hollow`).

The run's own modules make the run's own steps on the meta device. Two things are counted meanwhile:

- FLOPs by the formulas of torch's `FlopCounterMode`: matrix products, convolutions and attention, backward passes and
  recomputation included; a multiplication and an addition are 2;
- memory as the peak of the bytes of all tensors that live at a time: weights, gradients, moments, what autograd
  keeps, what a step leaves and takes up meanwhile.

The meta device chooses no kernels. Which precision and which attention a device would use is imitated (`Imitated`), since
both change memory manifold: an attention kernel that writes its matrix needs 4 GiB a block at SD's first level and 16 rows.
What a kernel needs inside is not seen, nor what an allocator loses between blocks.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from namesake.backbone import Backbone
from namesake.backbone.shapes import Hollow
from namesake.edits import Edit, Layout, Mount, mount
from namesake.machine import bf16_pays
from namesake.train.fit import Batch, EditModule, loss_of
from namesake.train.pretrain import Plan

aten = torch.ops.aten
# torch has no formula for the CPU's attention, which would count as nothing.
FORMULAS = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}

# What autocast computes in bf16, and what in fp32 (torch's tables for the two devices, as far as these models go).
BF16 = {
    *(F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.scaled_dot_product_attention),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm),
}
FP32: dict[str, set[Any]] = {
    "cpu": {F.mse_loss},
    "cuda": {
        *(F.mse_loss, F.interpolate, F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax),
        *(torch.sum, Tensor.sum, torch.exp, Tensor.exp, torch.pow, Tensor.pow),
    },
}


@dataclass(frozen=True)
class Cost:
    """flops: of what was counted. memory: the most bytes that lived at a time, weights included."""

    flops: int
    memory: int


class Counter(TorchDispatchMode):
    """Counts the FLOPs of what the meta device is asked to do, and the bytes of its tensors that live.

    Args:
        modules: whose parameters and buffers live already.

    Attributes:
        flops: so far.
        now, peak: bytes.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.flops = self.now = self.peak = 0
        self._known: dict[int, Any] = {}
        self._away: dict[int, int] = {}
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        for one in output if isinstance(output, tuple | list) else (output,):
            if isinstance(one, Tensor):
                self._see(one)
        if formula := FORMULAS.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=output)
        return output

    @contextmanager
    def without(self, *modules: nn.Module) -> Iterator[None]:
        """Modules whose weights are elsewhere meanwhile."""
        away = {key: size for key, size in _stores(*modules).items() if key not in self._away}
        self._away |= away
        self.now -= sum(away.values())
        try:
            yield
        finally:
            self._return(away)

    @contextmanager
    def within(self, *modules: nn.Module) -> Iterator[None]:
        """Modules whose weights are here meanwhile, if they were elsewhere."""
        came = [module for module in modules if self._away.keys() & _stores(module).keys()]
        self._return(_stores(*came))
        try:
            yield
        finally:
            # Weights that were cast meanwhile are others now.
            self._away |= (gone := _stores(*came))
            self.now -= sum(gone.values())

    def _return(self, stores: dict[int, int]) -> None:
        self._away = {key: size for key, size in self._away.items() if key not in stores}
        self.now += sum(stores.values())
        self.peak = max(self.peak, self.now)

    def _see(self, tensor: Tensor) -> None:
        if not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def gone(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class Imitated(TorchFunctionMode):
    """What a device does and the meta device does not: it casts under autocast, and it has fused attention.

    Args:
        device: "cuda" or "cpu".
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self._half = device, False
        self._casts = device != "cpu" or bf16_pays(device)

    @contextmanager
    def half(self, on: bool = True) -> Iterator[None]:
        """`namesake.train.pretrain.half`, which is also the autocast of `fit` on CUDA."""
        before, self._half = self._half, on
        allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
        try:
            yield
        finally:
            self._half = before
            torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._half and self._casts and (func in BF16 or func in FP32[self.device]):
            args, kwargs = _cast((args, kwargs), torch.bfloat16 if func in BF16 else torch.float32)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **more: Any,
    ) -> Tensor:
        if self.device == "cpu" and not self._half:
            return aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
            )[0]
        if self.device == "cpu":  # as plain products; see `half`
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more
            )
        width, half = query.shape[-1], query.dtype in (torch.bfloat16, torch.float16)
        if half and attn_mask is None and width <= 256 and width % 8 == 0:
            return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
        keep = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, keep, dropout_p, is_causal, scale=scale
        )[0]


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.dtype in kinds else x, tree)


@contextmanager
def counting(
    backbone: Hollow, device: str, *held: nn.Module, checkpointing: bool = False
) -> Iterator[tuple[Counter, Imitated]]:
    """Count what happens inside; the model's modules and those `held` are in memory from the start."""
    modules = [one for one in backbone.pipeline.components.values() if isinstance(one, nn.Module)]
    imitated = Imitated(device)

    def twice(module: nn.Module, *args: Any) -> Any:
        # A backward pass leaves the imitation; what it computes again must enter it again.
        return checkpoint(module, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), imitated))

    if checkpointing:
        backbone.unet.enable_gradient_checkpointing(twice)
    try:
        with imitated, Counter(*modules, *held) as counter:
            backbone.counter = counter if device == "cuda" else None
            yield counter, imitated
    finally:
        backbone.counter = None
        backbone.unet.disable_gradient_checkpointing()


def pretraining_step(
    backbone: Hollow,
    encoder: EditModule,
    batch: Callable[[Imitated], Batch],
    plan: Plan,
    device: str = "cuda",
) -> Cost:
    """One step of `namesake.train.pretrain.pretrain` in one process, as it is after the first.

    Args:
        backbone, encoder: without weights.
        batch: makes the batch of one part, with prompts; what it computes counts.
        plan: of the run.
        device: "cuda" or "cpu".
    """
    from diffusers.training_utils import EMAModel

    parameters = list(encoder.requires_grad_(True).parameters())
    mounted: Mount | None = None
    with counting(backbone, device, encoder, checkpointing=plan.checkpointing) as (counter, imitated):
        average = EMAModel(parameters, decay=plan.average, foreach=True)
        optimizer = _begun(torch.optim.AdamW(parameters, weight_decay=plan.decay, foreach=device == "cuda"))
        try:
            for _ in range(plan.accumulation):
                one = batch(imitated)
                edit = encoder(one)
                mounted = mounted or mount(backbone, Layout.of(edit))
                _passed(backbone, encoder, one, edit, mounted, imitated, half=True)
            _stepped(optimizer, parameters, plan.clip)
            average.step(parameters)
        finally:
            if mounted is not None:
                mounted.unmount()
    return Cost(counter.flops, counter.peak)


def tuning(
    backbone: Hollow,
    start: Callable[[], tuple[EditModule, Batch]],
    steps: int = 12,
    device: str = "cuda",
    *held: nn.Module,
    frugal: bool = False,
) -> Cost:
    """One concept: its start, and `steps` steps of `namesake.train.fit.fit`.

    Args:
        backbone: without weights.
        start: looks at the pictures and gives what is trained and the batch of a step; it counts.
        steps: all of which count like the first, though hard prompts are read once.
        device: "cuda" or "cpu".
        held: modules in memory beside the model's own, which have no work in a step.
        frugal: see `namesake.train.fit.frugal`.
    """
    mounted: Mount | None = None
    with ExitStack() as stack:
        counter, imitated = stack.enter_context(counting(backbone, device, *held, checkpointing=frugal))
        if frugal:
            stack.enter_context(backbone.frugally())
            stack.enter_context(backbone.waiting(*held))
            counter.peak = counter.now  # nothing comes that waits
        module, batch = start()
        begin = counter.flops
        parameters = list(module.parameters())
        optimizer = _begun(torch.optim.AdamW(parameters, weight_decay=0.0, foreach=device == "cuda"))
        try:
            edit = module(batch)
            mounted = mount(backbone, Layout.of(edit))
            _passed(backbone, module, batch, edit, mounted, imitated, half=device == "cuda")
            _stepped(optimizer, parameters, 1.0)
        finally:
            if mounted is not None:
                mounted.unmount()
        # Before those that waited are back.
        return Cost(begin + steps * (counter.flops - begin), counter.peak)


def weight(*modules: nn.Module) -> int:
    """Bytes of the parameters and buffers of modules."""
    return sum(_stores(*modules).values())


def _stores(*modules: nn.Module) -> dict[int, int]:
    """The bytes of each storage of modules' weights."""
    stores = [one.untyped_storage() for module in modules for one in (*module.parameters(), *module.buffers())]
    return {store._cdata: store.nbytes() for store in stores}


def file_size(module: EditModule) -> int:
    """Bytes of the concept file of an edit module's edit: that of an edit of zeros in its place is written and measured."""
    edit = module(Batch(torch.empty(0, 0, 0, 0), [])).mapped(lambda tensor: torch.zeros(tensor.shape))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "concept.safetensors"
        replace(edit, about=replace(edit.about, sketch=torch.zeros(1024))).save(path)
        return path.stat().st_size


def _begun(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer that has its moments, as it has from the second step on."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def _passed(
    backbone: Backbone, module: EditModule, batch: Batch, edit: Edit, mounted: Mount, imitated: Imitated, half: bool
) -> None:
    """Forward and backward of a batch, as both loops have them."""
    mounted.load(edit)
    latents = batch.latents
    noise, t = torch.randn_like(latents), torch.zeros(len(latents), dtype=torch.long, device=latents.device)
    with imitated.half(half):
        output = backbone.denoise(backbone.add_noise(latents, noise, t), t, backbone.text(batch.prompts))
    loss, _ = loss_of(output, backbone.target(latents, noise, t), batch)
    penalty = module.penalty(edit).to(loss)
    with imitated.half(half):  # for what is computed again
        (loss + penalty).backward()


def _stepped(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], clip: float) -> None:
    nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
