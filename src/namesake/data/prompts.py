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


# For a word that says how things are drawn and not what is.
STYLE_TEMPLATES = (
    "a picture, {}",
    "a drawing in the style of {}",
    "a painting in the style of {}",
    "an illustration, {}",
    "{} art",
    "a nice picture, {}",
    "a lovely {} drawing",
    "an image, {}",
    "{}",
)


def fill(word: str, templates: tuple[str, ...] = TEMPLATES) -> tuple[str, ...]:
    """Every template with `word` (a placeholder or a class word) in its place."""
    return tuple(template.format(word) for template in templates)
