"""The cold start: a new word for any checkpoint, tuned from the class word, without a pre-trained encoder.

It is the tuning stage of DATE (Arar et al., "Domain-Agnostic Tuning-Encoder for Fast Personalization of Text-To-Image
Models", 2023; section 3.4 and appendix B) begun from nothing. Deviations: no encoder predicts the word and the offsets,
so the word begins as the hard word itself and the offsets at zero effect; the hard word is the class word or what the
CLIP image encoder takes the picture for, and not the word nearest to a prediction; anchors are relative to the size of
the word and of the weights, where the paper gives no form.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from jaxtyping import Bool, UInt8
from torch import Tensor

from namesake.backbone import Backbone
from namesake.edits import Edit, SecondPath, TokenEdit, about, check_word
from namesake.errors import Refusal
from namesake.train.examples import Examples, describe
from namesake.train.fit import Phase, TunedEdit, fit, idle_offsets

DEFAULT_CLASS = "object"
LONGEST_CLASS = 8  # tokens
# Words that say how, where or how drawn a thing is, not what it is. The image encoder finds them as readily.
NO_THINGS = frozenset(
    """a an the and or of in on at by to from with without under over near next beside behind below beneath above atop
    inside outside among top left right side leaning tilted sitting standing wearing holding carrying
    red orange yellow green teal blue purple pink brown black gray grey white scarlet crimson ruby tangerine amber
    golden gold lemon emerald lime turquoise cyan navy azure violet lilac rose salmon chocolate tan ebony dark silver
    ivory snowy bright light pale colorful colored
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
)


@dataclass(frozen=True)
class ColdStart:
    """Settings of the method.

    rank: of the offsets, on every attention projection; their alpha equals it. blend: the share of the new word's path,
    when tuning and when drawing (DATE: 0.25); 1 leaves the hard path out. batch: rows of a step. word_rate,
    offset_rate: first learning rates (DATE: 2e-3). word_anchor, offset_anchor: see `TunedEdit`. shift: how far a tuned
    picture is moved about at random, as a share of its side. context: whether the tuning prompts say what the pictures
    show beside the thing, where an image encoder can tell.
    """

    rank: int = 4
    blend: float = 0.25
    batch: int = 4
    word_rate: float = 2e-3
    offset_rate: float = 2e-3
    word_anchor: float = 1e-2
    offset_anchor: float = 1e-3
    shift: float = 0.0
    context: bool = True

    def start(self, backbone: Backbone, word: str, class_word: str, seed: int = 0) -> TunedEdit:
        """The edit module of one concept: the hard word's own vectors, and offsets of no effect."""
        vectors = []
        for tokenizer, encoder in zip(backbone.tokenizers, backbone.text_encoders, strict=True):
            ids = tokenizer(class_word, add_special_tokens=False).input_ids
            if not 0 < len(ids) <= LONGEST_CLASS:
                raise Refusal(
                    f"The class {class_word!r} is {len(ids)} tokens long; a word or two are wanted, such as cat."
                )
            vectors.append(encoder.get_input_embeddings().weight[ids].detach().float().cpu())
        settings = {name: value for name, value in asdict(self).items() if name != "blend"}
        paths = (SecondPath(class_word, self.blend),) if self.blend < 1 else ()
        edit = Edit(
            (TokenEdit(word, tuple(vectors)), idle_offsets(backbone.sites, self.rank, seed), *paths),
            about(backbone, "cold start", class_word, **settings),
        )
        return TunedEdit(edit, backbone, self.word_anchor, self.offset_anchor)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One: word and offsets together, all timesteps."""
        return (Phase({"words": self.word_rate, "down": self.offset_rate, "up": self.offset_rate}),)


def class_of(backbone: Backbone, pictures: UInt8[Tensor, "B H W 3"]) -> tuple[str, float | None]:
    """What pictures show, as a real word, and its similarity by the image encoder; ("object", None) without one.

    Only words that can name a thing are looked at: no colours, places, styles and the like.
    """
    found = backbone.nearest_words(pictures, len(NO_THINGS) + 1)
    return next(((word, near) for word, near in found or () if word not in NO_THINGS), (DEFAULT_CLASS, None))


def personalize(
    backbone: Backbone,
    pictures: UInt8[Tensor, "B H W 3"],
    *,
    word: str = "<it>",
    class_word: str | None = None,
    masks: Bool[Tensor, "B H W"] | None = None,
    steps: int = 100,
    seed: int = 0,
    settings: ColdStart | None = None,
    progress: Callable[[int, int], object] | None = None,
    strip: Callable[[int, Edit], object] | None = None,
) -> Edit:
    """Teach a model a new word for the one thing that some pictures show.

    After 0 steps the new word is the class word, and a picture drawn with it the base model's, to the bit.

    Args:
        backbone: the model.
        pictures: one or several of one thing, sides that the autoencoder takes.
        word: the new word, such as <my-cat>.
        class_word: the hard word; by default `class_of` the pictures, with a `UserWarning` where it cannot tell.
        masks: True where the thing is; the loss then counts there alone.
        steps: of tuning, 0 or more.
        seed: of everything random.
        settings: of the method.
        progress: called with (steps done, steps in all).
        strip: called with (steps done, edit) after 0, 1, 2, 4, 8, ... steps; it may draw.

    Raises:
        Refusal: no picture, a word that is malformed or taken, a class of no or too many tokens, an empty mask, a
            number of steps below 0.
    """
    settings = settings or ColdStart()
    check_word(word, backbone.tokenizers)
    if not len(pictures):
        raise Refusal("There is no picture; give one or several of one thing.")
    if class_word is None:
        class_word, near = class_of(backbone, pictures)
        if near is None:
            warnings.warn(
                f'The model cannot see pictures, so this one is taken for "{DEFAULT_CLASS}"; say what it shows '
                "with the class.",
                stacklevel=2,
            )
    module = settings.start(backbone, word, class_word, seed)
    beside = describe(backbone, pictures, class_word) if settings.context else ""
    examples = Examples.of(backbone, pictures, word, masks, settings.batch, settings.shift, seed, beside)
    edit = fit(
        backbone, module, examples.batch, settings.phases, steps=steps, seed=seed, progress=progress, strip=strip
    )
    return replace(edit, about=replace(edit.about, settings={**edit.about.settings, "context": beside.strip(" ,")}))
