"""Bags and clothes, and food: things that lie in a shop window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import cos, radians, sin

from namesake.picturebook.figures.parts import (
    DARK,
    LIGHT,
    SECOND,
    THIRD,
    Category,
    Figure,
    Part,
    Proportions,
    Spot,
    ellipse,
    lerp,
    polygon,
    rounded,
)

Point = tuple[float, float]

FLOOR = 94.9
"""Where a filled shape ends, so that its outline of 2.2 stands on y = 96."""


def both(cx: float, start: Point, *steps: tuple[Point, ...]) -> str:
    """A closed shape that is the same on both sides of x = `cx`.

    `start` and the steps run down the right side as (distance from `cx`, y): one point is a line, three are a cubic.
    """
    ends = [start, *(step[-1] for step in steps)]
    d = f"M{cx + start[0]:.2f} {start[1]:.2f}"
    for step in steps:
        d += ("L" if len(step) == 1 else "C") + " ".join(f"{cx + x:.2f} {y:.2f}" for x, y in step)
    d += f"L{cx - ends[-1][0]:.2f} {ends[-1][1]:.2f}"
    for step, end in zip(reversed(steps), reversed(ends[:-1]), strict=True):
        back = [*reversed(step[:-1]), end]
        d += ("L" if len(back) == 1 else "C") + " ".join(f"{cx - x:.2f} {y:.2f}" for x, y in back)
    return d + "z"


def band(d: str, width: float, ink: str) -> tuple[Part, Part]:
    """An open path as a colored strap with a dark outline on both sides."""
    return Part(d, "none", width + 3.6), Part(d, "none", width, ink)


def scallops(x0: float, x1: float, y: float, depths: tuple[float, ...]) -> str:
    """Round drips from (x0, y), where the path already is, to (x1, y): one for each depth in units."""
    step = (x1 - x0) / len(depths)
    d = ""
    for i, depth in enumerate(depths):
        a, b, low = x0 + i * step, x0 + (i + 1) * step, y + depth / 0.75
        d += f"C{a:.2f} {low:.2f} {b:.2f} {low:.2f} {b:.2f} {y:.2f}"
    return d


def blade(base: Point, tip: Point, width: float, bend: float = 0.0) -> str:
    """A pointed leaf from the middle of its foot to its tip; `bend` pushes its belly to the right of that line."""
    (bx, by), (tx, ty) = base, tip
    dx, dy = tx - bx, ty - by
    length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
    nx, ny = -dy / length, dx / length

    def at(along: float, side: float) -> str:
        return f"{bx + dx * along + nx * side:.2f} {by + dy * along + ny * side:.2f}"

    w = width / 2
    return (
        f"M{at(0, -w * 0.6)}C{at(0.25, bend - w * 1.35)} {at(0.7, bend - w)} {at(1, 0)}"
        f"C{at(0.7, bend + w)} {at(0.25, bend + w * 1.35)} {at(0, w * 0.6)}z"
    )


def split(curve: tuple[Point, Point, Point, Point], t: float) -> tuple[list[Point], list[Point]]:
    """A cubic cut at `t` into two cubics (de Casteljau)."""
    rows: list[list[Point]] = [list(curve)]
    while len(rows[-1]) > 1:
        row = rows[-1]
        rows.append([(lerp(a[0], b[0], t), lerp(a[1], b[1], t)) for a, b in pairwise(row)])
    return [row[0] for row in rows], [row[-1] for row in reversed(rows)]


def backpack(p: Proportions) -> Figure:
    """p: width of the bag, front pocket, depth of the lid, side pockets."""
    w = lerp(22, 33, p[0])
    pocket_w, pocket_h = lerp(10, w * 0.9, p[1]), lerp(12, 22, p[1])
    lid, lid_w = lerp(18, 31, p[2]), lerp(w * 0.9, w + 1.2, p[2])
    side_w, side_h = lerp(2, 11.5, p[3]), lerp(13, 46, p[3])
    pocket_top = 90 - pocket_h
    body = both(
        50,
        (0, 12),
        ((w * 0.75, 12), (w * 0.95, 20), (w, 40)),
        ((w + 2, 60), (w + 2, 72), (w + 1, 86)),
        ((w + 1, 93), (w - 3, FLOOR), (w - 9, FLOOR)),
    )
    cover = both(
        50,
        (0, 12),
        ((w * 0.7, 12), (lid_w, 12.5), (lid_w, lid - 2)),
        ((lid_w, lid + 3), (w * 0.5, lid + 5), (0, lid + 5)),
    )
    parts: list[Part] = [*band("M41 15C39 3 61 3 59 15", 4, THIRD)]
    for s in (-1, 1):
        parts += band(
            f"M{50 + s * w * 0.7:.2f} 22C{50 + s * (w + 7):.2f} 24 {50 + s * (w + 8):.2f} 44 {50 + s * (w + 1):.2f} 56",
            4.4, SECOND,
        )  # fmt: skip
        x = 50 + s * (w - 1) - (side_w + 4 if s < 0 else 0)
        parts.append(Part(rounded(x, 89 - side_h, side_w + 4, side_h, 6), THIRD))
    parts += [
        Part(body),
        Part(cover, SECOND),
        Part(rounded(50 - pocket_w, pocket_top, 2 * pocket_w, pocket_h, 8), THIRD),
        Part(f"M{50 - pocket_w + 6:.2f} {pocket_top + 6:.2f}H{50 + pocket_w - 6:.2f}", "none", 1.8),
        Part(rounded(46.4, lid - 2.5, 7.2, 10, 3), LIGHT, 1.8),
    ]
    low, high = lid + 6, pocket_top - 1
    return Figure(
        tuple(parts),
        top=Spot(50, 9, 34),
        face=Spot(50, 30, 1.5 * w),
        neck=Spot(50, lid + 4, 2 * w),
        hand=Spot(50 + w + 4, 56, 30),
        emblem=Spot(50, (low + high) / 2, min(high - low, 2 * w - 6)),
    )


def boot(p: Proportions) -> Figure:
    """p: height of the shaft, its width, length of the toe, thickness of the sole."""
    top, shaft = lerp(31, 10, p[0]), lerp(34, 46, p[1])
    length = shaft + lerp(21, 40, p[2])
    sole = lerp(6, 15.5, p[3])
    left = 50 - length / 2
    right, toe, base = left + shaft, left + length, FLOOR - sole
    cuff = top + 12
    bend = base - 27
    body = (
        f"M{left:.2f} {top:.2f}C{left + 1:.2f} {bend:.2f} {left + 3:.2f} {bend:.2f} {left + 1:.2f} {base:.2f}"
        f"H{toe - 2:.2f}C{toe + 1:.2f} {base - 16:.2f} {toe - 6:.2f} {base - 23:.2f} {toe - 15:.2f} {base - 25:.2f}"
        f"C{right + 3:.2f} {base - 29:.2f} {right - 2:.2f} {base - 33:.2f} {right:.2f} {top:.2f}z"
    )
    cap_x = max(toe - 19, right + 1)
    cap = (
        f"M{cap_x - 3:.2f} {base:.2f}C{cap_x - 2:.2f} {base - 10:.2f} {cap_x:.2f} {base - 18:.2f} "
        f"{toe - 12:.2f} {base - 23.8:.2f}C{toe - 4:.2f} {base - 21:.2f} {toe + 1:.2f} {base - 14:.2f} "
        f"{toe - 2:.2f} {base:.2f}z"
    )
    notch = min(sole * 0.5, 6.0)
    heel = left + shaft * 0.62
    under = (
        f"M{left - 1:.2f} {base:.2f}H{toe:.2f}C{toe + 4:.2f} {base + sole * 0.4:.2f} {toe + 2:.2f} {FLOOR:.2f} "
        f"{toe - 4:.2f} {FLOOR:.2f}H{heel + 12:.2f}L{heel + 7:.2f} {FLOOR - notch:.2f}H{heel:.2f}V{FLOOR:.2f}"
        f"H{left + 1:.2f}C{left - 2:.2f} {FLOOR:.2f} {left - 2:.2f} {base + 2:.2f} {left - 1:.2f} {base:.2f}z"
    )
    x0, x1 = left - 3, right + 3
    mid = (x0 + x1) / 2
    roll = (
        f"M{x0:.2f} {top:.2f}Q{mid:.2f} {top + 7:.2f} {x1:.2f} {top:.2f}C{x1 + 1.5:.2f} {top + 4:.2f} "
        f"{x1 + 1:.2f} {cuff - 3:.2f} {x1 - 1:.2f} {cuff:.2f}Q{mid:.2f} {cuff + 7:.2f} {x0 + 1:.2f} {cuff:.2f}"
        f"C{x0 - 1:.2f} {cuff - 3:.2f} {x0 - 1.5:.2f} {top + 4:.2f} {x0:.2f} {top:.2f}z"
    )
    low, high = cuff + 4, base - 1
    side = min(high - low, shaft - 3)
    return Figure(
        (
            Part(body),
            Part(cap, SECOND),
            Part(under, THIRD),
            Part(ellipse(mid, top + 0.6, (x1 - x0) / 2, 4.2), DARK),
            Part(roll, SECOND),
        ),
        top=Spot(mid, top + 2, shaft),
        face=Spot(mid, cuff + 8, shaft * 0.85),
        neck=Spot(mid, cuff + 3, shaft + 2),
        hand=Spot(right + 4, cuff + 10, 30),
        emblem=Spot(left + shaft / 2 + 0.5, max(low + side / 2, min((low + high) / 2, low + 22)), side),
        inside=Spot(mid, top + 3, shaft),
    )


def shirt(p: Proportions) -> Figure:
    """p: width of the body, length of the sleeves, length of the body, flare of sleeves and hem."""
    w, top, flare = lerp(19, 28, p[0]), lerp(36, 20, p[2]), lerp(-3.5, 9, p[3])
    angle, length, cuff = radians(lerp(16, 57, p[1])), lerp(17, 37, p[1]), lerp(10, 28, p[3])
    along, across = (cos(angle), sin(angle)), (-sin(angle), cos(angle))
    neck = 12.0
    parts: list[Part] = []
    for s in (-1, 1):

        def at(a: float, c: float, s: int = s) -> Point:
            x, y = w - 3 + a * along[0] + c * across[0], top + 6 + a * along[1] + c * across[1]
            return 50 + s * x, y

        (sx, sy), (ax, ay), (bx, by) = at(0, 0), at(length, 0), at(length, cuff)
        parts.append(
            Part(
                f"M{50 + s * neck:.2f} {top:.2f}Q{sx:.2f} {sy - 3:.2f} {ax:.2f} {ay:.2f}L{bx:.2f} {by:.2f}"
                f"L{50 + s * (w - 3):.2f} {top + 14 + cuff:.2f}z",
                SECOND,
            )
        )
        ends = (at(length - 5, -0.6), at(length, -0.6), at(length, cuff + 1), at(length - 5, cuff + 1))
        parts.append(Part(polygon(*ends), THIRD))
    hem = w + 0.5 + flare
    line = FLOOR - 8
    body = both(
        50, (neck, top), ((w - 4, top + 3), (w - 1, top + 8), (w - 1, top + 26)),
        ((w, 72), (hem - 2, line - 8), (hem, FLOOR)),
    )  # fmt: skip
    collar = (
        f"M{50 - neck - 2:.2f} {top:.2f}Q50 {top + 27:.2f} {52 + neck:.2f} {top:.2f}L{46.5 + neck:.2f} {top - 2:.2f}"
        f"Q50 {top + 15:.2f} {53.5 - neck:.2f} {top - 2:.2f}z"
    )
    nape = (
        f"M{53.5 - neck:.2f} {top - 2:.2f}Q50 {top - 5:.2f} {46.5 + neck:.2f} {top - 2:.2f}"
        f"Q50 {top + 15:.2f} {53.5 - neck:.2f} {top - 2:.2f}z"
    )
    parts += [
        Part(body),
        Part(both(50, (hem - 0.8, line), ((hem + 0.8, FLOOR),)), THIRD),
        Part(nape, DARK),
        Part(collar, THIRD),
    ]
    low, high = top + 14.5, line - 1
    side = min(2 * w - 5, high - low)
    return Figure(
        tuple(parts),
        top=Spot(50, top - 2, 26),
        face=Spot(50, top + 24, 1.6 * w),
        neck=Spot(50, top + 7, 28),
        hand=Spot(50 + w + length * along[0] - 4, top + 8 + length * along[1], 30),
        emblem=Spot(50, low + side / 2 + min(3, (high - low - side) / 2), side),
    )


def handbag(p: Proportions) -> Figure:
    """p: width of the bottom, height of the handle, width of the opening, height of the bag."""
    low_w, top_w = lerp(31, 45, p[0]), lerp(22, 40, p[2])
    top = FLOOR - lerp(53, 64, p[3])
    rise = lerp(9.5, 26, p[1])
    arm = top_w * lerp(0.44, 0.84, p[1])

    def width(y: float) -> float:
        return lerp(top_w, low_w, (y - top) / (FLOOR - top))

    base = FLOOR - 9
    body = both(
        50, (top_w - 4, top), ((top_w, top), (top_w, top), (top_w, top + 5)),
        ((width(top + 18), top + 18), (low_w + 2, base - 8), (low_w, base + 4)),
        ((low_w, FLOOR), (low_w - 4, FLOOR), (low_w - 7, FLOOR)),
    )  # fmt: skip
    foot = both(
        50, (low_w + 0.4, base), ((low_w + 1, base + 6), (low_w - 2, FLOOR), (low_w - 8, FLOOR)),
    )  # fmt: skip
    flap = both(
        50, (top_w - 3, top - 2), ((top_w + 2, top - 2), (top_w + 2, top + 4), (top_w - 1, top + 6)),
        ((top_w * 0.6, top + 11), (top_w * 0.3, top + 12), (0, top + 12)),
    )  # fmt: skip
    peak = top - rise / 0.75
    left, right = 50 - arm, 50 + arm
    handle = f"M{left:.2f} {top + 2:.2f}C{left:.2f} {peak:.2f} {right:.2f} {peak:.2f} {right:.2f} {top + 2:.2f}"
    side = min(base - top - 14, 2 * width(top + 20) - 6)
    return Figure(
        (
            *band(handle, 5, THIRD),
            Part(body),
            Part(foot, THIRD),
            Part(flap, SECOND),
            Part(ellipse(50, top + 9.5, 4.6), LIGHT),
            Part(ellipse(50, top + 9.5, 1.5), DARK, 0),
        ),
        top=Spot(50, top - rise, 30),
        face=Spot(50, top + 26, top_w * 1.3),
        neck=Spot(50, top - 1, 2 * top_w),
        hand=Spot(50 + width(top + 24), top + 24, 30),
        emblem=Spot(50, (top + 14 + base) / 2, side),
    )


def dress(p: Proportions) -> Figure:
    """p: flare of the skirt, height of the waist, puff of the sleeves, depth of the hem."""
    hem, waist, puff, fringe = lerp(25, 43, p[0]), lerp(31, 43, p[1]), lerp(6, 14, p[2]), lerp(5, 15, p[3])
    belly = lerp(20, 27, p[0])
    edge = FLOOR - 2
    line = edge - fringe
    skirt = both(50, (12, waist), ((belly, waist + 5), (hem - 2, line - 24), (hem - fringe * 0.16, line)))
    frill = (
        f"M{50 - hem + fringe * 0.16:.2f} {line:.2f}Q50 {line + 4:.2f} {50 + hem - fringe * 0.16:.2f} {line:.2f}"
        f"L{50 + hem + 1:.2f} {edge:.2f}{scallops(50 + hem + 1, 49 - hem, edge, (2,) * 7)}z"
    )
    bodice = (
        f"M37 10C40 25 60 25 63 10L68 12C67 22 64 {waist - 10:.2f} 63 {waist + 1:.2f}"
        f"H37C36 {waist - 10:.2f} 33 22 32 12z"
    )
    parts = [Part(ellipse(50 + s * (17 + puff * 0.55), 13 + puff * 0.75, puff + 1.5, puff), THIRD) for s in (-1, 1)]
    parts += [
        Part(skirt),
        Part(f"M{50 - hem * 0.42:.2f} {line - 16:.2f}L{50 - hem * 0.47:.2f} {line - 1:.2f}", "none", 1.4),
        Part(f"M{50 + hem * 0.42:.2f} {line - 16:.2f}L{50 + hem * 0.47:.2f} {line - 1:.2f}", "none", 1.4),
        Part(frill, THIRD),
        Part(bodice, SECOND),
        Part(rounded(35.5, waist - 3, 29, 6.5, 3), THIRD),
    ]
    low, high = waist + 5, line
    side = min(high - low, 2 * belly - 6)
    return Figure(
        tuple(parts),
        top=Spot(50, 13, 30),
        face=Spot(50, 26, 24),
        neck=Spot(50, 14, 24),
        hand=Spot(64 + puff, 15 + 2 * puff, 30),
        emblem=Spot(50, (low + high) / 2, side),
    )


def cake(p: Proportions) -> Figure:
    """p: width, size of the upper tier, thickness of the icing, height of the stand."""
    w, stand, drip, heap = lerp(25, 38, p[0]), lerp(4, 11, p[3]), lerp(1.5, 10, p[2]), lerp(3, 7, p[2])
    upper_w, upper_h = w * lerp(0.42, 0.82, p[1]), lerp(8, 14, p[1])
    bottom = FLOOR - stand
    top = bottom - 46
    crown = top - upper_h

    def tier(half: float, y0: float, y1: float) -> str:
        return f"M{50 - half:.2f} {y0:.2f}V{y1:.2f}Q50 {y1 + 4:.2f} {50 + half:.2f} {y1:.2f}V{y0:.2f}z"

    def icing(half: float, y: float, depths: tuple[float, ...]) -> str:
        h = half + 1.5
        return (
            f"M{50 - h:.2f} {y:.2f}C{50 - h:.2f} {y - heap:.2f} {50 + h:.2f} {y - heap:.2f} {50 + h:.2f} {y:.2f}v3"
            f"{scallops(50 + h, 50 - h, y + 3, depths)}z"
        )

    long, short = drip, drip * 0.6
    wick = crown - heap * 0.7 - 9
    return Figure(
        (
            Part(both(50, (7, bottom), ((8, bottom + stand * 0.7), (14, FLOOR - 1), (24, FLOOR))), THIRD),
            Part(rounded(50 - w - 7, bottom - 2, 2 * w + 14, min(6.8, stand + 2), 3.4), THIRD),
            Part(tier(w, top, bottom - 2)),
            Part(icing(w, top, (short, long, short, long, short * 0.9, long)), SECOND),
            Part(tier(upper_w, crown, top - 1)),
            Part(rounded(46.4, wick, 7.2, 17, 1.5), THIRD),
            Part(icing(upper_w, crown, tuple(min(depth, upper_h - 6) for depth in (short, long, short, long))), SECOND),
            Part(f"M50 {wick - 8.5:.2f}C57 {wick - 2:.2f} 54 {wick + 1:.2f} 50 {wick + 1:.2f}"
                 f"C46 {wick + 1:.2f} 43 {wick - 2:.2f} 50 {wick - 8.5:.2f}z", "#ffb02e", 1.6),
        ),
        top=Spot(50, crown - 3, 2 * upper_w),
        face=Spot(50, top + 18, 1.5 * w),
        neck=Spot(50, top - 1, 2 * w),
        hand=Spot(50 + w + 3, top + 18, 30),
        emblem=Spot(50, (top + 3 + drip + bottom - 2) / 2, min(bottom - top - drip - 5, 2 * w - 6)),
    )  # fmt: skip


def apple(p: Proportions) -> Figure:
    """p: width, where it is widest, size of the leaves, size of the bite (and of the worm in it)."""
    w, waist = lerp(27, 40, p[0]), lerp(45, 66, p[1])
    foot, bite = lerp(7, w * 0.52, p[1]), p[3] * lerp(0.65, 1, p[0])
    cx = 46.0
    dip = 37.0
    upper = ((cx, dip), (cx + 8, dip - 13), (cx + w, lerp(20, 27, p[1])), (cx + w, waist))
    lower = ((cx + w, waist), (cx + w, lerp(70, 88, p[1])), (cx + foot + 10, FLOOR), (cx + foot, FLOOR))
    first, _ = split(upper, lerp(0.92, 0.66, bite))
    _, last = split(lower, lerp(0.08, 0.35, bite))
    (ax, ay), (bx, by) = first[-1], last[0]
    size = by - ay
    deep = size * 0.3

    teeth = "".join(
        f"A{size * 0.25:.2f} {size * 0.25:.2f} 0 0 0 {lerp(ax, bx, t) - sink:.2f} {lerp(ay, by, t):.2f}"
        for t, sink in ((0.3, deep), (0.7, deep), (1.0, 0.0))
    )

    def cubic(points: Sequence[Point]) -> str:
        return "C" + " ".join(f"{x:.2f} {y:.2f}" for x, y in points[1:])

    def back(curve: Sequence[Point]) -> str:
        return cubic([(2 * cx - x, y) for x, y in reversed(curve)])

    body = (
        f"M{cx:.2f} {dip:.2f}{cubic(first)}{teeth}{cubic(last)}"
        f"Q{cx:.2f} {FLOOR - 5:.2f} {cx - foot:.2f} {FLOOR:.2f}{back(lower)}{back(upper)}z"
    )
    mx, my = (ax + bx) / 2 - deep - size * 0.1, (ay + by) / 2
    hx, hy = min(ax + lerp(1, 8, p[3]), 86.5), my - size * 0.16
    worm = f"M{mx - 1:.2f} {my + 3:.2f}Q{mx + deep * 0.7:.2f} {my + size * 0.35:.2f} {hx:.2f} {hy:.2f}"
    thick = lerp(9, 13, p[3])
    head = lerp(9.8, 11, p[3])
    leaf = lerp(25, 46, p[2])
    twin = lerp(9, 34, p[2])
    return Figure(
        (
            *band(f"M{cx:.2f} {dip + 2:.2f}C{cx:.2f} {dip - 10:.2f} {cx - 2:.2f} 20 {cx - 6:.2f} 15", 2.4, "#7a4b2a"),
            Part(body),
            Part(blade((cx - 1, dip - 6), (cx - twin, dip - 9 - twin * 0.36), twin * 0.52, -twin * 0.1), SECOND),
            Part(blade((cx + 1, dip - 6), (cx + leaf * 0.95, dip - 8 - leaf * 0.45), leaf * 0.56, leaf * 0.08), SECOND),
            Part(f"M{cx + 4:.2f} {dip - 9:.2f}L{cx + leaf * 0.6:.2f} {dip - 8 - leaf * 0.3:.2f}", "none", 1.2),
            *band(worm, thick, THIRD),
            Part(ellipse(hx, hy, head), THIRD),
            Part(ellipse(hx + 2, hy - 2, 4), LIGHT, 0),
            Part(ellipse(hx + 2.8, hy - 2, 2.4), DARK, 0),
            Part(ellipse(cx - w * 0.62, 46, 3, 5.4), LIGHT, 0),
        ),
        top=Spot(cx, 33, 1.2 * w),
        face=Spot(cx - 3, 54, 1.4 * w),
        neck=Spot(cx, 88, 1.2 * w),
        hand=Spot(cx + w - 6, 80, 30),
        emblem=Spot(cx - lerp(3, 7, p[0]), 65, min(34, 2 * w - 24)),
    )


def icecream(p: Proportions) -> Figure:
    """p: size of the big scoop, length of the cone, size of the upper scoop, from a pointed cone to a wide cup."""
    cone, rim, tip = lerp(25, 34, p[1]), lerp(12, 26, p[3]), lerp(2, 15.5, p[3])
    w, ball, half = max(lerp(23, 32, p[0]), rim + 2), lerp(7.5, 23, p[2]), lerp(14, 27, p[2])
    half = min(half, w - 0.5)
    edge = FLOOR - cone
    foot = edge - 2
    crest = foot - lerp(30, 34, p[0])
    top = crest - ball
    peak = top - (ball + 6) / 3  # a cubic rises to three quarters of its controls
    wafer = both(
        50, (rim, edge - 6), ((tip, FLOOR - 4),), ((tip - 0.8, FLOOR - 1), (tip - 1.5, FLOOR), (tip - 2, FLOOR))
    )
    left, right = 48 - w, 52 + w
    scoop = (
        f"M{left:.2f} {foot:.2f}"
        f"C{left - 4:.2f} {foot - 5:.2f} {left + 2:.2f} {foot - 6:.2f} {left + 2:.2f} {foot - 10:.2f}"
        f"C{50 - w:.2f} {crest + 4:.2f} {50 - w * 0.62:.2f} {crest:.2f} 50 {crest:.2f}"
        f"C{50 + w * 0.62:.2f} {crest:.2f} {50 + w:.2f} {crest + 4:.2f} {right - 2:.2f} {foot - 10:.2f}"
        f"C{right - 2:.2f} {foot - 6:.2f} {right + 4:.2f} {foot - 5:.2f} {right:.2f} {foot:.2f}"
        f"{scallops(right, left, foot, (3, 5.5, 3.5, 6, 3))}z"
    )
    net = ""
    for t in (0.32, 0.68):
        x, y = lerp(-rim, rim, t), FLOOR - cone * lerp(0.16, 0.5, t)
        reach = rim - (rim - tip) * (y - edge) / cone - 1.5
        net += "".join(f"M{50 + s * x:.2f} {edge:.2f}L{50 + s * reach:.2f} {y:.2f}" for s in (-1, 1))
    return Figure(
        (
            Part(wafer, SECOND),
            Part(net, "none", 1.1),
            Part(
                f"M{49 - half:.2f} {crest + 6:.2f}C{47 - half:.2f} {peak:.2f} {53 + half:.2f} {peak:.2f} "
                f"{51 + half:.2f} {crest + 6:.2f}z",
                THIRD,
            ),
            Part(scoop),
        ),
        top=Spot(50, top + ball * 0.2, 2 * half),
        face=Spot(50, crest + 12, 1.4 * w),
        neck=Spot(50, edge + 3, 2 * rim),
        hand=Spot(50 + w, foot - 8, 30),
        emblem=Spot(50, crest + 17, 30),
    )


def burger(p: Proportions) -> Figure:
    """p: height of the upper bun, thickness of the patty, lettuce, width."""
    dome, patty, lettuce, w = lerp(36, 47, p[0]), lerp(8, 18, p[1]), lerp(4, 13, p[2]), lerp(31, 42, p[3])
    low = FLOOR - 14
    meat = low - patty
    bun = meat - lerp(3, 8, p[2])
    ruffle = w + lerp(1, 4.5, p[2])
    top = bun - dome
    base = both(50, (w - 1, low - 1), ((w, FLOOR - 4), (w - 4, FLOOR), (w - 12, FLOOR)))
    cap = both(
        50, (0, top), ((w * 0.72, top), (w, bun - dome * 0.4), (w, bun - 4)), ((w, bun), (w - 2, bun), (w - 4, bun))
    )
    leaf = (
        f"M{50 - ruffle:.2f} {bun - 1:.2f}H{50 + ruffle:.2f}v3"
        f"{scallops(50 + ruffle, 50 - ruffle, bun + 2, (lettuce * 0.65, lettuce) * 3)}z"
    )
    seeds = [(-0.68, 0.42), (-0.38, 0.19), (0.0, 0.1), (0.38, 0.19), (0.68, 0.42)]
    return Figure(
        (
            Part(base),
            Part(rounded(50 - w - 1, meat, 2 * w + 2, patty + 1, patty / 2), SECOND),
            Part(leaf, THIRD),
            Part(cap),
            *(Part(ellipse(50 + x * w, top + y * dome, 2.9, 1.9), LIGHT, 0.9) for x, y in seeds),
        ),
        top=Spot(50, top + 2, 1.3 * w),
        face=Spot(50, top + dome * 0.5, 1.3 * w),
        neck=Spot(50, bun, 2 * w),
        hand=Spot(50 + w, bun - 4, 30),
        emblem=Spot(50, bun - 2 - dome * 0.4, max(30, dome * 0.8)),
    )


def pineapple(p: Proportions) -> Figure:
    """p: width, height of the body, height of the crown, spread of the crown."""
    w, height, crown, spread = lerp(19.5, 30, p[0]), lerp(45, 58, p[1]), lerp(20, 34, p[2]), lerp(21, 41, p[3])
    top = FLOOR - height
    mid = (top + FLOOR) / 2
    body = both(
        50, (0, top), ((w * 0.7, top), (w, mid - height * 0.3), (w, mid)),
        ((w, mid + height * 0.36), (w * 0.72, FLOOR), (0, FLOOR)),
    )  # fmt: skip
    foot = top + 5
    leaves: list[Part] = []
    for reach, lift, width, start, fill in (
        (1.0, 0.3, 12, 5, SECOND),
        (0.75, 0.68, 12, 5, SECOND),
        (0.38, 0.92, 9, 3, THIRD),
    ):
        for s in (-1, 1):
            tip = (50 + s * spread * reach, top - crown * lift)
            leaves.append(Part(blade((50 + s * start, foot), tip, width, s * 2.2), fill))
    leaves.append(Part(blade((50, foot + 1), (50, top - crown), 10), THIRD))
    side = min(2 * w - 9, 34)
    net = ""
    for slant in (-1, 1):
        for i in range(-3, 4):
            # A chord of the unit circle, laid over the body and bowed towards its rim.
            c = i * 0.26
            h = (0.86 - c * c) ** 0.5
            ends = [((c * 0.7 + slant * k * 0.72) * w, (slant * -c * 0.7 + k * 0.72) * height / 2) for k in (-h, h)]
            (x0, y0), (x1, y1) = ends
            bow = (c * 0.5 * w, slant * -c * 0.5 * height / 2)
            net += (
                f"M{50 + x0:.2f} {mid + y0:.2f}Q{50 + (x0 + x1) / 2 + bow[0]:.2f} {mid + (y0 + y1) / 2 + bow[1]:.2f} "
                f"{50 + x1:.2f} {mid + y1:.2f}"
            )
    return Figure(
        (*leaves, Part(body), Part(net, "none", 1.1)),
        top=Spot(50, top - 2, 1.3 * w),
        face=Spot(50, top + height * 0.3, 1.4 * w),
        neck=Spot(50, FLOOR - 8, 1.5 * w),
        hand=Spot(50 + w, mid, 30),
        emblem=Spot(50, mid + 1, side),
    )


CATEGORIES: tuple[Category, ...] = (
    Category("backpack", "clothes", ("rucksack", "knapsack", "schoolbag"), backpack, True, ("bag", "thing")),
    Category("boot", "clothes", ("shoe", "wellington", "galosh"), boot, True, ("footwear", "thing")),
    Category("shirt", "clothes", ("tshirt", "tee", "jersey"), shirt, True, ("garment", "thing")),
    Category("handbag", "clothes", ("purse", "tote", "clutch"), handbag, False, ("bag", "thing")),
    Category("dress", "clothes", ("gown", "frock", "sundress"), dress, False, ("garment", "thing")),
    Category("cake", "food", ("torte", "gateau", "cheesecake"), cake, True, ("dessert", "food", "thing")),
    Category("apple", "food", ("pippin", "crabapple"), apple, True, ("fruit", "food", "thing")),
    Category("icecream", "food", ("gelato", "sundae", "cone"), icecream, True, ("dessert", "food", "thing")),
    Category("burger", "food", ("hamburger", "cheeseburger", "sandwich"), burger, False, ("snack", "food", "thing")),
    Category("pineapple", "food", ("ananas", "bromeliad"), pineapple, False, ("fruit", "food", "thing")),
)
