"""Benches on the minis."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from bench import Bench, bench


@pytest.fixture(scope="session")
def make_bench(minis: dict[str, Path]) -> Callable[[str, torch.dtype], Bench]:
    made: dict[tuple[str, torch.dtype], Bench] = {}

    def make(kind: str, dtype: torch.dtype = torch.float64) -> Bench:
        if (kind, dtype) not in made:
            made[kind, dtype] = bench(minis[kind], dtype)
        return made[kind, dtype]

    return make


@pytest.fixture(scope="session")
def sd(make_bench: Callable[..., Bench]) -> Bench:
    """SD 1.5's tree in float64."""
    return make_bench("sd15")


@pytest.fixture(scope="session")
def xl(make_bench: Callable[..., Bench]) -> Bench:
    """SDXL's tree in float64."""
    return make_bench("sdxl")
