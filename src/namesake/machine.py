"""What the machine has, and how to compute on it."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def bf16_pays(kind: str) -> bool:
    """Whether bfloat16 is faster than fp32 on a kind of device ("cpu", "cuda", ...): where its hardware multiplies it.

    Elsewhere torch imitates it: on a processor with AVX2 alone the picture book's U-Net is six times slower so (LOG.md), and
    CUDA devices before Ampere keep neither the speed nor the memory.
    """
    import torch

    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # torch 2.9 has it not
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(one) for one in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


@contextmanager
def plain_attention(kind: str) -> Iterator[None]:
    """On a CPU attention is computed as plain products: with heads as narrow as the picture book's, the backward pass of
    the fused kernel took a quarter of a step (LOG.md). A backward pass that computes activations again needs it too."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if kind != "cpu":
        yield
        return
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


@contextmanager
def half(kind: str) -> Iterator[None]:
    """bfloat16 autocast where it pays, and plain attention on a CPU: how all that is pre-trained computes."""
    import torch

    with plain_attention(kind), torch.autocast(kind, torch.bfloat16, enabled=bf16_pays(kind)):
        yield


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def deaf(*_: object) -> None:
    """What a process that works for another calls first: Ctrl-C reaches that one too, which ends it in its own time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def peak_memory() -> int:
    """Peak resident bytes of this process."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
