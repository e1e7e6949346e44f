"""The cold start in numbers: `docs/cold_start.md`.

    python runs/cold_start.py                    24 reporting concepts x 8 prompts x 2 seeds
    python runs/cold_start.py --concepts 4       a look

Settings are chosen on other concepts, one at a time:

    python runs/cold_start.py --split tuning --steps 12,50 --vary offset_rate=0.002,0.005,0.01

After how many steps the dual path is measured beside one path, `--dual` says.

Two processes share the work with `--part 0/2` and `--part 1/2`; the same command without a part then finds all measured
and prints the tables, with `--docs PAGE` into the marked place of a page as well. Concepts that are measured already are
kept, so the run can be stopped and taken up again. Into the folder go one JSON file and one sheet for each concept, and
`summary.json`.
"""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from namesake.cli import script

DUAL = ", dual path"


def main(
    out: Path = Path("out/cold_start"),
    concepts: int = 24,
    split: str = "reporting",
    steps: str = "0,12,50,200",
    dual: str = "12,50,200",
    vary: str = "",
    seeds: int = 2,
    model: str = "picturebook",
    judge: Path | None = None,
    part: str = "0/1",
    docs: Path | None = None,
) -> None:
    """Measure the cold start with and without the dual path."""
    from importlib.resources import files

    from rich.progress import Progress

    import namesake
    from namesake.backbone import Backbone
    from namesake.evaluate.cold_start import WORD, by_kind, measure, paired, part_of, summary, table
    from namesake.picturebook.check import check_page, world_of, write_page
    from namesake.picturebook.judge import Judge
    from namesake.recipes import COLD_START, method_of
    from namesake.train.tune import Method, personalize

    share = part_of(part)
    if docs is not None:
        check_page(docs)

    def teach(settings: Method, number: int, backbone: Any, picture: Any, class_word: str) -> namesake.Edit:
        return personalize(backbone, settings, picture, word=WORD, class_word=class_word, steps=number)

    field, _, values = vary.partition("=")
    usual = method_of(COLD_START, "picturebook")
    settings = {"": usual, DUAL: replace(usual, blend=0.5)}
    if vary:
        settings = {f", {field} {value}": replace(usual, **{field: json.loads(value)}) for value in values.split(",")}
    numbers, dual_path = ([int(number) for number in some.split(",") if number] for some in (steps, dual))
    # After 0 steps there is nothing to blend yet.
    arms = {
        f"{number} steps{name}": partial(teach, one, number)
        for number in numbers
        for name, one in (settings.items() if vary or (number and number in dual_path) else [("", usual)])
    }
    folder = Path(model) if Path(model).is_dir() else Path(str(files("namesake"))) / "picturebook" / "model"
    seeing = Judge.load(judge) if judge is not None else Judge.load()
    with Progress() as progress:
        bar = progress.add_task("concepts", total=concepts)
        results = measure(
            Backbone.load(model),
            seeing,
            arms,
            out,
            world_of(folder),
            concepts=concepts,
            split=split,
            seeds=seeds,
            settings={name: asdict(one) for name, one in settings.items()},
            part=share,
            progress=lambda done, total: progress.update(bar, completed=done),
        )
    if share[1] > 1:  # a last one without parts finds all of it done
        return
    (out / "summary.json").write_text(json.dumps(summary(results), indent=1) + "\n")
    told = f"{len(results)} {split} concepts x 8 prompts x {seeds} seeds\n\n{table(results)}\n\n{by_kind(results)}"
    pairs = [(name, name.removesuffix(DUAL)) for name in arms if name.endswith(DUAL)]
    if pairs:
        told += f"\n\n{paired(results, pairs)}"
    print(told)
    if docs is not None:
        write_page(docs, told)


if __name__ == "__main__":
    raise SystemExit(script(main))
