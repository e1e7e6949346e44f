"""What the machine has."""

import sys


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


def peak_memory() -> int:
    """Peak resident bytes of this process; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
