"""Pictures on their way out: files that say how they were made, and sheets that show many at once."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from namesake.errors import Refusal
from namesake.files import write

PAPER, INK, FAINT = (251, 250, 247), (38, 38, 44), (120, 120, 128)
GAP, MARGIN = 10, 24  # pixels between cells, and around everything

# How the A1111 web interface names what we call otherwise, in the order in which it writes them.
A1111_NAMES = {"steps": "Steps", "scheduler": "Sampler", "guidance": "CFG scale", "seed": "Seed", "size": "Size"}


def contact_sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"] | None]],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    *,
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
    cell: int = 192,
) -> Image.Image:
    """Lay pictures out in a table, with words above, beside and under them.

    rows: uint8 [H, W, 3] pictures; None leaves a cell empty; rows may differ in length. cell: the side in pixels up to
    which a picture is enlarged, by a whole number and without smoothing, so that its pixels can be judged; a larger
    picture is brought down to it. captions: one string under each picture, in the shape of `rows`.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("a contact sheet needs at least one picture")
    cells = [[None if pixels is None else _fitted(pixels, cell) for pixels in row] for row in rows]
    sides = [image.size for row in cells for image in row if image is not None] or [(cell, cell)]
    width, height = max(w for w, _ in sides), max(h for _, h in sides)
    large, middle, small = (ImageFont.load_default(points) for points in (22, 15, 13))
    left = MARGIN + (max(110, min(200, width)) + GAP if any(row_titles) else 0)
    titles = [_wrapped(text, middle, width) for text in column_titles]
    notes = [[_wrapped(text, small, width) for text in row] for row in captions]
    heads = _height(titles, middle)
    note_heights = [_height(row, small) for row in notes] + [0] * (len(rows) - len(notes))
    right = left + columns * (width + GAP) - GAP
    heading = _wrapped(title, large, max(right - MARGIN, 480))
    top = MARGIN + (_height([heading], large) + 8 if title else 0)
    tops = [top + heads + sum(note_heights[:i]) + i * (height + GAP) for i in range(len(rows))]
    if title:
        right = max(right, MARGIN + int(max(map(large.getlength, heading.splitlines()))))
    sheet = Image.new("RGB", (right + MARGIN, tops[-1] + height + note_heights[-1] + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((MARGIN, MARGIN - 6), heading, INK, large)
    for j, text in enumerate(titles[:columns]):
        x, y = left + j * (width + GAP) + width / 2, top + heads - 6
        draw.multiline_text((x, y), text, INK, middle, anchor="md", align="center")
    for i, row in enumerate(cells):
        if i < len(row_titles):
            text = _wrapped(row_titles[i], middle, left - MARGIN - GAP)
            draw.multiline_text((left - GAP, tops[i] + height / 2), text, INK, middle, anchor="rm", align="right")
        for j, image in enumerate(row):
            x, y = left + j * (width + GAP), tops[i]
            if image is not None:
                sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
            if i < len(notes) and j < len(notes[i]):
                middle_x, under = x + width / 2, y + height + 4
                draw.multiline_text((middle_x, under), notes[i][j], FAINT, small, anchor="ma", align="center")
    return sheet


def save_png(pixels: UInt8[np.ndarray, "H W 3"], path: Path | str, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a picture with how it was made, whole or not at all.

    pixels: uint8 [H, W, 3]. metadata: JSON values; "prompt", "negative", "seed", "steps", "scheduler", "guidance" and
    "size" (height, width) are also written in the `parameters` entry that A1111 and its kin read; all of it in the entry
    `namesake`.
    Nothing else is in the file: no EXIF, no place, no camera. A file of that name is replaced.
    Raises Refusal where the file cannot be written.
    """
    info = PngInfo()
    if metadata:
        info.add_text("parameters", _a1111(metadata))
        info.add_text("namesake", json.dumps(dict(metadata), ensure_ascii=True, sort_keys=True))
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG", pnginfo=info)
    write(data.getvalue(), Path(path), "picture")


def read_settings(path: Path | str) -> dict[str, Any]:
    """What `save_png` wrote beside the pixels. Raises Refusal where the file is none of ours."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # text may stand behind the pixels
            settings = json.loads(image.info["namesake"])
    except Exception:
        settings = None
    if not isinstance(settings, dict):
        raise Refusal(f'"{path}" does not say how it was made; give a PNG that namesake wrote.')
    return settings


def _a1111(metadata: Mapping[str, Any]) -> str:
    lines = [str(metadata.get("prompt", ""))]
    if metadata.get("negative"):
        lines.append(f"Negative prompt: {metadata['negative']}")
    values = {name: metadata[key] for key, name in A1111_NAMES.items() if metadata.get(key) is not None}
    if "Size" in values:
        height, width = values["Size"]
        values["Size"] = f"{width}x{height}"
    lines.append(", ".join(f"{name}: {value}" for name, value in values.items()))
    return "\n".join(lines)


def thumbnail(pixels: UInt8[np.ndarray, "H W 3"], cell: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """As much of a picture as a sheet with cells of `cell` pixels a side shows: a larger one is brought down to it."""
    image = Image.fromarray(pixels)
    image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _fitted(pixels: UInt8[np.ndarray, "H W 3"], cell: int) -> Image.Image:
    image = Image.fromarray(thumbnail(pixels, cell))
    factor = cell // max(image.size)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _wrapped(text: str, font: Any, width: int) -> str:
    """Break `text` between words so that no line is wider than `width` pixels; a single word may stand out."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _height(texts: Sequence[str], font: Any) -> int:
    """The room that the tallest of some wrapped texts takes, with the air around it; none for no text."""
    lines = max((text.count("\n") + 1 for text in texts if text), default=0)
    return int(lines * (sum(font.getmetrics()) + 4) + 10) if lines else 0
