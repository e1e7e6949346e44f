"""Where a scene happens: twelve places and the plain studio, each painted with a layout of its own every time.

A painter takes a generator and returns SVG in a frame of 100 x 100 units; nothing in it has an outline.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator


def hsv(hue: float, saturation: float, value: float) -> str:
    """A color as `#rrggbb`: hue in degrees, the others in 0..1."""
    rgb = colorsys.hsv_to_rgb((hue / 360) % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return "#" + "".join(f"{round(255 * v):02x}" for v in rgb)


def _box(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" {more}/>'


def _dot(x: float, y: float, r: float, fill: str, more: str = "") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{fill}" {more}/>'


def _oval(x: float, y: float, rx: float, ry: float, fill: str, more: str = "") -> str:
    return f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{rx:.1f}" ry="{ry:.1f}" fill="{fill}" {more}/>'


def _path(d: str, fill: str, more: str = "") -> str:
    return f'<path d="{d}" fill="{fill}" {more}/>'


def _sky(top: str, bottom: str) -> str:
    return (
        f'<linearGradient id="sky" x1="0" y1="0" x2="0" y2="1"><stop offset="0" stop-color="{top}"/>'
        f'<stop offset="1" stop-color="{bottom}"/></linearGradient>{_box(0, 0, 100, 100, "url(#sky)")}'
    )


def _hills(rng: Rng, y: float, swing: float, fill: str) -> str:
    """Rolling ground whose upper edge lies about `y`."""
    a, b, c, d = (y + swing * rng.uniform(-1, 1) for _ in range(4))
    return _path(f"M0 {a:.1f}C30 {b:.1f} 60 {c:.1f} 100 {d:.1f}V100H0z", fill)


def _cloud(x: float, y: float, size: float, fill: str = "#ffffff") -> str:
    return "".join(
        _oval(x + dx * size, y + dy * size, 5.5 * size * s, 3.8 * size * s, fill, 'opacity="0.9"')
        for dx, dy, s in ((-5, 0.6, 0.8), (0, -1.2, 1.1), (5.5, 0.4, 0.85))
    )


def studio(rng: Rng) -> str:
    """A pale backdrop and floor."""
    hue, saturation = rng.uniform(0, 360), rng.uniform(0.02, 0.14)
    floor = rng.uniform(70, 84)
    return _box(0, 0, 100, 100, hsv(hue, saturation, 0.95)) + _box(
        0, floor, 100, 100, hsv(hue, saturation + 0.05, 0.87)
    )


def beach(rng: Rng) -> str:
    """Sky, sun, sea, sand and perhaps a parasol."""
    horizon, sand = rng.uniform(40, 50), rng.uniform(64, 74)
    out = _sky(hsv(204, 0.45, 1.0), hsv(196, 0.16, 1.0))
    out += _dot(rng.uniform(10, 90), rng.uniform(9, 22), rng.uniform(6, 9), hsv(50, 0.55, 1.0))
    out += _box(0, horizon, 100, 60, hsv(203, 0.68, 0.84)) + _box(0, horizon + 6, 100, 2, hsv(198, 0.4, 0.95))
    out += _path(f"M0 {sand:.1f}Q25 {sand - 5:.1f} 50 {sand:.1f}T100 {sand - 1:.1f}V100H0z", hsv(42, 0.4, 0.98))
    x, side = (rng.uniform(8, 20), 1) if rng.uniform() < 0.5 else (rng.uniform(80, 92), -1)
    out += f'<path d="M{x:.1f} {sand + 8:.1f}l{side * 3} -34" stroke="#f4efe2" stroke-width="1.8" fill="none"/>'
    cx, cy = x + side * 3, sand - 26
    out += _path(
        f"M{cx - 13:.1f} {cy + 5:.1f}Q{cx:.1f} {cy - 16:.1f} {cx + 13:.1f} {cy + 5:.1f}z",
        hsv(float(rng.choice([2, 12, 345])), 0.7, 0.93),
    )
    out += _path(f"M{cx - 4:.1f} {cy + 5:.1f}Q{cx:.1f} {cy - 16:.1f} {cx + 4:.1f} {cy + 5:.1f}z", "#fffaf0")
    return out


def forest(rng: Rng) -> str:
    """Fir trees in rows on a dark green floor."""
    out = _sky(hsv(150, 0.22, 0.86), hsv(95, 0.28, 0.93))
    for row, (value, base) in enumerate(((0.58, 62), (0.44, 72))):
        for x in np.arange(rng.uniform(-6, 2), 108, 15 - row * 1.0):
            x, height, half = x + rng.uniform(-3, 3), rng.uniform(34, 52) + row * 8, rng.uniform(7, 9.5)
            fill = hsv(rng.uniform(128, 150), 0.55, value + rng.uniform(-0.04, 0.04))
            out += _box(x - 1.4, base - 8, 2.8, 12, hsv(25, 0.5, 0.34))
            out += _path(f"M{x:.1f} {base - height:.1f}L{x + half:.1f} {base - 4:.1f}H{x - half:.1f}z", fill)
    out += _hills(rng, 72, 2, hsv(105, 0.5, 0.45))
    for _ in range(5):
        out += _oval(rng.uniform(0, 100), rng.uniform(80, 97), 4, 1.5, hsv(100, 0.55, 0.36))
    return out


def snow(rng: Rng) -> str:
    """White mountains, snowfall, white ground."""
    out = _sky(hsv(212, 0.28, 0.93), hsv(208, 0.1, 0.98))
    for x in (rng.uniform(5, 30), rng.uniform(42, 62), rng.uniform(74, 98)):
        top, half = rng.uniform(16, 32), rng.uniform(24, 34)
        out += _path(f"M{x - half:.1f} 76L{x:.1f} {top:.1f}L{x + half:.1f} 76z", hsv(216, 0.28, 0.74))
        out += _path(
            f"M{x - half * 0.3:.1f} {top + 18:.1f}L{x:.1f} {top:.1f}L{x + half * 0.3:.1f} {top + 18:.1f}l-4 -3l-4 4l-4 -4z",
            "#ffffff",
        )
    out += _hills(rng, 70, 3, "#f7fafd")
    for _ in range(22):
        out += _dot(rng.uniform(0, 100), rng.uniform(0, 96), rng.uniform(0.9, 1.5), "#ffffff")
    return out


def city(rng: Rng) -> str:
    """Tower blocks with lit windows above a street."""
    out = _sky(hsv(214, 0.22, 0.86), hsv(30, 0.12, 0.95))
    x = -4.0
    while x < 100:
        width, top = rng.uniform(11, 19), rng.uniform(10, 42)
        out += _box(x, top, width, 70, hsv(rng.uniform(205, 245), rng.uniform(0.14, 0.3), rng.uniform(0.45, 0.66)))
        for wy in np.arange(top + 4, 66, 7):
            for wx in np.arange(x + 2.5, x + width - 3, 4.6):
                out += _box(wx, wy, 2.6, 3.6, hsv(48, 0.5, 1.0) if rng.uniform() < 0.5 else hsv(215, 0.3, 0.38))
        x += width + rng.uniform(0, 2)
    out += _box(0, 70, 100, 30, hsv(230, 0.1, 0.42)) + _box(0, 68, 100, 5, hsv(220, 0.06, 0.72))
    for x in np.arange(rng.uniform(-10, 0), 100, 22):
        out += _box(x, 88, 12, 2.4, hsv(48, 0.3, 0.96))
    return out


def desert(rng: Rng) -> str:
    """Dunes under a hot sky, with rocks."""
    out = _sky(hsv(38, 0.28, 0.99), hsv(30, 0.44, 0.98))
    out += _dot(rng.uniform(12, 88), rng.uniform(10, 22), 8, hsv(36, 0.05, 1.0))
    x = rng.uniform(12, 80)
    out += _path(f"M{x - 15:.1f} 64l5 -22h16l5 22z", hsv(16, 0.55, 0.72)) + _box(x - 10, 42, 16, 3, hsv(16, 0.5, 0.8))
    out += _hills(rng, 58, 6, hsv(30, 0.52, 0.88)) + _hills(rng, 70, 5, hsv(34, 0.5, 0.95))
    out += _hills(rng, 86, 4, hsv(36, 0.44, 0.99))
    return out


def underwater(rng: Rng) -> str:
    """Deep blue water, weeds and bubbles over a sandy bottom."""
    out = _sky(hsv(196, 0.68, 0.84), hsv(212, 0.84, 0.55))
    for x in rng.uniform(0, 100, 3):
        out += _path(f"M{x:.1f} 0l9 0l-16 78h-14z", "#ffffff", 'opacity="0.10"')
    out += _hills(rng, 82, 3, hsv(44, 0.34, 0.8))
    for x in (rng.uniform(3, 13), rng.uniform(16, 25), rng.uniform(78, 86), rng.uniform(89, 97)):
        height, sway = rng.uniform(26, 48), rng.uniform(3, 6)
        d = f"M{x:.1f} 88c{-sway:.1f} {-height / 3:.1f} {sway:.1f} {-height * 2 / 3:.1f} 0 {-height:.1f}"
        out += f'<path d="{d}" stroke="{hsv(rng.uniform(120, 160), 0.7, 0.55)}" stroke-width="3.6" fill="none" stroke-linecap="round"/>'
    for _ in range(9):
        x, y, r = rng.uniform(4, 96), rng.uniform(4, 72), rng.uniform(1.2, 2.6)
        out += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="#ffffff" fill-opacity="0.25" stroke="#dff4ff" stroke-width="0.8"/>'
    return out


def space(rng: Rng) -> str:
    """Stars, a ringed planet and cratered ground."""
    out = _sky(hsv(250, 0.7, 0.16), hsv(266, 0.6, 0.3))
    for _ in range(32):
        out += _dot(rng.uniform(0, 100), rng.uniform(0, 76), rng.uniform(0.5, 1.2), "#fffbe6")
    x, y, r, hue = (
        rng.choice([rng.uniform(12, 28), rng.uniform(72, 88)]),
        rng.uniform(14, 26),
        rng.uniform(7, 11),
        rng.uniform(0, 60),
    )
    out += _dot(x, y, r, hsv(hue, 0.55, 0.9))
    out += f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{r * 1.7:.1f}" ry="{r * 0.45:.1f}" fill="none" stroke="{hsv(hue + 20, 0.3, 0.97)}" stroke-width="1.8" transform="rotate(-18 {x:.1f} {y:.1f})"/>'
    out += _hills(rng, 80, 2, hsv(258, 0.12, 0.6))
    for _ in range(5):
        out += _oval(rng.uniform(4, 96), rng.uniform(86, 97), rng.uniform(3, 6), 1.7, hsv(258, 0.16, 0.48))
    return out


def kitchen(rng: Rng) -> str:
    """Tiled wall, shelf and a wooden table."""
    wall = float(rng.choice([28, 46, 170, 200]))
    out = _box(0, 0, 100, 100, hsv(wall, 0.12, 0.97))
    for x in np.arange(rng.uniform(0, 12), 100, 12.5):
        out += _box(x, 0, 0.9, 72, hsv(wall, 0.2, 0.86))
    for y in np.arange(rng.uniform(2, 12), 70, 12.5):
        out += _box(0, y, 100, 0.9, hsv(wall, 0.2, 0.86))
    side = rng.choice([0.0, 62.0])
    y = rng.uniform(20, 26)
    for x in np.arange(side + 5, side + 36, 9):
        out += _box(x, y - 9, 6, 9, hsv(rng.uniform(0, 360), 0.5, 0.8), 'rx="1.2"')
    out += _box(side, y, 40, 3, hsv(26, 0.6, 0.5))
    top = rng.uniform(69, 76)
    out += _box(0, top, 100, 40, hsv(27, 0.55, 0.68)) + _box(0, top, 100, 3.4, hsv(29, 0.48, 0.82))
    for y in (top + 11, top + 19):
        out += _box(0, y, 100, 0.8, hsv(26, 0.6, 0.58))
    return out


def meadow(rng: Rng) -> str:
    """Green hills, clouds and flowers."""
    out = _sky(hsv(202, 0.4, 0.99), hsv(190, 0.12, 1.0))
    out += _cloud(rng.uniform(10, 40), rng.uniform(10, 24), rng.uniform(0.9, 1.3)) + _cloud(
        rng.uniform(58, 90), rng.uniform(8, 28), 1.0
    )
    out += _hills(rng, 56, 6, hsv(112, 0.4, 0.74)) + _hills(rng, 68, 4, hsv(100, 0.5, 0.8))
    for _ in range(14):
        x, y = rng.uniform(2, 98), rng.uniform(72, 98)
        out += _dot(x, y, 1.5, hsv(float(rng.choice([0, 50, 300, 330])), 0.55, 0.98)) + _dot(x, y, 0.6, "#fff3b0")
    return out


def sunset(rng: Rng) -> str:
    """A low sun on orange and purple."""
    out = _sky(hsv(282, 0.42, 0.58), hsv(22, 0.72, 1.0))
    horizon = rng.uniform(62, 68)
    out += _dot(rng.uniform(20, 80), horizon - 4, rng.uniform(11, 15), hsv(46, 0.5, 1.0))
    for _ in range(3):
        out += _oval(
            rng.uniform(5, 95), rng.uniform(12, 40), rng.uniform(12, 20), 1.8, hsv(340, 0.4, 0.95), 'opacity="0.8"'
        )
    return out + _hills(rng, horizon, 1.5, hsv(300, 0.42, 0.38)) + _hills(rng, horizon + 16, 3, hsv(290, 0.46, 0.27))


def night(rng: Rng) -> str:
    """A moon over dark hills with a lit cottage far away."""
    out = _sky(hsv(222, 0.72, 0.22), hsv(214, 0.55, 0.46))
    x = rng.uniform(14, 86)
    out += _dot(x, 18, 9, hsv(54, 0.25, 1.0)) + _dot(x + 4.5, 15.5, 7.8, hsv(222, 0.68, 0.26))
    for _ in range(16):
        out += _dot(rng.uniform(0, 100), rng.uniform(0, 50), 0.8, "#fffbe6")
    out += _hills(rng, 60, 5, hsv(200, 0.5, 0.28))
    x = rng.choice([rng.uniform(6, 20), rng.uniform(78, 90)])
    out += (
        _box(x, 55, 11, 9, hsv(220, 0.5, 0.18))
        + _path(f"M{x - 2:.1f} 55l7.5 -7l7.5 7z", hsv(220, 0.5, 0.14))
        + _box(x + 4, 58, 3, 3, hsv(46, 0.6, 1.0))
    )
    return out + _hills(rng, 72, 3, hsv(160, 0.48, 0.24))


def bedroom(rng: Rng) -> str:
    """Wallpaper, a window and a rug."""
    hue = float(rng.choice([265, 330, 210]))
    out = _box(0, 0, 100, 100, hsv(hue, 0.16, 0.94))
    for x in np.arange(rng.uniform(0, 9), 100, 10):
        out += _box(x, 0, 4, 72, hsv(hue, 0.22, 0.88))
    x = rng.choice([8.0, 62.0]) + rng.uniform(-3, 3)
    out += _box(x, 10, 30, 32, "#ffffff") + _box(x + 2.5, 12.5, 25, 27, hsv(205, 0.35, 0.98))
    out += _box(x + 14, 12, 2, 28, "#ffffff") + _box(x + 2, 25, 26, 2, "#ffffff")
    out += _path(f"M{x - 3:.1f} 7h12c0 14 -5 22 -12 34z M{x + 33:.1f} 7h-12c0 14 5 22 12 34z", hsv(hue + 40, 0.5, 0.82))
    out += _box(0, 72, 100, 28, hsv(28, 0.42, 0.7)) + _box(0, 70, 100, 3, "#ffffff")
    return out + _oval(50, 89, 40, 7.5, hsv(hue + 160, 0.4, 0.78)) + _oval(50, 89, 33, 5.5, hsv(hue + 160, 0.28, 0.9))


PLACES: dict[str, Callable[[Rng], str]] = {
    painter.__name__: painter
    for painter in (beach, forest, snow, city, desert, underwater, space, kitchen, meadow, sunset, night, bedroom)
}
"""The twelve places; `studio` is what a picture shows when no place is asked."""

CORE_PLACES = ("beach", "forest", "snow", "city", "underwater", "space", "kitchen", "sunset")
"""The eight places of the small world."""
