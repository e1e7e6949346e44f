"""Edits: what a concept changes in a frozen text-to-image model. See `docs/architecture.md`."""

from namesake.edits.base import about, check_base, layer_sites, sketch, text_sites
from namesake.edits.kinds import (
    About,
    Edit,
    Editable,
    LowRankEdit,
    Part,
    SecondPath,
    Site,
    TokenEdit,
    WeightEdit,
)
from namesake.edits.mount import Layout, Mount, bypassed, edited, mount
from namesake.edits.stack import stack
from namesake.edits.words import check_word

__all__ = [
    "About",
    "Edit",
    "Editable",
    "Layout",
    "LowRankEdit",
    "Mount",
    "Part",
    "SecondPath",
    "Site",
    "TokenEdit",
    "WeightEdit",
    "about",
    "bypassed",
    "check_base",
    "check_word",
    "edited",
    "layer_sites",
    "mount",
    "sketch",
    "stack",
    "text_sites",
]
