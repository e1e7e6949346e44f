"""The pictures of one concept as tuning sees them, whichever method tunes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from namesake.backbone import Backbone
from namesake.data.prompts import COLORED, COLORS, DRAWN_TEMPLATES, NO_THINGS, PLACES, SHADES, SIDES, STYLES, TEMPLATES
from namesake.edits import check_word
from namesake.errors import Refusal
from namesake.train.fit import Batch, dice

# Scales at which pictures are seen, where they are scaled: from, to, and how many.
SCALES = ((1 / 3, 1.0, 6), (1.2, 1.4, 3))
FAR, NEAR = ("far away", "very small", "tiny"), ("zoomed in", "close up", "large")  # below 0.6; above 1
# Noise that tells where a thing stands, as shares of the schedule, and how many draws of each: at 0.3 of it the model
# finds the side of half of 48 drawings, at 0.95 of 85 % and of 16 of the 17 that stand aside (LOG.md).
LOUD, DRAWS = (0.85, 0.95), 4
SURE = 0.02  # by which share of the error a sentence must be better than the one that says less
ENCODED = 8  # pictures of 512 pixels a side, or smaller, at a time: the autoencoder of SD takes a gigabyte for each


DEFAULT_CLASS = "object"
BLANK = 255  # what stands around a thing that is looked at alone


def check_shown(backbone: Backbone, word: str, pictures: UInt8[Tensor, "B H W 3"]) -> None:
    """Refusal for a word that is malformed or taken, and where there is no picture."""
    check_word(word, backbone.tokenizers)
    if not len(pictures):
        raise Refusal("There is no picture; give one or several of one thing.")


def sentences(backbone: Backbone, word: str, templates: Sequence[str]) -> tuple[str, ...]:
    """The templates filled with a word, those that the model knows every word of; the word alone where there is none.

    Only the picture book, which knows nothing but drawings, calls what it sees a drawing.
    """
    fit = [one for one in templates if backbone.kind == "picturebook" or one not in DRAWN_TEMPLATES]
    filled = tuple(template.format(word) for template in fit)
    return tuple(prompt for prompt in filled if not backbone.unknown_words(prompt)) or (word,)


def encoded(backbone: Backbone, pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B _C _h _w"]:
    """The scaled latents of pictures, a few of them at a time."""
    height, width = pictures.shape[1:3]
    some = 1 if backbone.frugal else max(1, min(ENCODED, ENCODED * 512**2 // (height * width)))
    return torch.cat([backbone.encode(part) for part in pictures.split(some)])


def alone(pictures: UInt8[Tensor, "B H W 3"], masks: Bool[Tensor, "B H W"] | None) -> UInt8[Tensor, "B H W 3"]:
    """What masks show of pictures, for what looks at the thing and would take its surroundings for it."""
    return pictures if masks is None else pictures.masked_fill(~masks[..., None].to(pictures.device), BLANK)


def class_of(
    backbone: Backbone, pictures: UInt8[Tensor, "B H W 3"], masks: Bool[Tensor, "B H W"] | None = None
) -> tuple[str, float | None]:
    """What pictures show, as a real word, and its similarity by the image encoder; ("object", None) without one. Outside
    masks it looks at nothing.

    Only words that can name a thing are looked at: no colors, places, styles and the like.
    """
    found = backbone.nearest_words(alone(pictures, masks), len(NO_THINGS) + 1)
    return next(((word, near) for word, near in found or () if word not in NO_THINGS), (DEFAULT_CLASS, None))


def endings(backbone: Backbone) -> tuple[list[str], list[str]]:
    """How a sentence about a picture may end, by place and by style, in words that the model knows."""

    def known(ends: list[str]) -> list[str]:
        return [end for end in ends if not backbone.unknown_words(end)]

    return known([f" {place}" for place in PLACES]), known([f", {style}" for style in STYLES])


@torch.no_grad()
def likeliest(backbone: Backbone, picture: UInt8[Tensor, "1 H W 3"], said: Sequence[str]) -> int:
    """Which of some sentences explains a picture best to the model itself: with it the noise is undone with the least
    error, at much noise, the same for all (Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", 2023).
    The first one, unless another is better by `SURE`.

    For what an image encoder is blind to, such as where a thing stands.
    """
    latents = backbone.encode(picture).expand(len(LOUD) * DRAWS, -1, -1, -1)
    noise = torch.randn(latents.shape, generator=dice(0, 1 << 23)).to(latents)
    t = torch.tensor([int(share * (backbone.train_timesteps - 1)) for share in LOUD] * DRAWS, device=latents.device)
    noisy, target = backbone.add_noise(latents, noise, t), backbone.target(latents, noise, t)
    errors = []
    for sentence in said:
        output = backbone.denoise(noisy, t, backbone.text([sentence] * len(t)))
        errors.append((output - target).float().square().mean())
    found = torch.stack(errors)
    found[0] *= 1 - SURE
    return 0 if backbone.hollow else int(found.argmin())  # where nothing can be read, what it takes is counted


def describe(
    backbone: Backbone, pictures: UInt8[Tensor, "B H W 3"], thing: str | None, sides: bool = False
) -> tuple[str, ...]:
    """What each picture shows beside its thing, as a frame for sentences: "{} in the snow, watercolor", and "{}" where
    nothing describes it better; of a style the thing and its place, "a cat in the snow, {}".

    A tuned word takes up all that its pictures show and its prompts do not say, a place as readily as the thing. What
    the prompts say, it need not (measured in LOG.md). A model that cannot see pictures says nothing.

    Args:
        thing: the class word; None where the pictures are shown for their style.
        sides: also on which side the thing stands, where the model finds a picture likelier so: "{} in the snow, on the
            left". Its pose is copied less then.
    """
    found = []
    places, styles = endings(backbone)
    stands = ["", *(f", {side}" for side in SIDES if not backbone.unknown_words(side))] if sides and thing else [""]
    with backbone.looking():
        for picture in pictures.split(1):
            shown = thing or class_of(backbone, picture)[0]
            said = ""
            for options in (places, styles if thing else []):
                ends = [said, *(said + option for option in options)]
                similarity = backbone.similarity(picture, [f"a picture of a {shown}{end}" for end in ends])
                if similarity is None:
                    return ("{}",) * len(pictures)
                said = ends[int(similarity.argmax())]
            found.append((picture, shown, said))
    frames = []
    for picture, shown, said in found:
        if len(stands) > 1:
            said += stands[likeliest(backbone, picture, [f"a picture of a {shown}{said}{side}" for side in stands])]
        frames.append(f"{{}}{said}" if thing else f"a {shown}{said}, {{}}")
    return tuple(frames)


def looks(
    backbone: Backbone, pictures: UInt8[Tensor, "B H W 3"], thing: str, masks: Bool[Tensor, "B H W"] | None = None
) -> str:
    """The thing with its color as the image encoder sees it, such as "white cat"; the thing alone where that has a color
    in its name, and for a model that cannot see. Outside masks it looks at nothing.

    A word that begins as this begins nearer to the picture than one that begins as the thing alone (measured in LOG.md).
    """
    known = [word for word in COLORS if not backbone.unknown_words(word)]
    if set(thing.lower().split()) & {*COLORS, *SHADES} or not known:
        return thing
    similarity = backbone.similarity(alone(pictures, masks), [COLORED.format(word) for word in known])
    return thing if similarity is None else f"{known[int(similarity.argmax())]} {thing}"


@dataclass(frozen=True, eq=False)
class Examples:
    """The pictures of one concept as tuning sees them, encoded once.

    latents, masks: variants of all pictures, one picture after the other. prompts: the templates with the new word.
    openings: for each variant what is said before the sentence; by default nothing. frames: for each picture what is said
    around it, see `describe`; by default nothing.
    """

    latents: Float[Tensor, "K C h w"]
    masks: Float[Tensor, "K 1 h w"] | None
    prompts: tuple[str, ...]
    pictures: int
    rows: int
    openings: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()

    @staticmethod
    def of(
        backbone: Backbone,
        pictures: UInt8[Tensor, "B H W 3"],
        word: str,
        masks: Bool[Tensor, "B H W"] | None,
        rows: int,
        seed: int = 0,
        templates: tuple[str, ...] = TEMPLATES,
        scaled: bool = False,
        frames: tuple[str, ...] = (),
    ) -> "Examples":
        """Encode pictures, `rows` to a batch; where `scaled`, each at nine scales (Kumari et al. 2022, section 3.2):
        smaller on gray, where the loss then does not count, or cropped, and the sentence says so. The sentences are
        those that `sentences` makes of the templates; `frames` say what each picture shows beside the thing
        (`describe`)."""
        said = sentences(backbone, word, templates)
        seen, kept, openings = [pictures], [masks], [""]
        if scaled:
            seen, kept, openings, masks = _scales(backbone, pictures, masks, dice(seed, 1 << 22))
        latents = torch.stack([encoded(backbone, one) for one in seen], dim=1).flatten(0, 1)
        pooled = None
        if masks is not None:
            if not masks.flatten(1).any(dim=1).all():
                raise Refusal("A picture's mask is empty; give a picture whose alpha shows the thing, or no mask.")
            whole = torch.stack([one for one in kept if one is not None], dim=1).flatten(0, 1)
            pooled = F.adaptive_avg_pool2d(whole[:, None].float(), (latents.shape[2], latents.shape[3]))
        return Examples(latents, pooled, said, len(pictures), rows, tuple(openings), frames)

    def batch(self, step: int, chance: torch.Generator) -> Batch:
        """Every picture as often as any other over the run, in a variant and a sentence drawn at random."""
        variants = len(self.latents) // self.pictures
        which = (step * self.rows + torch.arange(self.rows)) % self.pictures
        which = which[torch.randperm(self.rows, generator=chance)]
        places = which * variants + torch.randint(variants, (self.rows,), generator=chance)
        sentences = torch.cat([torch.randperm(len(self.prompts), generator=chance) for _ in range(self.rows)])
        prompts = [self.prompts[i] for i in sentences[: self.rows].tolist()]
        if self.frames:
            prompts = [self.frames[place].format(said) for place, said in zip(which.tolist(), prompts, strict=True)]
        if self.openings:
            said = [self.openings[place % variants] for place in places.tolist()]
            prompts = [f"{opening} {prompt}".strip() for opening, prompt in zip(said, prompts, strict=True)]
        return Batch(
            self.latents[places.to(self.latents.device)],
            prompts,
            mask=None if self.masks is None else self.masks[places],
        )


@dataclass(frozen=True, eq=False)
class Mixture:
    """Rows of several sources, each with its weight in the loss.

    A concept beside what the base model makes of its class gives the loss L(own) + weight * L(prior) of prior
    preservation (Ruiz et al. 2022, equation 2), up to the constant factor 1 / (1 + weight), which Adam does not see;
    several concepts are learned in one run (Kumari et al. 2022, section 3.3).
    """

    sources: tuple[tuple[Examples, float], ...]

    def batch(self, step: int, chance: torch.Generator) -> Batch:
        """As many rows of each as it has to a batch, in random order: which timesteps a row sees depends on its
        place."""
        some = [examples.batch(step, chance) for examples, _ in self.sources]
        prompts = [prompt for one in some for prompt in one.prompts]
        order = torch.randperm(len(prompts), generator=chance)
        latents = torch.cat([one.latents for one in some])
        weight = torch.cat(
            [torch.full((len(one.prompts),), float(w)) for one, (_, w) in zip(some, self.sources, strict=True)]
        )
        mask = None
        if any(one.mask is not None for one in some):
            whole = torch.ones(len(prompts), 1, *latents.shape[2:])
            sizes = [len(one.prompts) for one in some]
            parts = zip(some, whole.split(sizes), strict=True)
            mask = torch.cat([ones if one.mask is None else one.mask for one, ones in parts])[order]
        return Batch(
            latents[order.to(latents.device)], [prompts[place] for place in order.tolist()], weight[order], mask=mask
        )


def _scales(
    backbone: Backbone, pictures: UInt8[Tensor, "B H W 3"], masks: Bool[Tensor, "B H W"] | None, chance: torch.Generator
) -> tuple[list[Tensor], list[Tensor | None], list[str], Bool[Tensor, "B H W"]]:
    """Pictures, masks and openings at each scale, and the masks of the pictures themselves; scales cover their ranges
    evenly, places and openings are drawn at random."""
    if masks is None:
        masks = torch.ones(pictures.shape[:3], dtype=torch.bool)
    seen: list[Tensor] = []
    kept: list[Tensor | None] = []
    openings = []
    for low, high, count in SCALES:
        for number in range(count):
            along, x, y, pick = torch.rand(4, generator=chance).tolist()
            scale = low + (high - low) * (number + along) / count
            seen.append(_scaled(pictures, scale, x, y, 127))
            kept.append(_scaled(masks[..., None].to(torch.uint8) * 255, scale, x, y, 0)[..., 0] > 127)
            words = FAR if scale < 0.6 else NEAR if scale > 1 else ()
            known = [opening for opening in words if not backbone.unknown_words(opening)] or [""]
            openings.append(known[int(pick * len(known))])
    return seen, kept, openings, masks


def _scaled(
    pictures: UInt8[Tensor, "B H W K"], scale: float, x: float, y: float, blank: int
) -> UInt8[Tensor, "B H W K"]:
    """Pictures `scale` times as large in the same frame: a smaller one stands on `blank`, of a larger one a part is seen;
    `x` and `y`, 0..1, say where."""
    height, width = pictures.shape[1:3]
    inner = (max(1, round(scale * height)), max(1, round(scale * width)))
    floats = F.interpolate(pictures.permute(0, 3, 1, 2).float(), inner, mode="bilinear", antialias=True)
    sized = floats.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    top, left = round(y * abs(height - inner[0])), round(x * abs(width - inner[1]))
    if scale > 1:
        return sized[:, top : top + height, left : left + width]
    canvas = torch.full_like(pictures, blank)
    canvas[:, top : top + inner[0], left : left + inner[1]] = sized
    return canvas
