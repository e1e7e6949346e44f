"""Things of the house: mug, teapot, bowl, vase, bottle; and of the toy chest: robot, ball, bear, drum, kite."""

from __future__ import annotations

from math import atan2, cos, hypot, radians, sin

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

_HOLLOW = "#43353a"
"""The shaded inside of a vessel."""
_WOOD = "#e3bd84"


def _ear(x1: float, y1: float, x2: float, y2: float, reach: float, thick: float) -> str:
    """A closed bow-shaped handle between two points of a wall, `reach` units out (negative: to the left)."""
    side = 1.0 if reach > 0 else -1.0
    out, hole = reach * 4 / 3, (reach - side * thick) * 4 / 3
    flat = (y2 - y1) * 0.06
    return (
        f"M{x1:.2f} {y1:.2f}C{x1 + out:.2f} {y1 - flat:.2f} {x2 + out:.2f} {y2 + flat:.2f} {x2:.2f} {y2:.2f}"
        f"L{x2:.2f} {y2 - thick:.2f}C{x2 + hole:.2f} {y2 - thick:.2f} {x1 + hole:.2f} {y1 + thick:.2f}"
        f" {x1:.2f} {y1 + thick:.2f}z"
    )


def _capsule(x1: float, y1: float, r1: float, x2: float, y2: float, r2: float) -> str:
    """A closed limb: two round ends joined by straight sides."""
    length = max(hypot(x2 - x1, y2 - y1), 1e-6)
    nx, ny = (y1 - y2) / length, (x2 - x1) / length
    return (
        f"M{x1 + nx * r1:.2f} {y1 + ny * r1:.2f}A{r1:.2f} {r1:.2f} 0 0 1 {x1 - nx * r1:.2f} {y1 - ny * r1:.2f}"
        f"L{x2 - nx * r2:.2f} {y2 - ny * r2:.2f}A{r2:.2f} {r2:.2f} 0 0 1 {x2 + nx * r2:.2f} {y2 + ny * r2:.2f}z"
    )


def _glint(x: float, y: float, height: float, lean: float = 0.0) -> Part:
    """A streak of light on a glazed wall."""
    return Part(f"M{x:.2f} {y:.2f}q{-2.4 + lean:.2f} {height / 2:.2f} {lean:.2f} {height:.2f}", "none", 3.0, LIGHT)


def mug(p: Proportions) -> Figure:
    """A mug with a dipped foot. Proportions: low-tall, bellied-tapered, size of the handle, height of the dip."""
    height, width = lerp(73, 89, p[0]), lerp(64, 50, p[0])
    foot = width * lerp(1.08, 0.72, p[1])
    reach = lerp(13, 26, p[2])
    cx, ry = 50 - reach / 2 + 0.5, 6.5
    rim, base = 95 - height + ry, 90.0
    left, right = cx - width / 2, cx + width / 2

    def wall(y: float) -> float:
        return lerp(width / 2, foot / 2, (y - rim) / (base - rim))

    bottom = (
        f"L{cx + foot / 2:.2f} {base:.2f}Q{cx + foot / 2 - 1:.2f} 95 {cx + foot / 2 - 10:.2f} 95"
        f"H{cx - foot / 2 + 10:.2f}Q{cx - foot / 2 + 1:.2f} 95 {cx - foot / 2:.2f} {base:.2f}"
    )
    body = f"M{left:.2f} {rim:.2f}A{width / 2:.2f} {ry} 0 0 1 {right:.2f} {rim:.2f}{bottom}z"
    dip = 95 - lerp(6.5, 26, p[3])
    half = wall(dip)
    wave = half / 2
    glaze = f"M{cx - half:.2f} {dip:.2f}q{wave / 2:.2f} 6 {wave:.2f} 0t{wave:.2f} 0t{wave:.2f} 0t{wave:.2f} 0{bottom}z"
    upper, lower = rim + height * lerp(0.2, 0.11, p[2]), rim + height * lerp(0.58, 0.78, p[2])
    middle = (rim + ry + dip - 3) / 2
    side = min(dip - 3 - rim - ry, 2 * wall(dip) - 3)
    parts = (
        Part(_ear(cx + wall(upper) - 3, upper, cx + wall(lower) - 3, lower, reach + 3, lerp(6.5, 9, p[2])), SECOND),
        Part(body),
        Part(glaze, THIRD, 1.6),
        Part(body, "none"),
        Part(ellipse(cx, rim, width / 2, ry), SECOND),
        Part(ellipse(cx, rim + 0.4, width / 2 - 4, ry - 2.6), _HOLLOW, 1.4),
        _glint(left + 7 - (width - foot) * 0.06, rim + ry + 5, 14, (width - foot) * 0.1),
    )
    return Figure(
        parts,
        top=Spot(cx, rim - ry + 2, width),
        face=Spot(cx, rim + ry + (dip - rim) * 0.3, width * 0.75),
        neck=Spot(cx, rim + ry + 5, width + 2),
        hand=Spot(cx + wall(middle) + reach, (upper + lower) / 2, 40),
        emblem=Spot(cx, middle, side),
        inside=Spot(cx, rim + 1, width - 10),
    )


def teapot(p: Proportions) -> Figure:
    """A teapot. Proportions: tall-round, length of the spout, size of the handle, height of the lid."""
    rx, height = lerp(23.5, 28.5, p[0]), lerp(56, 45, p[0]) - 5 * p[3]
    spout, loop = lerp(12, 20, p[1]), lerp(9, 18, p[2])
    lid, mouth, knob = lerp(7, 21, p[3]), lerp(13, 18, p[3]), lerp(4.2, 6.2, p[3])
    cx = 50 + (loop - spout) / 2
    seam = 91 - height
    middle, stand = seam + height * 0.52, rx * 0.58

    def half(s: float) -> str:
        return (
            f"C{cx + s * rx * 0.9:.2f} {seam + 1:.2f} {cx + s * rx:.2f} {middle - height * 0.28:.2f} {cx + s * rx:.2f}"
            f" {middle:.2f}C{cx + s * rx:.2f} {middle + height * 0.26:.2f} {cx + s * rx * 0.84:.2f} 91"
            f" {cx + s * stand:.2f} 91"
        )

    back = (
        f"C{cx - rx * 0.84:.2f} 91 {cx - rx:.2f} {middle + height * 0.26:.2f} {cx - rx:.2f} {middle:.2f}"
        f"C{cx - rx:.2f} {middle - height * 0.28:.2f} {cx - rx * 0.9:.2f} {seam + 1:.2f} {cx - mouth:.2f} {seam:.2f}z"
    )
    body = f"M{cx + mouth:.2f} {seam:.2f}{half(1)}H{cx - stand:.2f}{back}"
    tip_x, tip_y = cx + rx + spout, seam + lerp(17, -1, p[1])
    nose = (
        f"M{cx + rx * 0.7:.2f} {middle + 15:.2f}C{cx + rx + spout * 0.75:.2f} {middle + 13:.2f}"
        f" {cx + rx + spout * 0.35:.2f} {tip_y + 11:.2f} {tip_x:.2f} {tip_y + 3:.2f}L{tip_x - 9:.2f} {tip_y - 2:.2f}"
        f"C{cx + rx + spout * 0.1:.2f} {tip_y + 7:.2f} {cx + rx + 2:.2f} {middle - 6:.2f}"
        f" {cx + rx * 0.7:.2f} {middle - 6:.2f}z"
    )
    cap = (
        f"M{cx - mouth - 2:.2f} {seam:.2f}C{cx - mouth + 1:.2f} {seam - lid * 1.33:.2f} {cx + mouth - 1:.2f}"
        f" {seam - lid * 1.33:.2f} {cx + mouth + 2:.2f} {seam:.2f}"
        f"Q{cx:.2f} {seam + 6:.2f} {cx - mouth - 2:.2f} {seam:.2f}z"
    )
    grip = lerp(0.22, 0.34, p[2]) * height
    parts = (
        Part(_ear(cx - rx * 0.86, middle - grip, cx - rx * 0.86, middle + grip, -loop - rx * 0.14, 7), SECOND),
        Part(nose, SECOND),
        Part(rounded(cx - stand - 2, 88, 2 * stand + 4, 7, 3), SECOND),
        Part(body),
        Part(ellipse(cx, seam - lid - knob + 1, knob), SECOND),
        Part(cap, THIRD),
        _glint(cx - rx + 7, middle - height * 0.2, height * 0.26),
    )
    return Figure(
        parts,
        top=Spot(cx, seam - lid - 2, 2 * mouth),
        face=Spot(cx, middle - height * 0.18, rx * 1.4),
        neck=Spot(cx, seam + 5, 2 * mouth + 10),
        hand=Spot(tip_x - 4, tip_y + 3, 36),
        emblem=Spot(cx, middle + 2, min(rx * 1.42, height - 8)),
        inside=Spot(cx, seam, 2 * mouth - 2),
    )


def bowl(p: Proportions) -> Figure:
    """A wide bowl on a foot. Proportions: shallow-deep, height of the foot, width of the opening, steepness."""
    depth, stem, ry = lerp(45, 59, p[0]), lerp(7, 16, p[1]), lerp(6.5, 13, p[2])
    foot = lerp(17, 21, p[1])
    wide, base = 45.0, 95 - stem
    rim = base - depth
    pull = lerp(0.04, 0.76, p[3])
    low = lerp(18, 23, p[3])
    x1, y1 = wide - (wide - low) * (0.34 - pull * 0.3), rim + depth * lerp(0.36, 0.62, p[3])
    x2 = low + (wide - low) * lerp(0.22, 0.62, p[3])
    y2 = base - depth * lerp(0.22, 0.0, p[3])
    body = (
        f"M{50 - wide:.2f} {rim:.2f}C{50 - x1:.2f} {y1:.2f} {50 - x2:.2f} {y2:.2f} {50 - low:.2f} {base:.2f}"
        f"H{50 + low:.2f}C{50 + x2:.2f} {y2:.2f} {50 + x1:.2f} {y1:.2f} {50 + wide:.2f} {rim:.2f}z"
    )
    stand = (
        f"M{50 - foot + 2:.2f} {base - 3:.2f}Q{50 - foot + 2:.2f} {base + stem * 0.55:.2f} {50 - foot - 5:.2f} 95"
        f"H{50 + foot + 5:.2f}Q{50 + foot - 2:.2f} {base + stem * 0.55:.2f} {50 + foot - 2:.2f} {base - 3:.2f}z"
    )
    side = min(depth - ry - 1.5, lerp(34, 44, p[3]))
    parts = (
        Part(stand, SECOND),
        Part(body),
        Part(ellipse(50, rim, wide, ry), SECOND),
        Part(ellipse(50, rim + 0.8, wide - 5, ry - 2.6), THIRD, 1.6),
        _glint(50 - wide * 0.72, rim + ry + 4, depth * 0.26, 4.0),
    )
    return Figure(
        parts,
        top=Spot(50, rim - ry + 2, 60),
        face=Spot(50, rim + ry + depth * 0.22, 44),
        neck=Spot(50, rim + ry + 5, 80),
        hand=Spot(50 + wide - 3, rim + 6, 40),
        emblem=Spot(50, rim + ry + 1 + side / 2, side),
        inside=Spot(50, rim + 1, 2 * wide - 16),
    )


def vase(p: Proportions) -> Figure:
    """A vase. Proportions: slim-bellied, length of the neck, width of the mouth, low or high belly."""
    belly, neck = lerp(22, 35, p[0]), lerp(17, 30, p[1])
    throat = lerp(8, 16.5, p[2])
    lip, ry, base = throat + lerp(5.5, 12, p[2]), 5.2, 88.0
    rim, foot = 10.0, lerp(17, 11, p[3])
    collar = rim + neck
    middle = lerp(base - (base - collar) * 0.26, collar + (base - collar) * 0.3, p[3])
    up, down = (middle - collar) * 0.56, (base - middle) * 0.56
    body = (
        f"M{50 - throat:.2f} {collar:.2f}C{50 - belly * 0.8:.2f} {collar + 2:.2f} {50 - belly:.2f} {middle - up:.2f}"
        f" {50 - belly:.2f} {middle:.2f}C{50 - belly:.2f} {middle + down:.2f} {50 - foot - 3:.2f} {base - 5:.2f}"
        f" {50 - foot:.2f} {base:.2f}H{50 + foot:.2f}C{50 + foot + 3:.2f} {base - 5:.2f} {50 + belly:.2f}"
        f" {middle + down:.2f} {50 + belly:.2f} {middle:.2f}C{50 + belly:.2f} {middle - up:.2f} {50 + belly * 0.8:.2f}"
        f" {collar + 2:.2f} {50 + throat:.2f} {collar:.2f}z"
    )
    chimney = (
        f"M{50 - lip:.2f} {rim:.2f}Q{50 - throat + 1:.2f} {rim + neck * 0.4:.2f} {50 - throat:.2f} {collar + 1:.2f}"
        f"H{50 + throat:.2f}Q{50 + throat - 1:.2f} {rim + neck * 0.4:.2f} {50 + lip:.2f} {rim:.2f}z"
    )
    side = min(belly * 1.4, 44.0)
    parts = (
        Part(rounded(50 - foot - 5, 86.5, 2 * foot + 10, 8.5, 4), THIRD),
        Part(body),
        Part(chimney, SECOND),
        Part(rounded(50 - throat - 3.5, collar - 2.5, 2 * throat + 7, 6, 3), THIRD),
        Part(ellipse(50, rim, lip, ry), SECOND),
        Part(ellipse(50, rim + 0.4, lip - 3.6, ry - 2), _HOLLOW, 1.2),
        _glint(50 - belly + 7, middle - up * 0.5, 15),
    )
    return Figure(
        parts,
        top=Spot(50, rim - ry + 2, 2 * lip),
        face=Spot(50, middle - 8, belly * 1.4),
        neck=Spot(50, collar, 2 * throat + 8),
        hand=Spot(50 + belly - 2, middle, 36),
        emblem=Spot(50, min(max(middle, collar + 7 + side / 2), 85 - side / 2), side),
        inside=Spot(50, rim + 0.5, 2 * lip - 6),
    )


def bottle(p: Proportions) -> Figure:
    """A stoppered bottle. Proportions: slim-fat, length of the neck, width of the neck, square-sloping shoulders."""
    half, neck, slope = lerp(19, 29, p[0]), lerp(7, 20, p[1]), lerp(3, 20, p[3])
    throat, cap = half * lerp(0.25, 0.64, p[2]), lerp(3, 5.5, p[2])
    breast, hem = half * lerp(1.02, 0.84, p[3]), half * lerp(0.94, 1.06, p[3])
    crown = 17.0
    collar = crown + neck
    shoulder = collar + slope + 6

    def wall(y: float) -> float:
        return lerp(breast, hem, (y - shoulder) / (89 - shoulder))

    base = (
        f"{50 + hem:.2f} 89Q{50 + hem:.2f} 95 {50 + hem - 6:.2f} 95H{50 - hem + 6:.2f}Q{50 - hem:.2f} 95"
        f" {50 - hem:.2f} 89"
    )
    body = (
        f"M{50 + throat:.2f} {collar - 2:.2f}C{50 + throat:.2f} {collar + slope * 0.6:.2f} {50 + breast:.2f}"
        f" {collar + slope * 0.2:.2f} {50 + breast:.2f} {shoulder:.2f}L{base}L{50 - breast:.2f} {shoulder:.2f}"
        f"C{50 - breast:.2f} {collar + slope * 0.2:.2f} {50 - throat:.2f} {collar + slope * 0.6:.2f} {50 - throat:.2f}"
        f" {collar - 2:.2f}z"
    )
    floor, ceiling = 84.0, collar + slope * 0.75 + 2
    side = min(2 * wall((floor + ceiling) / 2) - 4, floor - ceiling)
    parts = (
        Part(body),
        Part(f"M{50 - wall(85):.2f} 85H{50 + wall(85):.2f}L{base}z", SECOND, 1.8),
        Part(body, "none"),
        Part(rounded(50 - throat, crown - 3, 2 * throat, neck + 5, 2), SECOND),
        Part(rounded(50 - throat - cap, 6, 2 * (throat + cap), 12.5, 4), THIRD),
        _glint(50 - breast + 6.5, shoulder + 4, 20, breast - hem),
    )
    return Figure(
        parts,
        top=Spot(50, 7, 2 * (throat + cap)),
        face=Spot(50, ceiling + 10, half * 1.5),
        neck=Spot(50, collar, 2 * throat + 6),
        hand=Spot(50 + half - 1, (ceiling + floor) / 2, 36),
        emblem=Spot(50, floor - side / 2, side),
    )


def robot(p: Proportions) -> Figure:
    """A friendly robot. Proportions: width of the body, size of the head, length of the legs, size of the arms."""
    half, brow, leg = lerp(21, 29, p[0]), lerp(18, 26, p[1]), lerp(4, 15, p[2])
    skull = lerp(18, 25, p[1])
    arm, reach = lerp(6.5, 13, p[3]), lerp(13, 32, p[3])
    crown = lerp(16, 11, p[2])
    chin = crown + skull
    chest, waist = chin + 2, 95 - leg - 6
    eye, gaze = lerp(5.0, 6.6, p[1]), crown + skull * 0.39
    shin = 9.0
    hip = half * 0.52
    grin = brow * 0.5
    parts: list[Part] = [
        Part(f"M50 {crown:.2f}v-6", "none", 3.2),
        Part(ellipse(50, crown - 4.6, 4.8), THIRD),
        Part(rounded(50 - brow - 4.5, gaze - 5, 2 * brow + 9, 10, 3), THIRD),
        Part(rounded(43, chin - 3, 14, 8), SECOND),
    ]
    for s in (-1, 1):
        x = 50 + s * (half + 1 + arm / 2)
        palm = chest + 5 + reach
        parts += [
            Part(rounded(50 + s * hip - shin / 2, waist - 3, shin, leg + 6), SECOND),
            Part(f"M{50 + s * hip - 9:.2f} 95a9 9 0 0 1 18 0z", THIRD),
            Part(ellipse(x, palm, arm * 0.46 + 2), THIRD),
            Part(rounded(x - arm / 2, chest + 3, arm, reach, arm / 2), SECOND),
        ]
    parts += [
        Part(rounded(50 - half, chest, 2 * half, waist - chest, 6)),
        Part(rounded(50 - brow, crown, 2 * brow, skull, 6), SECOND),
        Part(
            f"M{50 - grin:.2f} {crown + skull * 0.77:.2f}q{grin:.2f} {skull * 0.22:.2f} {2 * grin:.2f} 0",
            "none",
            2.4,
        ),
    ]
    for s in (-1, 1):
        parts += [
            Part(ellipse(50 + s * brow * 0.46, gaze, eye), LIGHT, 1.6),
            Part(ellipse(50 + s * brow * 0.46 + 0.4, gaze, eye * 0.52), DARK, 0),
        ]
    return Figure(
        tuple(parts),
        top=Spot(50, crown + 1, 2 * brow),
        face=Spot(50, gaze, 2 * brow * 0.9),
        neck=Spot(50, chin + 2, 26),
        hand=Spot(50 + half + 1 + arm / 2, chest + 5 + reach, 36),
        emblem=Spot(50, (chest + waist) / 2, min(2 * half, waist - chest) - 4),
    )


def ball(p: Proportions) -> Figure:
    """A beach ball. Proportions: flat-round, the pole left or right, the pole back or front, width of the main panel.

    The panels are lunes of a sphere in orthographic view; the pole is the upper of the two points where they meet.
    """
    rx, ry = lerp(46, 43, p[0]), lerp(35.5, 45, p[0])
    cy = 95 - ry
    turn, rise = radians(lerp(-38, 38, p[1])), radians(lerp(18, 52, p[2]))
    pole = (sin(turn) * cos(rise), -cos(turn) * cos(rise), sin(rise))
    # East of the pole, and the direction of the meridian that runs straight to the viewer.
    east = (cos(turn), sin(turn), 0.0)
    front = (-sin(turn) * sin(rise), cos(turn) * sin(rise), cos(rise))
    wide = lerp(72, 112, p[3])
    narrow = (180 - wide) / 2

    def heading(longitude: float) -> tuple[float, float, float]:
        a, b = cos(radians(longitude)), sin(radians(longitude))
        return (front[0] * a + east[0] * b, front[1] * a + east[1] * b, front[2] * a + east[2] * b)

    def at(x: float, y: float) -> str:
        return f"{50 + rx * x:.2f} {cy + ry * y:.2f}"

    def limb(longitude: float) -> float:
        """The angle from the pole at which a meridian leaves the visible half."""
        return atan2(pole[2], -heading(longitude)[2])

    def meridian(longitude: float, start: float, stop: float) -> str:
        """The stretch of a meridian between two angles from the pole: three cubics in Hermite form."""
        m, d, step = heading(longitude), "", (stop - start) / 3
        for i in range(3):
            a, b = start + i * step, start + (i + 1) * step
            x0, y0 = (pole[k] * cos(a) + m[k] * sin(a) for k in (0, 1))
            x1, y1 = (pole[k] * cos(b) + m[k] * sin(b) for k in (0, 1))
            u0, v0 = ((m[k] * cos(a) - pole[k] * sin(a)) * step / 3 for k in (0, 1))
            u1, v1 = ((m[k] * cos(b) - pole[k] * sin(b)) * step / 3 for k in (0, 1))
            d += f"C{at(x0 + u0, y0 + v0)} {at(x1 - u1, y1 - v1)} {at(x1, y1)}"
        return d

    def lune(west: float, east_end: float) -> str:
        edge = limb(east_end)
        m = heading(east_end)
        x, y = (pole[k] * cos(edge) + m[k] * sin(edge) for k in (0, 1))
        return (
            f"M{at(pole[0], pole[1])}{meridian(west, 0, limb(west))}A{rx:.2f} {ry:.2f} 0 0 0 {at(x, y)}"
            f"{meridian(east_end, edge, 0)}z"
        )

    parts = [Part(ellipse(50, cy, rx, ry))]
    for start in (0.0, 180.0):
        parts += [
            Part(lune(start + wide / 2, start + wide / 2 + narrow), SECOND, 1.8),
            Part(lune(start + wide / 2 + narrow, start + wide / 2 + 2 * narrow), THIRD, 1.8),
        ]
    parts += [
        Part(ellipse(50, cy, rx, ry), "none"),
        Part(ellipse(50 + rx * pole[0], cy + ry * pole[1], 7.5, max(7.5 * pole[2], 4.0)), LIGHT, 1.8),
    ]
    angle = radians(lerp(82, 66, p[2]))
    x, y = (pole[k] * cos(angle) + front[k] * sin(angle) for k in (0, 1))
    return Figure(
        tuple(parts),
        top=Spot(50, cy - ry + 3, 46),
        face=Spot(50, cy - ry * 0.1, 54),
        neck=Spot(50, cy + ry * 0.55, 76),
        hand=Spot(50 + rx - 3, cy + 4, 36),
        emblem=Spot(50 + rx * x, cy + ry * y, 2 * ry * sin(radians(wide / 2)) * 0.72),
    )


def bear(p: Proportions) -> Figure:
    """A sitting teddy bear. Proportions: slim-round body, size of the head, size of the ears, size of the limbs."""
    belly, cheek, ear = lerp(20, 29, p[0]), lerp(22, 30, p[1]), lerp(7, 15.5, p[2])
    paw, arm = lerp(8, 12.5, p[3]), lerp(5.5, 8.5, p[3])
    jaw = cheek * 0.8
    chin = 58.0
    nose = chin - jaw
    parts: list[Part] = []
    foot = belly * 0.3 + 21
    for s in (-1, 1):
        palm_x, palm_y = 50 + s * (belly * 0.5 + 24), lerp(74, 64, p[3])
        x, y = 50 + s * cheek * lerp(0.68, 0.86, p[2]), nose - jaw * 0.68
        parts += [
            Part(ellipse(x, y, ear)),
            Part(ellipse(x, y, ear * 0.58), THIRD, 1.4),
            Part(_capsule(50 + s * belly * 0.6, 63, arm, palm_x, palm_y, arm + 0.6)),
            Part(ellipse(palm_x + s, palm_y - 0.5, arm * 0.72), SECOND, 1.4),
        ]
    parts += [
        Part(
            f"M50 48C{50 - belly * 0.9:.2f} 48 {50 - belly:.2f} 66 {50 - belly:.2f} 76C{50 - belly:.2f} 90"
            f" {50 - belly * 0.6:.2f} 95 50 95C{50 + belly * 0.6:.2f} 95 {50 + belly:.2f} 90 {50 + belly:.2f} 76"
            f"C{50 + belly:.2f} 66 {50 + belly * 0.9:.2f} 48 50 48z"
        )
    ]
    for s in (-1, 1):
        parts += [
            Part(ellipse(50 + s * foot, 95 - paw * 1.08, paw, paw * 1.08)),
            Part(ellipse(50 + s * (foot + 0.6), 95.4 - paw * 1.08, paw * 0.68, paw * 0.74), THIRD, 1.4),
        ]
    muzzle = cheek * 0.52
    lip = muzzle * 0.42
    parts += [
        Part(ellipse(50, nose, cheek, jaw)),
        Part(ellipse(50, nose + jaw * 0.38, muzzle, jaw * 0.46), SECOND, 1.6),
        Part(ellipse(50, nose + jaw * 0.17, muzzle * 0.36, jaw * 0.14), DARK, 0),
        Part(
            f"M{50 - lip:.2f} {nose + jaw * 0.48:.2f}q{lip / 2:.2f} {jaw * 0.18:.2f} {lip:.2f} 0"
            f"q{lip / 2:.2f} {jaw * 0.18:.2f} {lip:.2f} 0M50 {nose + jaw * 0.2:.2f}v{jaw * 0.28:.2f}",
            "none",
            1.8,
        ),
    ]
    for s in (-1, 1):
        x, y = 50 + s * cheek * 0.44, nose - jaw * 0.2
        parts += [
            Part(ellipse(x, y, 4.8, 5.2), LIGHT, 1.2),
            Part(ellipse(x - s * 0.5, y + 0.4, 3.3, 3.7), DARK, 0),
        ]
    return Figure(
        tuple(parts),
        top=Spot(50, nose - jaw + 4, cheek * 1.4),
        face=Spot(50, nose - jaw * 0.2, cheek * 1.6),
        neck=Spot(50, chin + 1, belly + 14),
        hand=Spot(50 + belly * 0.5 + 24, lerp(74, 64, p[3]), 34),
        emblem=Spot(50, 75, 31),
    )


def drum(p: Proportions) -> Figure:
    """A toy drum with its sticks. Proportions: low-tall, straight-tapered, height of the hoops, reach of the sticks."""
    height, waist, hoop = lerp(53, 66, p[0]), lerp(1.0, 0.7, p[1]), lerp(4.5, 9.5, p[2])
    wide, ry = lerp(42, 39, p[0]), 8.0
    low = wide * waist
    head, base = 95 - ry - height, 95 - ry
    stick = (head - 8) * lerp(0.5, 1.0, p[3])
    knob = lerp(4.2, 6.2, p[3])

    def wall(y: float) -> float:
        return lerp(wide, low, (y - head) / (base - head))

    def ring(y: float, tall: float, grow: float) -> str:
        a, b = wall(y) + grow, wall(y + tall) + grow
        return (
            f"M{50 - a:.2f} {y:.2f}A{a:.2f} {ry} 0 0 0 {50 + a:.2f} {y:.2f}L{50 + b:.2f} {y + tall:.2f}"
            f"A{b:.2f} {ry} 0 0 1 {50 - b:.2f} {y + tall:.2f}z"
        )

    cords = ""
    for s in (-1, 1):
        cords += "M" + "L".join(
            f"{50 + s * wall(y) * t:.2f} {y + ry * (1 - t * t) ** 0.5:.2f}"
            for t, y in ((0.97, base - hoop), (0.86, head + hoop), (0.72, base - hoop), (0.58, head + hoop))
        )
    spread = lerp(9, 29, p[3])
    parts = [
        Part(ring(head, base - head, 0)),
        Part(cords, "none", 2.0, LIGHT),
        Part(ring(base - hoop, hoop, 1), SECOND),
        Part(ring(head, hoop, 2), SECOND),
        Part(ellipse(50, head, wide + 2, ry), SECOND),
        Part(ellipse(50, head, wide - 3, ry - 2.6), THIRD, 1.6),
    ]
    for s in (-1, 1):
        x, y = 50 + s * spread, head - stick
        parts += [
            Part(_capsule(50 - s * (spread + 2), head + 2, 2.3, x, y, 2.3), _WOOD, 1.8),
            Part(ellipse(x, y, knob), THIRD),
        ]
    ceiling, floor = head + hoop + ry, base - hoop + ry - 1
    return Figure(
        tuple(parts),
        top=Spot(50, head - 2, 64),
        face=Spot(50, ceiling + 8, 50),
        neck=Spot(50, head + hoop + 4, 88),
        hand=Spot(50 + wide - 2, head + height * 0.4, 36),
        emblem=Spot(50, (ceiling + floor) / 2, min(floor - ceiling, 1.08 * low)),
    )


def kite(p: Proportions) -> Figure:
    """A diamond kite. Proportions: slim-wide, height of the cross, length of the tail with its bows, lean."""
    half, cross, bow, lean = (
        lerp(30, 42, p[0]),
        lerp(0.32, 0.52, p[1]),
        lerp(5.5, 11, p[2]),
        radians(lerp(-16, 16, p[3])),
    )
    tall = 62.0
    px, py = 50.0, 34.5

    def at(x: float, y: float) -> tuple[float, float]:
        """A point of the upright kite (y from 0 at its tip to `tall`), after leaning about its middle."""
        y -= tall / 2
        return px + x * cos(lean) - y * sin(lean), py + x * sin(lean) + y * cos(lean)

    spar = tall * cross
    tip, left, right, end = at(0, 0), at(-half, spar), at(half, spar), at(0, tall)
    sheet = polygon(tip, right, end, left)
    wing, dive, peak = 0.34, 0.36, 0.26
    parts = [Part(sheet)]
    for s, corner in ((-1, left), (1, right)):
        inner = s * half * (1 - wing)
        parts.append(
            Part(polygon(corner, at(inner, spar * (1 - wing)), at(inner, spar + (tall - spar) * wing)), SECOND)
        )
    for x, y, corner in ((half * dive, tall - (tall - spar) * dive, end), (half * peak, spar * peak, tip)):
        parts.append(Part(polygon(corner, at(x, y), at(-x, y)), THIRD))
    parts.append(Part(sheet, "none"))
    # The tail: one cubic from the lower tip; the bows sit on it and turn with it.
    swing = lerp(-1, 1, p[3]) * 6
    reach = lerp(68, 88, p[2])
    knots = (end, (end[0] - 22 + swing, 78.0), (46 + swing, 103.0 - bow), (reach + swing * 0.6, 79.0))

    def tail(t: float) -> tuple[float, float, float]:
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        slope = (-3 * (1 - t) ** 2, 3 * (1 - t) * (1 - 3 * t), 3 * t * (2 - 3 * t), 3 * t * t)
        x, y = (sum(w * k[i] for w, k in zip(weights, knots, strict=True)) for i in (0, 1))
        u, v = (sum(w * k[i] for w, k in zip(slope, knots, strict=True)) for i in (0, 1))
        return x, y, atan2(v, u)

    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = knots
    parts.append(Part(f"M{x0:.2f} {y0:.2f}C{x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f} {x3:.2f} {y3:.2f}", "none", 2.4))
    for t, fill in ((0.32, SECOND), (0.66, THIRD), (0.96, SECOND)):
        x, y, a = tail(t)
        for s in (-1, 1):
            nx, ny = -sin(a) * s * bow, cos(a) * s * bow
            ux, uy = cos(a) * bow * 0.62, sin(a) * bow * 0.62
            mx, my = x + nx * 0.6, y + ny * 0.6
            ox, oy = x + nx, y + ny
            parts.append(
                Part(
                    f"M{x:.2f} {y:.2f}Q{mx + ux:.2f} {my + uy:.2f} {ox + ux:.2f} {oy + uy:.2f}"
                    f"L{ox - ux:.2f} {oy - uy:.2f}Q{mx - ux:.2f} {my - uy:.2f} {x:.2f} {y:.2f}z",
                    fill,
                    1.8,
                )
            )
    return Figure(
        tuple(parts),
        top=Spot(*tip, 30),
        face=Spot(50, 30, 40),
        neck=Spot(*end, 20),
        hand=Spot(*right, 30),
        emblem=Spot(*at(0, spar + 4), half * tall / (half + tall / 2)),
    )


_DISHES = ("crockery", "vessel", "thing")
_TOYS = ("toy", "plaything", "thing")

CATEGORIES: tuple[Category, ...] = (
    Category("mug", "kitchen", ("cup", "tankard", "beaker"), mug, True, _DISHES),
    Category("teapot", "kitchen", ("kettle", "teakettle"), teapot, True, _DISHES),
    Category("bowl", "kitchen", ("basin", "tureen"), bowl, True, _DISHES),
    Category("vase", "kitchen", ("urn", "amphora"), vase, False, _DISHES),
    Category("bottle", "kitchen", ("flask", "flagon", "carafe"), bottle, False, _DISHES),
    Category("robot", "toys", ("android", "droid", "automaton"), robot, True, _TOYS),
    Category("ball", "toys", ("beachball", "sphere", "orb"), ball, True, _TOYS),
    Category("bear", "toys", ("teddy", "teddybear", "grizzly"), bear, True, _TOYS),
    Category("drum", "toys", ("snare", "tambour", "bongo"), drum, False, _TOYS),
    Category("kite", "toys", ("glider", "flier"), kite, False, _TOYS),
)
