"""Several edits as one, kind by kind."""

from dataclasses import replace

from namesake.edits.base import same_base
from namesake.edits.kinds import About, Edit, LowRankEdit, Part, SecondPath, WeightEdit
from namesake.errors import Refusal


def stack(*edits: Edit, blend: float | int | None = None) -> Edit:
    """One edit that does what all of them do.

    Words unite; low ranks add, on all rows or each on those that hold its own word, as `edited` says. There is one soft
    path with all words and offsets, one hard path with all hard words, and one blend: `blend`, or the one that they
    share. An edit without a second path joins one by its class word; without a class word its new word stands on both
    paths.

    Refused: the same word twice, two edits of whole weights, second paths that disagree, different base models.
    """
    if len(edits) == 1 and blend is None:
        return edits[0]
    for index, edit in enumerate(edits):
        for other in edits[:index]:
            for word in edit.placeholders:
                if word in other.placeholders:
                    raise Refusal(f"The word {word} comes twice in the stack; give one of the concepts another word.")
            if edit.of(WeightEdit) and other.of(WeightEdit):
                raise Refusal(
                    "Two edits of whole weights cannot be stacked; learn the concepts in one run, or merge them where they "
                    "are Custom Diffusion's (namesake merge)."
                )
            if (
                edit.about.sketch is not None
                and other.about.sketch is not None
                and not same_base(edit.about.sketch, other.about.sketch)
            ):
                raise Refusal(
                    f"The edits were made on different base models ({edit.about.base} and "
                    f"{other.about.base}); stack edits of one base."
                )
    paths = [path for edit in edits for path in edit.of(SecondPath)]
    blends, places = {path.blend for path in paths}, {path.where for path in paths}
    if blend is None and len(blends) > 1:
        raise Refusal(
            f"The edits ask for different blends ({', '.join(map(str, sorted(blends)))}); give one `blend` "
            "for the stack."
        )
    if len(places) > 1:
        raise Refusal(
            f"The edits blend their paths at different places ({', '.join(sorted(places))}); stack edits that agree."
        )
    shared = blend if blend is not None else next(iter(blends), None)
    where = next(iter(places), "attention")
    parts = tuple(part for edit in edits for part in _owned(edit, shared, where))
    if len(edits) == 1:
        return Edit(parts, edits[0].about)
    return Edit(parts, _about(edits))


def _owned(edit: Edit, blend: float | None, where: str) -> list[Part]:
    """The parts of one edit, each saying for which words it stands, with the stack's blend."""
    parts: list[Part] = []
    for part in edit.parts:
        if isinstance(part, SecondPath) and blend is not None:
            part = replace(part, blend=blend)
        if isinstance(part, (LowRankEdit, SecondPath)) and part.words is None:
            part = replace(part, words=edit.placeholders)
        parts.append(part)
    if blend is not None and not edit.of(SecondPath) and edit.about.class_word and edit.placeholders:
        parts.append(SecondPath(edit.about.class_word, blend, where, edit.placeholders))
    return parts


def _about(edits: tuple[Edit, ...]) -> About:
    first = next((edit.about for edit in edits if edit.about.sketch is not None), None)
    made_of = [{"method": e.about.method, "words": list(e.placeholders), "created": e.about.created} for e in edits]
    return About(
        method="stack",
        base=first.base if first else next((e.about.base for e in edits if e.about.base), ""),
        sketch=first.sketch if first else None,
        versions=first.versions if first else {},
        created=max((e.about.created for e in edits), default=""),
        settings={"of": made_of},
    )
