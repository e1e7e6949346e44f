"""What DATE takes on one GPU, measured, beside what `namesake plan` counts: models of the true shapes, random weights.

    python runs/gpu_speed.py                          Stable Diffusion 1.5, batches of 1, 4 and 16
    python runs/gpu_speed.py --model sdxl --batches 1,4
    python runs/gpu_speed.py --model picturebook --batches 1 --steps 2 --out out/dry       a dry run, on a CPU too

Measured are: a look at one picture (autoencoder, features, encoder) and the steps of tuning, with and without
`--low-memory`; tuning the whole U-Net instead, as E4T does; and pre-training by the run's own loop on random pictures, in
parts of `--rows`. Seconds are those of a second run. Memory is the peak of what torch's allocator gave out, the frozen
weights included; on a CPU, where it does not count, the peak of the process so far. Random weights take the time and the
memory of trained ones; what they draw is noise. Writes `<model>.json` into the folder and prints tables.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from namesake.backbone import Backbone
from namesake.backbone.shapes import KINDS, true_shape
from namesake.cli import script
from namesake.machine import peak_memory
from namesake.methods.date import Date, DateEncoder, Tuning, personalize
from namesake.methods.dreambooth import DreamBooth
from namesake.train.fit import frugal
from namesake.train.pretrain import Plan, Stream, pretrain
from namesake.train.tune import personalize as tune

WORD = "<my-it>"
FULL = 150_000  # steps of the paper's final model


class Noise:
    """Random pictures without end."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pick(self, row: int) -> tuple[int, int]:
        return 0, row

    def read(self, rows: Sequence[int]) -> tuple[np.ndarray, list[int], int]:
        chance = np.random.default_rng(rows[0])
        return chance.integers(0, 256, (len(rows), self.size, self.size, 3), dtype=np.uint8), list(rows), 0


def measured(function: Callable[[], object]) -> dict[str, float] | None:
    """Seconds of the second of two calls, and peak bytes; None where the memory is not enough."""
    cuda = torch.cuda.is_available()
    try:
        for _ in range(2):
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            if cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
    except torch.cuda.OutOfMemoryError:
        return None
    return {"seconds": seconds, "memory": torch.cuda.max_memory_allocated() if cuda else peak_memory()}


def opened(model: str) -> tuple[Backbone, Date]:
    """A model on the GPU, or the picture book where there is none, and the settings of its encoder."""
    if model in KINDS:
        if not torch.cuda.is_available():
            sys.exit("gpu_speed: There is no CUDA GPU here; run this where one is, or try --model picturebook.")
        return true_shape(model, "cuda"), Date()
    return Backbone.load(model), Date(base_word="thing", width=160)


def pretraining(backbone: Backbone, encoder: DateEncoder, plan: Plan) -> dict[str, float] | None:
    """Pictures a second in the median step of the run's own loop, and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        number = iter(range(2))

        def run() -> None:
            stream = Stream(backbone, Noise(backbone.size))
            where = place / str(next(number))
            pretrain(backbone, encoder, stream, [f"a picture of {encoder.word}"], plan, where)

        found = measured(run)
        if found is None:
            return None
        lines = [json.loads(line) for line in (place / "1" / "curve.jsonl").read_text().splitlines()]
    return {"rate": float(np.median([line["pictures a second"] for line in lines])), "memory": found["memory"]}


def main(
    model: str = "sd15",
    batches: str = "1,4,16",
    steps: int = 12,
    rows: int = 16,
    full_batch: int = 16,
    pretraining_batch: int = 64,
    pretraining_steps: int = 6,
    out: Path = Path("out/gpu_speed"),
) -> None:
    """Measure what DATE takes on one GPU."""
    backbone, settings = opened(model)
    encoder = settings.network(backbone)
    chance = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, backbone.size, backbone.size, 3), dtype=torch.uint8, generator=chance)
    known: dict[str, Any] = {"word": WORD, "class_word": settings.base_word, "steps": steps}
    device = torch.cuda.get_device_name() if backbone.device.type == "cuda" else "a CPU"
    print(f"{model} on {device}, {str(backbone.dtype).removeprefix('torch.')}, torch {torch.__version__}\n")
    sizes = {"encoder": sum(p.numel() for p in encoder.parameters())}
    edit = personalize(backbone, encoder, picture, **{**known, "steps": 0})
    sizes["concept"] = sum(t.numel() for part in edit.parts for t in _tensors(part))
    sizes["whole U-Net"] = sum(p.numel() for p in backbone.unet.parameters())
    results: dict[str, Any] = {"model": model, "device": device, "steps": steps, "parameters": sizes}

    print("| | rows | low memory | seconds | peak memory, GiB |\n| --- | --- | --- | --- | --- |")

    def tell(name: str, count: int, less: bool, found: dict[str, float] | None) -> None:
        results[f"{name}, {count} rows{', low memory' * less}"] = found
        cells = "too large | too large" if found is None else f"{found['seconds']:.2f} | {found['memory'] / 2**30:.2f}"
        print(f"| {name} | {count} | {'yes' if less else 'no'} | {cells} |", flush=True)

    asked = [int(batch) for batch in batches.split(",")]
    for batch in asked:
        for less in (False, True):
            tuned = Tuning(batch=batch)
            with frugal(backbone, less):
                found = measured(lambda tuned=tuned: personalize(backbone, encoder, picture, settings=tuned, **known))
            tell(f"a look and {steps} steps", batch, less, found)
    # E4T tunes every weight of the U-Net. Its word offset would add 0.1 % to them.
    whole = DreamBooth(batch=full_batch, prior=0, rare_word=settings.base_word)
    for less in (False, True):
        with frugal(backbone, less):
            tell("the whole U-Net", full_batch, less, measured(lambda: tune(backbone, whole, picture, **known)))

    backbone.unet.to(memory_format=torch.channels_last)  # as the recipes pre-train
    print(
        "\n| pre-training in parts of | checkpointing | pictures a second | days of 150,000 steps of 64 | peak memory, GiB |"
    )
    print("| --- | --- | --- | --- | --- |")
    plan = Plan(pretraining_steps, batch=pretraining_batch, accumulation=max(1, pretraining_batch // rows), log_every=1)
    for again in (False, True):
        made = pretraining(backbone, encoder, replace(plan, checkpointing=again))
        results[f"pre-training{', checkpointing' * again}"] = made
        days = 0.0 if made is None else FULL * 64 / made["rate"] / 86400
        cells = "too large | | " if made is None else f"{made['rate']:.1f} | {days:.1f} | {made['memory'] / 2**30:.2f}"
        print(f"| {plan.share(1)} | {'yes' if again else 'no'} | {cells} |", flush=True)

    print("\n" + "; ".join(f"{name}: {count / 1e6:,.2f} million parameters" for name, count in sizes.items()))
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{Path(model).name}.json").write_text(json.dumps(results, indent=1) + "\n")


def _tensors(part: Any) -> list[torch.Tensor]:
    vectors = list(getattr(part, "vectors", ()))
    return vectors + [factor for pair in getattr(part, "factors", {}).values() for factor in pair]


if __name__ == "__main__":
    raise SystemExit(script(main))
