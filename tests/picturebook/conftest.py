"""Many scenes at little cost."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import lru_cache

import pytest

from namesake.picturebook.scene import FULL_WORLD, World

_MAKE = """
import pickle, sys
from namesake.picturebook.dataset import Drawings
split, world, seed, characters, count = pickle.load(sys.stdin.buffer)
drawings = Drawings(split, world, seed, characters=characters)
pickle.dump([drawings.scene(i) for i in range(count)], sys.stdout.buffer)
"""


@pytest.fixture(scope="session")
def scenes():
    """Calls `Drawings(split, ...).scene(i)` for the first `count` drawings: a list of concept, scene and caption.

    In a process without the checker of signatures, with which a scene takes 10 ms in the place of 0.6.
    """

    @lru_cache
    def made(
        split: str = "tuning", count: int = 500, seed: int = 0, world: World = FULL_WORLD, characters: float = 0.02
    ):
        asked = pickle.dumps((split, world, seed, characters, count))
        return pickle.loads(
            subprocess.run([sys.executable, "-c", _MAKE], input=asked, stdout=subprocess.PIPE, check=True).stdout
        )

    return made
