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


def _d(*pieces: str | float) -> str:
    """Path data from commands and numbers."""
    return "".join(piece if isinstance(piece, str) else f" {piece:.2f}" for piece in pieces)


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
    """A closed smooth curve, symmetric about x = cx; `half` runs down its right side, x from the axis."""
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
    out = _d("M", *a, "C", x1 + nx, y1 + ny, x2 + nx, y2 + ny, *b)
    return out + _d("C", x2 - nx, y2 - ny, x1 - nx, y1 - ny, *a, "z")


def _frond(a: Point, b: Point, c: Point, width: float) -> str:
    """A closed palm frond along the quadratic Bézier a-b-c: smooth above, saw-toothed below."""
    upper: list[Point] = []
    lower: list[Point] = []
    teeth = 4
    side = 1 if c[0] >= a[0] else -1
    for i in range(2 * teeth + 1):
        t = i / (2 * teeth)
        u = 1 - t
        x, y = (u * u * a[k] + 2 * u * t * b[k] + t * t * c[k] for k in (0, 1))
        dx, dy = (u * (b[k] - a[k]) + t * (c[k] - b[k]) for k in (0, 1))
        length = hypot(dx, dy) or 1.0
        nx, ny = -side * dy / length, side * dx / length
        full = width * (0.35 + 0.65 * sin(pi * min(1.0, 0.25 + 0.78 * t))) * (1 - t**4)
        upper.append((x - 0.42 * full * nx, y - 0.42 * full * ny))
        # Even steps are the notches between two leaflets, odd ones the tips of leaflets, which trail outwards.
        tip = i % 2
        reach = (0.62 if tip else 0.3) * full
        lower.append((x + reach * nx + tip * 2.5 * dx / length, y + reach * ny + tip * 2.5 * dy / length))
    d = _d("M", *upper[0])
    for i in range(1, len(upper) - 1):
        x, y = upper[i]
        d += _d("Q", x, y, lerp(x, upper[i + 1][0], 0.5), lerp(y, upper[i + 1][1], 0.5))
    d += _d("L", *c)
    for x, y in reversed(lower[:-1]):
        d += _d("L", x, y)
    return d + "z"


def _eye(x: float, y: float, r: float = 4.6, *, look: float = 0.0) -> tuple[Part, ...]:
    """A round eye that looks `look` units to the right."""
    return (
        Part(ellipse(x, y, r), LIGHT, 1.5),
        Part(ellipse(x + look, y + 0.3, r * 0.62), DARK, 0),
        Part(ellipse(x + look + r * 0.2, y - r * 0.2, r * 0.2), LIGHT, 0),
    )


def _stroke(d: str, line: float) -> Part:
    """An open line in the ink of the style."""
    return Part(d, "none", line)


def cat(p: Proportions) -> Figure:
    """A sitting cat from the front: body's width, size of the ears, lift of the tail, size of the head."""
    cx, w = 43.0, lerp(19, 31, p[0])
    rx = lerp(18.5, 25.5, p[3])
    ry = 0.8 * rx
    hy = lerp(52.2, 53.4, p[1]) - 0.72 * ry
    tip = lerp(hy - 1.14 * ry, max(4.0, hy - 1.3 * ry - 14), p[1])
    spread, inner = lerp(0.78, 1.06, p[1]), lerp(0.38, 0.0, p[1])

    tail = _ribbon(
        (cx + 0.55 * w, 90),
        (lerp(84, 100, p[2]), lerp(95.5, 95, p[2])),
        (lerp(97, 76, p[2]), lerp(92, 58, p[2])),
        (lerp(92, 88, p[2]), lerp(76, 33, p[2])),
        8.5,
        lerp(8.5, 11.5, p[2]),
    )
    body = _mirrored(cx, [(0, 44), (0.6 * w, 49), (0.92 * w, 66), (w, 82), (0.86 * w, 93.6), (0.45 * w, 96), (0, 96)])
    head = _mirrored(
        cx,
        [
            (0, hy - ry),
            (0.58 * rx, hy - 0.86 * ry),
            (0.95 * rx, hy - 0.2 * ry),
            (rx, hy + 0.28 * ry),
            (0.62 * rx, hy + 0.86 * ry),
            (0, hy + ry),
        ],
    )
    parts = [Part(tail, SECOND), Part(body)]
    for s in (-1, 1):
        parts.append(Part(ellipse(cx + s * 0.36 * w, 90.8, 0.31 * w, 5.2), THIRD, 1.8))
        ox, oy, ix, iy = cx + s * 0.99 * rx, hy + 0.05 * ry, cx + s * inner * rx, hy - 0.8 * ry
        tx = cx + s * spread * rx
        for k, fill in ((0.0, MAIN), (0.3, THIRD)):
            # The inner ear is the outer one, drawn towards the middle of its three corners.
            mx, my = (ox + ix + tx) / 3, (oy + iy + tip) / 3
            a, b, c = ((lerp(x, mx, k), lerp(y, my, k)) for x, y in ((ox, oy), (tx, tip), (ix, iy)))
            ear = _d("M", *a, "Q", a[0] + s * 1.5, lerp(a[1], b[1], 0.6), *b)
            ear += _d("Q", lerp(b[0], c[0], 0.6), lerp(b[1], c[1], 0.35), *c, "z")
            parts.append(Part(ear, fill, 0 if k else 2.2))
    parts.append(Part(head))
    my = hy + 0.46 * ry
    for s in (-1, 1):
        parts.append(Part(ellipse(cx + s * 0.25 * rx, my, 0.29 * rx, 0.32 * ry), THIRD, 1.2))
        for dy, slope in ((-1.5, -2.5), (2.5, 1.5)):
            start, end = (cx + s * 0.62 * rx, my + dy), (cx + s * (rx + 8), my + dy + slope)
            parts.append(_stroke(_d("M", *start, "L", *end), 1.3))
        parts += _eye(cx + s * 0.46 * rx, hy - 0.12 * ry, 0.21 * rx)
    parts.append(Part(_d("M", cx - 3.2, my - 4.6, "h6.4l-3.2 4z"), DARK, 0.8))
    return Figure(
        tuple(parts),
        top=Spot(cx, hy - 0.9 * ry, 1.3 * rx),
        face=Spot(cx, hy - 0.12 * ry, 1.5 * rx),
        neck=Spot(cx, hy + 1.06 * ry, 1.45 * w),
        hand=Spot(cx + 0.8 * w, 74, 30),
        emblem=Spot(cx, 71.5, 30),
    )


def dog(p: Proportions) -> Figure:
    """A standing dog from the side: body's depth, length of the ear, length of the legs, body's length."""
    legs, depth = lerp(13, 26, p[2]), lerp(34, 40, p[0])
    belly = 96 - legs
    back = belly - depth
    rear, chest = lerp(25, 13.5, p[3]), lerp(62, 65, p[0])
    hx, hy, r = 67.0, back + 3, 18.0

    tail = _ribbon((rear + 6, back + 12), (rear - 6, back + 8), (rear - 9, back - 8), (rear + 1, back - 15), 8, 10)
    body = _smooth(
        [
            (rear + 2, back + 0.25 * depth),
            (rear + 11, back + 1.5),
            (36, back + 2.5),
            (52, back - 2),
            (chest, back + 8),
            (chest + 2, back + 0.55 * depth),
            (chest - 6, belly),
            (44, belly - 0.5),
            (28, belly),
            (rear + 3, belly - 3),
            (rear - 1, back + 0.65 * depth),
        ]
    )
    parts = [Part(tail, SECOND)]
    for x in (rear + 13, chest - 19.5):
        parts.append(Part(rounded(x, belly - 12, 9.5, legs + 10, 4)))
        parts.append(Part(rounded(x - 0.8, 89, 14, 7, 3.5), THIRD, 1.9))
    parts.append(Part(body))
    # The near legs are open at their upper end, so that they grow out of the body without a seam.
    for x, width in ((rear, 12.0), (chest - 9, 11.0)):
        shin = _d("M", x, belly - 5, "V92q0 4 4 4h", width - 8, "q4 0 4 -4V", belly - 5)
        parts.append(Part(shin))
        parts.append(Part(rounded(x - 0.8, 88.5, width + 5, 7.5, 3.7), THIRD, 1.9))
    head = _smooth(
        [
            (hx - 3, hy - r),
            (hx + 10, hy - 0.82 * r),
            (hx + 16, hy - 4),
            (hx + 21, hy + 1),
            (hx + 21, hy + 10),
            (hx + 10, hy + 0.92 * r),
            (hx - 6, hy + 0.9 * r),
            (hx - 17, hy + 4),
            (hx - 14, hy - 0.68 * r),
        ]
    )
    snout = _smooth(
        [
            (hx + 11, hy - 1),
            (hx + 20, hy - 2.5),
            (hx + 28, hy + 1.5),
            (hx + 28, hy + 9),
            (hx + 20, hy + 14),
            (hx + 9, hy + 12.5),
            (hx + 6, hy + 5.5),
        ]
    )
    reach, width, top = lerp(12, 48, p[1]), lerp(5, 15, p[1]), hy - r
    ear = _smooth(
        [
            (hx - 5, top + 1),
            (hx - 2 + 0.2 * width, top + 6),
            (hx - 3 + 0.3 * width, top + 0.7 * reach),
            (hx - 6, top + reach + 1),
            (hx - 7 - width, top + 0.94 * reach),
            (hx - 8 - width, top + 0.55 * reach),
            (hx - 12, top + 4),
        ]
    )
    parts += [Part(head), Part(snout, THIRD, 1.8)]
    parts += _eye(hx + 7.5, hy - 5.5, 4.6, look=0.8)
    parts.append(_stroke(_d("M", hx + 26.5, hy + 7.5, "Q", hx + 19, hy + 11.5, hx + 14, hy + 7), 1.4))
    parts.append(Part(ellipse(hx + 26, hy + 0.3, 4, 3.3), DARK, 0.8))
    parts.append(Part(ear, SECOND))
    return Figure(
        tuple(parts),
        top=Spot(hx + 1, hy - 0.92 * r, 24),
        face=Spot(hx + 8.5, hy - 5.5, 24),
        neck=Spot(hx - 7, hy + 0.95 * r, 30),
        hand=Spot(hx + 24, hy + 12, 28),
        emblem=Spot(rear + 16, back + depth / 2 + 2, 30),
    )


def bird(p: Proportions) -> Figure:
    """A bird from the side: body's plumpness, length of the tail, length of the legs, size of the raised wing."""
    legs, rx, ry = lerp(7, 22, p[2]), lerp(26, 31, p[0]), lerp(21, 30, p[0])
    bx, by = 53.0, 96 - legs - ry
    hx, hy, r = bx + 0.5 * rx, by - 0.62 * ry, 15.0

    body = _smooth(
        [
            (hx, hy - r),
            (hx + 11, hy - 0.68 * r),
            (hx + 15, hy + 1),
            (bx + 1.03 * rx, by - 0.02 * ry),
            (bx + 0.94 * rx, by + 0.42 * ry),
            (bx + 0.55 * rx, by + 0.88 * ry),
            (bx, by + ry),
            (bx - 0.62 * rx, by + 0.72 * ry),
            (bx - rx, by + 0.04 * ry),
            (bx - 0.8 * rx, by - 0.42 * ry),
            (bx - 0.25 * rx, by - 0.66 * ry),
            (hx - 13.5, hy - 3),
            (hx - 10, hy - 11),
        ]
    )
    # The tail is a fan of three feathers.
    tx, ty = bx - 0.8 * rx, by + 0.02 * ry
    length, fan = lerp(11, 48, p[1]), lerp(0.2, 0.42, p[1])
    feathers = []
    for side in (1, -1, 0):
        angle = pi * lerp(0.97, 1.29, p[1]) + side * fan
        tip = (max(tx + length * cos(angle), 4.5), max(ty + length * sin(angle), 6.0))
        feathers.append(Part(_leaf((tx + 10, ty + 2), tip, lerp(9, 20, p[1])), THIRD, 1.9))
    # The wing is raised, its trailing edge three rounded feathers.
    wx, wy, turn = bx + 2, by - 0.2 * ry, pi * lerp(1.04, 1.34, p[3])
    size = min(lerp(20, 48, p[3]), (wy - 5) / 0.98)

    def at(along: float, across: float) -> Point:
        x, y = along * cos(turn) + across * sin(turn), along * sin(turn) - across * cos(turn)
        return (wx + size * x, wy + size * y)

    wing = _d("M", *at(-0.05, 0.16), "C", *at(0.3, 0.42), *at(0.8, 0.36), *at(1.04, 0.2))
    wing += _d("C", *at(1.12, 0.1), *at(1.0, -0.04), *at(0.84, -0.02))
    wing += _d("C", *at(0.96, -0.16), *at(0.82, -0.26), *at(0.64, -0.2))
    wing += _d("C", *at(0.7, -0.36), *at(0.5, -0.42), *at(0.34, -0.34))
    wing += _d("C", *at(0.1, -0.34), *at(-0.14, -0.1), *at(-0.05, 0.16), "z")

    parts = []
    for x in (bx - 5, bx + 9):
        parts.append(Part(rounded(x - 2.6, by + 0.8 * ry, 5.2, 94 - by - 0.8 * ry, 2), THIRD, 1.8))
        parts.append(Part(_d("M", x - 6, 96, "q1 -6.5 6.5 -6.5q8.5 0.5 10.5 6.5z"), THIRD, 1.8))
    parts += [*feathers, Part(body)]
    beak = _d("M", hx + 12, hy - 4.5, "Q", hx + 20, hy - 5, min(hx + 30, 96), hy + 3.5)
    beak += _d("Q", hx + 19, hy + 9.5, hx + 12, hy + 8, "Q", hx + 15, hy + 2, hx + 12, hy - 4.5, "z")
    parts += [Part(beak, THIRD, 1.9), _stroke(_d("M", hx + 14, hy + 2.5, "L", hx + 24, hy + 3), 1.2)]
    parts += _eye(hx + 4, hy - 3, 4.6, look=0.7)
    parts.append(Part(wing, SECOND))
    return Figure(
        tuple(parts),
        top=Spot(hx - 1, hy - 0.88 * r, 22),
        face=Spot(hx + 5, hy - 3, 22),
        neck=Spot(hx + 1, hy + 13, 30),
        hand=Spot(hx + 24, hy + 4, 26),
        emblem=Spot(bx + 0.16 * rx, by + 0.28 * ry, 30),
    )


def fish(p: Proportions) -> Figure:
    """A fish: body's height, spread of the tail, height of the fin on its back, length of the body."""
    h = lerp(21, 30, p[0])
    cy, end = 88.5 - h, lerp(38, 21, p[3])
    spread, rise = lerp(11, 30, p[1]), lerp(2, 26, p[2])
    middle = (end + 94) / 2

    low_tip = min(cy + spread, 96)
    tail = _d("M", end + 9, cy - 5, "C", end - 2, cy - 6, end - 5, cy - spread, 7, cy - spread)
    tail += _d("Q", 3, cy - 0.5 * spread, lerp(10, end - 2, 0.5), cy, "Q", 3, cy + 0.5 * spread, 7, low_tip)
    tail += _d("C", end - 5, low_tip, end - 2, cy + 6, end + 9, cy + 5, "z")
    crest = cy - h - rise
    fin = _d("M", middle - 23, cy - 0.4 * h, "Q", middle - 26, crest + 2, middle - 19, crest)
    fin += _d("Q", middle - 12, crest, middle - 8, lerp(crest, cy - h, 0.14))
    fin += _d("Q", middle, crest, middle + 7, lerp(crest, cy - h, 0.3))
    fin += _d("Q", middle + 18, lerp(crest, cy - h, 0.25), middle + 25, cy - 0.6 * h, "z")
    low = _d("M", middle + 8, cy + 0.75 * h, "Q", middle + 4, 95, middle - 12, 96)
    low += _d("Q", middle - 15, 88, middle - 13, cy + 0.6 * h, "z")
    body = _smooth(
        [
            (94.5, cy + 0.08 * h),
            (88.5, cy - 0.48 * h),
            (middle + 13, cy - 0.95 * h),
            (middle - 6, cy - 0.97 * h),
            (end + 13, cy - 0.62 * h),
            (end + 1, cy - 6),
            (end + 1, cy + 6),
            (end + 13, cy + 0.62 * h),
            (middle - 6, cy + 0.97 * h),
            (middle + 13, cy + 0.95 * h),
            (88.5, cy + 0.56 * h),
        ]
    )
    # The pectoral fin hangs low behind the gill, so that the flank stays free.
    gill = 76.0
    pectoral = _leaf((gill, cy + 0.42 * h), (gill - 14, cy + 0.42 * h + 16), 14)
    parts = [Part(tail, SECOND), Part(fin, SECOND), Part(low, THIRD), Part(body)]
    parts.append(_stroke(_d("M", gill - 1, cy - 0.52 * h, "Q", gill + 5, cy, gill - 1, cy + 0.42 * h), 1.7))
    parts.append(Part(pectoral, THIRD, 1.9))
    parts.append(Part(ellipse(93, cy + 0.2 * h, 3.3, 4.8), THIRD, 1.7))
    parts += _eye(85.5, cy - 0.2 * h, 4.6, look=0.8)
    for s in (-1, 1):
        parts.append(_stroke(_d("M", end - 3, cy + s * 3, "L", lerp(7, end, 0.3), cy + s * 0.55 * spread), 1.3))
    return Figure(
        tuple(parts),
        top=Spot(middle + 14, cy - 0.9 * h, 24),
        face=Spot(85.5, cy - 0.2 * h, 20),
        neck=Spot(gill - 6, cy + 0.55 * h, 26),
        hand=Spot(94, cy + 0.2 * h, 26),
        emblem=Spot(lerp(end + 13, 74, 0.52), cy - 0.06 * h, 30),
    )


def turtle(p: Proportions) -> Figure:
    """A turtle from the side: height of the shell, reach of the neck, length of the legs, length of the shell."""
    legs, dome, half = lerp(10, 22, p[2]), lerp(37, 57, p[0]), lerp(28, 35, p[3])
    base, cx = 96 - legs, 41.0
    left, right = cx - half, cx + half
    hx, hy = lerp(81.0, 85.0, p[1]), base - lerp(1, 43, p[1])

    neck = _ribbon((right - 14, base - 5), (right + 4, base - 3), (hx - 6, base), (hx - 1, hy), 16, 13)
    head = _smooth(
        [
            (hx - 9, hy - 7),
            (hx, hy - 11),
            (hx + 9, hy - 7),
            (hx + 12, hy + 1),
            (hx + 7, hy + 8),
            (hx - 3, hy + 8.5),
            (hx - 10, hy + 3),
        ]
    )
    tail = _leaf((left + 12, base - 2), (max(left - 10, 3), base + 3), 11)
    shell = _d("M", left, base - 4, "C", left, base - 0.62 * dome, cx - 0.68 * half, base - dome, cx, base - dome)
    shell += _d("C", cx + 0.68 * half, base - dome, right, base - 0.62 * dome, right, base - 4, "z")
    rim = _smooth(
        [
            (left - 3, base - 5),
            (left + 6, base - 9),
            (cx, base - 7.5),
            (right - 6, base - 9),
            (right + 3, base - 5),
            (right - 2, base + 1),
            (cx, base + 3),
            (left + 2, base + 1),
        ]
    )
    parts = [Part(tail, SECOND)]
    for x in (left + 13, right - 21):
        parts.append(Part(rounded(x, base - 6, 9, legs + 5, 4), SECOND))
    parts += [Part(neck, SECOND), Part(head, SECOND)]
    # The neck and the head are one skin: this covers the seam between them.
    parts.append(Part(ellipse(hx - 1.5, hy + 4.5, 4.7, 5.5), SECOND, 0))
    parts += _eye(hx + 3.5, hy - 2.5, 4.3, look=0.6)
    parts.append(_stroke(_d("M", hx + 10, hy + 4, "Q", hx + 6, hy + 6.4, hx + 2.5, hy + 4.4), 1.3))
    for x in (left + 1, right - 13):
        shin = _d("M", x + 1, base - 6, "L", x, 92, "q0 4 4 4h8q4 0 4 -3.4L", x + 12, base - 6, "z")
        parts.append(Part(shin, SECOND))
    parts += [Part(shell), Part(rim, THIRD)]
    for t in (-0.62, -0.2, 0.2, 0.62):
        parts.append(_stroke(_d("M", cx + t * half, base - 7.5, "L", cx + 1.04 * t * half, base + 2), 1.3))
    return Figure(
        tuple(parts),
        top=Spot(hx, hy - 9.5, 20),
        face=Spot(hx + 4, hy - 2.5, 18),
        neck=Spot(hx - 3, hy + 11, 18),
        hand=Spot(hx + 9, hy + 7, 24),
        emblem=Spot(cx, base - 8 - 0.5 * (dome - 8) + 1.5, 30),
    )


def _cloud(cx: float, cy: float, rx: float, ry: float, lobes: int, taper: float) -> str:
    """A closed crown of round lobes on an ellipse; `taper` widens its top (below 0) or its bottom (above 0)."""
    points = []
    for i in range(lobes):
        a = 2 * pi * (i + 0.5) / lobes + pi / 2
        points.append((cx + rx * cos(a) * (1 + taper * sin(a)), cy + ry * sin(a)))
    d = _d("M", *points[0])
    for i in range(lobes):
        start, end = points[i], points[(i + 1) % lobes]
        r = 0.6 * hypot(end[0] - start[0], end[1] - start[1])
        d += _d("A", r, r, " 0 0 1", *end)
    return d + "z"


def tree(p: Proportions) -> Figure:
    """A fruit tree: width of the crown, height of the trunk, where the crown is widest, size of the fruit."""
    rx, trunk, taper = lerp(27, 38, p[0]), lerp(17, 34, p[1]), lerp(-0.28, 0.28, p[2])
    top, foot = 8.0, 96 - trunk
    cy, ry = (top + foot) / 2, (foot - top) / 2 - 1
    r = lerp(3.4, 6.8, p[3])

    wood = _d("M", 34, 96, "Q", 42, 92, 42.5, foot - 12, "H", 57.5, "Q", 58, 92, 66, 96)
    wood += "Q58 95 55.5 96Q50 93.5 44.5 96Q42 95 34 96z"
    parts = [Part(wood, SECOND), _stroke(_d("M", 48, foot + 5, "V", lerp(foot, 96, 0.7)), 1.4)]
    for x in (26.0, 74.0):
        parts.append(Part(_d("M", x - 10, 96, "q0 -8 5 -9q1.5 -4 5 -3q5 0 5.5 5q4.5 1 4.5 7z"), THIRD, 1.8))
    parts.append(Part(_cloud(50, cy, rx, ry, 9, taper)))
    places = ((-0.74, -0.2), (-0.44, -0.74), (0.3, -0.8), (0.76, -0.32), (0.7, 0.4), (0.06, 0.8), (-0.68, 0.44))
    for x, y in places:
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
    r, deep = lerp(31, 38, p[0]), lerp(0.9, 0.65, p[1])
    cy = r + lerp(15, 4, p[3])
    # The middle sits above the centre of the bloom, as if it looked up; the petals in front are the longer ones.
    eye = 0.28 * r
    ey = cy - 0.9 * eye

    petals, half_turn = 8, 0.31
    # The control points that let a petal's cubic Bézier end just at the radius r.
    out = (r - 0.25 * deep * r * cos(pi / petals)) / (0.75 * cos(half_turn))
    outline, seams = "", []
    for i in range(petals):
        a, b = (2 * pi * (i + k + 0.5) / petals + pi / 2 for k in (0, 1))
        start, end = ((50 + deep * r * cos(t), cy + deep * r * sin(t)) for t in (a, b))
        c1, c2 = ((50 + out * cos(t), cy + out * sin(t)) for t in ((a + b) / 2 - half_turn, (a + b) / 2 + half_turn))
        outline += _d("" if outline else "M", *(() if outline else start), "C", *c1, *c2, *end)
        seams.append(_stroke(_d("M", *start, "L", lerp(start[0], 50, 0.3), lerp(start[1], ey, 0.3)), 1.5))
    span, lift, width = lerp(24, 43, p[2]), lerp(4, 23, p[2]), lerp(11, 20, p[2])
    parts = [Part(rounded(46.5, cy, 7, 96 - cy, 2), THIRD)]
    for s in (-1, 1):
        tip = (50 + s * span, 90.5 - lift)
        parts.append(Part(_leaf((50, 91), tip, width, lift=-3), THIRD))
        vein = _d("M", 50 + s * 5, 90.5, "Q", 50 + s * 0.5 * span, 92.5 - 0.5 * lift, 50 + s * 0.75 * span, tip[1] + 6)
        parts.append(_stroke(vein, 1.3))
    parts += [Part(outline + "z"), *seams, Part(ellipse(50, ey, eye), SECOND)]
    return Figure(
        tuple(parts),
        top=Spot(50, cy - 0.95 * r, 28),
        face=Spot(50, ey, 26),
        neck=Spot(50, min(cy + r + 2, 90), 18),
        hand=Spot(50 + 0.8 * r, cy + 0.5 * r, 28),
        emblem=Spot(50, ey + eye + 14.5, 30),
    )


def cactus(p: Proportions) -> Figure:
    """A cactus in a pot: width of the stem, length of its arms, size of the pot, size of the blossom."""
    w, pot = lerp(16.5, 23, p[0]), lerp(19, 33, p[2])
    rim, brim = 96 - pot, lerp(25, 33, p[2])
    bloom = lerp(6, 17, p[3])
    top = 4.5 + 1.15 * bloom

    def arm(side: int, low: float) -> str:
        reach = lerp(10, 17, p[1])
        x = 50 + side * (w + reach - 4.5)
        end = (x, low - lerp(5, 34, p[1]))
        return _ribbon((50 + side * (w - 6), low), (x - side, low + 2), (x, low - 1), end, 10.5, 12)

    stem = _d("M", 50 - w, rim + 6, "V", top + 0.9 * w, "C", 50 - w, top - 0.28 * w, 50 + w, top - 0.28 * w)
    stem += _d(50 + w, top + 0.9 * w, "V", rim + 6, "z")
    parts = [Part(arm(-1, 51)), Part(arm(1, 57)), Part(stem)]
    for x, y in ((-0.66, 0.2), (0.66, 0.24), (-0.8, 0.52), (0.8, 0.57), (-0.74, 0.86), (0.72, 0.9)):
        sx, sy = 50 + x * w, lerp(top + 3, rim - 4, y)
        parts.append(_stroke(_d("M", sx - 2, sy - 2, "L", sx, sy + 1, "L", sx + 2, sy - 2), 1.3))
    for k in (0, 4, 1, 3, 2):
        a = pi * (1 + k / 4)
        end = (50 + 1.2 * bloom * cos(a), top + 2 + 1.15 * bloom * sin(a))
        parts.append(Part(_leaf((50, top + 4), end, 0.78 * bloom), THIRD, 1.7))
    parts.append(Part(ellipse(50, top + 3, 0.3 * bloom + 0.8), SECOND, 1.5))
    tub = _d("M", 50 - 0.86 * brim, rim + 4, "L", 50 - 0.64 * brim, 93, "q0.5 3 4 3h", 1.28 * brim - 8)
    tub += _d("q3.5 0 4 -3L", 50 + 0.86 * brim, rim + 4, "z")
    parts += [Part(tub, SECOND), Part(rounded(50 - brim, rim, 2 * brim, lerp(7.5, 10, p[2]), 3), THIRD)]
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
    half, high = lerp(31, 44, p[0]), lerp(34, 51, p[1])
    thick, stalk = lerp(10, 20.5, p[2]), lerp(25, 40, p[3])
    edge = 96 - stalk
    top = edge - high
    left, right = 50 - half, 50 + half

    cap = _d("M", left, edge - 1, "C", left - 1, top + 0.3 * high, 50 - 0.52 * half, top, 50, top)
    cap += _d("C", 50 + 0.52 * half, top, right + 1, top + 0.3 * high, right, edge - 1)
    cap += _d("Q", right, edge + 4, 50 + 0.82 * half, edge + 4.5, "Q", 50, edge + 9, 50 - 0.82 * half, edge + 4.5)
    cap += _d("Q", left, edge + 4, left, edge - 1, "z")
    lower, middle = lerp(edge, 96, 0.6), lerp(edge, 96, 0.5)
    stem = _d("M", 50 - 0.78 * thick, edge + 0.5, "C", 50 - 0.75 * thick, middle, 50 - 1.1 * thick, lower)
    stem += _d(50 - 1.1 * thick, 90, "Q", 50 - 1.1 * thick, 96, 50 - 0.5 * thick, 96, "H", 50 + 0.5 * thick)
    stem += _d("Q", 50 + 1.1 * thick, 96, 50 + 1.1 * thick, 90, "C", 50 + 1.1 * thick, lower)
    stem += _d(50 + 0.75 * thick, middle, 50 + 0.78 * thick, edge + 0.5)
    stem += _d("Q", 50, edge - 4, 50 - 0.78 * thick, edge + 0.5, "z")
    parts = [Part(cap), Part(ellipse(50, edge + 1, 0.86 * half, 7.6), THIRD, 1.9)]
    for s in (-1, 1):
        for t in (0.5, 0.74):
            if t * half > thick:
                parts.append(_stroke(_d("M", 50 + s * t * half, edge - 2, "l", s * 2, 5), 1.2))
    parts.append(Part(stem, SECOND))
    ey = lerp(edge, 96, 0.52)
    for s in (-1, 1):
        parts += _eye(50 + s * 0.48 * max(thick, 10.5), ey, 3.8)
    parts.append(_stroke(_d("M", 47, ey + 5.6, "q3 3 6 0"), 1.5))
    return Figure(
        tuple(parts),
        top=Spot(50, top + 2, 28),
        face=Spot(50, ey, 2 * thick),
        neck=Spot(50, edge + 9, 2 * thick),
        hand=Spot(50 + thick, lerp(edge, 96, 0.55), 28),
        emblem=Spot(50, lerp(top, edge - 6, 0.55), 30),
    )


def palm(p: Proportions) -> Figure:
    """A palm on its mound: length of the fronds, how they droop, lean of the trunk, height of the trunk."""
    reach, droop, foot = lerp(32, 44, p[0]), lerp(-0.04, 0.42, p[1]), lerp(62, 26, p[2])
    cx, cy = 50.0, lerp(54, 39, p[3])

    trunk = _ribbon((foot, 94), (lerp(foot, cx, 0.1), 80), (cx, lerp(cy, 96, 0.5)), (cx, cy + 4), 15, 11)
    mound = _d("M", foot - 22, 96, "C", foot - 16, 82, foot + 16, 82, foot + 22, 96, "z")
    parts = [Part(trunk, SECOND)]
    for t in (0.36, 0.56, 0.76):
        u = 1 - t
        # The trunk's own Bézier, from its foot up.
        x = u**3 * cx + 3 * u * u * t * cx + 3 * u * t * t * lerp(foot, cx, 0.1) + t**3 * foot
        y = u**3 * (cy + 4) + 3 * u * u * t * lerp(cy, 96, 0.5) + 3 * u * t * t * 80 + t**3 * 94
        parts.append(_stroke(_d("M", x - 4.5, y, "q4.5 3 9 0"), 1.4))
    parts.append(Part(mound, THIRD))
    # The fronds of a side grow together: outlines first, then fills without lines, then their midribs.
    crowns, ribs = ["", ""], []
    for x, y in ((0.36, -0.64), (0.8, -0.36), (0.98, 0.14), (0.6, 0.5)):
        for s in (-1, 1):
            tip = (cx + s * x * reach, min(cy + (y + droop * (0.4 + 0.6 * x)) * reach, 93))
            bend = (cx + s * 0.62 * x * reach, max(min(tip[1], cy) - 0.34 * reach * (0.4 + 0.6 * x), -8))
            crowns[s > 0] += _frond((cx - s * 3, cy), bend, tip, 0.37 * reach)
            a, b = (
                (lerp(cx, bend[0], 0.75), lerp(cy, bend[1], 0.5)),
                (lerp(bend[0], tip[0], 0.6), lerp(bend[1], tip[1], 0.6)),
            )
            ribs.append(_stroke(_d("M", *a, "Q", lerp(a[0], b[0], 0.6), lerp(a[1], b[1], 0.2) - 1, *b), 1.2))
    parts += [Part(crown, MAIN, 4) for crown in crowns]
    parts += [Part(crown, MAIN, 0) for crown in crowns]
    parts += ribs
    for x, y in ((-7, 10), (7, 10), (0, 15)):
        parts.append(Part(ellipse(cx + x, cy + y, 5.6), THIRD, 1.8))
    return Figure(
        tuple(parts),
        top=Spot(cx, cy - 0.62 * reach, 26),
        face=Spot(cx, cy - 4, 26),
        neck=Spot(cx, cy + 22, 18),
        hand=Spot(cx + 0.8 * reach, cy + 4, 26),
        emblem=Spot(cx, cy - 7, 30),
    )


_PET = ("pet", "animal", "creature", "thing")
_ANIMAL = ("animal", "creature", "thing")
_PLANT = ("plant", "thing")

CATEGORIES: tuple[Category, ...] = (
    Category("cat", "animals", ("kitty", "tomcat", "kitten"), cat, True, _PET),
    Category("dog", "animals", ("puppy", "hound", "doggy"), dog, True, _PET),
    Category("bird", "animals", ("birdie", "songbird", "sparrow"), bird, True, _ANIMAL),
    Category("fish", "animals", ("goldfish", "carp", "guppy"), fish, False, _PET),
    Category("turtle", "animals", ("tortoise", "terrapin"), turtle, False, _PET),
    Category("tree", "plants", ("oak", "sapling", "maple"), tree, True, _PLANT),
    Category("flower", "plants", ("daisy", "blossom", "bloom"), flower, True, _PLANT),
    Category("cactus", "plants", ("succulent", "saguaro"), cactus, True, _PLANT),
    Category("mushroom", "plants", ("toadstool", "fungus"), mushroom, False, _PLANT),
    Category("palm", "plants", ("palmetto", "palmtree"), palm, False, _PLANT),
)
