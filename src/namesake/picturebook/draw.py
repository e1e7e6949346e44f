"""Drawing: concept and scene -> picture and the truth about it.

The picture is composed as SVG in a frame of 100 x 100 units, rasterised by resvg, and finished in numpy where a style needs
what SVG has not (blocks, bleeding color, brush strokes). All chance comes from seeds in the scene, laid out on a grid of
fixed size, so the same scene gives the same picture at every size.
"""

from __future__ import annotations

import colorsys
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import resvg_py
from PIL import Image, ImageFilter

from namesake.picturebook.captions import caption
from namesake.picturebook.concept import Concept, Patch, Pattern
from namesake.picturebook.figures.parts import DARK, LIGHT, MAIN, SECOND, THIRD, Figure, Part, ellipse, polygon, rounded
from namesake.picturebook.places import PLACES, studio
from namesake.picturebook.scene import Scene, Style, Worn

FRAME = 0.66
"""Share of the picture that a figure's frame takes at scale 1; at 0.56 the smallest patches were under 8 of 64 pixels across."""

Pixels = np.ndarray


# --------------------------------------------------------------------------------------------------------------------- colors
def _hex(rgb: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * min(max(v, 0.0), 1.0)):02x}" for v in rgb)


def _rgb(color: str) -> tuple[float, float, float]:
    return int(color[1:3], 16) / 255, int(color[3:5], 16) / 255, int(color[5:7], 16) / 255


def _mix(a: tuple[float, float, float], b: tuple[float, float, float], t: float) -> tuple[float, float, float]:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def _luma(rgb: tuple[float, float, float]) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def _tuned(
    rgb: tuple[float, float, float], hue: float = 0.0, saturation: float = 1.0, value: float = 1.0
) -> tuple[float, float, float]:
    h, s, v = colorsys.rgb_to_hsv(*rgb)
    return colorsys.hsv_to_rgb((h + hue) % 1.0, min(s * saturation, 1.0), min(v * value, 1.0))


# ---------------------------------------------------------------------------------------------------------------------- styles
@dataclass(frozen=True)
class Look:
    """How a style paints: color maps for things and for the place, the outline, its width, and the finish in numpy."""

    fill: Callable[[str], str]
    back: Callable[[str], str]
    line: Callable[[str], str]
    width: float
    shadow: float
    finish: Callable[[Pixels, np.random.Generator], Pixels]
    raster: int = 0


def _noise(rng: np.random.Generator, cells: int, size: int, channels: int = 1) -> Pixels:
    """Smooth noise in -1..1, `[size, size, channels]`, drawn on a grid of `cells` so that it is the same at every size."""
    grid = rng.uniform(-1, 1, (channels, cells, cells)).astype(np.float32)
    planes = [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC)) for plane in grid]
    return np.stack(planes, -1)


def _blur(picture: Pixels, radius: float) -> Pixels:
    """Gaussian blur; `radius` in hundredths of the picture."""
    image = Image.fromarray(np.clip(picture * 255, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius * picture.shape[0] / 100)), np.float32) / 255


def _shifted(picture: Pixels, rng: np.random.Generator, cells: int, reach: float) -> Pixels:
    """Every pixel fetched from up to `reach` hundredths of the picture away."""
    size = picture.shape[0]
    shift = _noise(rng, cells, size, 2) * reach * size / 100
    y, x = np.mgrid[0:size, 0:size]
    return picture[
        np.clip(np.rint(y + shift[..., 0]), 0, size - 1).astype(int),
        np.clip(np.rint(x + shift[..., 1]), 0, size - 1).astype(int),
    ]


def _as_is(picture: Pixels, rng: np.random.Generator) -> Pixels:
    return picture


def _plain(style: Style) -> Look:
    def fill(color: str) -> str:
        return _hex(_tuned(_rgb(color), 0.0, 0.85 + 0.25 * style.palette, 1.0))

    ink = _hex(colorsys.hsv_to_rgb(style.palette, 0.25, 0.18))
    return Look(fill, fill, lambda _: ink, 0.75 + 0.6 * style.line, 0.16, _as_is)


def _sketch(style: Style) -> Look:
    paper = colorsys.hsv_to_rgb(0.11, 0.02 + 0.10 * style.palette, 0.97)
    pencil = _hex(colorsys.hsv_to_rgb(0.62, 0.15, 0.22 + 0.15 * style.palette))

    def fill(color: str) -> str:
        return _hex(_mix(_tuned(_rgb(color), saturation=1.0), paper, 0.25))

    def back(color: str) -> str:
        luma = _luma(_rgb(color))
        return _hex(_mix((luma, luma, luma), paper, 0.78))

    def finish(picture: Pixels, rng: np.random.Generator) -> Pixels:
        picture = _shifted(picture, rng, 14, 0.7 + 1.1 * style.line)
        size = picture.shape[0]
        y, x = np.mgrid[0:size, 0:size] / size
        angle = 0.5 + 0.6 * style.palette
        hatch = 0.5 + 0.5 * np.sin(
            2 * np.pi * (16 + 8 * style.grain) * (x * np.cos(angle) + y * np.sin(angle))
            + 2 * _noise(rng, 6, size)[..., 0]
        )
        colored = picture.max(-1) - picture.min(-1)
        light = 1 - picture.mean(-1)
        amount = np.clip(0.5 * colored + 0.30 * light, 0, 0.4) * hatch
        return picture + (np.asarray(paper, np.float32) - picture) * amount[..., None] + 0.02 * _noise(rng, 64, size)

    return Look(fill, back, lambda _: pencil, 0.6 + 0.5 * style.line, 0.0, finish)


def pixel_cells(style: Style) -> int:
    """Pixels across of a pixel-art picture: 28 to 38."""
    return 28 + round(10 * style.line)


def _pixelart(style: Style) -> Look:
    cells, levels = pixel_cells(style), 4 + round(4 * style.grain)

    def fill(color: str) -> str:
        return _hex(_tuned(_rgb(color), 0.0, 1.0 + 0.25 * style.palette, 1.0))

    def finish(picture: Pixels, rng: np.random.Generator) -> Pixels:
        return np.round(picture * levels) / levels

    return Look(fill, fill, lambda _: "#1d1a26", 1.15, 0.16, finish, raster=cells)


def _watercolor(style: Style) -> Look:
    def fill(color: str) -> str:
        return _hex(_mix(_tuned(_rgb(color), saturation=0.95), (1, 1, 1), 0.10 + 0.14 * style.palette))

    def back(color: str) -> str:
        return _hex(_mix(_tuned(_rgb(color), saturation=0.8), (1, 1, 1), 0.38 + 0.14 * style.palette))

    def line(color: str) -> str:
        return _hex(_tuned(_rgb(color), 0.0, 1.15, 0.72))

    def finish(picture: Pixels, rng: np.random.Generator) -> Pixels:
        size = picture.shape[0]
        picture = _shifted(picture, rng, 12, 0.8 + 1.2 * style.line)
        soft = _blur(picture, 1.1)
        picture = soft - 0.5 * np.clip(_blur(soft, 2.2) - soft, 0, 1)
        wash = _noise(rng, 7, size) * (0.07 + 0.08 * style.grain) + _noise(rng, 40, size) * 0.035
        picture = picture + wash * (1.15 - picture)
        y, x = np.mgrid[0:size, 0:size] / (size - 1) * 2 - 1
        edge = np.clip((np.maximum(abs(x), abs(y)) + 0.10 * _noise(rng, 9, size)[..., 0] - 0.86) * 7, 0, 1)[..., None]
        return picture + (0.985 - picture) * edge

    return Look(fill, back, line, 0.45 + 0.3 * style.line, 0.08, finish)


def _neon(style: Style) -> Look:
    night = colorsys.hsv_to_rgb(0.6 + 0.25 * style.palette, 0.55, 0.09)

    def fill(color: str) -> str:
        return _hex(_mix(_rgb(color), night, 0.58))

    def back(color: str) -> str:
        return _hex(_mix(_tuned(_rgb(color), saturation=1.5), night, 0.80))

    def line(color: str) -> str:
        hue, saturation, value = colorsys.rgb_to_hsv(*_rgb(color))
        return _hex(
            colorsys.hsv_to_rgb(hue, min(saturation * 1.3, 1.0) if value > 0.3 else 0.1, max(value, 0.55) ** 0.3)
        )

    def finish(picture: Pixels, rng: np.random.Generator) -> Pixels:
        bright = picture * np.clip((picture.max(-1, keepdims=True) - 0.45) * 3, 0, 1)
        return picture + (0.7 + 0.6 * style.grain) * _blur(bright, 1.6 + 1.6 * style.grain) + 0.25 * _blur(bright, 5.0)

    return Look(fill, back, line, 0.75 + 0.4 * style.line, 0.0, finish)


def _blueprint(style: Style) -> Look:
    blue = colorsys.hsv_to_rgb(0.58 + 0.07 * style.palette, 0.72, 0.42 + 0.22 * style.palette)
    white = (0.93, 0.96, 1.0)

    def fill(color: str) -> str:
        return _hex(_mix(blue, white, 0.03 + 0.60 * _luma(_rgb(color))))

    def back(color: str) -> str:
        return _hex(_mix(blue, white, 0.20 * (_luma(_rgb(color)) - 0.3)))

    def finish(picture: Pixels, rng: np.random.Generator) -> Pixels:
        size = picture.shape[0]
        cells = 8 + round(4 * style.grain)
        y, x = np.mgrid[0:size, 0:size] / size * cells
        grid = np.minimum(abs(x - np.rint(x)), abs(y - np.rint(y))) < 0.035 * cells / 10
        return (
            picture + 0.16 * grid[..., None] * (np.asarray(white, np.float32) - picture) + 0.012 * _noise(rng, 64, size)
        )

    return Look(fill, back, lambda _: _hex(white), 0.65 + 0.45 * style.line, 0.0, finish)


def _stainedglass(style: Style) -> Look:
    def fill(color: str) -> str:
        return _hex(_tuned(_rgb(color), 0.0, 1.15 + 0.3 * style.palette, 0.97))

    def finish(picture: Pixels, rng: np.random.Generator) -> Pixels:
        size, count = picture.shape[0], 7 + round(6 * style.grain)
        seeds = rng.uniform(0, 1, (count, 2))
        tone = rng.uniform(-0.16, 0.16, count)
        y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
        far = np.hypot(y[..., None] - seeds[:, 0], x[..., None] - seeds[:, 1])
        near = np.partition(far, 1, -1)
        lead = np.clip(1.4 - (near[..., 1] - near[..., 0]) / 0.016, 0, 1)[..., None]
        picture = picture * (1.0 + tone[far.argmin(-1)][..., None]) + 0.05 * _noise(rng, 10, size)
        return picture * (1 - 0.6 * lead) + 0.04 * lead

    return Look(fill, fill, lambda _: "#15131a", 1.25 + 0.5 * style.line, 0.0, finish)


def _oil(style: Style) -> Look:
    def fill(color: str) -> str:
        return _hex(_mix(_tuned(_rgb(color), 0.0, 1.05, 0.94), (0.62, 0.42, 0.20), 0.05 + 0.12 * style.palette))

    def line(color: str) -> str:
        return _hex(_mix(_tuned(_rgb(color), 0.0, 1.1, 0.55), (0.25, 0.15, 0.08), 0.3))

    def finish(picture: Pixels, rng: np.random.Generator) -> Pixels:
        size = picture.shape[0]
        picture = _shifted(picture, rng, 26, 1.5 + 1.5 * style.line)
        # Strokes: noise stretched along one direction, which lights the paint from the side.
        stroke = np.asarray(
            Image.fromarray(rng.uniform(-1, 1, (44, 12)).astype(np.float32)).resize(
                (size, size), Image.Resampling.BICUBIC
            )
        )
        cross = np.asarray(
            Image.fromarray(rng.uniform(-1, 1, (12, 44)).astype(np.float32)).resize(
                (size, size), Image.Resampling.BICUBIC
            )
        )
        where = _noise(rng, 5, size)[..., 0] > 0
        relief = np.where(where, stroke, cross)[..., None]
        return picture * (1.0 + (0.05 + 0.07 * style.grain) * relief)

    return Look(fill, fill, line, 0.7 + 0.3 * style.line, 0.14, finish)


_LOOKS: dict[str, Callable[[Style], Look]] = {
    "plain": _plain,
    "sketch": _sketch,
    "pixelart": _pixelart,
    "watercolor": _watercolor,
    "neon": _neon,
    "blueprint": _blueprint,
    "stainedglass": _stainedglass,
    "oil": _oil,
}


# ----------------------------------------------------------------------------------------------------------------- SVG of things
def _star(x: float, y: float, radius: float) -> str:
    points = [(radius if i % 2 == 0 else 0.42 * radius, -np.pi / 2 + i * np.pi / 5) for i in range(10)]
    return polygon(*((x + r * np.cos(a), y + r * np.sin(a)) for r, a in points))


def _tile(pattern: Pattern, color: str) -> str:
    """The tile of a pattern, `pattern.tile` units wide."""
    t = pattern.tile
    paint = f'fill="{color}"'
    if pattern.kind == "striped":
        return f'<rect width="{t:.2f}" height="{t * 0.46:.2f}" {paint}/>'
    if pattern.kind == "spotted":
        return f'<path d="{ellipse(t * 0.5, t * 0.5, t * 0.30)}" {paint}/>'
    if pattern.kind == "checkered":
        return f'<path d="M0 0h{t / 2:.2f}v{t:.2f}h{t / 2:.2f}v{-t / 2:.2f}h{-t:.2f}z" {paint}/>'
    if pattern.kind == "zigzag":
        return f'<path d="M{-t * 0.1:.2f} {t * 0.75:.2f}L{t / 2:.2f} {t * 0.22:.2f}L{t * 1.1:.2f} {t * 0.75:.2f}" fill="none" stroke="{color}" stroke-width="{t * 0.3:.2f}"/>'
    if pattern.kind == "starry":
        return f'<path d="{_star(t * 0.5, t * 0.52, t * 0.46)}" {paint}/>'
    heart = (
        f"M{t * 0.5:.2f} {t * 0.86:.2f}C{-t * 0.02:.2f} {t * 0.5:.2f} {t * 0.16:.2f} {t * 0.08:.2f} {t * 0.5:.2f} {t * 0.34:.2f}"
        f"C{t * 0.84:.2f} {t * 0.08:.2f} {t * 1.02:.2f} {t * 0.5:.2f} {t * 0.5:.2f} {t * 0.86:.2f}z"
    )
    return f'<path d="{heart}" {paint}/>'


def _blob(patch: Patch, x: float, y: float) -> str:
    """A closed smooth curve through points at equal angles about the patch's middle."""
    count = len(patch.shape)
    angles = np.arange(count) * 2 * np.pi / count
    radii = patch.radius * np.asarray(patch.shape)
    px, py = x + patch.x + radii * np.cos(angles), y + patch.y + radii * np.sin(angles)
    d = f"M{(px[-1] + px[0]) / 2:.2f} {(py[-1] + py[0]) / 2:.2f}"
    for i in range(count):
        after = (i + 1) % count
        d += f"Q{px[i]:.2f} {py[i]:.2f} {(px[i] + px[after]) / 2:.2f} {(py[i] + py[after]) / 2:.2f}"
    return d + "z"


def _part(part: Part, roles: dict[str, str], look: Look, over: str) -> str:
    """One part: fill, what lies over it (pattern and patches, on main parts), outline."""
    plain = roles.get(part.fill, part.fill)
    out = ""
    if plain != "none":
        out += f'<path d="{part.d}" fill="{look.fill(plain)}"/>' + over
    if part.line:
        if part.ink:
            ink = roles.get(part.ink, part.ink)
            ink = look.line(ink) if ink == DARK or look.shadow == 0.0 else look.fill(ink)
        else:
            ink = look.line(plain if plain != "none" else DARK)
        width = part.line * (look.width if not part.ink else max(look.width, 0.9))
        out += f'<path d="{part.d}" fill="none" stroke="{ink}" stroke-width="{width:.2f}" stroke-linejoin="round" stroke-linecap="round"/>'
    return out


def _thing(made: Concept, figure: Figure, look: Look, key: str) -> str:
    """A concept in its figure frame, its pattern and patches clipped to its main parts."""
    roles = {role: _hex(color.rgb) for role, color in zip((MAIN, SECOND, THIRD), made.colors, strict=True)}
    out = ""
    if made.pattern.kind != "plain":
        t = made.pattern.tile
        out += (
            f'<pattern id="{key}p" width="{t:.2f}" height="{t:.2f}" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate({made.pattern.turn:.1f})">{_tile(made.pattern, look.fill(_hex(made.pattern.color.rgb)))}</pattern>'
        )
    spot = figure.emblem
    patches = "".join(
        f'<path d="{_blob(patch, spot.x, spot.y)}" fill="{look.fill(_hex(patch.color.rgb))}" '
        f'stroke="{look.line(_hex(patch.color.rgb))}" stroke-width="{0.8 * look.width:.2f}"/>'
        for patch in made.patches
    )
    for i, part in enumerate(figure.parts):
        over = ""
        if part.fill == MAIN:
            if made.pattern.kind != "plain":
                over += f'<path d="{part.d}" fill="url(#{key}p)"/>'
            over += (
                f'<clipPath id="{key}c{i}"><path d="{part.d}"/></clipPath><g clip-path="url(#{key}c{i})">{patches}</g>'
            )
        out += _part(part, roles, look, over)
    return out


def _worn_parts(worn: Worn, figure: Figure) -> tuple[Part, ...]:
    """What is worn or held, in the figure's frame."""
    color = _hex(worn.color.rgb)
    contrast = LIGHT if worn.color.luma < 0.6 else "#d8443c"
    t, f, n, h = figure.top, figure.face, figure.neck, figure.hand
    w = min(max(t.width, 18.0), 42.0)
    if worn.name == "hat":
        return (
            Part(rounded(t.x - 0.36 * w, t.y - 0.72 * w, 0.72 * w, 0.74 * w, 2), color),
            Part(
                f"M{t.x - 0.36 * w:.2f} {t.y - 0.24 * w:.2f}h{0.72 * w:.2f}v{0.16 * w:.2f}h{-0.72 * w:.2f}z",
                contrast,
                1.2,
            ),
            Part(rounded(t.x - 0.64 * w, t.y - 0.08 * w, 1.28 * w, 0.18 * w, 2.5), color),
        )
    if worn.name == "crown":
        x, y = t.x - w / 2, t.y + 0.06 * w
        spikes = f"M{x:.2f} {y:.2f}l{-0.06 * w:.2f} {-0.62 * w:.2f}l{0.31 * w:.2f} {0.28 * w:.2f}l{0.25 * w:.2f} {-0.44 * w:.2f}l{0.25 * w:.2f} {0.44 * w:.2f}l{0.31 * w:.2f} {-0.28 * w:.2f}l{-0.06 * w:.2f} {0.62 * w:.2f}z"
        return Part(spikes, color), Part(ellipse(t.x, y - 0.2 * w, 0.09 * w), contrast, 1.0)
    if worn.name == "partyhat":
        return (
            Part(
                polygon((t.x - 0.36 * w, t.y + 0.05 * w), (t.x, t.y - 0.98 * w), (t.x + 0.36 * w, t.y + 0.05 * w)),
                color,
            ),
            Part(
                polygon(
                    (t.x - 0.26 * w, t.y - 0.22 * w),
                    (t.x + 0.16 * w, t.y - 0.52 * w),
                    (t.x + 0.23 * w, t.y - 0.33 * w),
                    (t.x - 0.33 * w, t.y - 0.02 * w),
                ),
                contrast,
                0,
            ),
            Part(ellipse(t.x, t.y - 0.98 * w, 0.15 * w), contrast, 1.4),
        )
    if worn.name == "scarf":
        w = min(max(n.width, 20.0), 54.0)
        return (
            Part(
                f"M{n.x + 0.16 * w:.2f} {n.y:.2f}l{0.22 * w:.2f} {0.62 * w:.2f}l{-0.26 * w:.2f} {0.06 * w:.2f}l{-0.10 * w:.2f} {-0.64 * w:.2f}z",
                color,
            ),
            Part(rounded(n.x - 0.54 * w, n.y - 0.13 * w, 1.08 * w, 0.27 * w, 4), color),
            Part(
                f"M{n.x - 0.2 * w:.2f} {n.y - 0.12 * w:.2f}v{0.24 * w:.2f}M{n.x + 0.02 * w:.2f} {n.y - 0.12 * w:.2f}v{0.24 * w:.2f}",
                "none",
                2.2,
                contrast,
            ),
        )
    if worn.name == "glasses":
        w = min(max(f.width, 22.0), 46.0)
        r = 0.24 * w
        return (
            Part(ellipse(f.x - 0.3 * w, f.y, r), "none", 3.4, color),
            Part(ellipse(f.x + 0.3 * w, f.y, r), "none", 3.4, color),
            Part(
                f"M{f.x - 0.08 * w:.2f} {f.y:.2f}h{0.16 * w:.2f}M{f.x - 0.54 * w:.2f} {f.y:.2f}l{-0.12 * w:.2f} -2M{f.x + 0.54 * w:.2f} {f.y:.2f}l{0.12 * w:.2f} -2",
                "none",
                3.0,
                color,
            ),
        )
    if worn.name == "bowtie":
        w = min(max(0.8 * n.width, 20.0), 34.0)
        return (
            Part(
                f"M{n.x:.2f} {n.y:.2f}L{n.x - 0.5 * w:.2f} {n.y - 0.32 * w:.2f}Q{n.x - 0.42 * w:.2f} {n.y:.2f} {n.x - 0.5 * w:.2f} {n.y + 0.32 * w:.2f}z",
                color,
            ),
            Part(
                f"M{n.x:.2f} {n.y:.2f}L{n.x + 0.5 * w:.2f} {n.y - 0.32 * w:.2f}Q{n.x + 0.42 * w:.2f} {n.y:.2f} {n.x + 0.5 * w:.2f} {n.y + 0.32 * w:.2f}z",
                color,
            ),
            Part(ellipse(n.x, n.y, 0.13 * w), contrast, 1.4),
        )
    x, y = min(h.x, 93.0), h.y
    if worn.name == "balloon":
        return (
            Part(
                f"M{x:.2f} {y:.2f}C{x + 6:.2f} {y - 14:.2f} {x - 2:.2f} {y - 24:.2f} {x + 5:.2f} {y - 36:.2f}",
                "none",
                1.5,
                DARK,
            ),
            Part(ellipse(x + 5, y - 50, 11.5, 14), color),
            Part(ellipse(x + 1.5, y - 55, 2.6, 4), LIGHT, 0),
        )
    return (
        Part(f"M{x:.2f} {y + 6:.2f}L{x + 3:.2f} {y - 48:.2f}", "none", 2.8, DARK),
        Part(f"M{x + 3:.2f} {y - 48:.2f}c9 -5 13 5 24 0l-1 19c-11 5 -15 -5 -24 0z", color),
        Part(ellipse(x + 14, y - 38, 4), contrast, 0),
    )


# ------------------------------------------------------------------------------------------------------------------------ layout
@dataclass(frozen=True)
class Placed:
    """A concept on the page: its affine map from figure units to hundredths of the picture."""

    concept: Concept
    turn: float
    scale: float
    mirror: bool
    x: float
    y: float

    @property
    def transform(self) -> str:
        side = -self.scale if self.mirror else self.scale
        return f"translate({self.x:.2f} {self.y:.2f}) rotate({self.turn:.2f}) scale({side * FRAME:.4f} {self.scale * FRAME:.4f}) translate(-50 -52)"

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the figure lies on the page."""
        dx, dy = (x - 50) * self.scale * FRAME * (-1 if self.mirror else 1), (y - 52) * self.scale * FRAME
        angle = np.deg2rad(self.turn)
        return self.x + dx * np.cos(angle) - dy * np.sin(angle), self.y + dx * np.sin(angle) + dy * np.cos(angle)


def _stood(made: Concept, base: tuple[float, float], scale: float, mirror: bool, turn: float = 0.0) -> Placed:
    """A concept whose foot (50, 96) stands on a point of the page."""
    placed = Placed(made, turn, scale, mirror, 0.0, 0.0)
    foot = placed.at(50, 96)
    return replace(placed, x=base[0] - foot[0], y=base[1] - foot[1])


def _layout(made: Concept, scene: Scene) -> tuple[list[Placed], float | None]:
    """The concept, then the second thing if there is one; and the height below which the concept is hidden in it."""
    pose = scene.pose
    if scene.second is None:
        return [Placed(made, pose.turn, pose.scale, pose.mirror, 50 + pose.x, 59 + pose.y + 5 * (1 - pose.scale))], None
    other, relation = scene.second.concept, scene.second.relation
    size = 0.86 + 0.35 * (pose.scale - 1)
    shift, lift, turn = 0.25 * pose.x, 0.4 * pose.y, 0.4 * pose.turn
    if relation == "beside":
        side = 1 if scene.seed % 2 else -1
        first = _stood(made, (50 - 24 * side + shift * 0.4, 86 + lift), 0.70 * size, pose.mirror, turn)
        return [first, _stood(other, (50 + 24 * side + shift * 0.4, 86 + lift), 0.64, scene.second.mirror)], None
    if relation == "in":
        holder = _stood(other, (50 + shift, 93 + lift * 0.5), 1.0, scene.second.mirror)
        inside = other.figure().inside
        assert inside is not None, "only things with an opening are chosen for 'in'"
        edge = holder.at(inside.x, inside.y)
        scale = float(np.clip(inside.width / 100 * 1.35, 0.44, 0.84)) * (0.9 + 0.15 * (pose.scale - 0.6))
        return [_stood(made, (edge[0], edge[1] + 27 * scale * FRAME), scale, pose.mirror, 0.6 * turn), holder], edge[1]
    below, above = (other, made) if relation == "on" else (made, other)
    ground = _stood(
        below, (50 + shift, 95 + lift * 0.4), 0.70, scene.second.mirror if relation == "on" else pose.mirror
    )
    top = below.figure().top
    x, y = ground.at(top.x, top.y)
    resting = _stood(
        above,
        (0.7 * x + 0.3 * 50, y + 1.5),
        0.61 * size,
        pose.mirror if relation == "on" else scene.second.mirror,
        turn if relation == "on" else 0.0,
    )
    return ([resting, ground] if relation == "on" else [ground, resting]), None


def _order(scene: Scene) -> tuple[int, ...]:
    """Painting order of the placed things: what stands in something is painted after it and cut off by its edge."""
    if scene.second is None:
        return (0,)
    return (0, 1) if scene.second.relation == "under" else (1, 0)


# --------------------------------------------------------------------------------------------------------------------------- truth
@dataclass(frozen=True)
class ObjectTruth:
    """The truth about one thing of a picture.

    Attributes:
        concept: what it is.
        turn, scale, mirror: its pose (degrees; 1 is 66 % of the picture; left and right exchanged).
        center: its figure's middle, in 0..1 of the picture (x, y).
        mask: where it is seen, bool `[64, 64]`; what it wears or holds is not part of it.
    """

    concept: Concept
    turn: float
    scale: float
    mirror: bool
    center: tuple[float, float]
    mask: Pixels

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in 0..1 of the picture; all zero when it is hidden."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return 0.0, 0.0, 0.0, 0.0
        height, width = self.mask.shape
        return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


@dataclass(frozen=True)
class Truth:
    """All that is true of a picture; `objects[0]` is the concept, `objects[1]` the second thing."""

    concept: Concept
    scene: Scene

    @cached_property
    def objects(self) -> tuple[ObjectTruth, ...]:
        """Every thing with its box, mask and pose (drawn on first use)."""
        placed, _ = _layout(self.concept, self.scene)
        masks = _masks(self.concept, self.scene)
        return tuple(
            ObjectTruth(p.concept, p.turn, p.scale, p.mirror, (p.x / 100, p.y / 100), m)
            for p, m in zip(placed, masks, strict=True)
        )


@dataclass(frozen=True)
class Drawing:
    """A picture (uint8 `[S, S, 3]`, sRGB), a caption of it and the truth about it."""

    picture: Pixels
    truth: Truth

    @property
    def caption(self) -> str:
        """One of its many captions, the same for the same concept and scene."""
        scene = self.truth.scene
        return caption(self.truth.concept, scene, np.random.default_rng([scene.style.seed, scene.seed, 3])).text


def _raster(svg: str, size: int) -> Pixels:
    """SVG -> uint8 `[size, size, 3]`."""
    data = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


_SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{}</svg>'
_FLAT = ("#ff0000", "#00ff00")


def _cut(edge: float | None, body: str) -> str:
    """What stands in something is seen only above its edge."""
    if edge is None:
        return body
    return f'<clipPath id="edge"><rect x="-50" y="-100" width="200" height="{100 + edge:.2f}"/></clipPath><g clip-path="url(#edge)">{body}</g>'


def _masks(made: Concept, scene: Scene) -> list[Pixels]:
    """Masks of the placed things, bool `[64, 64]`, with what covers them taken away."""
    placed, edge = _layout(made, scene)
    body = ""
    for i in _order(scene):
        thing = placed[i]
        flat = _FLAT[i]
        parts = "".join(
            f'<path d="{part.d}" fill="{"none" if part.fill == "none" else flat}" stroke="{flat}" stroke-width="{part.line:.2f}" stroke-linejoin="round"/>'
            for part in thing.concept.figure().parts
        )
        if i == 0 and scene.worn is not None:
            parts += "".join(
                f'<path d="{part.d}" fill="{"none" if part.fill == "none" else "#000000"}" stroke="#000000" stroke-width="{part.line:.2f}"/>'
                for part in _worn_parts(scene.worn, thing.concept.figure())
            )
        group = f'<g transform="{thing.transform}">{parts}</g>'
        body += _cut(edge if i == 0 else None, group)
    seen = _raster(_SVG.format('<rect width="100" height="100"/>' + body), 64)
    return [seen[..., i] > 127 for i in range(len(placed))]


@lru_cache(maxsize=512)
def _look(style: Style) -> Look:
    return _LOOKS[style.name](style)


def to_svg(made: Concept, scene: Scene) -> str:
    """The picture as SVG, before the style's finish."""
    look = _look(scene.style)
    painter = PLACES.get(scene.place, studio)
    back = painter(np.random.default_rng([scene.seed, 1]))
    body = re.sub(r"#[0-9a-f]{6}", lambda match: look.back(match.group()), back)
    placed, edge = _layout(made, scene)
    for i in _order(scene):
        thing = placed[i]
        figure = thing.concept.figure()
        inner = _thing(thing.concept, figure, look, "ab"[i])
        if i == 0 and scene.worn is not None:
            inner += "".join(_part(part, {}, look, "") for part in _worn_parts(scene.worn, figure))
        on_ground = (
            scene.second is None
            or scene.second.relation in ("beside", "in")
            or (scene.second.relation == "on") == (i == 1)
        )
        hidden = edge is not None and i == 0
        if look.shadow and on_ground and not hidden and scene.place not in ("underwater", "space"):
            x, y = thing.at(50, 95.5)
            rx = 36 * thing.scale * FRAME
            body += f'<ellipse cx="{x:.2f}" cy="{y:.2f}" rx="{rx:.2f}" ry="{rx * 0.16:.2f}" fill="#000000" opacity="{look.shadow}"/>'
        body += _cut(edge if hidden else None, f'<g transform="{thing.transform}">{inner}</g>')
    return _SVG.format(body)


def draw(made: Concept, scene: Scene, size: int = 64) -> Drawing:
    """Draw a concept in a scene.

    Args:
        made: the concept.
        scene: where, how and in which style.
        size: side of the picture in pixels.

    Returns:
        The picture, a caption and the truth about it; the same for the same arguments on every machine.
    """
    look = _look(scene.style)
    picture = _raster(to_svg(made, scene), look.raster or size).astype(np.float32) / 255
    rng = np.random.default_rng([scene.style.seed, scene.seed, 2])
    picture = np.clip(look.finish(picture, rng), 0, 1)
    if look.raster:
        index = (np.arange(size) * look.raster) // size
        picture = picture[index][:, index]
    return Drawing((picture * 255 + 0.5).astype(np.uint8), Truth(made, scene))
