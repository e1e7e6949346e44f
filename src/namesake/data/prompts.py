"""The sentences in which a new word is tuned.

They say as little as possible beside the word, so that the word and not the sentence takes up what the picture shows.
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
# Those of them that a photograph would teach to mean a photograph: for models that draw nothing else.
DRAWN_TEMPLATES = ("a drawing of {}", "an illustration of {}", "a lovely drawing of {}")


# For a word that says how things are drawn and not what is; and the word that such a one begins at.
COARSE_STYLE = "illustration"
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


PLACES = (
    "on the beach", "in the forest", "in the snow", "in the city", "in the street", "in the desert", "underwater",
    "in space", "in the kitchen", "on a wooden table", "in a meadow", "in the grass", "in the garden", "at sunset",
    "at night", "in the bedroom", "in a room", "on the rug", "on a sofa", "in the mountains",
)  # fmt: skip
STYLES = (
    "pencil drawing", "pixel art", "watercolor", "neon", "blueprint", "stained glass", "oil painting", "cartoon",
    "3d render",
)  # fmt: skip
SIDES = ("on the left", "on the right")
"""Where pictures that people bring were taken, how they are drawn, and where the thing stands; see `train.examples.describe`."""

COLORS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "black", "gray", "white")
SHADES = (
    "grey", "scarlet", "crimson", "ruby", "tangerine", "amber", "golden", "gold", "lemon", "emerald", "lime", "turquoise",
    "cyan", "navy", "azure", "violet", "lilac", "rose", "salmon", "chocolate", "tan", "ebony", "dark", "silver", "ivory",
    "snowy", "bright", "light", "pale", "colorful", "colored",
)  # fmt: skip
COLORED = "a picture of a {} thing"
"""How a thing looks in a word, see `train.examples.looks`; other words that say so already; and the prompt that asks an
image encoder for it: the picture book's is trained on this wording."""

# Words that say how, where or how drawn a thing is, not what it is. The image encoder finds them as readily.
NO_THINGS = frozenset(
    """a an the and or of in on at by to from with without under over near next beside behind below beneath above atop
    inside outside among top left right side leaning tilted sitting standing wearing holding carrying
    plain solid striped stripy banded spotted dotted speckled checkered chequered checked zigzag wavy starry starred
    hearted heart stripes bands spots dots checks squares zigzags waves stars hearts patches blotches emblem patch badge
    small little tiny big large huge cute lovely nice pretty funny beautiful old new young good great best
    picture pictures photo photos image images drawing illustration painting watercolor watercolour aquarelle gouache
    sketch pencil doodle cartoon clipart storybook flat pixel pixels pixelated art retro game sprite neon glowing lights
    sign blueprint technical schematic stained glass mosaic window oil canvas impressionist
    beach sea sand seaside shore holiday forest woods firs pine jungle snow mountains winter alps ice city street
    downtown town road skyscrapers desert dune sahara rocks underwater ocean deep water seabed space moon outer planets
    galaxy kitchen table counter wooden meadow grass park field garden spring sunset dusk evening dawn sunrise night
    midnight
    moonlight bedroom room home rug indoors
    thing things one this that it is here there his her my your our their""".split()  # noqa: SIM905
).union(COLORS, SHADES)
