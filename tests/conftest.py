"""Fixtures that every room shares; shapes in signatures are checked while tests run."""

import os
import signal
import sys
from pathlib import Path

import jaxtyping
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of one thread are faster than one of two
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job: its children would ignore Ctrl-C too
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).parent))
jaxtyping.install_import_hook("namesake", "shapes.checked")  # before the first import of namesake

from minis import KINDS, write_mini  # noqa: E402


@pytest.fixture(scope="session")
def minis(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The diffusers folders of the minis by kind, written once; read them, never write into them."""
    root = tmp_path_factory.mktemp("minis")
    return {kind: write_mini(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="session")
def sd15(minis: dict[str, Path]) -> Path:
    return minis["sd15"]


@pytest.fixture(scope="session")
def sd21(minis: dict[str, Path]) -> Path:
    return minis["sd21"]


@pytest.fixture(scope="session")
def sdxl(minis: dict[str, Path]) -> Path:
    return minis["sdxl"]
