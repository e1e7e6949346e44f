"""The forty categories, in eight families.

Their order is part of the numbering of concepts (`concept.py`): add at the end, never in between.
"""

from namesake.picturebook.figures import built, goods, household, living
from namesake.picturebook.figures.parts import Category, Figure, Part, Spot

CATEGORIES: tuple[Category, ...] = (
    *living.CATEGORIES,
    *built.CATEGORIES,
    *household.CATEGORIES,
    *goods.CATEGORIES,
)
BY_NAME: dict[str, Category] = {category.name: category for category in CATEGORIES}
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(category.family for category in CATEGORIES))
CORE: tuple[str, ...] = tuple(category.name for category in CATEGORIES if category.core)

__all__ = ["BY_NAME", "CATEGORIES", "CORE", "FAMILIES", "Category", "Figure", "Part", "Spot"]
