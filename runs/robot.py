"""A biased word, learned anew: the picture book's robots are mostly gray, because its training drawings were.

    python runs/robot.py                12 pictures, one of each color; 96 drawings before and after

Textual Inversion (Gal et al. 2022, section 4.4, "bias reduction") learns a word for what a small balanced set shows, from
the word "robot" on. The judge then reads the main colors of what is drawn with the biased word and with the new one.
Writes the figures into the folder and a sheet, and prints the table.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from namesake.backbone import Backbone
from namesake.cli import script
from namesake.generate import generate
from namesake.picturebook.concept import COLORS, concept, number_of, sample_color
from namesake.picturebook.dataset import SKEWED, SKEWED_COLOR
from namesake.picturebook.draw import draw
from namesake.picturebook.judge import Judge
from namesake.picturebook.scene import Scene, sample_style
from namesake.recipes import method_of
from namesake.sheet import contact_sheet, save_png
from namesake.train.tune import personalize

WORD = "<any-robot>"
PROMPTS = (
    "a picture of {}",
    "{} on the beach",
    "{} in the forest",
    "{} in the snow",
    "{} in the city",
    "{} underwater",
)


def balanced(split: str, each: int) -> np.ndarray:
    """Robots of every main color, `each` of them, upright in the studio: `[12 * each, H, W, 3]`."""
    drawn = []
    for place, color in enumerate(list(COLORS) * each):
        rng = np.random.default_rng([place, 0x80B])
        made = concept(number_of(split, SKEWED, place))
        made = replace(made, colors=(sample_color(rng, (color,)), *made.colors[1:]))
        drawn.append(draw(made, Scene(style=sample_style(rng, "plain"), seed=place)).picture)
    return np.stack(drawn)


def entropy(shares: np.ndarray) -> float:
    """Of a distribution, in bits; log2(12) = 3.58 where all colors come alike."""
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())


def main(
    out: Path = Path("out/robot"),
    each: int = 1,
    count: int = 16,
    steps: int = -1,
    rate: float = 1e-2,
    draw_steps: int = 15,
    seed: int = 0,
    split: str = "reporting",
    model: str = "picturebook",
    judge: Path | None = None,
) -> None:
    """Learn a word for robots of all colors, and count colors before and after."""
    backbone = Backbone.load(model)
    seeing = Judge.load(judge) if judge is not None else Judge.load()
    # Its usual rate is chosen for one thing; robots of all kinds need a smaller one, or they cease to be robots (LOG.md).
    method = replace(method_of("textual-inversion", "picturebook"), rate=rate)  # type: ignore[call-arg]
    pictures = balanced(split, each)
    edit = personalize(
        backbone,
        method,
        torch.from_numpy(pictures),
        word=WORD,
        class_word=SKEWED,
        steps=method.steps if steps < 0 else steps,
        seed=seed,
    )
    names, figures, shown = list(seeing.heads["color"]), {}, [list(pictures[:8])]
    for name, word, one in (("before", f"a {SKEWED}", None), ("after", WORD, edit)):
        drawn = generate(
            backbone, [prompt.format(word) for prompt in PROMPTS], one, count=count, seed=seed, steps=draw_steps
        )
        said = seeing.judge(torch.from_numpy(np.stack([made.pixels for made in drawn])))
        colors = np.bincount(said["color"].argmax(-1).cpu().numpy(), minlength=len(names)) / len(drawn)
        robots = said["category"].argmax(-1).cpu() == list(seeing.heads["category"]).index(SKEWED)
        figures[name] = {
            "colors": dict(zip(names, colors.round(4).tolist(), strict=True)),
            SKEWED_COLOR: float(colors[names.index(SKEWED_COLOR)]),
            "bits": round(entropy(colors), 3),
            SKEWED: float(robots.float().mean()),
        }
        shown.append([made.pixels for made in drawn[: 8 * count : max(1, len(drawn) // 8)]][:8])
    out.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "settings": asdict(method),
        "steps": edit.about.settings["steps"],
        "pictures": len(pictures),
    }
    (out / "robot.json").write_text(json.dumps({**settings, **figures}, indent=1) + "\n")
    edit.save(out / "any-robot.safetensors")
    sheet = contact_sheet(shown, row_titles=["what it saw", f"a {SKEWED}", WORD], title="A biased word, learned anew")
    save_png(np.asarray(sheet), out / "robot.png", {"prompt": " | ".join(PROMPTS), "seed": seed, "steps": draw_steps})
    print(f"| | {' | '.join(names)} | bits | robots |\n|{' --- |' * (len(names) + 3)}")
    for name, one in figures.items():
        shares = " | ".join(f"{share:.0%}" for share in one["colors"].values())
        print(f"| {name} | {shares} | {one['bits']:.2f} | {one[SKEWED]:.0%} |")


if __name__ == "__main__":
    raise SystemExit(script(main))
