"""Ten living things: the families animals and plants."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, hypot, pi, sin

from namesake.picturebook.figures.parts import (
    DARK,
    LIGHT,
    MAIN,
    SECOND,
    THIRD,
    Category,
    Figure,
    Part,
    Proportions,
    Spot,
    ellipse,
    lerp,
    rounded,
)

Point = tuple[float, float]


def _smooth(points: Sequence[Point]) -> str:
    """A closed curve through the points: a uniform Catmull-Rom spline, written as cubic Béziers."""
    n = len(points)
    d = f"M{points[0][0]:.2f} {points[0][1]:.2f}"
    for i in range(n):
        (ax, ay), (bx, by), (cx, cy), (ex, ey) = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        d += f"C{bx + (cx - ax) / 6:.2f} {by + (cy - ay) / 6:.2f} {cx - (ex - bx) / 6:.2f} {cy - (ey - by) / 6:.2f}"
        d += f" {cx:.2f} {cy:.2f}"
    return d + "z"


def _mirrored(cx: float, half: Sequence[Point]) -> str:
    """A closed smooth curve, symmetric about x = cx; `half` runs from its top to its bottom, x as distances from the axis."""
    right = [(cx + x, y) for x, y in half]
    left = [(cx - x, y) for x, y in reversed(half) if x > 0]
    return _smooth(right + left)


def _ribbon(a: Point, b: Point, c: Point, e: Point, start: float, end: float) -> str:
    """A closed band along the cubic Bézier a-b-c-e, `start` wide at its beginning and `end` wide at its round tip."""
    left: list[Point] = []
    right: list[Point] = []
    steps = 7
    for i in range(steps + 1):
        t = i / steps
        u = 1 - t
        x, y = (u**3 * a[k] + 3 * u * u * t * b[k] + 3 * u * t * t * c[k] + t**3 * e[k] for k in (0, 1))
        dx, dy = (u * u * (b[k] - a[k]) + 2 * u * t * (c[k] - b[k]) + t * t * (e[k] - c[k]) for k in (0, 1))
        length, half = hypot(dx, dy) or 1.0, lerp(start, end, t) / 2
        dx, dy = dx / length, dy / length
        left.append((x + half * dy, y - half * dx))
        right.append((x - half * dy, y + half * dx))
    tip = (x + dx * end * 0.45, y + dy * end * 0.45)
    return _smooth([*left, tip, *reversed(right)])


def _leaf(a: Point, b: Point, width: float, *, lift: float = 0.0) -> str:
    """A closed leaf from its stalk `a` to its tip `b`, `width` across; `lift` bends its middle upward."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = hypot(dx, dy) or 1.0
    nx, ny = -dy / length * width * 0.66, dx / length * width * 0.66
    x1, y1, x2, y2 = a[0] + dx * 0.3, a[1] + dy * 0.3 - lift, a[0] + dx * 0.75, a[1] + dy * 0.75 - lift
    return (
        f"M{a[0]:.2f} {a[1]:.2f}C{x1 + nx:.2f} {y1 + ny:.2f} {x2 + nx:.2f} {y2 + ny:.2f} {b[0]:.2f} {b[1]:.2f}"
        f"C{x2 - nx:.2f} {y2 - ny:.2f} {x1 - nx:.2f} {y1 - ny:.2f} {a[0]:.2f} {a[1]:.2f}z"
    )


def _eye(x: float, y: float, r: float = 4.6, *, look: float = 0.0) -> tuple[Part, ...]:
    """A round eye that looks `look` units to the right."""
    return (
        Part(ellipse(x, y, r), LIGHT, 1.5),
        Part(ellipse(x + look, y + 0.3, r * 0.62), DARK, 0),
        Part(ellipse(x + look + r * 0.2, y - r * 0.2, r * 0.2), LIGHT, 0),
    )


def _stroke(d: str, line: float = 1.6) -> Part:
    """An open line in the ink of the style."""
    return Part(d, "none", line)


def cat(p: Proportions) -> Figure:
    """A sitting cat from the front: body's width, size of the ears, lift of the tail, size of the head."""
    cx, w = 43.0, lerp(19, 31, p[0])
    rx = lerp(18.5, 25.5, p[3])
    ry = 0.8 * rx
    hy = 52 - 0.72 * ry
    tip = lerp(hy - 1.02 * ry, max(4.0, hy - 1.35 * ry - 11), p[1])
    spread = lerp(0.72, 1.02, p[1])
    inner = lerp(0.42, 0.12, p[1])

    tail = _ribbon(
        (cx + 0.55 * w, 90),
        (lerp(84, 100, p[2]), lerp(97, 98, p[2])),
        (lerp(97, 76, p[2]), lerp(92, 58, p[2])),
        (lerp(92, 88, p[2]), lerp(76, 33, p[2])),
        8.5,
        lerp(8.5, 11.5, p[2]),
    )
    body = _mirrored(
        cx, [(0, 44), (0.6 * w, 49), (0.92 * w, 66), (w, 82), (0.86 * w, 93.6), (0.45 * w, 96), (0, 96)]
    )
    head = _mirrored(
        cx,
        [(0, hy - ry), (0.58 * rx, hy - 0.86 * ry), (0.95 * rx, hy - 0.2 * ry), (rx, hy + 0.28 * ry)]
        + [(0.62 * rx, hy + 0.86 * ry), (0, hy + ry)],
    )
    parts = [Part(tail, SECOND), Part(body)]
    for s in (-1, 1):
        parts.append(Part(ellipse(cx + s * 0.36 * w, 91.2, 0.31 * w, 5.2), THIRD, 1.8))
        ox, oy, ix, iy = cx + s * 0.99 * rx, hy + 0.05 * ry, cx + s * inner * rx, hy - 0.8 * ry
        tx = cx + s * spread * rx
        for k, fill in ((0.0, MAIN), (0.3, THIRD)):
            # The inner ear is the outer one, drawn towards the middle of its three corners.
            mx, my = (ox + ix + tx) / 3, (oy + iy + tip) / 3
            a, b, c = ((lerp(x, mx, k), lerp(y, my, k)) for x, y in ((ox, oy), (tx, tip), (ix, iy)))
            parts.append(
                Part(
                    f"M{a[0]:.2f} {a[1]:.2f}Q{a[0] + s * 1.5:.2f} {lerp(a[1], b[1], 0.6):.2f} {b[0]:.2f} {b[1]:.2f}"
                    f"Q{lerp(b[0], c[0], 0.6):.2f} {lerp(b[1], c[1], 0.35):.2f} {c[0]:.2f} {c[1]:.2f}z",
                    fill,
                    0 if k else 2.2,
                )
            )
    parts.append(Part(head))
    my = hy + 0.46 * ry
    for s in (-1, 1):
        parts.append(Part(ellipse(cx + s * 0.25 * rx, my, 0.29 * rx, 0.3 * ry), THIRD, 1.2))
        for dy, slope in ((-1.5, -2.5), (2.5, 1.5)):
            parts.append(_stroke(f"M{cx + s * 0.62 * rx:.2f} {my + dy:.2f}L{cx + s * (rx + 8):.2f} {my + dy + slope:.2f}", 1.3))
        parts += _eye(cx + s * 0.46 * rx, hy - 0.12 * ry, 0.2 * rx)
    parts.append(Part(f"M{cx - 3.2:.2f} {my - 4.6:.2f}h6.4l-3.2 4z", DARK, 0.8))
    return Figure(
        tuple(parts),
        top=Spot(cx, hy - 0.9 * ry, 1.3 * rx),
        face=Spot(cx, hy - 0.12 * ry, 1.5 * rx),
        neck=Spot(cx, hy + 1.06 * ry, 1.45 * w),
        hand=Spot(cx + 0.8 * w, 74, 30),
        emblem=Spot(cx, 71, 30),
    )


def dog(p: Proportions) -> Figure:
    """A standing dog from the side: body's depth, length of the ear, length of the legs, size of the tail."""
    legs, depth = lerp(13, 28, p[2]), lerp(31, 38, p[0])
    belly = 96 - legs
    back = belly - depth
    rear, chest = lerp(18, 12, p[0]), lerp(60, 66, p[0])
    hx, hy = 67.0, back + 2
    r = 18.0

    tail = _ribbon(
        (rear + 6, back + 11),
        (rear - 8, back + 5),
        (lerp(4, -2, p[3]), back - lerp(2, 16, p[3])),
        (lerp(7, 17, p[3]), back - lerp(3, 20, p[3])),
        7,
        lerp(5, 13, p[3]),
    )
    body = _smooth(
        [(rear + 2, back + 0.25 * depth), (rear + 11, back + 1.5), (36, back + 2.5), (52, back - 2), (chest, back + 8)]
        + [(chest + 2, back + 0.55 * depth), (chest - 6, belly), (44, belly - 2), (28, belly), (rear + 3, belly - 3)]
        + [(rear - 1, back + 0.65 * depth)]
    )
    parts = [Part(tail, SECOND)]

    def leg(x: float, width: float) -> None:
        parts.append(Part(rounded(x, belly - 12, width, legs + 10, 4)))
        parts.append(Part(rounded(x - 0.8, 89, width + 4.5, 7, 3.5), THIRD, 1.9))

    leg(rear + 13, 9.5)
    leg(chest - 19.5, 9.5)
    parts.append(Part(body))
    # The near legs grow out of the body: a filled leg without an outline on top of its upper end hides the seam.
    for x, width in ((rear, 12.0), (chest - 9, 11.0)):
        parts.append(
            Part(f"M{x:.2f} {belly - 9:.2f}V92q0 4 4 4h{width - 8:.2f}q4 0 4 -4V{belly - 9:.2f}", MAIN, 2.2)
        )
        parts.append(Part(rounded(x - 0.8, 88.5, width + 5, 7.5, 3.7), THIRD, 1.9))
    head = _smooth(
        [(hx - 3, hy - r), (hx + 10, hy - 0.82 * r), (hx + 16, hy - 4), (hx + 21, hy + 1), (hx + 21, hy + 10)]
        + [(hx + 10, hy + 0.92 * r), (hx - 6, hy + 0.9 * r), (hx - 17, hy + 4), (hx - 14, hy - 0.68 * r)]
    )
    snout = _smooth(
        [(hx + 11, hy - 1), (hx + 20, hy - 2.5), (hx + 28, hy + 1.5), (hx + 28, hy + 9), (hx + 20, hy + 14), (hx + 9, hy + 12.5)]
        + [(hx + 6, hy + 5.5)]
    )
    reach = lerp(13, 38, p[1])
    width = lerp(8, 11.5, p[1])
    ear = _smooth(
        [(hx - 5, hy - r + 1), (hx - 1 + 0.2 * width, hy - r + 6), (hx - 3 + 0.4 * width, hy - r + 0.7 * reach)]
        + [(hx - 6, hy - r + reach + 1), (hx - 7 - width, hy - r + 0.94 * reach), (hx - 9 - width, hy - r + 0.55 * reach)]
        + [(hx - 12, hy - r + 4)]
    )
    parts += [Part(head), Part(snout, THIRD, 1.8)]
    parts += _eye(hx + 7.5, hy - 5.5, 4.5, look=0.8)
    parts.append(_stroke(f"M{hx + 26.5:.2f} {hy + 7.5:.2f}Q{hx + 19:.2f} {hy + 11.5:.2f} {hx + 14:.2f} {hy + 7:.2f}", 1.4))
    parts.append(Part(ellipse(hx + 26, hy + 0.3, 4, 3.3), DARK, 0.8))
    parts.append(Part(ear, SECOND))
    return Figure(
        tuple(parts),
        top=Spot(hx + 1, hy - 0.92 * r, 24),
        face=Spot(hx + 8.5, hy - 5.5, 24),
        neck=Spot(hx - 7, hy + 0.95 * r, 30),
        hand=Spot(hx + 24, hy + 12, 28),
        emblem=Spot((rear + chest) / 2 - 6, back + depth / 2, 30),
    )


def bird(p: Proportions) -> Figure:
    """A bird from the side: body's plumpness, length of the tail, length of the legs, size of the raised wing."""
    legs = lerp(6, 20, p[2])
    rx, ry = lerp(25.5, 32, p[0]), lerp(23, 30, p[0])
    bx, by = 51.0, 96 - legs - ry
    hx, hy, r = bx + 15, by - 0.72 * ry, 13.5

    body = _smooth(
        [(hx, hy - r), (hx + 10, hy - 9), (hx + 13.5, hy + 1), (bx + 0.97 * rx, by - 0.2 * ry), (bx + 0.96 * rx, by + 0.3 * ry)]
        + [(bx + 0.6 * rx, by + 0.85 * ry), (bx, by + ry), (bx - 0.65 * rx, by + 0.8 * ry), (bx - rx, by + 0.2 * ry)]
        + [(bx - 0.85 * rx, by - 0.35 * ry), (bx - 0.3 * rx, by - 0.72 * ry), (hx - 12.5, hy - 1), (hx - 9.5, hy - 10)]
    )
    # The tail: a fan of three feathers.
    tx, ty, length = bx - 0.82 * rx, by + 0.02 * ry, lerp(9, 24, p[1])
    fan = lerp(0.18, 0.42, p[1])
    feathers = []
    for turn in (-1, 1, 0):
        angle = pi * 1.08 + turn * fan
        end = (max(tx + (length + 6) * cos(angle), 4.0), ty + (length + 6) * sin(angle))
        feathers.append(Part(_leaf((tx + 10, ty), end, lerp(9, 13, p[1])), SECOND, 1.9))
    # The wing: raised, with three feather tips.
    size, wx, wy = lerp(15, 39, p[3]), bx + 1, by - 0.3 * ry
    a = pi * lerp(1.08, 1.33, p[3])

    def at(along: float, across: float) -> Point:
        return (
            max(wx + size * (along * cos(a) - across * sin(a)), 4.0),
            max(wy + size * (along * sin(a) + across * cos(a)), 4.0),
        )

    spots = [at(0, 0.26), at(0.5, 0.5), at(1.08, 0.42), at(0.92, 0.16), at(1.06, 0.0), at(0.8, -0.16), at(0.84, -0.34)]
    spots += [at(0.4, -0.34), at(0.0, -0.22)]
    wing = "M{:.2f} {:.2f}Q{:.2f} {:.2f} {:.2f} {:.2f}".format(*spots[0], *spots[1], *spots[2])
    for i in (3, 5):
        wing += "Q{:.2f} {:.2f} {:.2f} {:.2f}".format(*spots[i], *spots[i + 1])
    wing += "Q{:.2f} {:.2f} {:.2f} {:.2f}z".format(*spots[7], *spots[8])

    parts = []
    for x in (bx - 4, bx + 9):
        parts.append(Part(rounded(x - 2.4, by + 0.8 * ry, 4.8, 94 - by - 0.8 * ry, 2), THIRD, 1.8))
        parts.append(Part(f"M{x - 6:.2f} 96q1 -6 6.5 -6q8 0.5 10 6z", THIRD, 1.8))
    crest = f"M{hx - 8:.2f} {hy - 9:.2f}Q{hx - 14:.2f} {hy - 18:.2f} {hx - 8:.2f} {hy - 20:.2f}Q{hx - 6:.2f} {hy - 25:.2f} {hx + 1:.2f} {hy - 21:.2f}Q{hx + 4:.2f} {hy - 15:.2f} {hx + 3:.2f} {hy - 11:.2f}z"
    parts += [Part(crest, THIRD, 1.8), *feathers, Part(body)]
    beak = f"M{hx + 10.5:.2f} {hy - 5:.2f}Q{hx + 18:.2f} {hy - 5:.2f} {hx + 28:.2f} {hy + 3:.2f}Q{hx + 18:.2f} {hy + 8.5:.2f} {hx + 11:.2f} {hy + 7.5:.2f}Q{hx + 13.5:.2f} {hy + 1:.2f} {hx + 10.5:.2f} {hy - 5:.2f}z"
    parts += [Part(beak, THIRD, 1.9), _stroke(f"M{hx + 13:.2f} {hy + 2:.2f}L{hx + 24:.2f} {hy + 2.6:.2f}", 1.2)]
    parts += _eye(hx + 2.5, hy - 3, 4.4, look=0.7)
    parts.append(Part(wing, SECOND))
    return Figure(
        tuple(parts),
        top=Spot(hx - 1, hy - 0.85 * r, 20),
        face=Spot(hx + 4, hy - 3, 20),
        neck=Spot(hx + 1, hy + 12, 28),
        hand=Spot(hx + 24, hy + 4, 26),
        emblem=Spot(bx + 3, by + 0.22 * ry, 30),
    )


def fish(p: Proportions) -> Figure:
    """A fish: body's height, spread of the tail, height of the fin on its back, length of the body."""
    h = lerp(20, 31, p[0])
    cy, end = 88 - h, lerp(38, 22, p[3])
    spread, rise = lerp(11, 27, p[1]), lerp(4, 22, p[2])

    tail = (
        f"M{end + 7:.2f} {cy - 4:.2f}C{end - 4:.2f} {cy - 6:.2f} {end - 6:.2f} {cy - spread:.2f} 6 {cy - spread:.2f}"
        f"Q4 {cy - 0.5 * spread:.2f} {lerp(10, end - 2, 0.55):.2f} {cy:.2f}Q4 {cy + 0.5 * spread:.2f} 6 {min(cy + spread, 96):.2f}"
        f"C{end - 6:.2f} {cy + spread:.2f} {end - 4:.2f} {cy + 6:.2f} {end + 7:.2f} {cy + 4:.2f}z"
    )
    middle = (end + 94) / 2
    fin = (
        f"M{middle - 16:.2f} {cy - 0.6 * h:.2f}Q{middle - 17:.2f} {cy - h - rise:.2f} {middle - 12:.2f} {cy - h - rise:.2f}"
        f"Q{middle + 12:.2f} {cy - h - rise:.2f} {middle + 22:.2f} {cy - 0.7 * h:.2f}z"
    )
    low = f"M{middle + 6:.2f} {cy + 0.75 * h:.2f}Q{middle + 2:.2f} 95 {middle - 12:.2f} 96Q{middle - 13:.2f} 88 {middle - 10:.2f} {cy + 0.6 * h:.2f}z"
    body = _smooth(
        [(94, cy + 0.06 * h), (87.5, cy - 0.5 * h), (middle + 11, cy - 0.97 * h), (middle - 7, cy - 0.9 * h), (end + 9, cy - 0.4 * h)]
        + [(end, cy - 4), (end, cy + 4), (end + 9, cy + 0.4 * h), (middle - 7, cy + 0.9 * h), (middle + 11, cy + 0.97 * h)]
        + [(87.5, cy + 0.6 * h)]
    )
    # The pectoral fin hangs below the gill, so that the flank stays free.
    gill = 75.0
    pectoral = _leaf((gill - 0.5, cy + 0.3 * h), (gill - 13, min(cy + 0.3 * h + 17, 96)), 12)
    parts = [
        Part(tail, SECOND),
        Part(fin, SECOND),
        Part(low, THIRD),
        Part(body),
        _stroke(f"M{gill - 3:.2f} {cy - 0.55 * h:.2f}Q{gill + 5:.2f} {cy:.2f} {gill - 3:.2f} {cy + 0.5 * h:.2f}", 1.7),
        Part(pectoral, THIRD, 1.9),
        Part(ellipse(92.4, cy + 0.16 * h, 3.2, 4.6), THIRD, 1.7),
        *_eye(83.5, cy - 0.2 * h, 4.7, look=0.8),
    ]
    for s in (-0.45, 0.45):
        parts.append(_stroke(f"M{end - 3:.2f} {cy + s * 6:.2f}L{lerp(6, end, 0.35):.2f} {cy + s * spread * 1.1:.2f}", 1.3))
    return Figure(
        tuple(parts),
        top=Spot(middle + 13, cy - 0.9 * h, 24),
        face=Spot(83.5, cy - 0.2 * h, 20),
        neck=Spot(gill - 6, cy + 0.55 * h, 26),
        hand=Spot(94, cy + 0.2 * h, 26),
        emblem=Spot((end + 72) / 2 + 1, cy - 1, min(30.0, 1.6 * h)),
    )


def turtle(p: Proportions) -> Figure:
    """A turtle from the side: height of the shell, reach of the neck, length of the legs, length of the shell."""
    legs, dome, half = lerp(10, 24, p[2]), lerp(34, 50, p[0]), lerp(25, 34, p[3])
    base, cx = 96 - legs, 42.0
    left, right = cx - half, cx + half
    hx, hy = 84.0, base - lerp(3, 32, p[1])

    neck = _ribbon((right - 14, base - 5), (right + 4, base - 3), (hx - 6, base), (hx - 1, hy), 15, 12)
    head = _smooth(
        [(hx - 9, hy - 7), (hx, hy - 11), (hx + 9, hy - 7), (hx + 12, hy + 1), (hx + 7, hy + 8), (hx - 3, hy + 8.5)]
        + [(hx - 10, hy + 3)]
    )
    tail = _leaf((left + 12, base - 2), (max(left - 10, 3), base + 3), 11)
    shell = (
        f"M{left:.2f} {base - 4:.2f}C{left:.2f} {base - 0.62 * dome:.2f} {cx - 0.66 * half:.2f} {base - dome:.2f} {cx:.2f} {base - dome:.2f}"
        f"C{cx + 0.66 * half:.2f} {base - dome:.2f} {right:.2f} {base - 0.62 * dome:.2f} {right:.2f} {base - 4:.2f}z"
    )
    rim = _smooth(
        [(left - 3, base - 5), (left + 6, base - 9), (cx, base - 7.5), (right - 6, base - 9), (right + 3, base - 5)]
        + [(right - 2, base + 1), (cx, base + 3), (left + 2, base + 1)]
    )
    parts = [Part(tail, SECOND)]
    for x in (left + 13, right - 21):
        parts.append(Part(rounded(x, base - 6, 9, legs + 5, 4), SECOND))
    parts += [Part(neck, SECOND), Part(head, SECOND)]
    # The neck and the head are one skin: this covers the seam between them.
    parts.append(Part(ellipse(hx - 1.5, hy + 4.5, 4.7, 5.5), SECOND, 0))
    parts += _eye(hx + 4, hy - 2.5, 4.1, look=0.6)
    parts.append(_stroke(f"M{hx + 10:.2f} {hy + 4:.2f}Q{hx + 6:.2f} {hy + 6:.2f} {hx + 2.5:.2f} {hy + 4.4:.2f}", 1.3))
    for x in (left + 1, right - 13):
        parts.append(Part(f"M{x + 1:.2f} {base - 6:.2f}L{x:.2f} 92q0 4 4 4h8q4 0 4 -3.4L{x + 12:.2f} {base - 6:.2f}z", SECOND))
    parts += [Part(shell), Part(rim, THIRD)]
    for t in (-0.62, -0.2, 0.2, 0.62):
        parts.append(_stroke(f"M{cx + t * half:.2f} {base - 7.5:.2f}L{cx + 1.04 * t * half:.2f} {base + 2:.2f}", 1.3))
    return Figure(
        tuple(parts),
        top=Spot(hx, hy - 9.5, 20),
        face=Spot(hx + 4, hy - 2.5, 18),
        neck=Spot(hx - 3, hy + 11, 18),
        hand=Spot(hx + 9, hy + 7, 24),
        emblem=Spot(cx, base - 8 - 0.5 * (dome - 8) + 1.5, 30),
    )


def _cloud(cx: float, cy: float, rx: float, ry: float, lobes: int, taper: float) -> str:
    """A closed crown of round lobes on an ellipse; `taper` in -1..1 moves its width to the top (-1) or the bottom (1)."""
    points = []
    for i in range(lobes):
        a = 2 * pi * (i + 0.5) / lobes + pi / 2
        y = sin(a)
        points.append((cx + rx * cos(a) * (1 + taper * y), cy + ry * y))
    d = f"M{points[0][0]:.2f} {points[0][1]:.2f}"
    for i in range(lobes):
        (ax, ay), (bx, by) = points[i], points[(i + 1) % lobes]
        r = 0.6 * hypot(bx - ax, by - ay)
        d += f"A{r:.2f} {r:.2f} 0 0 1 {bx:.2f} {by:.2f}"
    return d + "z"


def tree(p: Proportions) -> Figure:
    """A fruit tree: width of the crown, height of the trunk, where the crown is widest, size of the fruit."""
    rx, trunk, taper = lerp(24, 37, p[0]), lerp(12, 33, p[1]), lerp(-0.3, 0.3, p[2])
    top, foot = 8.0, 96 - trunk
    cy, ry = (top + foot) / 2, (foot - top) / 2 - 1
    r = lerp(3.4, 7.0, p[3])

    wood = (
        f"M36 96Q44 93 44.5 {foot - 10:.2f}L55.5 {foot - 10:.2f}Q56 93 64 96Q57 95 55 96Q50 94 45 96Q42 95 36 96z"
    )
    parts = [Part(wood, SECOND)]
    for x, y, s in ((29, 96, 1.0), (71, 96, -1.0)):
        parts.append(Part(f"M{x - 9} {y}q0 -8 5 -9q1.5 -4 5 -3q5 0 5.5 5q4.5 1 4.5 7z", THIRD, 1.8))
        del s
    parts.append(Part(_cloud(50, cy, rx, ry, 9, taper)))
    for x, y in ((-0.76, -0.18), (-0.46, -0.74), (0.3, -0.82), (0.76, -0.36), (0.72, 0.38), (0.06, 0.82), (-0.7, 0.46)):
        fx, fy = 50 + x * rx * (1 + taper * y), cy + y * ry
        parts.append(Part(ellipse(fx, fy, r), THIRD, 1.7))
        parts.append(Part(ellipse(fx - 0.3 * r, fy - 0.3 * r, 0.24 * r), LIGHT, 0))
    return Figure(
        tuple(parts),
        top=Spot(50, top + 1, 30),
        face=Spot(50, cy - 0.2 * ry, 26),
        neck=Spot(50, foot + 3, 22),
        hand=Spot(50 + 0.95 * rx, cy + 0.3 * ry, 28),
        emblem=Spot(50, cy, 30),
    )


def flower(p: Proportions) -> Figure:
    """A flower in bloom: size of the bloom, depth between the petals, size of the leaves, height of the stem."""
    r = lerp(30, 37, p[0])
    deep = lerp(0.9, 0.66, p[1])
    cy = lerp(56, 41, p[3])
    eye = 9.0
    ey = cy - 9.0

    petals = 8
    outline, seams = "", []
    for i in range(petals):
        a, b = (2 * pi * (i + k) / petals + pi / petals + pi / 2 for k in (0, 1))
        middle = (a + b) / 2
        start, end = ((50 + deep * r * cos(t), cy + deep * r * sin(t)) for t in (a, b))
        out = lerp(1.16, 1.42, p[1]) * r
        turn = 0.3
        c1, c2 = ((50 + out * cos(t), cy + out * sin(t)) for t in (middle - turn, middle + turn))
        if not outline:
            outline = f"M{start[0]:.2f} {start[1]:.2f}"
        outline += f"C{c1[0]:.2f} {c1[1]:.2f} {c2[0]:.2f} {c2[1]:.2f} {end[0]:.2f} {end[1]:.2f}"
        seams.append(_stroke(f"M{start[0]:.2f} {start[1]:.2f}L{lerp(start[0], 50, 0.3):.2f} {lerp(start[1], ey, 0.3):.2f}", 1.5))
    low, span = cy + r, lerp(13, 38, p[2])
    lift = lerp(4, 18, p[2])
    parts = [
        Part(rounded(47, cy, 6, 96 - cy, 2), THIRD),
        Part(_leaf((50, 94), (50 - span, 94 - lift), lerp(9, 15, p[2]), lift=2), THIRD),
        Part(_leaf((50, 94), (50 + span, 94 - lift), lerp(9, 15, p[2]), lift=2), THIRD),
        Part(outline + "z"),
        *seams,
        Part(ellipse(50, ey, eye), SECOND),
    ]
    return Figure(
        tuple(parts),
        top=Spot(50, cy - 0.95 * r, 28),
        face=Spot(50, ey, 26),
        neck=Spot(50, min(low + 2, 90), 18),
        hand=Spot(50 + 0.8 * r, cy + 0.5 * r, 28),
        emblem=Spot(50, cy + 14, 30),
    )


def cactus(p: Proportions) -> Figure:
    """A cactus in a pot: width of the stem, length of its arms, size of the pot, size of the blossom."""
    w, pot = lerp(16.5, 23, p[0]), lerp(19, 33, p[2])
    rim, brim = 96 - pot, lerp(25, 33, p[2])
    bloom = lerp(5.5, 13, p[3])
    top = 19.0

    def arm(side: int, low: float) -> str:
        reach = lerp(10, 17, p[1])
        x = 50 + side * (w + reach - 4.5)
        tip = low - lerp(5, 34, p[1])
        return _ribbon((50 + side * (w - 6), low), (x - side * 1, low + 2), (x, low - 1), (x, tip), 10.5, 12)

    stem = f"M{50 - w:.2f} {rim + 6:.2f}V{top + 0.9 * w:.2f}C{50 - w:.2f} {top - 0.28 * w:.2f} {50 + w:.2f} {top - 0.28 * w:.2f} {50 + w:.2f} {top + 0.9 * w:.2f}V{rim + 6:.2f}z"
    parts = [Part(arm(-1, 50)), Part(arm(1, 57)), Part(stem)]
    for x, y in ((-0.62, 0.16), (0.62, 0.2), (-0.78, 0.5), (0.78, 0.56), (-0.72, 0.86), (0.7, 0.9), (0.0, 0.12)):
        sx, sy = 50 + x * w, lerp(top + 3, rim - 4, y)
        parts.append(_stroke(f"M{sx - 2:.2f} {sy - 2:.2f}L{sx:.2f} {sy + 1:.2f}L{sx + 2:.2f} {sy - 2:.2f}", 1.3))
    for k in range(5):
        a = pi * (1 + k / 4) if k else pi
        end = (50 + bloom * 1.15 * cos(a), top + 2 + bloom * 1.2 * sin(a) - 1)
        parts.append(Part(_leaf((50, top + 3), end, 0.8 * bloom), THIRD, 1.7))
    parts.append(Part(ellipse(50, top + 1.5, 0.36 * bloom + 0.8), SECOND, 1.5))
    parts.append(Part(f"M{50 - 0.86 * brim:.2f} {rim + 4:.2f}L{50 - 0.64 * brim:.2f} 93q0.5 3 4 3h{1.28 * brim - 8:.2f}q3.5 0 4 -3L{50 + 0.86 * brim:.2f} {rim + 4:.2f}z", SECOND))
    parts.append(Part(rounded(50 - brim, rim, 2 * brim, lerp(7.5, 10, p[2]), 3), THIRD))
    return Figure(
        tuple(parts),
        top=Spot(50, top + 2, 1.4 * w),
        face=Spot(50, top + 0.95 * w, 1.5 * w),
        neck=Spot(50, rim - 4, 2 * w),
        hand=Spot(50 + w + 10, 48, 26),
        emblem=Spot(50, (top + 4 + rim) / 2 + 1, 30),
    )


def mushroom(p: Proportions) -> Figure:
    """A mushroom: width of its cap, height of its cap, thickness of its stalk, length of its stalk."""
    half, high = lerp(29, 43, p[0]), lerp(31, 44, p[1])
    thick, stalk = lerp(10.5, 20, p[2]), lerp(24, 44, p[3])
    edge = 96 - stalk
    top = edge - high

    cap = (
        f"M{50 - half:.2f} {edge - 3:.2f}C{50 - half:.2f} {top + 0.28 * high:.2f} {50 - 0.5 * half:.2f} {top:.2f} 50 {top:.2f}"
        f"C{50 + 0.5 * half:.2f} {top:.2f} {50 + half:.2f} {top + 0.28 * high:.2f} {50 + half:.2f} {edge - 3:.2f}"
        f"Q{50 + half:.2f} {edge + 3.5:.2f} {50 + 0.8 * half:.2f} {edge + 2.5:.2f}Q50 {edge - 6:.2f} {50 - 0.8 * half:.2f} {edge + 2.5:.2f}"
        f"Q{50 - half:.2f} {edge + 3.5:.2f} {50 - half:.2f} {edge - 3:.2f}z"
    )
    gills = ellipse(50, edge + 1.5, 0.86 * half, 6.5)
    stem = (
        f"M{50 - 0.8 * thick:.2f} {edge + 1:.2f}C{50 - 0.75 * thick:.2f} {lerp(edge, 96, 0.5):.2f} {50 - 1.1 * thick:.2f} {lerp(edge, 96, 0.6):.2f} {50 - 1.1 * thick:.2f} 90"
        f"Q{50 - 1.1 * thick:.2f} 96 {50 - 0.5 * thick:.2f} 96H{50 + 0.5 * thick:.2f}Q{50 + 1.1 * thick:.2f} 96 {50 + 1.1 * thick:.2f} 90"
        f"C{50 + 1.1 * thick:.2f} {lerp(edge, 96, 0.6):.2f} {50 + 0.75 * thick:.2f} {lerp(edge, 96, 0.5):.2f} {50 + 0.8 * thick:.2f} {edge + 1:.2f}z"
    )
    parts = [Part(gills, THIRD), Part(stem, SECOND), Part(cap)]
    ey = lerp(edge, 96, 0.5)
    for s in (-1, 1):
        parts += _eye(50 + s * 0.5 * max(thick, 10.5), ey, 3.7)
    parts.append(_stroke(f"M47 {ey + 6:.2f}q3 3 6 0", 1.5))
    return Figure(
        tuple(parts),
        top=Spot(50, top + 2, 28),
        face=Spot(50, ey, 2 * thick),
        neck=Spot(50, edge + 7, 2 * thick),
        hand=Spot(50 + thick, lerp(edge, 96, 0.55), 28),
        emblem=Spot(50, top + 0.54 * high, 30),
    )


def palm(p: Proportions) -> Figure:
    """A palm on its mound: length of the fronds, how they droop, lean of the trunk, height of the trunk."""
    reach, droop, foot = lerp(29, 42, p[0]), lerp(-2, 22, p[1]), lerp(64, 26, p[2])
    cx, cy = 50.0, lerp(50, 34, p[3])

    trunk = _ribbon((foot, 97), (lerp(foot, cx, 0.1), 80), (cx, lerp(cy, 96, 0.5)), (cx, cy + 4), 13, 8)
    mound = f"M{foot - 22:.2f} 96C{foot - 16:.2f} 84 {foot + 16:.2f} 84 {foot + 22:.2f} 96z"
    angles = [pi * k for k in (0.86, 1.08, 1.3, 1.5, 1.7, 1.92, 2.14)]
    outline = ""
    n = len(angles)
    tips, valleys = [], []
    for i, a in enumerate(angles):
        length = reach * (1.0 if i != 3 else 0.82)
        tips.append((cx + length * cos(a), min(cy + 0.9 * length * sin(a) + droop * abs(cos(a)) ** 0.8 + 3, 94)))
        if i + 1 < n:
            m = (a + angles[i + 1]) / 2
            valleys.append((cx + 0.52 * reach * cos(m), cy + 0.5 * reach * sin(m) + 0.15 * droop))
    base_l, base_r = (cx - 13, cy + 15.0), (cx + 13, cy + 15.0)
    outline = f"M{base_l[0]:.2f} {base_l[1]:.2f}"
    for i in range(n):
        before = valleys[i - 1] if i else base_l
        after = valleys[i] if i + 1 < n else base_r
        x, y = tips[i]
        outline += f"Q{lerp(before[0], x, 0.5):.2f} {lerp(before[1], y, 0.45) - 5:.2f} {x:.2f} {y:.2f}"
        outline += f"Q{lerp(after[0], x, 0.5):.2f} {lerp(after[1], y, 0.45) - 5:.2f} {after[0]:.2f} {after[1]:.2f}"
    outline += f"Q{cx:.2f} {cy + 9:.2f} {base_l[0]:.2f} {base_l[1]:.2f}z"
    parts = [Part(trunk, SECOND)]
    for t in (0.3, 0.5, 0.7):
        y = lerp(cy + 14, 92, t)
        u = (y - cy) / (96 - cy)
        x = lerp(cx, foot, u * u * 0.9)
        parts.append(_stroke(f"M{x - 4.5:.2f} {y:.2f}q4.5 3 9 0", 1.4))
    parts += [Part(mound, THIRD), Part(outline)]
    for x, y in ((-7.5, 15), (7.5, 15), (0, 19)):
        parts.append(Part(ellipse(cx + x, cy + y, 5.6), THIRD, 1.8))
    return Figure(
        tuple(parts),
        top=Spot(cx, cy - 0.5 * reach, 26),
        face=Spot(cx, cy, 26),
        neck=Spot(cx, cy + 26, 18),
        hand=Spot(cx + 0.8 * reach, cy + 4, 26),
        emblem=Spot(cx, cy - 3, 30),
    )


_PET = ("pet", "animal", "creature", "thing")
_ANIMAL = ("animal", "creature", "thing")
_PLANT = ("plant", "thing")

CATEGORIES: tuple[Category, ...] = (
    Category("cat", "animals", ("kitty", "tomcat", "kitten"), cat, True, _PET),
    Category("dog", "animals", ("puppy", "hound", "doggy"), dog, True, _PET),
    Category("bird", "animals", ("birdie", "songbird", "sparrow", "robin"), bird, True, _ANIMAL),
    Category("fish", "animals", ("goldfish", "carp", "guppy"), fish, False, _PET),
    Category("turtle", "animals", ("tortoise", "terrapin"), turtle, False, _PET),
    Category("tree", "plants", ("oak", "sapling", "maple"), tree, True, _PLANT),
    Category("flower", "plants", ("daisy", "blossom", "bloom"), flower, True, _PLANT),
    Category("cactus", "plants", ("succulent", "saguaro"), cactus, True, _PLANT),
    Category("mushroom", "plants", ("toadstool", "fungus"), mushroom, False, _PLANT),
    Category("palm", "plants", ("coconut", "palmtree"), palm, False, _PLANT),
)
