"""DATE: its formulas against cases worked by hand, where pre-training starts, what it trains, and the tuning."""

import math
from contextlib import contextmanager
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from minis import clip_model, image_encoder

from namesake.backbone import Backbone
from namesake.backbone.features import Features
from namesake.data.prompts import COLORS, NO_THINGS
from namesake.edits import LowRankEdit, SecondPath, TokenEdit, edited
from namesake.edits.mount import Mount
from namesake.errors import Refusal
from namesake.evaluate.cold_start import chosen, reference_of
from namesake.methods import date
from namesake.methods.date import (
    Date,
    DateEncoder,
    Tuning,
    contrastive_loss,
    hard_word,
    nearest_loss,
    norm_penalty,
    offset_penalty,
    personalize,
    read_note,
    row,
)
from namesake.picturebook.draw import draw
from namesake.picturebook.scene import SMALL_WORLD
from namesake.train.examples import describe
from namesake.train.fit import Batch, Phase, fit
from namesake.train.tune import Dvar, real_vectors, sites_of, word_vectors

SMALL = Date(base_word="thing", width=64, blocks=1, layers=1, rank=2)
KINDS = ("picturebook", "sd15", "sd21", "sdxl")


def opened(kind, minis):
    """A model with an image encoder of its own: the minis come without one."""
    if kind == "picturebook":
        return Backbone.load(device="cpu")
    backbone = Backbone.load(minis[kind], device="cpu")
    eye = image_encoder(48 if kind == "sdxl" else 32, 50)
    backbone.pipeline.register_modules(image_encoder=eye.eval().requires_grad_(False))
    return backbone


@pytest.fixture(scope="module", params=KINDS)
def each(request, minis):
    return opened(request.param, minis)


@pytest.fixture(scope="module")
def backbone(minis):
    return opened("sd15", minis)


def batch_of(backbone, rows=2):
    chance = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (rows, 64, 64, 3), dtype=torch.uint8, generator=chance)
    prompts = ["a picture of <it>", "<it> on the beach", "a red <it>"][:rows]
    return Batch(backbone.encode(pictures), prompts, pictures=pictures)


def stirred(encoder, seed=0):
    """The encoder with no layer idle."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (*encoder.embedder.leave, *encoder.hyper.b.values()):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=chance) * 0.1)
    return encoder


@torch.no_grad()
def denoised(backbone, batch, prompts):
    t = torch.full((len(prompts),), 500)
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(1))
    return backbone.denoise(backbone.add_noise(batch.latents, noise, t), t, backbone.text(prompts))


# Where it starts


@pytest.mark.parametrize("vectors", [1, 3])
def test_pretraining_starts_at_the_base_model_on_the_base_word_to_the_bit(each, vectors):
    encoder, batch = replace(SMALL, vectors=vectors).network(each), batch_of(each)
    edit = encoder(batch)
    low = edit.of(LowRankEdit)[0]
    assert list(low.factors) == [site.path for site in each.sites]
    assert all(down.abs().min() > 0 and not up.any() for down, up in low.factors.values())
    assert [v.shape[:2] for v in edit.of(TokenEdit)[0].vectors] == [(2, vectors)] * len(each.text_encoders)
    assert hard_word(each, row(edit, 1).of(TokenEdit)[0].vectors) == " ".join(["thing"] * vectors)
    with edited(each, edit):
        new = denoised(each, batch, batch.prompts)
    old = denoised(each, batch, [p.replace("<it>", " ".join(["thing"] * vectors)) for p in batch.prompts])
    assert torch.equal(new, old)


@pytest.mark.parametrize("vectors", [1, 2])
def test_a_named_word_starts_between_the_real_words_that_fit_the_picture(each, vectors):
    encoder, batch = replace(SMALL, named=True, vectors=vectors).network(each), batch_of(each)
    named = encoder.features.named(batch.pictures)
    assert named.shape[1] == vectors
    places = {word.text: place for place, word in enumerate(each.real_words())}
    real = real_vectors(each)
    known = [word for word in places if word not in NO_THINGS]
    colors = [word for word in COLORS if word in places]
    for number, frame, words in ((-1, "a picture of a {}", known), (0, "a picture of a {} thing", colors))[:vectors]:
        for picture, found in zip(batch.pictures.split(1), named[:, number], strict=True):
            prompts = [frame.format(word) for word in words]
            apart = torch.pdist(each._text_embeddings(prompts)).square().mean().sqrt()
            weights = (10 / apart * each.similarity(picture, prompts)).softmax(dim=0)
            tables = [vectors[[places[text] for text in words]] for vectors in real]
            means = [weights @ table for table in tables]
            lengths = [weights @ table.norm(dim=1) for table in tables]
            wanted = torch.cat([mean / mean.norm() * length for mean, length in zip(means, lengths, strict=True)])
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert (named[0] - named[1]).abs().max() > 0
    edit = encoder(batch)  # whose last layer adds nothing yet
    whole = torch.cat(edit.of(TokenEdit)[0].vectors, dim=2)
    assert torch.equal(whole, named)
    again = encoder(replace(batch, pictures=None, features=encoder.features(batch.pictures, batch.latents)))
    for a, b in zip(again.of(TokenEdit)[0].vectors, edit.of(TokenEdit)[0].vectors, strict=True):
        assert torch.equal(a, b)


def test_a_named_word_of_two_vectors_is_a_color_and_a_thing():
    backbone = Backbone.load(device="cpu")
    edit = replace(SMALL, named=True, vectors=2).network(backbone)(batch_of(backbone, 1))
    color, thing = hard_word(backbone, row(edit, 0).of(TokenEdit)[0].vectors).split()
    assert color in COLORS
    assert thing not in NO_THINGS
    with pytest.raises(Refusal, match="1 or 2 vectors"):
        replace(SMALL, named=True, vectors=3)


def test_a_model_without_the_words_is_refused(each, monkeypatch):
    monkeypatch.setattr(date, "COLORS", ("mauve",))
    with pytest.raises(Refusal, match="knows no words"):
        replace(SMALL, named=True, vectors=2).network(each)


def test_a_named_word_starts_at_the_class_that_is_given(each):
    encoder, batch = replace(SMALL, named=True, vectors=2).network(each), batch_of(each, 1)

    def start(class_word):
        module = Tuning().start(each, encoder, batch.pictures, batch.latents, "<my-cat>", class_word)
        return module.start.of(TokenEdit)[0].vectors

    named = encoder.features.named(batch.pictures)[0]
    assert torch.equal(torch.cat(start(None), dim=1), named)
    for own, cat in zip(start("cat"), word_vectors(each, "cat"), strict=True):
        torch.testing.assert_close(own[1:], cat)
    for own, both in zip(start("red cat"), word_vectors(each, "red cat"), strict=True):
        torch.testing.assert_close(own, both)  # a word for each vector
    for own, all in zip(start("big red cat"), word_vectors(each, "big red cat"), strict=True):
        torch.testing.assert_close(F.cosine_similarity(own[1], all.sum(dim=0), dim=0), torch.tensor(1.0))
        torch.testing.assert_close(own[1].norm(), all.norm(dim=1).mean())
    assert torch.equal(torch.cat(start("cat"), dim=1)[0], named[0])  # its color

    # The hard word alone: the word starts as if no class were given.
    module = Tuning().start(each, encoder, batch.pictures, batch.latents, "<my-cat>", hard="red cat")
    assert torch.equal(torch.cat(module.start.of(TokenEdit)[0].vectors, dim=1), named)
    assert module.start.of(SecondPath)[0].hard_word == "red cat"


@pytest.mark.parametrize("named", [False, True])
def test_sentences_of_pretraining_can_say_what_is_beside_the_thing(named):
    backbone = Backbone.load(device="cpu")
    pictures = [draw(one, reference_of(one, SMALL_WORLD)).picture for one in chosen("tuning", SMALL_WORLD, 6)]
    pictures = torch.from_numpy(np.stack(pictures))
    encoder = replace(SMALL, named=named, context=True).network(backbone)
    latents = backbone.encode(pictures)
    batch = Batch(latents, ["<it>"] * 6, pictures=pictures)
    frames = encoder.frames(batch)
    assert tuple(frames) == describe(backbone, pictures, "thing")  # as tuning says it
    assert len(set(frames)) > 2
    kept = replace(batch, pictures=None, features=encoder.features(pictures, latents))
    assert encoder.frames(kept) == frames
    for one, other in zip(
        encoder(kept).of(LowRankEdit)[0].factors.values(),
        encoder(batch).of(LowRankEdit)[0].factors.values(),
        strict=True,
    ):
        assert torch.equal(one[0], other[0])
    assert replace(SMALL, named=named).network(backbone).frames(batch) == ()
    assert personalize(backbone, encoder, pictures[:1], steps=1).about.class_word


def test_a_model_that_cannot_name_pictures_is_refused(minis):
    with pytest.raises(Refusal, match="base word"):
        Features(Backbone.load(minis["sd15"], device="cpu"), names=[("a {}", ("cat",))])


def test_a_begins_with_the_spread_of_an_ordinary_lora(backbone):
    low = replace(SMALL, rank=8).network(backbone)(batch_of(backbone)).of(LowRankEdit)[0]
    for site in backbone.sites[::16]:
        spread = low.factors[site.path][0].std().item() * site.in_dim**0.5
        assert 0.7 < spread < 1.4


def test_the_encoder_of_the_picture_book_has_at_most_three_million_parameters(minis):
    encoder = Date(base_word="thing", width=160).network(Backbone.load(device="cpu"))
    assert 2e6 < sum(p.numel() for p in encoder.parameters()) < 3e6
    frozen = encoder.features.backbone
    strange = {id(p) for part in (frozen.unet, *frozen.text_encoders, frozen.vae) for p in part.parameters()}
    assert not strange & {id(p) for p in encoder.parameters()}


# The losses


def test_the_contrastive_loss_is_that_worked_by_hand():
    real = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    words = torch.tensor([[3.0, 4.0], [4.0, 3.0], [6.0, 8.0]])  # the third is another view of the first
    origin = torch.tensor([7, 5, 7])
    # Cosines to the two nearest real words are 0.8 and 0.6, between different pictures 24 / 25; tau is 1/2.
    near, far = math.exp(1.6) + math.exp(1.2), math.exp(1.92)
    one, two = -math.log(near / (near + far)), -math.log(near / (near + 2 * far))
    loss = contrastive_loss(words, real, origin, neighbours=2, temperature=0.5)
    assert loss.item() == pytest.approx((one + two + one) / 3, rel=1e-6)

    # As written, with products: v.T are (3, 8), (4, 6), (6, 16), and v.v' is 24 and 48; tau is 20.
    rows = [((3, 8), (24,)), ((4, 6), (24, 48)), ((6, 16), (48,))]
    sums = [[sum(math.exp(x / 20) for x in side) for side in pair] for pair in rows]
    raw = sum(-math.log(near / (near + far)) for near, far in sums) / 3
    loss = contrastive_loss(words, real, origin, neighbours=2, temperature=20.0, cosine=False)
    assert loss.item() == pytest.approx(raw, rel=1e-6)

    alone = contrastive_loss(words[::2], real, origin[::2], neighbours=2)
    assert alone.item() == 0.0  # two views of one picture do not push each other apart


def test_the_contrastive_loss_of_two_processes_is_that_of_one():
    chance = torch.Generator().manual_seed(0)
    real = torch.randn(20, 6, generator=chance, dtype=torch.float64)
    words = torch.randn(4, 6, generator=chance, dtype=torch.float64).requires_grad_()
    origin = torch.arange(4)
    whole = contrastive_loss(words, real, origin)
    halves = [contrastive_loss(words[s], real, origin[s], words, origin) for s in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(loss, words)[0] for loss in (whole, (halves[0] + halves[1]) / 2)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_the_losses_on_the_word_alone_are_those_worked_by_hand():
    real = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    words = torch.tensor([[3.0, 4.0], [-1.0, 0.0]])
    assert nearest_loss(words, real).item() == pytest.approx(((1 - 0.8) + (1 - 0.0)) / 2)
    assert norm_penalty(words, 2.0).item() == pytest.approx((25 + 1) / (2 * 2 * 4))


def test_the_offset_penalty_is_the_literal_one():
    chance = torch.Generator().manual_seed(0)
    shapes = {"one": (5, 7), "two": (4, 3)}
    factors, weights = {}, {}
    for path, (wide, tall) in shapes.items():
        down = torch.randn(3, 2, wide, generator=chance, dtype=torch.float64)
        factors[path] = (down, torch.randn(3, tall, 2, generator=chance, dtype=torch.float64))
        weights[path] = torch.randn(tall, wide, generator=chance, dtype=torch.float64)
    literal = torch.stack(
        [
            (1.5 / 2 * (up[b] @ down[b])).square().sum() / weights[path].square().sum()
            for path, (down, up) in factors.items()
            for b in range(3)
        ]
    ).mean()
    sizes = {path: weight.square().sum().item() for path, weight in weights.items()}
    torch.testing.assert_close(offset_penalty(LowRankEdit(factors, 1.5), sizes), literal, rtol=1e-10, atol=0)


def test_the_settings_choose_the_regulariser(backbone):
    batch = batch_of(backbone)
    found = {}
    for kind in ("contrastive", "nearest", "norm", "none"):
        encoder = stirred(replace(SMALL, regularizer=kind, vectors=2).network(backbone))
        edit = encoder(batch)
        found[kind] = encoder.penalty(edit).item()
    words, low = edit.of(TokenEdit)[0].vectors[0], edit.of(LowRankEdit)[0]
    real = real_vectors(backbone)[0]
    offsets = SMALL.offset_weight * offset_penalty(low, encoder.squares).item()
    norm = SMALL.norm_weight * norm_penalty(words, real.square().mean().sqrt().item()).item()
    near = [nearest_loss(words[:, i], real).item() for i in range(2)]
    push = [contrastive_loss(words[:, i], real, torch.arange(2)).item() for i in range(2)]
    assert found["none"] == pytest.approx(offsets, rel=1e-5)
    assert found["norm"] == pytest.approx(offsets + norm, rel=1e-5)
    assert found["nearest"] == pytest.approx(offsets + norm + SMALL.word_weight * sum(near) / 2, rel=1e-5)
    assert found["contrastive"] == pytest.approx(offsets + norm + SMALL.word_weight * sum(push) / 2, rel=1e-5)
    assert min(offsets, norm, *near, *push) > 0

    encoder = stirred(SMALL.network(backbone))
    apart = encoder.penalty(encoder(batch)).item()
    views = encoder.penalty(encoder(replace(batch, origin=torch.tensor([3, 3])))).item()
    assert views < apart  # two views of one picture are no negatives


def test_collapse_and_drift_show_in_the_figures(backbone):
    encoder, batch = SMALL.network(backbone), batch_of(backbone)
    edit = encoder(batch)
    found = encoder.figures(edit)  # at the base word, all of them
    assert found["word cosine"] == pytest.approx(1, abs=1e-5)
    assert found["word entropy"] == 0
    assert found["offset size"] == 0
    real = encoder.real[0]
    words = torch.stack([3 * real[5], 3 * real[9]])
    token = replace(edit.of(TokenEdit)[0], vectors=(words[:, None],))
    found = encoder.figures(replace(edit, parts=(token, *edit.of(LowRankEdit))))
    assert found["word cosine"] == pytest.approx(torch.cosine_similarity(*words, dim=0).item(), abs=1e-5)
    assert found["word entropy"] == pytest.approx(math.log(2))
    assert found["word norm"] == pytest.approx(words.square().mean().sqrt().item() / encoder.sizes[0], rel=1e-5)
    low = stirred(encoder)(batch).of(LowRankEdit)[0]
    shown = encoder.figures(replace(edit, parts=(token, low)))["offset size"]
    assert shown == pytest.approx(offset_penalty(low, encoder.squares).sqrt().item())
    assert shown > 0
    alone = encoder.figures(replace(edit, parts=(replace(token, vectors=(words[:1, None],)),)))
    assert set(alone) == {"word norm"}  # one word cannot resemble another


def test_rows_of_all_processes_show_pictures_of_their_own(backbone, monkeypatch):
    ranked = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 3)
    encoder, batch = SMALL.network(backbone), batch_of(backbone)
    encoder(batch)
    assert encoder._origin.tolist() == [0, 1]
    monkeypatch.setattr("namesake.methods.date.dist", ranked)
    encoder(batch)
    assert encoder._origin.tolist() == [6, 7]
    encoder(replace(batch, origin=torch.tensor([4, 4])))
    assert encoder._origin.tolist() == [4, 4]


def test_tuning_refuses_nonsense():
    for given in (
        {"blend": 1.1},
        {"batch": 0},
        {"word_rate": -1.0},
        {"extra_rank": 65},
        {"offset_anchor": float("nan")},
    ):
        with pytest.raises(Refusal, match=f"The {next(iter(given))} of tuning is"):
            Tuning(**given)


# What is trained


def gradients_of_two_steps(backbone, encoder, batch, rate):
    """The sum of absolute gradients of each parameter, at the first and at the second step; `rate` of the hypernetwork."""
    seen = {name: [] for name, _ in encoder.named_parameters()}
    for name, parameter in encoder.named_parameters():
        parameter.register_hook(lambda grad, name=name: seen[name].append(grad.abs().sum().item()))
    phase = Phase({"trunk": 1e-3, "embedder": 1e-3, "hyper": rate})
    fit(backbone, encoder, lambda step, chance: batch, (phase,), steps=2)
    return seen


def test_after_one_step_gradients_reach_all_that_is_trained_and_nothing_else(each):
    encoder, batch = SMALL.network(each), batch_of(each)
    frozen = (each.unet, each.vae, *each.text_encoders, each.pipeline.image_encoder)
    before = [p.detach().clone() for part in frozen for p in part.parameters()]
    for name, (first, second) in gradients_of_two_steps(each, encoder, batch, 1e-3).items():
        assert second > 0, name
        assert (first > 0) == name.startswith(("hyper.b.", "embedder.leave.")), name  # the zero layers alone
    after = [p for part in frozen for p in part.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_few_steps_lower_the_loss(backbone):
    encoder, batch, losses = SMALL.network(backbone), batch_of(backbone), []
    phase = Phase({"trunk": 3e-3, "embedder": 3e-3, "hyper": 3e-3})

    def note(moment):
        losses.append(moment.figures["loss"])
        return False

    # The same noise and timesteps at every step, or chance would drown what is learned.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("namesake.train.fit.dice", lambda seed, step: torch.Generator().manual_seed(0))
        patch.setattr("namesake.train.fit.GOLDEN", 0.0)
        fit(backbone, encoder, lambda step, chance: batch, (phase,), steps=5, stop=note)
    assert losses[-1] < 0.95 * losses[0]


def test_an_encoder_without_hypernetwork_moves_the_word_alone(backbone):
    encoder, batch = replace(SMALL, rank=0).network(backbone), batch_of(backbone)
    edit = fit(backbone, encoder, lambda step, chance: batch, (Phase({"trunk": 1e-3, "embedder": 1e-3}),), steps=1)
    assert not edit.of(LowRankEdit)
    assert not torch.equal(*edit.of(TokenEdit)[0].vectors[0])


@torch.no_grad()
def test_a_batch_equals_its_samples(each):
    encoder, batch = stirred(SMALL.network(each)), batch_of(each, 3)
    edit = encoder(batch)
    with edited(each, edit):
        together = denoised(each, batch, batch.prompts)
    base = denoised(each, batch, [p.replace("<it>", "thing") for p in batch.prompts])
    assert (together - base).abs().flatten(1).amax(dim=1).min() > 1e-3  # every row is changed
    for i in range(3):
        one = Batch(batch.latents[i : i + 1], batch.prompts[i : i + 1], pictures=batch.pictures[i : i + 1])
        alone = row(encoder(one), 0)
        for a, b in zip(alone.of(TokenEdit)[0].vectors, row(edit, i).of(TokenEdit)[0].vectors, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for path, pair in alone.of(LowRankEdit)[0].factors.items():
            for a, b in zip(pair, row(edit, i).of(LowRankEdit)[0].factors[path], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        with edited(each, alone):
            separate = denoised(each, batch, batch.prompts)[i]  # the noise of the same row
        torch.testing.assert_close(separate, together[i], rtol=0, atol=1e-4 * together[i].std().item())


# The frozen eyes


def test_features_are_those_of_the_base_and_stop_at_the_middle_block(backbone):
    batch, calls = batch_of(backbone), []
    features = Features(backbone, timestep=0.25)
    with torch.no_grad():
        seen = []
        hooks = [backbone.unet.mid_block.register_forward_hook(lambda m, args, output: seen.append(output))]
        noise = torch.randn(batch.latents.shape[1:], generator=torch.Generator().manual_seed(0)).expand_as(
            batch.latents
        )
        t = torch.full((2,), 250)
        backbone.denoise(backbone.add_noise(batch.latents, noise, t), t, backbone.text(["", ""]))
        hooks.append(backbone.unet.up_blocks[0].register_forward_hook(lambda *_: calls.append(1)))
        image, denoiser = features(batch.pictures, batch.latents)
        for hook in hooks:
            hook.remove()
    assert torch.equal(denoiser, seen[0])
    assert not calls
    assert not backbone.unet.mid_block._forward_hooks
    assert image.shape == (2, 24, 4, 4)
    assert features.widths == (24, denoiser.shape[1])
    encoder = stirred(SMALL.network(backbone))
    with edited(backbone, row(encoder(batch), 0)):
        again = features(batch.pictures, batch.latents)
    assert torch.equal(again[0], image)
    assert torch.equal(again[1], denoiser)


def test_a_place_of_the_image_map_is_the_place_in_the_picture(backbone):
    picture = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    picture[1, 8:16, 24:] = 255  # the patch of row 1, column 3
    before = backbone.pipeline.image_encoder.vision_model.encoder.layers
    backbone.pipeline.image_encoder.vision_model.encoder.layers = torch.nn.ModuleList()  # nothing mixes the places
    try:
        image = Features(backbone).image(picture)
    finally:
        backbone.pipeline.image_encoder.vision_model.encoder.layers = before
    changed = (image[0] != image[1]).any(dim=0)
    assert changed.nonzero().tolist() == [[1, 3]]


def test_a_model_without_eyes_is_told_what_to_fetch(sd15):
    blind = Backbone.load(sd15, device="cpu")
    with pytest.raises(Refusal, match=r"ViT-H.*not in the hub's cache"):
        SMALL.network(blind)
    with pytest.raises(Refusal, match="no image encoder of its own"):
        Features(blind, "own")


def test_an_image_encoder_is_read_out_of_the_folder_of_a_whole_clip(sd15, tmp_path):
    """As ViT-H/14 is for Stable Diffusion, which has no image encoder of its own."""
    clip = clip_model(4)
    clip.save_pretrained(tmp_path)
    features = Features(Backbone.load(sd15, device="cpu"), str(tmp_path))
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    with torch.no_grad():
        last = clip.vision_model(((pictures / 255 - mean) / std).permute(0, 3, 1, 2)).last_hidden_state
    found = features.image(pictures)
    assert found.shape == (2, 24, 4, 4)
    assert features.widths[0] == 24
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), last[:, 1:], rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in features.eye.parameters())


# Tuning


def test_no_step_is_the_prediction_and_the_hard_word_the_nearest(backbone):
    batch, encoder = batch_of(backbone), stirred(SMALL.network(backbone))
    edit = personalize(backbone, encoder, batch.pictures, word="<my-cat>", steps=0)
    wanted = row(encoder(Batch(batch.latents[:1], ["x"], pictures=batch.pictures[:1])), 0)
    assert edit.placeholders == ("<my-cat>",)
    assert torch.equal(edit.of(TokenEdit)[0].vectors[0], wanted.of(TokenEdit)[0].vectors[0])
    for path, pair in wanted.of(LowRankEdit)[0].factors.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, edit.of(LowRankEdit)[0].factors[path], strict=True))
    assert edit.of(SecondPath) == (SecondPath(hard_word(backbone, edit.of(TokenEdit)[0].vectors), 0.25),)
    assert edit.about.settings["encoder"] == asdict(encoder.settings)
    assert (edit.about.method, edit.about.settings["steps"]) == ("DATE", 0)
    given = personalize(backbone, encoder, batch.pictures, class_word="red cat", steps=0)
    assert given.of(SecondPath)[0].hard_word == given.about.class_word == "red cat"
    plain = personalize(backbone, encoder, batch.pictures, steps=0, settings=Tuning(blend=1.0))
    assert not plain.of(SecondPath)
    ended = personalize(backbone, encoder, batch.pictures, steps=9, settings=Tuning(batch=1), dvar=Dvar(2, 0.99, 1))
    assert ended.about.settings["ended"] == "by its rule"


def test_what_a_mask_hides_the_encoder_does_not_see(backbone):
    encoder = stirred(SMALL.network(backbone))
    chance = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (2, 1, 64, 64, 3), dtype=torch.uint8, generator=chance)
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 10:40, 20:50] = True
    pictures[1][masks] = pictures[0][masks]

    def word(picture, masks):
        return personalize(backbone, encoder, picture, masks=masks, steps=0).of(TokenEdit)[0].vectors[0]

    assert torch.equal(word(pictures[0], masks), word(pictures[1], masks))
    assert not torch.allclose(word(pictures[0], None), word(pictures[1], None))
    assert not torch.allclose(word(pictures[0], masks), word(pictures[0], None))


def test_the_hard_word_has_the_nearest_real_word_for_each_vector(each):
    real = real_vectors(each)
    places = [7, 3]
    vectors = tuple(2 * table[places] + 0.01 * table.std() for table in real)
    words = [each.real_words()[place].text for place in places]
    assert hard_word(each, vectors) == " ".join(words)
    assert hard_word(each, tuple(v[:1] for v in vectors)) == words[0]


def test_tuning_moves_the_prediction_and_lowers_what_it_minds(each):
    batch, encoder = batch_of(each), stirred(SMALL.network(each))
    settings = Tuning(batch=2)
    start = settings.start(each, encoder, batch.pictures[:1], batch.latents[:1], "<it>")
    assert start.penalty(start()).item() == 0.0
    assert not any(p.requires_grad and p.grad_fn for p in start.parameters())
    edit = personalize(each, encoder, batch.pictures[:1], steps=2, settings=settings)
    zero = personalize(each, encoder, batch.pictures[:1], steps=0, settings=settings)
    for a, b in zip(edit.of(TokenEdit)[0].vectors, zero.of(TokenEdit)[0].vectors, strict=True):
        assert not torch.equal(a, b)
        assert (a - b).abs().max() < 2 * 2e-3 * 1.01  # AdamW goes at most a rate each step
    moved = [
        (edit.of(LowRankEdit)[0].factors[path][k] - pair[k]).abs().max().item()
        for path, pair in zero.of(LowRankEdit)[0].factors.items()
        for k in (0, 1)
    ]
    assert 0 < max(moved) < 2 * 2e-3 * 1.01


def test_latents_and_features_are_computed_once_for_all_steps(backbone, monkeypatch):
    encoder, pictures, asked = SMALL.network(backbone), batch_of(backbone).pictures, []

    def counted(owner, name):
        inner = getattr(owner, name)

        def call(self, *inputs):
            asked.append((name, len(inputs[0])))
            return inner(self, *inputs)

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((Backbone, "encode"), (Features, "image"), (Features, "reference")):
        counted(owner, name)
    personalize(backbone, encoder, pictures, steps=3, settings=Tuning(batch=2))
    assert asked == [("encode", 2), ("image", 1), ("reference", 1)]


@pytest.mark.parametrize("layers", [False, True])
def test_extra_ranks_have_no_effect_yet_and_are_tuned(backbone, layers):
    batch, encoder = batch_of(backbone), stirred(SMALL.network(backbone))
    settings = Tuning(extra_rank=3, layers=layers, blend=1.0, batch=2)
    latents = backbone.encode(batch.pictures)
    module = settings.start(backbone, encoder, batch.pictures[:1], latents[:1], encoder.word)
    predicted, extra = module.start.of(LowRankEdit)
    wanted = row(encoder(Batch(latents[:1], ["x"], pictures=batch.pictures[:1])), 0).of(LowRankEdit)[0]
    for path, pair in wanted.factors.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, predicted.factors[path], strict=True))
    assert set(extra.factors) == {site.path for site in sites_of(backbone, layers)}
    assert len(extra.factors) > len(backbone.sites) or not layers
    assert all(down.shape[0] == 3 and not up.any() for down, up in extra.factors.values())
    edit = personalize(backbone, encoder, batch.pictures, steps=1, settings=settings)
    factors = edit.of(LowRankEdit)[1].factors
    # Of the pictures here the middle block sees one place, where its self-attention has nothing to choose from.
    assert all(up.any() for path, (_, up) in factors.items() if "attn2" in path or "conv" in path)


def test_without_a_hypernetwork_only_extra_ranks_are_tuned(backbone):
    batch = batch_of(backbone)
    word = replace(SMALL, rank=0).network(backbone)
    edit = personalize(backbone, word, batch.pictures, steps=1, settings=Tuning(extra_rank=3, batch=2))
    assert [low.alpha for low in edit.of(LowRankEdit)] == [3.0]
    alone = personalize(backbone, word, batch.pictures, steps=1, settings=Tuning(batch=2))
    assert not alone.of(LowRankEdit)


# The file


def test_an_encoder_comes_back_from_its_file(each, tmp_path):
    batch, encoder = batch_of(each), stirred(SMALL.network(each))
    encoder.save(tmp_path / "e.safetensors", torch.float32, steps=3)
    note = read_note(tmp_path / "e.safetensors")
    assert (note["base"], note["trained"], note["method"]) == (each.name, {"steps": 3}, "DATE")
    again = DateEncoder.load(tmp_path / "e.safetensors", each)
    assert again.settings == encoder.settings
    assert all(torch.equal(p, q) for p, q in zip(encoder.parameters(), again.parameters(), strict=True))
    assert all(p.requires_grad for p in again.parameters())
    for a, b in zip(encoder(batch).of(TokenEdit)[0].vectors, again(batch).of(TokenEdit)[0].vectors, strict=True):
        assert torch.equal(a, b)
    encoder.save(tmp_path / "half.safetensors")
    half = DateEncoder.load(tmp_path / "half.safetensors", each)
    for p, q in zip(encoder.parameters(), half.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-6)
    size = 2 * sum(p.numel() for p in encoder.parameters())
    assert size < (tmp_path / "half.safetensors").stat().st_size < size + 40_000


def test_a_file_for_another_model_or_none_at_all_is_refused(backbone, minis, tmp_path):
    encoder = SMALL.network(backbone)
    path = tmp_path / "e.safetensors"
    encoder.save(path)
    other = opened("sd15", minis)
    with torch.no_grad():
        for parameter in other.unet.parameters():
            parameter.mul_(1.1)
    with pytest.raises(Refusal, match=f"made for {backbone.name}"):
        DateEncoder.load(path, other)
    assert DateEncoder.load(path, other, any_base=True).settings == encoder.settings
    for part in ("vae", "image_encoder"):  # what it saw with
        seeing = opened("sd15", minis)
        with torch.no_grad():
            for parameter in getattr(seeing.pipeline, part).parameters():
                parameter.mul_(1.1)
        with pytest.raises(Refusal, match="of its autoencoder or of its image encoder differ"):
            DateEncoder.load(path, seeing)
    with pytest.raises(Refusal, match="other weights"):
        DateEncoder.load(path, opened("sdxl", minis), any_base=True)
    with pytest.raises(Refusal, match="cannot be read"):
        DateEncoder.load(tmp_path / "none.safetensors", backbone)
    (tmp_path / "short.safetensors").write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Refusal, match="cannot be read"):
        DateEncoder.load(tmp_path / "short.safetensors", backbone)
    personalize(backbone, encoder, batch_of(backbone).pictures, steps=0).save(tmp_path / "concept.safetensors")
    with pytest.raises(Refusal, match="no encoder"):
        read_note(tmp_path / "concept.safetensors")
    wild = path.read_bytes().replace(b'\\"width\\": 64', b'\\"width\\": 65')
    assert wild != path.read_bytes()
    (tmp_path / "wild.safetensors").write_bytes(wild)
    with pytest.raises(Refusal, match="multiple of 32"):
        DateEncoder.load(tmp_path / "wild.safetensors", backbone)
    (tmp_path / "odd.safetensors").write_bytes(wild.replace(b'\\"width\\": 65', b'\\"wodth\\": 64'))
    with pytest.raises(Refusal, match="settings"):
        DateEncoder.load(tmp_path / "odd.safetensors", backbone)
    with torch.no_grad():
        encoder.trunk.enter.bias[0] = 1e6
    with pytest.raises(Refusal, match="not finite"):
        encoder.save(path)


def test_what_cannot_be_an_encoder_is_refused(backbone):
    for wrong in (
        {"vectors": 5},
        {"rank": -1},
        {"temperature": 0.0},
        {"regularizer": "l2"},
        {"timestep": 1.5},
        {"denoiser": "x"},
    ):
        with pytest.raises(Refusal, match=next(iter(wrong))):
            replace(SMALL, **wrong)
    with pytest.raises(Refusal, match="multiple of 32"):
        replace(SMALL, width=48).network(backbone)
    with pytest.raises(Refusal, match="not one token"):
        replace(SMALL, base_word="unheard").network(backbone)
    with pytest.raises(Refusal, match="whole words"):
        replace(SMALL, neighbours=500).network(backbone)
    encoder = SMALL.network(backbone)
    with pytest.raises(Refusal, match="no pictures"):
        encoder(Batch(torch.zeros(1, 4, 8, 8), ["<it>"]))
    with pytest.raises(Refusal, match="no picture"):
        personalize(backbone, encoder, batch_of(backbone).pictures[:0])
    with pytest.raises(Refusal, match="class is empty"):
        personalize(backbone, encoder, batch_of(backbone).pictures, class_word=" ")


# Offsets everywhere


def test_offsets_between_bases_stand_on_every_layer_begin_at_nothing_and_are_all_trained(tmp_path):
    book = Backbone.load(device="cpu")
    encoder = replace(SMALL, bases=True, rank=3).network(book)
    batch = batch_of(book)
    low = encoder(batch).of(LowRankEdit)[0]
    assert set(low.factors) == {site.path for site in sites_of(book, layers=True)}
    assert all(not up.any() and down.abs().min() > 0 for down, up in low.factors.values())
    with edited(book, encoder(batch)):
        new = denoised(book, batch, batch.prompts)
    assert torch.equal(new, denoised(book, batch, [p.replace("<it>", "thing") for p in batch.prompts]))

    for name, (first, second) in gradients_of_two_steps(book, encoder, batch, 1e-2).items():
        assert second > 0, name
        assert (first > 0) == name.startswith(("hyper.between", "embedder.leave.")), name

    with torch.no_grad():
        encoder.hyper.between.weight.mul_(30)  # so that rows differ visibly
    edit = encoder(batch)
    with edited(book, edit):
        together = denoised(book, batch, batch.prompts)
    for number in range(2):
        with edited(book, row(edit, number)):
            alone = denoised(book, batch, batch.prompts)[number]
        torch.testing.assert_close(alone, together[number], rtol=0, atol=1e-4 * together[number].std().item())
    assert (together - new).abs().max() > 1e-3
    encoder.save(tmp_path / "e.safetensors", torch.float32)
    again = DateEncoder.load(tmp_path / "e.safetensors", book)
    for mine, theirs in zip(encoder.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    tuned = personalize(book, again, batch.pictures[:1], class_word="cat", steps=1, settings=Tuning(batch=2, blend=1.0))
    assert set(tuned.of(LowRankEdit)[0].factors) == set(low.factors)


def test_where_memory_is_short_the_encoder_and_what_it_sees_with_work_one_after_the_other(backbone, monkeypatch):
    encoder, events = SMALL.network(backbone), []

    @contextmanager
    def at_work(self, *modules, instead=()):
        events.append(([*modules], [*instead]))
        yield
        events.append("end")

    @contextmanager
    def waiting(self, *modules):
        events.append([*modules])
        yield
        events.append("back")

    def watch(owner, name):
        original = getattr(owner, name)

        def watched(self, *rest, **options):
            events.append(name)
            return original(self, *rest, **options)

        monkeypatch.setattr(owner, name, watched)

    monkeypatch.setattr(Backbone, "at_work", at_work)
    monkeypatch.setattr(Backbone, "waiting", waiting)
    watch(Features, "image")
    watch(Features, "reference")
    watch(DateEncoder, "predict")
    watch(Mount, "load")
    picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    personalize(backbone, encoder, picture, word="<my-it>", class_word="cat", steps=1)
    assert events == [
        [encoder, encoder.features.eye],
        *(([backbone.vae], []), "end"),
        *(([encoder.features.eye], [backbone.unet]), "image", "end", "reference"),
        *(([encoder], []), "predict", "end", "load", "back"),
    ]


def test_a_frugal_model_leaves_its_encoder_in_main_memory(backbone, monkeypatch):
    moves = []
    monkeypatch.setattr(DateEncoder, "to", lambda self, place: moves.append(place))
    for on in (True, False):
        monkeypatch.setattr(Backbone, "frugal", on)
        SMALL.network(backbone)
    assert moves == [backbone.device]
