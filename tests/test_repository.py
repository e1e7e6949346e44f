"""What holds for the repository as a whole."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 52 * 2**20  # bytes of all tracked files; weights are most of them


def test_tracked_files_stay_small():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this copy is no git checkout")
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    sizes = {file: file.lstat().st_size for file in files if file.exists()}
    assert len(sizes) > 100
    assert sum(sizes.values()) < LIMIT, sorted(sizes, key=lambda file: sizes[file])[-5:]
