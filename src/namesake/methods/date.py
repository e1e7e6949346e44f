"""DATE: one look at one picture gives a word and offsets of the weights, and a dozen steps make them fit.

Arar et al., "Domain-Agnostic Tuning-Encoder for Fast Personalization of Text-To-Image Models" (SIGGRAPH Asia 2023).
There is no code by its authors. Where its formulas are:

    equation 1  denoising loss                           `namesake.train.fit.loss_of`
    equation 2  nearest-neighbour contrastive loss       `contrastive_loss`
    section 3.2 L2 on the word                           `norm_penalty`
    figure 4    cosine to the nearest word               `nearest_loss`
    equation 3  dual path                                `namesake.edits.SecondPath`; the hard word: `hard_word`
    equation 4  W' = W + A B, and its scale              `namesake.nets.encoder.Hypernetwork`, `namesake.edits.LowRankEdit`
    appendix A  L2 on the offsets                        `offset_penalty`
    section 3.4 L2 to the encoder's prediction           `namesake.train.fit.TunedEdit`

What the paper leaves open, and what is ours: the sizes of the networks and their form (`namesake.nets.encoder`), rank,
temperature, number of neighbours and all weights of the losses (`Date`); the features see the reference once, at a
fixed low timestep (`namesake.backbone.features`); the word starts at a neutral base word, or, for a model whose own image
encoder can name pictures, at the name; logits of equation 2 are
cosines, since the raw products of Stable Diffusion's words, whose norm is 0.4, are flat at the usual temperature; the
penalties are relative to the size of real words and of the model's weights, so that they mean the same on every model;
the hard word is searched once, from the prediction, among whole words; anchors and batch of tuning (`Tuning`), whose rate
falls to a tenth along a cosine (`namesake.train.fit.Phase`), since a dozen steps end where the last one leaves them; batch,
warm-up, clip and average of pre-training (`namesake.train.pretrain.Plan`). The pictures are not varied
at random (no mirror images, no crops): of three million each is seen some three times.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from namesake.backbone import Backbone
from namesake.backbone.features import Features
from namesake.data.prompts import COLORED, COLORS, NO_THINGS
from namesake.edits import Edit, LowRankEdit, SecondPath, TokenEdit, about, sketch
from namesake.edits.base import embedding, now, number, same_base
from namesake.errors import Refusal
from namesake.files import printable, write
from namesake.nets.encoder import BasisHypernetwork, Hypernetwork, TokenEmbedder, Trunk
from namesake.train.examples import Examples, alone, check_shown, describe, endings
from namesake.train.fit import Batch, EditModule, Phase, TunedEdit, fit, idle_offsets
from namesake.train.pretrain import gathered
from namesake.train.tune import Dvar, frozen_batch, real_vectors, sites_of, told_context, word_vectors

DENOISER = ("reference", "current")
REGULARIZERS = ("contrastive", "nearest", "norm", "none")
FORMAT = 1
STEPS = 12  # of tuning; the paper needs no more
ENTRY = "namesake encoder"  # of the file's metadata


# The losses


def nearest_words(words: Float[Tensor, "B E"], real: Float[Tensor, "V E"], count: int) -> Int[Tensor, "B _K"]:
    """N(v*) of equation 2: which `count` of the real words are nearest to each word by cosine, nearest first."""
    with torch.no_grad():
        return (F.normalize(words, dim=-1) @ F.normalize(real, dim=-1).T).topk(count, dim=-1).indices


def contrastive_loss(
    words: Float[Tensor, "B E"],
    real: Float[Tensor, "V E"],
    origin: Int[Tensor, "B"],
    others: Float[Tensor, "M E"] | None = None,
    other_origin: Int[Tensor, "M"] | None = None,
    *,
    neighbours: int = 4,
    temperature: float = 0.07,
    cosine: bool = True,
) -> Float[Tensor, ""]:
    """The nearest-neighbour contrastive loss (equation 2), the mean over the batch of

        -log  sum_N exp(v . T / tau) / (sum_N exp(v . T / tau) + sum_v' exp(v . v' / tau)).

    It pulls each word v to the real words T nearest to it and pushes it from the words v' of other pictures. Views of
    the same picture are no negatives; a word without negatives has a loss of 0. Gradients reach v and v'.

    Args:
        words: v, one for each row.
        real: the real words' vectors; no gradient reaches them.
        origin: rows of one number show the same picture.
        others, other_origin: where v' come from and their pictures, by default the batch itself. Several processes
            give the words of all of them; the mean of their losses is then that of one process.
        neighbours: size of N, 1..V.
        temperature: tau, above 0.
        cosine: logits are cosines, -1..1 before tau; False takes the products as the formula is written.
    """
    if others is None or other_origin is None:
        others, other_origin = words, origin
    near = real[nearest_words(words, real, neighbours)].detach()
    if cosine:
        words, near, others = (F.normalize(vectors, dim=-1) for vectors in (words, near, others))
    positive = torch.einsum("be,bke->bk", words, near) / temperature
    negative = (words @ others.T / temperature).masked_fill(origin[:, None] == other_origin, -torch.inf)
    both = torch.cat([positive, negative], dim=1)
    return (both.logsumexp(dim=1) - positive.logsumexp(dim=1)).mean()


def nearest_loss(words: Float[Tensor, "B E"], real: Float[Tensor, "V E"]) -> Float[Tensor, ""]:
    """The alternative of figure 4, after VQGAN's codebook: 1 - cosine to the nearest real word, 0..2, mean."""
    near = real[nearest_words(words, real, 1)[:, 0]].detach()
    return (1 - F.cosine_similarity(words, near, dim=-1)).mean()


def norm_penalty(words: Float[Tensor, "... E"], size: float) -> Float[Tensor, ""]:
    """L2 on the words (section 3.2): the mean of |v|^2 / (E size^2), where `size` is the root mean square coordinate of
    the real words; so 1 for a word as long as they are."""
    return (words / size).square().mean()


def offset_penalty(low: LowRankEdit, sizes: Mapping[str, float]) -> Float[Tensor, ""]:
    """L2 on the offsets (appendix A): the mean over rows and sites of |(alpha / r) A B|^2 / |W|^2.

    |A B|^2 = tr(A'A BB'), so no offset is formed. `sizes` gives |W|^2 by site path.
    """
    strayed = []
    for path, (down, up) in low.factors.items():
        square = ((up.mT @ up) * (down @ down.mT)).sum(dim=(-2, -1)).mean()
        strayed.append((low.alpha / down.shape[-2]) ** 2 / sizes[path] * square)
    return torch.stack(strayed).mean()


# Words


def hard_word(backbone: Backbone, vectors: tuple[Float[Tensor, "n _E"], ...]) -> str:
    """v_h of equation 3: for each vector of a word the real word nearest by cosine (the mean over text encoders)."""
    near: Tensor | float = 0.0
    for own, real in zip(vectors, real_vectors(backbone), strict=True):
        near = near + F.normalize(own.to(real), dim=-1) @ F.normalize(real, dim=-1).T
    assert isinstance(near, Tensor)
    words = backbone.real_words()
    return " ".join(words[place].text for place in near.argmax(dim=-1).tolist())


def names_of(backbone: Backbone, count: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What an image encoder is asked of a picture, see `Features`: the thing, or its color and the thing. Refused where the
    model knows none of the words."""
    real = [word.text for word in backbone.real_words()]
    thing = ("a picture of a {}", tuple(word for word in real if word not in NO_THINGS))
    color = (COLORED, tuple(word for word in COLORS if word in real))
    names = (color, thing)[2 - count :]
    if not all(words for _, words in names):
        raise Refusal(
            f"The model {backbone.name} knows no words for what is asked of pictures; start at fewer, or at a base word."
        )
    return names


def ends_of(backbone: Backbone) -> tuple[tuple[str, ...], ...]:
    """How sentences about a picture may end, see `Features`: places and styles that the model has the words for."""
    places, styles = (["", *ends] for ends in endings(backbone))
    return tuple(tuple(place + style for style in styles) for place in places)


def with_class(named: Float[Tensor, "1 n _E"], given: tuple[Float[Tensor, "_m _E1"], ...]) -> Float[Tensor, "1 n _E"]:
    """Where a word starts that was seen as `named`, once its class is given by its tokens for each text encoder: as many as
    the word has vectors take their places; else their mean, as long as they are, takes that of the thing."""
    if all(len(vectors) == named.shape[1] for vectors in given):
        return torch.cat(given, dim=-1)[None].to(named)
    mean = torch.cat([F.normalize(own.mean(dim=0), dim=0) * own.norm(dim=-1).mean() for own in given])
    return torch.cat([named[:, :-1], mean[None, None].to(named)], dim=1)


# The encoder


@dataclass(frozen=True)
class Date:
    """Settings of an encoder and its pre-training; they are kept in its file. Defaults suit Stable Diffusion.

    vectors: of a word, 1..4. rank: of the offsets, 0 (none: no hypernetwork) to 64; their alpha equals it. bases: they are
    on every linear map and convolution, between learned bases (`BasisHypernetwork`); a U-Net without attention on its finest
    level shows little of what attentions alone are told. base_word:
    where words start, one token of the model. named: they start instead at what the model's own image encoder takes the
    picture for, words between real words (`Features.named`): of one vector at the thing, of two at its color and the
    thing; for models that have an image encoder. context: the sentences of pre-training say of each picture what that
    image encoder sees beside the thing, as tuning's do (`describe`); the paper's are neutral, so that its words bring their
    place with them. width, blocks, layers: of the
    networks (`namesake.nets.encoder`).
    image_encoder, timestep: see `Features`. denoiser: what the U-Net's features are of while pre-training: "reference"
    (once, at the fixed timestep) or "current" (the noisy latent that is to be cleaned, as the project's page draws it;
    nothing of it can be kept); a prediction is made once and looks at the reference either way. regularizer: of the
    word (figure 4): "contrastive" (equation 2), "nearest" (cosine to the nearest word), both with L2 on the norm;
    "norm" (L2 alone); "none". neighbours, temperature, cosine: see `contrastive_loss` (the values of ReVersion, which
    the paper follows there). word_weight: of the contrastive or nearest loss. norm_weight, offset_weight: of
    `norm_penalty` and `offset_penalty`; small against a denoising loss of 0.1 to 0.5, so that they steer where that leaves open.
    rank and alpha are LoRA's commonest; the timestep is early enough for the U-Net to see the thing through the noise.
    """

    vectors: int = 1
    rank: int = 4
    base_word: str = "object"
    named: bool = False
    context: bool = False
    bases: bool = False
    width: int = 512
    blocks: int = 2
    layers: int = 2
    image_encoder: str | None = None
    timestep: float = 0.1
    denoiser: str = "reference"
    regularizer: str = "contrastive"
    neighbours: int = 4
    temperature: float = 0.07
    cosine: bool = True
    word_weight: float = 1e-2
    norm_weight: float = 1e-3
    offset_weight: float = 1e-2

    def __post_init__(self) -> None:
        for name, low, high in (
            ("vectors", 1, 4),
            ("rank", 0, 64),
            ("width", 32, 4096),
            ("blocks", 0, 16),
            ("layers", 1, 16),
            ("timestep", 0, 1),
            ("neighbours", 1, 1000),
            ("temperature", 1e-4, 1e4),
            ("word_weight", 0, 1e6),
            ("norm_weight", 0, 1e6),
            ("offset_weight", 0, 1e6),
        ):
            if not low <= getattr(self, name) <= high:
                raise Refusal(
                    f"The encoder's {name} is {getattr(self, name)}; a number from {low} to {high} is wanted."
                )
        if self.named and self.vectors > 2:
            raise Refusal(f"A named word has 1 or 2 vectors, for a thing and its color, not {self.vectors}.")
        if self.denoiser not in DENOISER:
            raise Refusal(f"The encoder's denoiser is '{self.denoiser}'; one of {', '.join(DENOISER)} is wanted.")
        if self.regularizer not in REGULARIZERS:
            raise Refusal(f"The regularizer is '{self.regularizer}'; one of {', '.join(REGULARIZERS)} is wanted.")

    def network(self, backbone: Backbone, seed: int = 0) -> "DateEncoder":
        """A new encoder for a model; `seed` is of its first weights."""
        return DateEncoder(backbone, self, seed=seed)


class DateEncoder(EditModule):
    """DATE's encoder: from pictures to words and offsets, an edit with one of each for each row.

    Its parameters are exactly the trained ones (`trunk`, `embedder`, `hyper`); the frozen networks stand aside in
    `features`. It makes the soft path alone: the blend is 1 in pre-training. The networks compute in fp32.

    Args:
        backbone: the model it is for.
        settings: see `Date`.
        seed: of its first weights.
        weights: in the place of new ones; a Refusal where they do not fit.

    Attributes:
        word: the placeholder of the edits it makes.
    """

    def __init__(
        self, backbone: Backbone, settings: Date, seed: int = 0, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        names = names_of(backbone, settings.vectors) if settings.named else ()
        ends = ends_of(backbone) if settings.context else ()
        self.features = Features(backbone, settings.image_encoder, settings.timestep, names, ends)
        self.settings = settings = replace(settings, image_encoder=self.features.image_encoder)
        self.word = "<it>"
        self.about = about(backbone, "DATE", encoder=asdict(settings))
        self.real = real_vectors(backbone)
        if len(self.real[0]) < settings.neighbours:
            raise Refusal(
                f"The model {backbone.name} has {len(self.real[0])} whole words, fewer than the {settings.neighbours} "
                "neighbours of the loss; ask for fewer."
            )
        sites = sites_of(backbone, settings.bases)
        self.sizes = [number(real.square().mean().sqrt()) for real in self.real]
        self.squares = {
            site.path: number(backbone.unet.get_submodule(site.path).weight.detach().float().square().sum())
            for site in sites
        }
        self._origin: Tensor | None = None
        base = [
            embedding(encoder)[_token(tokenizer, settings.base_word)].detach().expand(settings.vectors, -1)
            for tokenizer, encoder in zip(backbone.tokenizers, backbone.text_encoders, strict=True)
        ]
        with torch.random.fork_rng(devices=[]), torch.device("cpu" if weights is None else "meta"):
            torch.default_generator.manual_seed(seed)
            self.trunk = Trunk(self.features.widths, settings.width, settings.blocks)
            self.embedder = TokenEmbedder(settings.width, base, self.sizes)
            kind = BasisHypernetwork if settings.bases else Hypernetwork
            self.hyper = kind(sites, settings.width, settings.rank, settings.layers) if settings.rank else None
        if weights is not None:
            wanted = {name: tensor.shape for name, tensor in self.state_dict().items()}
            if wanted != {name: tensor.shape for name, tensor in weights.items()}:
                raise Refusal(
                    f"The encoder has other weights than the model {backbone.name} needs; use it with its own base model."
                )
            self.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
        if not backbone.frugal:  # else it comes when it works
            self.to(backbone.device)

    def forward(self, batch: Batch) -> Edit:
        """A word and offsets for each row: `batch.pictures` show what `batch.latents` are of; `batch.features` stand in
        for both."""
        device = self.trunk.enter.weight.device
        count = len(batch.latents)
        origin = batch.origin
        if origin is None:  # all rows of all processes show pictures of their own
            ranked = dist.is_available() and dist.is_initialized()
            origin = torch.arange(count) + count * (dist.get_rank() if ranked else 0)
        self._origin = origin.to(device)
        denoiser = named = None
        if batch.features is not None:
            image, denoiser, *rest = batch.features
            named = rest[0].to(device) if self.settings.named else None
        elif batch.pictures is None:
            raise Refusal("The batch has no pictures for the encoder to look at; give one for each row.")
        else:
            image = self.features.image(batch.pictures)
            named = self.features.named(batch.pictures) if self.settings.named else None
        if self.settings.denoiser == "current" and batch.noisy is not None:
            denoiser = self.features.denoiser(*(tensor.to(device) for tensor in batch.noisy))
        elif denoiser is None:
            denoiser = self.features.reference(batch.latents.to(device))
        return self.predict(image.to(device), denoiser.to(device), named)

    def frames(self, batch: Batch) -> Sequence[str]:
        """With `context` what the image encoder sees beside the thing of each row; else nothing."""
        if not self.settings.context:
            return ()
        if batch.features is not None:
            which = batch.features[-1]
        else:
            assert batch.pictures is not None
            which = self.features.beside(batch.pictures)
        ends = [end for row in self.features.ends for end in row]
        return [f"{{}}{ends[int(number)]}" for number in which[:, 0].tolist()]

    def predict(
        self,
        image: Float[Tensor, "B _C1 _h1 _w1"],
        denoiser: Float[Tensor, "B _C2 _h2 _w2"],
        named: Float[Tensor, "B _n _E"] | None = None,
    ) -> Edit:
        """A word and offsets for each row, from the two maps of features, and from where words start if not at the base
        word."""
        places, whole = self.trunk(image, denoiser)
        word = TokenEdit(self.word, self.embedder(whole, named))
        if self.hyper is None:
            return Edit((word,), self.about)
        return Edit((word, LowRankEdit(self.hyper(places, whole), float(self.settings.rank))), self.about)

    def penalty(self, edit: Edit) -> Float[Tensor, ""]:
        """The regularisers of the last forward's edit, weighted; means over text encoders and vectors of a word."""
        settings = self.settings
        words = edit.of(TokenEdit)[0].vectors
        assert self._origin is not None
        total = words[0].new_zeros(())
        for vectors, real, size in zip(words, self.real, self.sizes, strict=True):
            real, share = real.to(vectors.device), 1 / len(words)
            if settings.regularizer != "none":
                total = total + share * settings.norm_weight * norm_penalty(vectors, size)
            for one in vectors.unbind(1):
                weight = share * settings.word_weight / vectors.shape[1]
                if settings.regularizer == "contrastive":
                    total = total + weight * contrastive_loss(
                        one,
                        real,
                        self._origin,
                        gathered(one),
                        gathered(self._origin),
                        neighbours=settings.neighbours,
                        temperature=settings.temperature,
                        cosine=settings.cosine,
                    )
                elif settings.regularizer == "nearest":
                    total = total + weight * nearest_loss(one, real)
        for low in edit.of(LowRankEdit):
            total = total + settings.offset_weight * offset_penalty(low, self.squares)
        return total

    @torch.no_grad()
    def figures(self, edit: Edit) -> Mapping[str, float]:
        """Signs of collapse and drift, by the last vector (of several the thing's) of the first text encoder.

        "word cosine": the mean cosine between the words of two pictures; 1 is collapse. "word entropy": of which real
        word is nearest, in nats, 0 (one for all) to log B; one row alone shows neither. "word norm": relative to real
        words. "offset size": the root of `offset_penalty`, relative to the model's weights. A curve has them of one
        process's last part of a step.
        """
        words = edit.of(TokenEdit)[0].vectors[0][:, -1].float()
        real = self.real[0].to(words.device)
        unit = F.normalize(words, dim=-1)
        count = len(unit)
        shares = nearest_words(words, real, 1).flatten().bincount().float() / count
        found: dict[str, float] = {}
        if count > 1:
            found["word cosine"] = ((unit @ unit.T).sum() - count).item() / (count * (count - 1))
            found["word entropy"] = torch.special.entr(shares).sum().item()
        found["word norm"] = norm_penalty(words, self.sizes[0]).sqrt().item()
        for low in edit.of(LowRankEdit):
            found["offset size"] = offset_penalty(low, self.squares).sqrt().item()
        return found

    def save(self, path: str | Path, dtype: torch.dtype = torch.float16, **trained: Any) -> None:
        """Write the encoder, its weights in `dtype`, whole or not at all: one `.safetensors` file with the sketches of its
        base model and of what it sees with, and a description in JSON.

        Args:
            path: of the file.
            dtype: of the weights; fp32 keeps them to the bit.
            trained: what to remember of the training, in values that JSON can hold.

        Raises:
            Refusal: weights that are not finite in `dtype`, a place that cannot be written.
        """
        import safetensors.torch

        tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in self.state_dict().items()}
        if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise Refusal(f"The encoder has weights that are not finite (in {broken[0]}); train it at a lower rate.")
        note = {
            "format": FORMAT,
            "method": "DATE",
            "settings": asdict(self.settings),
            "base": self.about.base,
            "versions": dict(self.about.versions),
            "created": now(),
            "trained": trained,
        }
        assert self.about.sketch is not None
        bases = {"sketch": self.about.sketch, "eyes": self.features.sketch()}
        data = safetensors.torch.save({**bases, **tensors}, {ENTRY: json.dumps(note)})
        write(data, Path(path), "encoder")

    @staticmethod
    def load(path: str | Path, backbone: Backbone, any_base: bool = False) -> "DateEncoder":
        """Read an encoder for a model.

        Raises:
            Refusal: no encoder's file, a damaged one, one for another base model; with `any_base` other weights of the
                same architecture will do.
        """
        note, tensors = _read(Path(path))
        settings = _settings(Path(path), note.get("settings"))
        base, eyes = (tensors.pop(name, torch.empty(0)) for name in ("sketch", "eyes"))
        sound = base.shape == (1024,) and eyes.shape == (512,)
        if not sound or not all(tensor.isfinite().all() for tensor in (base, eyes, *tensors.values())):
            raise Refusal(f"The encoder {path} is damaged; get it or make it again.")
        if any_base or same_base(base, sketch(backbone)):
            encoder = DateEncoder(backbone, settings, weights=tensors)
            if any_base or same_base(eyes, encoder.features.sketch()):
                return encoder
        raise Refusal(
            f"The encoder {path} was made for {printable(note.get('base') or 'another model')}, and the weights of "
            f"{backbone.name}, of its autoencoder or of its image encoder differ; load that model, or start cold "
            "(--encoder none)."
        )


def _token(tokenizer: Any, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] in tokenizer.all_special_ids:
        raise Refusal(f"The base word {word!r} is not one token of the model; choose a word that it knows whole.")
    return int(ids[0])


def read_note(path: str | Path) -> dict[str, Any]:
    """What an encoder's file says of itself: "format", "method", "settings", "base" (a model's name), "versions",
    "created", "trained". Refused where the file is no encoder's."""
    return _read(Path(path), weights=False)[0]


def _read(path: Path, weights: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(ENTRY)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if weights else {}  # noqa: SIM118
    except (OSError, SafetensorError) as reason:
        raise Refusal(f"The encoder {path} cannot be read ({reason}); get it or make it again.") from None
    try:
        note = json.loads(text or "")
    except (ValueError, RecursionError):
        note = None
    if not isinstance(note, dict) or (note.get("format"), note.get("method")) != (FORMAT, "DATE"):
        raise Refusal(f"The file {path} holds no encoder that this version reads; get or make one, or update namesake.")
    return note, tensors


def _settings(path: Path, told: Any) -> Date:
    """The settings in a file, which may say anything."""
    kinds: dict[str, tuple[type, ...]] = {
        field.name: (int, float) if type(field.default) is float else (str, type(field.default)) if field.default is None
        else (type(field.default),) for field in fields(Date)
    }  # fmt: skip
    sound = isinstance(told, dict) and set(told) == set(kinds)
    if not sound or not all(type(told[name]) in kind for name, kind in kinds.items()):
        raise Refusal(f"The encoder {path} has settings that this version does not know; update namesake.")
    return Date(**told)


# Personalization


@dataclass(frozen=True)
class Tuning:
    """How a prediction is tuned (section 3.4 and appendix B); the values of the paper where it has them.

    blend: the share of the new word's path, when tuning and when drawing (0.25); 1 leaves the hard path out. batch:
    rows of a step. word_rate, offset_rate: first learning rates (2e-3). word_anchor, offset_anchor: L2 to the
    prediction, see `TunedEdit`; not optional, since 12 steps at this rate could carry a word of Stable Diffusion
    further than it is long. extra_rank: of offsets without effect that stand beside the predicted ones and are tuned
    with them (after HyperDreamBooth), 0..64. layers: these are on every other linear map and convolution of the U-Net
    too, which a U-Net without attention on its finest level needs. context: whether the sentences say what the pictures
    show beside the thing, where an image encoder can tell. sides: and on which side it stands.
    """

    blend: float = 0.25
    batch: int = 4
    word_rate: float = 2e-3
    offset_rate: float = 2e-3
    word_anchor: float = 1e-2
    offset_anchor: float = 1e-3
    extra_rank: int = 0
    layers: bool = False
    context: bool = False
    sides: bool = False

    def __post_init__(self) -> None:
        bounds = {"blend": (0, 1), "batch": (1, 64), "extra_rank": (0, 64)}
        for name, value in vars(self).items():
            low, high = bounds.get(name, (0, 1e6))
            if not low <= value <= high:
                raise Refusal(f"The {name} of tuning is {value}; a number from {low} to {high:g} is wanted.")

    def start(
        self,
        backbone: Backbone,
        encoder: DateEncoder,
        picture: UInt8[Tensor, "1 H W 3"],
        latents: Float[Tensor, "1 C h w"],
        word: str,
        class_word: str | None = None,
        seed: int = 0,
        hard: str | None = None,
    ) -> TunedEdit:
        """The edit module of one concept, at the encoder's prediction: one forward, whose graph is not kept.

        Args:
            backbone: the model, which must be the encoder's.
            encoder: see `DateEncoder`.
            picture, latents: of the concept.
            word: the new word.
            class_word: the hard word, by default the one nearest to the predicted word. An encoder whose words start at
                what the picture is taken for starts at this instead.
            seed: of the appended rank.
            hard: the hard word alone, where the word is to start as if no class were given.
        """
        with torch.no_grad():
            seen = encoder.features(picture, latents)
            if encoder.settings.named and class_word is not None:
                seen = (*seen[:2], with_class(seen[2], word_vectors(backbone, class_word)), *seen[3:])
            with backbone.at_work(encoder):
                edit = row(encoder(Batch(latents, [word], features=seen)), 0)
        token = replace(edit.of(TokenEdit)[0], placeholder=word)
        lows = edit.of(LowRankEdit)
        if self.extra_rank:
            lows = (*lows, idle_offsets(sites_of(backbone, self.layers), self.extra_rank, seed))
        hard = hard or class_word
        hard = hard_word(backbone, token.vectors) if hard is None else hard
        if not hard.strip():
            raise Refusal("The class is empty; say what the picture shows, such as cat, or leave it to the encoder.")
        paths = (SecondPath(hard, self.blend),) if self.blend < 1 else ()
        settings = {name: value for name, value in asdict(self).items() if name != "blend"}
        told = replace(edit.about, class_word=hard, created=now(), settings={**edit.about.settings, **settings})
        return TunedEdit(Edit((token, *lows, *paths), told), backbone, self.word_anchor, self.offset_anchor)

    def phases(self, module: TunedEdit) -> tuple[Phase, ...]:
        """One: everything that the module holds, all timesteps."""
        rates = {"words": self.word_rate}
        if len(module.down):
            rates |= {"down": self.offset_rate, "up": self.offset_rate}
        return (Phase(rates),)


def row(edit: Edit, number: int) -> Edit:
    """The edit of one row of an edit for a batch."""
    return edit.mapped(lambda tensor: tensor[number])


def renamed(edit: Edit, word: str) -> Edit:
    """The edit of one word under another one."""
    parts = [replace(part, placeholder=word) if isinstance(part, TokenEdit) else part for part in edit.parts]
    return Edit(tuple(parts), edit.about)


def prepared(
    backbone: Backbone,
    encoder: DateEncoder,
    pictures: UInt8[Tensor, "B H W 3"],
    word: str,
    class_word: str | None,
    settings: Tuning,
    masks: Bool[Tensor, "B H W"] | None = None,
    hard: str | None = None,
    seed: int = 0,
) -> tuple[TunedEdit, Examples]:
    """What `personalize` tunes and on what, before its first step."""
    examples = Examples.of(backbone, pictures, word, masks, settings.batch, seed=seed)
    shown = alone(pictures[:1], None if masks is None else masks[:1])
    latents = examples.latents[:1] if masks is None else backbone.encode(shown)
    module = settings.start(backbone, encoder, shown, latents, word, class_word, seed, hard)
    frames = (
        describe(backbone, pictures, module.start.about.class_word or "", settings.sides) if settings.context else ()
    )
    return module, replace(examples, frames=frames)


def personalize(
    backbone: Backbone,
    encoder: DateEncoder,
    pictures: UInt8[Tensor, "B H W 3"],
    *,
    word: str = "<it>",
    class_word: str | None = None,
    masks: Bool[Tensor, "B H W"] | None = None,
    hard: str | None = None,
    steps: int = STEPS,
    seed: int = 0,
    settings: Tuning | None = None,
    dvar: Dvar | None = None,
    progress: Callable[[int, int], object] | None = None,
    strip: Callable[[int, Edit], object] | None = None,
) -> Edit:
    """Teach a model a new word for the one thing that some pictures show, starting from an encoder's prediction.

    The encoder looks at the first picture; tuning sees all of them. After 0 steps the edit is the prediction itself.

    Args:
        backbone: the model.
        encoder: an encoder of this model.
        pictures: one or several of one thing, sides that the autoencoder takes.
        word: the new word, such as <my-cat>.
        class_word: the hard word; by default the real word nearest to the predicted one. See `Tuning.start`.
        hard: see `Tuning.start`.
        masks: True where the thing is; the encoder then sees that alone, and the loss counts there alone.
        steps: of tuning, 0 or more; the paper needs at most 12.
        seed: of everything random.
        settings: of the tuning.
        dvar: ends the run when the loss has settled.
        progress: called with (steps done, steps in all).
        strip: called with (steps done, edit) after 0, 1, 2, 4, 8, ... steps; it may draw.

    Raises:
        Refusal: no picture, a word that is malformed or taken, an empty class, an empty mask, a
            number of steps below 0.
    """
    settings = settings or Tuning()
    check_shown(backbone, word, pictures)
    with backbone.waiting(encoder, encoder.features.eye):
        module, examples = prepared(backbone, encoder, pictures, word, class_word, settings, masks, hard, seed)
        edit = fit(
            backbone,
            module,
            examples.batch,
            settings.phases(module),
            steps=steps,
            seed=seed,
            progress=progress,
            strip=strip,
            stop=None if dvar is None else dvar.rule(backbone, frozen_batch([examples], seed), seed),
        )
    return told_context(edit, examples.frames)
