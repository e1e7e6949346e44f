"""Contact sheets of the drawings: every category, every place in every style, and drawings as training sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from namesake.errors import Refusal, check_name
from namesake.files import folder_for
from namesake.picturebook.captions import caption
from namesake.picturebook.concept import SPLITS, Concept, concept, number_of
from namesake.picturebook.dataset import Drawings
from namesake.picturebook.draw import draw
from namesake.picturebook.figures import BY_NAME, CATEGORIES, CORE
from namesake.picturebook.places import PLACES
from namesake.picturebook.scene import STYLES, Pose, Scene, sample_style
from namesake.sheet import contact_sheet, save_png

_ACROSS, _PLACES = 10, ("studio", *PLACES)
_PIXELS = 2000 * 128**2  # of all drawings on a sheet: 0.1 GB, and the sheet as much


@dataclass(frozen=True)
class Sheets:
    """What to draw, and the sheets of it.

    Attributes:
        seed: another seed gives other drawings.
        count: of the random drawings, 1 to 2,000.
        size: side of a drawing in pixels, 16 to 1,024.
        split: of the concepts.
        category, style, place: draw this one only.

    Raises:
        Refusal: for a number out of range or a name that the world does not have.
    """

    seed: int = 0
    count: int = 60
    size: int = 64
    split: str = "tuning"
    category: str | None = None
    style: str | None = None
    place: str | None = None

    def __post_init__(self) -> None:
        for what, low, high in (("count", 1, 2000), ("size", 16, 1024), ("seed", 0, 2**31 - 1)):
            if not low <= (value := getattr(self, what)) <= high:
                raise Refusal(f"The {what} is {value}; a number from {low:,} to {high:,} is wanted.")
        if self.count * self.size**2 > _PIXELS:
            raise Refusal(
                f"{self.count:,} drawings of {self.size} pixels a side do not fit on one sheet; {_PIXELS // self.size**2:,} "
                "of this size do, or smaller ones."
            )
        for what, names in (("split", SPLITS), ("category", BY_NAME), ("style", STYLES), ("place", _PLACES)):
            if (name := getattr(self, what)) is not None:
                check_name(what, name, names)

    def categories(self) -> Image.Image:
        """Every category once, or twenty concepts of the one asked, big and upright."""
        rng = np.random.default_rng([self.seed, 0x5EE7])
        names = [c.name for c in CATEGORIES] if self.category is None else [self.category] * 20
        pictures = []
        for i, name in enumerate(names):
            style = sample_style(rng, self.style or "plain")
            scene = Scene(self.place or "studio", style, Pose(scale=1.3), seed=self.seed + i)
            pictures.append(self._drawn(self._concept(name, i), scene))
        return self._table(pictures, names)

    def places(self) -> Image.Image:
        """Places down, styles across, another concept in each cell."""
        rng = np.random.default_rng([self.seed, 0x91A])
        places = _PLACES if self.place is None else (self.place,) * 4
        styles = STYLES if self.style is None else (self.style,) * len(STYLES)
        rows = []
        for i, place in enumerate(places):
            row = []
            for j, style in enumerate(styles):
                made = self._concept(self.category or CORE[(5 * i + 7 * j) % len(CORE)], i * len(styles) + j)
                row.append(self._drawn(made, Scene(place, sample_style(rng, style), seed=self.seed + i)))
            rows.append(row)
        return contact_sheet(rows, styles, places, cell=self._cell)

    def drawings(self) -> Image.Image:
        """Drawings as training sees them, with their captions."""
        drawings = Drawings(self.split, seed=self.seed)
        pictures, captions = [], []
        for i in range(self.count):
            made, scene, words = drawings.scene(i)
            if (self.category, self.style, self.place) != (None, None, None):
                rng = np.random.default_rng([self.seed, i, 0xCA9])
                made = made if self.category is None else self._concept(self.category, i)
                style = scene.style if self.style is None else sample_style(rng, self.style)
                scene = replace(scene, style=style, place=self.place or scene.place)
                words = caption(made, scene, rng)
            pictures.append(self._drawn(made, scene))
            captions.append(words.text)
        return self._table(pictures, captions)

    @property
    def _cell(self) -> int:
        return max(self.size, 128)

    def _concept(self, category: str, index: int) -> Concept:
        return concept(number_of(self.split, category, (self.seed + index) % 2000))

    def _drawn(self, made: Concept, scene: Scene) -> np.ndarray:
        return draw(made, scene, self.size).picture

    def _table(self, pictures: list[np.ndarray], notes: list[str]) -> Image.Image:
        starts = range(0, len(pictures), _ACROSS)
        rows = [pictures[i : i + _ACROSS] for i in starts]
        return contact_sheet(rows, captions=[notes[i : i + _ACROSS] for i in starts], cell=self._cell)


def main(
    output: Path,
    seed: int = 0,
    count: int = 60,
    size: int = 64,
    split: str = "tuning",
    category: str | None = None,
    style: str | None = None,
    place: str | None = None,
) -> list[Path]:
    """Write `categories.png`, `places.png` and `drawings.png` into a folder, which is made where it is missing.

    The arguments are those of `Sheets`. Returns the files written.
    """
    sheets = Sheets(seed, count, size, split, category, style, place)
    folder_for(output)
    written = []
    for name, sheet in (("categories", sheets.categories), ("places", sheets.places), ("drawings", sheets.drawings)):
        save_png(np.asarray(sheet()), output / f"{name}.png")
        written.append(output / f"{name}.png")
    return written
