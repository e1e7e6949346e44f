"""The cold start in numbers: `docs/cold_start.md`.

    python runs/cold_start.py                    24 reporting concepts x 8 prompts x 2 seeds
    python runs/cold_start.py --concepts 4       a look
    python runs/cold_start.py --split tuning     the concepts on which settings are chosen

Concepts that are measured already are kept, so the run can be stopped and taken up again. Writes one JSON file and one
sheet for each concept and `summary.json` into the folder, and prints the tables.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import typer


def main(
    out: Path = Path("out/cold_start"),
    concepts: int = 24,
    split: str = "reporting",
    steps: str = "0,12,50,200",
    seeds: int = 2,
    model: str = "picturebook",
    judge: Path | None = None,
    world: Path | None = None,
) -> None:
    """Measure the cold start with and without the dual path."""
    from importlib.resources import files

    from rich.progress import Progress

    import namesake
    from namesake.backbone import Backbone
    from namesake.evaluate.cold_start import WORD, by_kind, measure, summary, table
    from namesake.methods.cold_start import ColdStart, personalize
    from namesake.picturebook.judge import Judge
    from namesake.picturebook.scene import World

    def teach(settings: ColdStart, number: int, backbone: Any, picture: Any, class_word: str) -> namesake.Edit:
        return personalize(backbone, picture, word=WORD, class_word=class_word, steps=number, settings=settings)

    arms: dict[str, Any] = {}
    for number in map(int, steps.split(",")):
        arms[f"{number} steps"] = partial(teach, ColdStart(), number)
        if number:
            arms[f"{number} steps, one path"] = partial(teach, ColdStart(blend=1.0), number)
    if world is None:
        folder = Path(model) if Path(model).is_dir() else Path(str(files("namesake"))) / "picturebook" / "model"
        world = folder / "world.json"
    known = json.loads(world.read_text())
    seeing = Judge.load(judge) if judge is not None else Judge.load()
    with Progress() as progress:
        bar = progress.add_task("concepts", total=concepts)
        results = measure(
            Backbone.load(model),
            seeing,
            arms,
            out,
            World(tuple(known["categories"]), tuple(known["places"])),
            concepts=concepts,
            split=split,
            seeds=seeds,
            settings=asdict(ColdStart()),
            progress=lambda done, total: progress.update(bar, completed=done),
        )
    (out / "summary.json").write_text(json.dumps(summary(results), indent=1) + "\n")
    print(f"{len(results)} {split} concepts x 8 prompts x {seeds} seeds\n\n{table(results)}\n\n{by_kind(results)}")


if __name__ == "__main__":
    typer.run(main)
