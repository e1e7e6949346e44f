"""Vehicles and buildings: what people build."""

from __future__ import annotations

from math import cos, radians, sin

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
    polygon,
    rounded,
)

GLASS, LAMP, FLAME, WOOD = "#cfeaf5", "#ffe07a", "#ff8a2a", "#8a5a34"


def _wheel(x: float, y: float, radius: float, hub: str) -> tuple[Part, ...]:
    """A dark tyre with a colored hub and a bolt."""
    return (
        Part(ellipse(x, y, radius), DARK),
        Part(ellipse(x, y, radius * 0.62), hub, 1.2),
        Part(ellipse(x, y, radius * 0.16), DARK, 0),
    )


def car(p: Proportions) -> Figure:
    """Roof height; cabin from coupe to estate; wheel size; nose from short and upright to long and sloping."""
    r = lerp(8.5, 13.5, p[2])
    axle = 94.9 - r
    sill = axle + 0.25 * r
    belt = sill - 34
    roof = belt - lerp(14, 31, p[0])
    rear = lerp(32, 7.5, p[1])
    rear_top = lerp(40, 9, p[1])
    front_top, front = lerp(70, 56, p[3]), lerp(83, 70, p[3])
    hood = belt + lerp(-2, 19, p[3])
    boot = belt + lerp(7, -1, p[1])
    body = (
        f"M7 {sill - 2:.2f}C4 {belt + 20:.2f} 4 {boot + 5:.2f} 10 {boot + 2:.2f}"
        f"C17 {boot - 1:.2f} 24 {belt:.2f} 30 {belt:.2f}H{lerp(74, 58, p[3]):.2f}"
        f"C{lerp(86, 74, p[3]):.2f} {belt:.2f} {lerp(92, 87, p[3]):.2f} {hood - 1:.2f} 93.5 {hood + 7:.2f}"
        f"C96 {hood + 13:.2f} 95 {sill - 7:.2f} 94 {sill - 2:.2f}"
        f"C94 {sill:.2f} 93 {sill:.2f} 91 {sill:.2f}H10C8 {sill:.2f} 7 {sill:.2f} 7 {sill - 2:.2f}z"
    )
    cabin = (
        f"M{rear:.2f} {belt + 3:.2f}C{rear + 1:.2f} {roof + 8:.2f} {rear_top:.2f} {roof:.2f}"
        f" {rear_top + 9:.2f} {roof:.2f}H{front_top - 8:.2f}C{front_top + 3:.2f} {roof:.2f}"
        f" {front_top + 7:.2f} {belt - 8:.2f} {front:.2f} {belt + 3:.2f}z"
    )
    glass_top, middle = roof + 5, (rear_top + front_top) / 2 + 1
    back_glass = (
        f"M{rear + 5:.2f} {belt - 1:.2f}C{rear + 6:.2f} {glass_top + 5:.2f} {rear_top + 5:.2f}"
        f" {glass_top:.2f} {rear_top + 10:.2f} {glass_top:.2f}H{max(middle - 2, rear_top + 10):.2f}"
        f"V{belt - 1:.2f}z"
    )
    front_glass = (
        f"M{middle + 2:.2f} {glass_top:.2f}H{front_top - 8:.2f}C{front_top:.2f} {glass_top:.2f}"
        f" {front_top + 3:.2f} {belt - 7:.2f} {front - 7:.2f} {belt - 1:.2f}H{middle + 2:.2f}z"
    )
    parts = (
        Part(cabin, SECOND),
        Part(back_glass, GLASS, 1.5),
        Part(front_glass, GLASS, 1.5),
        Part(body, MAIN),
        Part(f"M35.5 {belt + 2:.2f}V{sill - 2:.2f}M65.5 {belt + 2:.2f}V{sill - 2:.2f}", "none", 1.1),
        Part(ellipse(89.5, hood + 11, 3.6, 4.2), LAMP, 1.5),
        Part(rounded(3, sill - 9, 11, 7.5, 3.5), THIRD, 1.8),
        Part(rounded(86, sill - 9, 11, 7.5, 3.5), THIRD, 1.8),
        *_wheel(20.5, axle, r, THIRD),
        *_wheel(79.5, axle, r, THIRD),
    )
    return Figure(
        parts,
        top=Spot((rear_top + front_top) / 2 + 1, roof + 1, 30),
        face=Spot(middle + 10, (glass_top + belt) / 2, 24),
        neck=Spot(50, belt + 1, 40),
        hand=Spot(94, hood + 6, 26),
        emblem=Spot(50.5, sill - 16.5, 30),
    )


def boat(p: Proportions) -> Figure:
    """Mast height; hull from a tub to high sweeping ends; length of the mainsail; size of jib and pennant."""
    head = lerp(22.5, 4.5, p[0])
    mast, deck, foot = lerp(50, 60, p[2]), 57.5, 50.0
    stern = deck - lerp(0, 9, p[1])
    prow = lerp(57, 39, p[1])
    flare = lerp(4, 22, p[1])
    tip = lerp(89, 96, p[1])
    clew = lerp(31, 5, p[2])
    tack = mast + lerp(11, 36, p[3])
    jib_head = lerp(head, foot, lerp(0.5, 0.0, p[3]))
    pennant, fold = lerp(7, 26, p[3]), lerp(2, 4.5, p[3])
    belly = lerp(4, -5, p[3])
    hull = (
        f"M5 {stern:.2f}C22 {deck + 2.5:.2f} 54 {deck + 2.5:.2f} 72 {deck:.2f}"
        f"C80 {deck - 1.5:.2f} 88 {(deck + prow) / 2:.2f} {tip:.2f} {prow:.2f}"
        f"C{tip:.2f} {lerp(78, 70, p[1]):.2f} {tip - flare * 0.4:.2f} 95 {tip - flare - 3:.2f} 95"
        f"H{lerp(16, 26, p[1]):.2f}C{lerp(8, 13, p[1]):.2f} 95 7 76 5 {stern:.2f}z"
    )
    rail = (
        f"M3.5 {stern:.2f}C22 {deck + 2.5:.2f} 54 {deck + 2.5:.2f} 72 {deck:.2f}"
        f"C80 {deck - 1.5:.2f} 88 {(deck + prow) / 2:.2f} {tip:.2f} {prow:.2f}"
        f"L{tip + 0.5:.2f} {prow + 6:.2f}C89 {(deck + prow) / 2 + 6:.2f} 80 {deck + 4:.2f} 72 {deck + 5:.2f}"
        f"C54 {deck + 6.5:.2f} 22 {deck + 6.5:.2f} 5 {stern + 5:.2f}z"
    )
    mainsail = (
        f"M{mast - 1.5:.2f} {head + 3:.2f}C{lerp(40, 28, p[2]) + belly:.2f} {head + 12 + belly:.2f}"
        f" {clew + 3 + belly:.2f} {foot - 14 + belly:.2f} {clew:.2f} {foot - 1:.2f}"
        f"Q{(clew + mast) / 2:.2f} {foot + 3:.2f} {mast - 1.5:.2f} {foot:.2f}z"
    )
    jib = (
        f"M{mast + 2.5:.2f} {jib_head:.2f}Q{mast + lerp(8, 27, p[3]):.2f} {(jib_head + foot) / 2 - 3:.2f}"
        f" {tack:.2f} {min(foot - 2, prow - 2):.2f}Q{(mast + tack) / 2:.2f} {foot:.2f} {mast + 2.5:.2f}"
        f" {foot - 3:.2f}z"
    )
    parts = (
        Part(rounded(mast - 1.6, head - 2, 3.2, deck - head + 6, 1.2), WOOD, 1.5),
        Part(
            f"M{mast:.2f} {head - 2:.2f}q{pennant * 0.55:.2f} -1 {pennant:.2f} {fold:.2f}"
            f"q{-pennant * 0.55:.2f} {fold / 2:.2f} {-pennant:.2f} {fold + 1:.2f}z",
            THIRD,
            1.5,
        ),
        Part(f"M{clew:.2f} {foot + 1:.2f}L{mast:.2f} {foot + 2:.2f}", "none", 2.4, WOOD),
        Part(mainsail, SECOND),
        Part(jib, THIRD),
        Part(hull, MAIN),
        Part(rail, THIRD, 1.8),
    )
    return Figure(
        parts,
        top=Spot(mast, head - 2, 24),
        face=Spot(mast - 16, foot - 14, 24),
        neck=Spot(mast, foot + 2, 26),
        hand=Spot(tip - 4, prow + 2, 26),
        emblem=Spot(45, 79, 30),
        inside=Spot(33, deck + 2, 42),
    )


def rocket(p: Proportions) -> Figure:
    """Girth; nose length; fin size; hull from a straight tube to a round belly."""
    half = lerp(18.5, 26, p[0])
    tip, nose_base = lerp(15, 5, p[1]), lerp(29, 36, p[1])
    shoulder = half - lerp(0, 8, p[3])
    waist = half - lerp(0.5, 6, p[3])
    fin = lerp(9, 23, p[2])
    fin_top = lerp(74, 54, p[2])
    base, belly = 85.0, 66.0
    window, outer = nose_base + 10.5, half + fin
    left, right = 50 - half, 50 + half
    hull = (
        f"M{50 - shoulder:.2f} {nose_base:.2f}C{left:.2f} {nose_base + 10:.2f} {left:.2f} {belly - 8:.2f}"
        f" {left:.2f} {belly:.2f}C{left:.2f} {belly + 10:.2f} {50 - waist:.2f} {base - 3:.2f}"
        f" {50 - waist + 1:.2f} {base:.2f}H{50 + waist - 1:.2f}C{50 + waist:.2f} {base - 3:.2f} {right:.2f}"
        f" {belly + 10:.2f} {right:.2f} {belly:.2f}C{right:.2f} {belly - 8:.2f} {right:.2f}"
        f" {nose_base + 10:.2f} {50 + shoulder:.2f} {nose_base:.2f}z"
    )
    nose = (
        f"M{50 - shoulder:.2f} {nose_base:.2f}C{50 - shoulder * 0.85:.2f} {lerp(nose_base, tip, 0.45):.2f}"
        f" 45 {tip + 4:.2f} 50 {tip:.2f}C55 {tip + 4:.2f} {50 + shoulder * 0.85:.2f}"
        f" {lerp(nose_base, tip, 0.45):.2f} {50 + shoulder:.2f} {nose_base:.2f}"
        f"Q50 {nose_base + 5:.2f} {50 - shoulder:.2f} {nose_base:.2f}z"
    )
    fins = tuple(
        Part(
            f"M{50 + s * (half - 3):.2f} {fin_top:.2f}C{50 + s * (outer - 2):.2f} {fin_top + 8:.2f}"
            f" {50 + s * outer:.2f} {base:.2f} {50 + s * outer:.2f} 95"
            f"C{50 + s * (outer - 6):.2f} {base + 3:.2f} {50 + s * (waist + 3):.2f} {base:.2f}"
            f" {50 + s * (waist - 4):.2f} {base - 1:.2f}z",
            THIRD,
        )
        for s in (-1, 1)
    )
    parts = (
        Part(f"M38 {base + 2:.2f}Q40 93 44 92.5Q46 95 50 95.5Q54 95 56 92.5Q60 93 62 {base + 2:.2f}z", FLAME, 1.6),
        Part(f"M44 {base + 2:.2f}Q46 91 50 93Q54 91 56 {base + 2:.2f}z", LAMP, 0),
        *fins,
        Part(hull, MAIN),
        Part(nose, SECOND),
        Part(rounded(50 - waist + 1, base - 1.5, 2 * waist - 2, 5, 2), SECOND, 1.8),
        Part(ellipse(50, window, 7.5), THIRD, 1.8),
        Part(ellipse(50, window, 4.5), GLASS, 1.2),
    )
    return Figure(
        parts,
        top=Spot(50, tip + 5, 22),
        face=Spot(50, window, 26),
        neck=Spot(50, nose_base + 1, 30),
        hand=Spot(50 + half, 60, 26),
        emblem=Spot(50, (window + 7.5 + base - 1.5) / 2 + 0.3, 30),
    )


def train(p: Proportions) -> Figure:
    """Height of chimney and dome; cab height; size of the driving wheels; girth of the boiler."""
    boiler_bottom = 77.0
    boiler = boiler_bottom - lerp(35, 46, p[3])
    cab = lerp(36, 15, p[1])
    r, small = lerp(7, 12.5, p[2]), lerp(5.5, 9, p[2])
    stack = max(boiler - lerp(7, 30, p[0]), 5)
    flare, pipe, dome = lerp(4.5, 14, p[0]), lerp(2.5, 7.5, p[0]), lerp(4, 20, p[0])
    flue = min(stack + lerp(5, 12, p[0]), boiler - 1)
    middle = (boiler + boiler_bottom) / 2
    parts = (
        Part(f"M{74 - pipe:.2f} {boiler + 3:.2f}V{flue - 1:.2f}H{76 + pipe:.2f}V{boiler + 3:.2f}z", THIRD),
        Part(
            f"M{75 - flare:.2f} {stack:.2f}H{75 + flare:.2f}Q{75 + flare - 1:.2f} {flue - 3:.2f}"
            f" {75 + pipe:.2f} {flue:.2f}H{75 - pipe:.2f}Q{75 - flare + 1:.2f} {flue - 3:.2f}"
            f" {75 - flare:.2f} {stack:.2f}z",
            THIRD,
        ),
        Part(
            f"M45 {boiler + 2:.2f}V{boiler - dome / 3:.2f}C45 {boiler - dome:.2f} 60 {boiler - dome:.2f} 60"
            f" {boiler - dome / 3:.2f}V{boiler + 2:.2f}z",
            SECOND,
        ),
        Part(rounded(30, boiler, 58, boiler_bottom - boiler, 8), MAIN),
        Part(rounded(85, boiler - 1.5, 6, boiler_bottom - boiler + 1.5, 2.5), SECOND, 1.8),
        Part(ellipse(92.5, middle - 9, 3.5, 4.5), LAMP, 1.6),
        Part(f"M9 80V{cab + 5:.2f}H37V80z", SECOND),
        Part(rounded(14.5, cab + 11, 17, min(19, boiler_bottom - cab - 20), 3), GLASS, 1.6),
        Part(
            f"M4 {cab + 6:.2f}Q5 {cab:.2f} 12 {cab - 1:.2f}Q23 {cab - 4:.2f} 34 {cab - 1:.2f}"
            f"Q41 {cab:.2f} 42 {cab + 6:.2f}z",
            THIRD,
        ),
        Part("M82 78H91.5Q94 88 98 94.5H82z", THIRD, 1.8),
        Part(rounded(6, 76, 86, 6.5, 2), THIRD, 1.8),
        *_wheel(20, 94.9 - r, r, SECOND),
        *_wheel(22 + 2 * r + 1, 94.9 - r, r, SECOND),
        *_wheel(74, 94.9 - small, small, SECOND),
        Part(f"M20 {94.9 - r:.2f}H{22 + 2 * r + 1:.2f}L74 {94.9 - small:.2f}", "none", 2.4, LIGHT),
    )
    return Figure(
        parts,
        top=Spot(75, stack, 26),
        face=Spot(66, boiler + 12, 28),
        neck=Spot(60, boiler_bottom - 2, 36),
        hand=Spot(90, boiler + 8, 26),
        emblem=Spot(62, (boiler + 75) / 2, min(34.0, 73 - boiler)),
    )


def airplane(p: Proportions) -> Figure:
    """Girth of the fuselage; tail fin; wing length; canopy and propeller."""
    half = lerp(19, 26, p[0])
    middle = 57.0
    up, down = middle - half, middle + half - 1
    root = middle + 0.66 * half
    fin, stub = lerp(40, 4.5, p[1]), lerp(13, 31, p[1])
    fin_back, fin_front = lerp(10, 2, p[1]), lerp(21, 40, p[1])
    wing = lerp(79, 95.5, p[2])
    wing_x, wing_r = lerp(41, 7, p[2]), lerp(57, 69, p[2])
    wing_l = lerp(41, 35, p[2])
    far = up - lerp(1, 13, p[2])
    blade, cowl = lerp(10, 35, p[3]), lerp(53, 47, p[3])
    canopy = up - lerp(0, 18, p[3])
    body = (
        f"M5 {middle - 12:.2f}C16 {middle - 13:.2f} 26 {up:.2f} 46 {up:.2f}H56"
        f"C72 {up:.2f} 88 {middle - 12:.2f} 88 {middle + 1:.2f}C88 {middle + 13:.2f} 74 {down:.2f} 58"
        f" {down:.2f}C36 {down:.2f} 16 {middle + 9:.2f} 6 {middle - 3:.2f}"
        f"Q3 {middle - 8:.2f} 5 {middle - 12:.2f}z"
    )
    parts = (
        Part(f"M66 {down - 4:.2f}L71 88", "none", 3.0),
        Part(ellipse(72, 88.5, 6.5), DARK),
        Part(ellipse(72, 88.5, 2.8), LIGHT, 0),
        Part(
            f"M{fin_back:.2f} {fin:.2f}Q{fin_back + 1:.2f} {fin - 2:.2f} {fin_back + lerp(6, 11, p[1]):.2f}"
            f" {fin:.2f}C{fin_back + lerp(11, 20, p[1]):.2f} {fin + 5:.2f} {fin_front - 9:.2f}"
            f" {middle - 18:.2f} {fin_front:.2f} {middle - 11:.2f}"
            f"L6 {middle - 7:.2f}Q7 {middle - 20:.2f} {fin_back:.2f} {fin:.2f}z",
            SECOND,
        ),
        Part(
            f"M{cowl:.2f} {up + 5:.2f}C{cowl + 2:.2f} {canopy:.2f} 60 {canopy:.2f} 64 {canopy:.2f}"
            f"C72 {canopy:.2f} 78 {up + 4:.2f} 80 {up + 8:.2f}z",
            GLASS,
            1.8,
        ),
        Part(
            f"M32 {up + 8:.2f}L{lerp(35, 25, p[2]):.2f} {far + 4:.2f}"
            f"Q{lerp(34, 24, p[2]):.2f} {far:.2f} {lerp(38, 29, p[2]):.2f} {far:.2f}"
            f"Q{lerp(46, 42, p[2]):.2f} {far:.2f} {lerp(50, 54, p[2]):.2f} {up + 8:.2f}z",
            THIRD,
        ),
        Part(body, MAIN),
        Part(
            f"M79.5 {middle - 15:.2f}Q89 {middle - 8:.2f} 89 {middle + 1:.2f}"
            f"Q88.5 {middle + 10:.2f} 79.5 {middle + 16:.2f}Q75 {middle:.2f} 79.5 {middle - 15:.2f}z",
            SECOND,
        ),
        Part(
            f"M91 {middle:.2f}C86 {middle - blade * 0.5:.2f} 88 {middle - blade:.2f} 92 {middle - blade:.2f}"
            f"C96 {middle - blade:.2f} 96 {middle - blade * 0.5:.2f} 91 {middle:.2f}"
            f"C86 {middle + blade * 0.5:.2f} 88 {middle + blade:.2f} 92 {middle + blade:.2f}"
            f"C96 {middle + blade:.2f} 96 {middle + blade * 0.5:.2f} 91 {middle:.2f}z",
            DARK,
            1.2,
        ),
        Part(
            f"M88 {middle - 5:.2f}Q97 {middle - 4:.2f} 97 {middle:.2f}Q97 {middle + 4:.2f} 88 {middle + 5:.2f}z",
            THIRD,
            1.6,
        ),
        Part(
            f"M{wing_r:.2f} {root + 1:.2f}C{wing_r - 4:.2f} {max(wing - 8, root + 4):.2f} {wing_x + 18:.2f}"
            f" {wing:.2f} {wing_x + 6:.2f} {wing:.2f}Q{wing_x:.2f} {wing:.2f} {wing_x + 2:.2f}"
            f" {wing - 5:.2f}Q{(wing_x + wing_l) / 2 + 4:.2f} {(wing + root) / 2 + 1:.2f} {wing_l:.2f}"
            f" {root:.2f}Q50 {root - 2:.2f} {wing_r:.2f} {root + 1:.2f}z",
            THIRD,
        ),
        Part(
            f"M3 {middle - 8:.2f}Q2 {middle - 11:.2f} 7 {middle - 11:.2f}H{stub:.2f}"
            f"Q{stub + 5:.2f} {middle - 8:.2f} {stub:.2f} {middle - 6:.2f}"
            f"Q10 {middle - 3:.2f} 3 {middle - 8:.2f}z",
            THIRD,
            1.8,
        ),
    )
    return Figure(
        parts,
        top=Spot(65, canopy, 26),
        face=Spot(66, (canopy + up) / 2 + 3, 24),
        neck=Spot(72, middle, 30),
        hand=Spot(86, middle + 4, 24),
        emblem=Spot(52, (up + root) / 2 + 0.3, root - up - 1.5),
    )


def house(p: Proportions) -> Figure:
    """Roof height; width; wall height; roof from a pointed gable to a broad flat ridge."""
    half = lerp(32, 41, p[1])
    wall = 95 - lerp(36, 48, p[2])
    ridge = wall - lerp(18, 38, p[0])
    flat, sweep = lerp(1, 24, p[3]), lerp(7, -7, p[3])
    left, right = 50 - half, 50 + half
    eave = min(half + 6, 47)
    curve = (wall + ridge) / 2
    chimney = ridge + lerp(6, 2, p[3]) - 3
    roof = (
        f"M{50 - eave:.2f} {wall:.2f}Q{50 - eave - 1:.2f} {wall - 3:.2f} {50 - eave + 3:.2f} {wall - 6:.2f}"
        f"Q{50 - (eave + flat) / 2 + sweep:.2f} {curve:.2f} {50 - flat:.2f} {ridge + 1:.2f}"
        f"Q50 {ridge - 2:.2f} {50 + flat:.2f} {ridge + 1:.2f}Q{50 + (eave + flat) / 2 - sweep:.2f}"
        f" {curve:.2f} {50 + eave - 3:.2f} {wall - 6:.2f}Q{50 + eave + 1:.2f} {wall - 3:.2f} {50 + eave:.2f}"
        f" {wall:.2f}Q50 {wall + 3:.2f} {50 - eave:.2f} {wall:.2f}z"
    )
    pane = right - 13.5
    attic = lerp(ridge, wall, 0.6)
    door_top = 95 - 26
    parts = (
        Part(rounded(66, chimney, 10, wall - chimney, 1), THIRD),
        Part(rounded(64.5, chimney - 1, 13, 4.5, 1.5), THIRD, 1.8),
        Part(rounded(left, wall - 3, 2 * half, 98 - wall, 2), MAIN),
        Part(roof, SECOND),
        Part(ellipse(50, attic, 5), GLASS, 1.8),
        Part(f"M50 {attic - 5:.2f}v10M45 {attic:.2f}h10", "none", 1.1),
        Part(
            f"M{left + 3:.2f} 95V{door_top + 6:.2f}Q{left + 3:.2f} {door_top:.2f} {left + 9.5:.2f}"
            f" {door_top:.2f}Q{left + 16:.2f} {door_top:.2f} {left + 16:.2f} {door_top + 6:.2f}V95z",
            THIRD,
            1.8,
        ),
        Part(ellipse(left + 13, 83, 1.3), DARK, 0),
        Part(rounded(pane, 70, 10, 13, 1.5), GLASS, 1.8),
        Part(f"M{pane + 5:.2f} 70v13M{pane:.2f} 76.5h10", "none", 1.1),
    )
    return Figure(
        parts,
        top=Spot(50, ridge + 2, 28),
        face=Spot(50, attic, 26),
        neck=Spot(50, wall + 3, 44),
        hand=Spot(right - 1, 80, 26),
        emblem=Spot((left + 16 + pane) / 2, (wall + 97) / 2, 30),
    )


def _battlement(left: float, right: float, top: float, bottom: float, teeth: int) -> str:
    """A closed block with `teeth` merlons on its upper edge; gaps 3 plus 40 % of a merlon deep."""
    step = (right - left) / (2 * teeth - 1)
    depth = 3 + 0.4 * step
    points = [(left, bottom)]
    for i in range(2 * teeth - 1):
        y = top if i % 2 == 0 else top + depth
        points += [(left + i * step, y), (left + (i + 1) * step, y)]
    return polygon(*points, (right, bottom))


def castle(p: Proportions) -> Figure:
    """Height of the side towers; height of the keep; width of the keep; size of the parapets and flags."""
    tower = lerp(60, 38, p[0])
    keep = lerp(35, 18, p[1])
    half = lerp(20, 27, p[2])
    lip = lerp(0.5, 5, p[3])
    crown = lerp(9, 14, p[3])
    flag = lerp(11, 15, p[3])
    parts: list[Part] = []
    outer = 46 - max(0.0, lip - 1.5)
    for s in (-1, 1):
        far, near = 50 + s * outer, 50 + s * (half - 2)
        left, right = min(far, near), max(far, near)
        centre = (50 + s * half + far) / 2
        banner = tower - flag * 0.8
        parts += [
            Part(f"M{centre:.2f} {tower + 4:.2f}V{banner - 1:.2f}", "none", 2.0),
            Part(
                f"M{centre:.2f} {banner:.2f}l{flag * 0.75:.2f} {flag * 0.3:.2f}l{-flag * 0.75:.2f} {flag * 0.3:.2f}z",
                THIRD,
                1.6,
            ),
            Part(polygon((left, tower + crown - 3), (right, tower + crown - 3), (right, 95), (left, 95)), SECOND),
            Part(
                _battlement(left - (lip if s < 0 else 0), right + (lip if s > 0 else 0), tower, tower + crown, 3),
                SECOND,
            ),
            Part(rounded(centre - 2.6, tower + crown + 7, 5.2, 11, 2.6), DARK, 0),
        ]
    pole = keep - flag * 0.95
    parts += [
        Part(f"M50 {keep + 4:.2f}V{pole - 1:.2f}", "none", 2.2),
        Part(
            f"M50 {pole:.2f}C{50 + flag * 0.4:.2f} {pole - 2:.2f} {50 + flag * 0.7:.2f} {pole + 3:.2f}"
            f" {50 + flag * 1.2:.2f} {pole + 0.5:.2f}L{50 + flag:.2f} {pole + flag * 0.36:.2f}"
            f"L{50 + flag * 1.2:.2f} {pole + flag * 0.7:.2f}C{50 + flag * 0.7:.2f}"
            f" {pole + flag * 0.7 + 3:.2f} {50 + flag * 0.4:.2f} {pole + flag * 0.7 - 2:.2f} 50"
            f" {pole + flag * 0.7:.2f}z",
            THIRD,
            1.8,
        ),
        Part(
            polygon((50 - half, keep + crown - 3), (50 + half, keep + crown - 3), (50 + half, 95), (50 - half, 95)),
            MAIN,
        ),
        Part(_battlement(50 - half - lip, 50 + half + lip, keep, keep + crown, 4), MAIN),
        Part("M36 95V88C36 76 64 76 64 88V95z", THIRD),
        Part("M45 81V95M55 81V95M36.5 88.5H63.5", "none", 1.2),
    ]
    return Figure(
        tuple(parts),
        top=Spot(50, keep, 32),
        face=Spot(50, keep + crown + 9, 28),
        neck=Spot(50, keep + crown, 36),
        hand=Spot(50 + outer, 74, 26),
        emblem=Spot(50, (keep + crown + 79) / 2 + 0.2, 30),
    )


def lighthouse(p: Proportions) -> Figure:
    """Width at the foot; height; size of the lamp room; roof, gallery and beams from slight to broad."""
    foot = lerp(21, 31, p[0])
    gallery = lerp(44, 34, p[1])
    neck = 12.5
    lamp_h, lamp_w = lerp(8, 15, p[2]), lerp(6, 12, p[2])
    roof_h, deck, ray = lerp(6, 15, p[3]), lerp(16, 25, p[3]), lerp(6, 13, p[3])
    lamp = gallery - lamp_h - 3
    roof = max(lamp - roof_h, 4)
    eye = gallery - 4 - lamp_h / 2
    high, low = gallery + 8, gallery + 16

    def side(y: float) -> float:
        """Half width of the tower at height `y`."""
        return lerp(neck, foot, (y - gallery) / (95 - gallery))

    parts: list[Part] = [
        Part(
            f"M{50 + s * lamp_w:.2f} {eye - 1.5:.2f}L{50 + s * 43:.2f} {eye - ray:.2f}"
            f"Q{50 + s * 45.5:.2f} {eye:.2f} {50 + s * 43:.2f} {eye + ray:.2f}"
            f"L{50 + s * lamp_w:.2f} {eye + 1.5:.2f}z",
            LAMP,
            1.0,
        )
        for s in (-1, 1)
    ]
    parts += [
        Part(polygon((50 - neck, gallery), (50 + neck, gallery), (50 + foot, 95), (50 - foot, 95)), MAIN),
        Part(
            f"M{50 - side(high):.2f} {high:.2f}Q50 {high + 3:.2f} {50 + side(high):.2f} {high:.2f}"
            f"L{50 + side(low):.2f} {low:.2f}Q50 {low + 3:.2f} {50 - side(low):.2f} {low:.2f}z",
            SECOND,
            1.8,
        ),
        Part(rounded(50 - lamp_w, lamp - 1, 2 * lamp_w, gallery - lamp, 1), LAMP, 1.8),
        Part(f"M50 {lamp:.2f}V{gallery:.2f}", "none", 1.4),
        Part(
            f"M{50 - lamp_w - 4:.2f} {lamp + 1:.2f}Q{50 - lamp_w:.2f} {lerp(lamp, roof, 0.85):.2f} 50"
            f" {roof:.2f}Q{50 + lamp_w:.2f} {lerp(lamp, roof, 0.85):.2f} {50 + lamp_w + 4:.2f}"
            f" {lamp + 1:.2f}z",
            SECOND,
        ),
        Part(rounded(50 - deck, gallery - 3.5, 2 * deck, 7.5, 2.5), THIRD),
        Part(
            f"M{50 - foot - 12:.2f} 95C{50 - foot - 12:.2f} 89 {50 - foot - 4:.2f} 86 {50 - foot + 1:.2f} 89"
            f"Q{50 - foot + 5:.2f} 91 {50 - foot + 6:.2f} 95z",
            THIRD,
            1.8,
        ),
        Part(
            f"M{50 + foot + 13:.2f} 95C{50 + foot + 13:.2f} 86 {50 + foot + 4:.2f} 82 {50 + foot - 1:.2f} 88"
            f"Q{50 + foot - 6:.2f} 90 {50 + foot - 7:.2f} 95z",
            THIRD,
            1.8,
        ),
    ]
    return Figure(
        tuple(parts),
        top=Spot(50, roof + 2, 24),
        face=Spot(50, eye, 26),
        neck=Spot(50, gallery + 5, 32),
        hand=Spot(50 + deck, gallery, 26),
        emblem=Spot(50, (low + 97) / 2, 30),
    )


def windmill(p: Proportions) -> Figure:
    """Length of the sails; width of the tower; breadth of the sails; height and overhang of the cap."""
    hub = 36.5
    reach = lerp(25, 40, p[0])
    foot = lerp(20, 32, p[1])
    neck = lerp(13.5, 18, p[1])
    breadth = lerp(6.5, 13, p[2])
    cap, brim, lip = hub - lerp(6, 31, p[3]), hub + 5, lerp(0.5, 8, p[3])
    eave = neck + lip
    parts: list[Part] = [
        Part(
            f"M{50 - foot:.2f} 95Q{50 - neck - 3:.2f} 68 {50 - neck:.2f} {brim:.2f}H{50 + neck:.2f}"
            f"Q{50 + neck + 3:.2f} 68 {50 + foot:.2f} 95z",
            MAIN,
        ),
        Part(rounded(50 - foot - 3, 90, 2 * foot + 6, 5, 2), SECOND, 1.8),
        Part(
            f"M{50 - eave:.2f} {brim + 2:.2f}C{50 - eave + 1:.2f} {lerp(brim, cap, 0.75):.2f}"
            f" {50 - neck * 0.5:.2f} {cap:.2f} 50 {cap:.2f}C{50 + neck * 0.5:.2f} {cap:.2f}"
            f" {50 + eave - 1:.2f} {lerp(brim, cap, 0.75):.2f} {50 + eave:.2f} {brim + 2:.2f}"
            f"Q50 {brim + 5:.2f} {50 - eave:.2f} {brim + 2:.2f}z",
            SECOND,
        ),
        Part(rounded(47, 49.5, 6, 8, 3), DARK, 0),
    ]
    for quarter in range(4):
        a = radians(45 + 90 * quarter)
        along, across = (cos(a), sin(a)), (-sin(a), cos(a))

        def at(
            u: float, v: float, along: tuple[float, float] = along, across: tuple[float, float] = across
        ) -> tuple[float, float]:
            """The point `u` out along the arm and `v` beside it."""
            return 50 + u * along[0] + v * across[0], hub + u * along[1] + v * across[1]

        sail = polygon(
            at(9, -breadth * 0.36), at(reach, -breadth * 0.5), at(reach, breadth * 0.5), at(9, breadth * 0.36)
        )
        parts.append(Part(sail, THIRD, 1.8))
        spars = [(at(2, 0), at(reach, 0))]
        spars += [(at(reach * u, -breadth * 0.45), at(reach * u, breadth * 0.45)) for u in (0.5, 0.75)]
        for width, ((x0, y0), (x1, y1)) in zip((2.2, 1.1, 1.1), spars, strict=True):
            parts.append(Part(f"M{x0:.2f} {y0:.2f}L{x1:.2f} {y1:.2f}", "none", width))
    parts += [Part(ellipse(50, hub, 5), SECOND, 1.8), Part(ellipse(50, hub, 1.6), DARK, 0)]
    return Figure(
        tuple(parts),
        top=Spot(50, cap + 1, 26),
        face=Spot(50, hub, 28),
        neck=Spot(50, brim + 5, 30),
        hand=Spot(50 + foot - 2, 84, 26),
        emblem=Spot(50, 74.2, 30),
    )


def tent(p: Proportions) -> Figure:
    """Height; width of the front; width of the entrance; cloth from hanging slack to round and full."""
    top = lerp(36, 12, p[0])
    corner = lerp(43, 58, p[1])
    apex = (4 + corner) / 2 + 1
    ridge_x, ridge_y = 79.0, top + 5
    bow = lerp(-7, 9, p[3])
    gap = lerp(2, 10, p[2])
    half_y = (top + 95) / 2

    front = (
        f"M{apex:.2f} {top:.2f}Q{(apex + 4) / 2 - bow * 0.8:.2f} {half_y - bow * 0.5:.2f} 4 95H{corner:.2f}"
        f"Q{(apex + corner) / 2 + bow * 0.8:.2f} {half_y - bow * 0.5:.2f} {apex:.2f} {top:.2f}z"
    )
    side = (
        f"M{apex:.2f} {top:.2f}Q{(apex + ridge_x) / 2:.2f} {lerp(top + 8, top - 1, p[3]):.2f} {ridge_x:.2f}"
        f" {ridge_y:.2f}Q{(ridge_x + 96) / 2 + bow * 0.7:.2f} {half_y - bow * 0.5:.2f} 96 91"
        f"Q80 96 {corner:.2f} 95Q{(apex + corner) / 2 + bow * 0.8:.2f} {half_y - bow * 0.5:.2f} {apex:.2f}"
        f" {top:.2f}z"
    )
    hem = (
        f"M{lerp(corner, apex, 0.09):.2f} 88.5Q78 89.5 {lerp(96, ridge_x, 0.08) + bow * 0.12:.2f} 84.5"
        f"L96 91Q80 96 {corner:.2f} 95z"
    )
    door = lerp(top, 95, 0.16)
    parts = (
        Part(side, MAIN),
        Part(hem, THIRD, 1.8),
        Part(front, SECOND),
        Part(
            f"M{apex:.2f} {door:.2f}Q{apex - gap * 0.9:.2f} {half_y + 6:.2f} {apex - gap:.2f} 95"
            f"H{apex + gap:.2f}Q{apex + gap * 0.9:.2f} {half_y + 6:.2f} {apex:.2f} {door:.2f}z",
            DARK,
            1.6,
        ),
    )
    flaps = tuple(
        Part(
            f"M{apex:.2f} {door:.2f}Q{apex + s * gap * 0.8:.2f} {half_y:.2f} {apex + s * gap:.2f} 95"
            f"L{apex + s * (gap + 5.5):.2f} 95Q{apex + s * (gap + 4.5):.2f} {half_y + 8:.2f} {apex:.2f}"
            f" {door:.2f}z",
            THIRD,
            1.6,
        )
        for s in (-1, 1)
    )
    flag = (
        Part(f"M{apex:.2f} {top + 1:.2f}V{top - 9:.2f}", "none", 2.4),
        Part(f"M{apex:.2f} {top - 9:.2f}q8 0 14 4q-7 3 -14 4z", THIRD, 1.6),
    )
    return Figure(
        (*flag, *parts, *flaps),
        top=Spot(apex, top, 26),
        face=Spot(apex, lerp(top, 95, 0.3), 22),
        neck=Spot(apex, lerp(top, 95, 0.2), 22),
        hand=Spot(92, 80, 26),
        emblem=Spot((corner + 88) / 2 - 1, 69.5, 30),
    )


_VEHICLE, _BUILDING = ("vehicle", "thing"), ("building", "thing")

CATEGORIES: tuple[Category, ...] = (
    Category("car", "vehicles", ("automobile", "sedan", "taxi"), car, True, _VEHICLE),
    Category("boat", "vehicles", ("sailboat", "ship", "dinghy", "yacht"), boat, True, _VEHICLE),
    Category("rocket", "vehicles", ("spaceship", "spacecraft", "starship"), rocket, True, _VEHICLE),
    Category("train", "vehicles", ("locomotive", "engine", "loco"), train, False, _VEHICLE),
    Category("airplane", "vehicles", ("plane", "aircraft", "aeroplane"), airplane, False, _VEHICLE),
    Category("house", "buildings", ("home", "cottage", "hut"), house, True, _BUILDING),
    Category("castle", "buildings", ("fortress", "palace", "stronghold"), castle, True, _BUILDING),
    Category("lighthouse", "buildings", ("beacon", "pharos"), lighthouse, True, _BUILDING),
    Category("windmill", "buildings", ("mill", "gristmill"), windmill, False, _BUILDING),
    Category("tent", "buildings", ("marquee", "bivouac"), tent, False, _BUILDING),
)
