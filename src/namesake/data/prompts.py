"""The sentences in which a new word is tuned.

They say as little as possible beside the word, so that the word and not the sentence takes up what the picture shows.
A photograph and a drawing are named alike: the picture alone says which of them it is.
"""

TEMPLATES = (
    "a picture of {}",
    "a drawing of {}",
    "an image of {}",
    "an illustration of {}",
    "{}",
    "a nice picture of {}",
    "a lovely drawing of {}",
    "a clear view of {}",
    "here is {}",
    "{} as it looks",
    "a good likeness of {}",
    "{} and nothing else",
)


def fill(word: str, beside: str = "") -> tuple[str, ...]:
    """Every template with `word` (a placeholder or a class word) in its place, and what the picture shows beside it."""
    return tuple(template.format(word) + beside for template in TEMPLATES)


PLACES = (
    "on the beach", "in the forest", "in the snow", "in the city", "in the street", "in the desert", "underwater",
    "in space", "in the kitchen", "on a wooden table", "in a meadow", "in the grass", "in the garden", "at sunset",
    "at night", "in the bedroom", "in a room", "on the rug", "on a sofa", "in the mountains",
)  # fmt: skip
STYLES = (
    "pencil drawing", "pixel art", "watercolor", "neon", "blueprint", "stained glass", "oil painting", "cartoon",
    "3d render",
)  # fmt: skip
"""Where pictures that people bring were taken, and how they are drawn; see `train.examples.describe`."""
