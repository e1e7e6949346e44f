"""The script that measures on a GPU, dry on the picture book: every line of it but the device's own."""

import json
import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "runs" / "gpu_speed.py"))


def test_it_measures_each_stage_on_the_picture_book(tmp_path, capsys, monkeypatch):
    known, laid = SCRIPT["main"].__globals__, []

    def pretraining(backbone, *rest):
        laid.append(backbone.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last))
        return SCRIPT["pretraining"](backbone, *rest)

    monkeypatch.setitem(known, "pretraining", pretraining)
    SCRIPT["main"](
        "picturebook", "1", steps=1, rows=1, full_batch=1, pretraining_batch=2, pretraining_steps=2, out=tmp_path
    )
    found = json.loads((tmp_path / "picturebook.json").read_text())
    assert laid == [True, True]  # as in a run of a recipe
    sizes = found["parameters"]
    assert sizes["concept"] < sizes["encoder"] < 3e6 < sizes["whole U-Net"]
    for name, less in (
        ("a look and 1 steps, 1 rows", "low memory"),
        ("the whole U-Net, 1 rows", "low memory"),
        ("pre-training", "checkpointing"),
    ):
        for one in (found[name], found[f"{name}, {less}"]):
            assert one["memory"] > 0
            assert one.get("seconds", one.get("rate")) > 0
    assert "| a look and 1 steps | 1 | yes |" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="no CUDA GPU here") as stopped:
        SCRIPT["main"]("sd15")
    assert stopped.value.code not in (0, None)
