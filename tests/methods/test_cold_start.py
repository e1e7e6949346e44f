"""The cold start: where it begins, what it is called, which pictures and sentences it sees."""

import warnings

import pytest
import torch

from namesake.backbone import Backbone
from namesake.edits import LowRankEdit, SecondPath, TokenEdit, layer_sites
from namesake.errors import Refusal
from namesake.evaluate.cold_start import chosen, reference_of
from namesake.generate import generate
from namesake.methods.cold_start import ColdStart
from namesake.methods.textual_inversion import StyleInversion
from namesake.picturebook.concept import concept, number_of
from namesake.picturebook.draw import draw
from namesake.picturebook.scene import SMALL_WORLD, Pose, Scene
from namesake.train.examples import Examples, class_of, describe, likeliest, looks
from namesake.train.fit import dice
from namesake.train.tune import personalize, word_vectors


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_no_step_is_the_base_model_on_the_hard_word_to_the_bit(minis, kind, pictures):
    backbone = Backbone.load(minis[kind], device="cpu")
    edit = personalize(backbone, ColdStart(), pictures, word="<my-cat>", class_word="cat", steps=0)
    new = generate(backbone, "<my-cat> on the beach", edit, steps=2, size=64)
    old = generate(backbone, "cat on the beach", steps=2, size=64)
    assert (new[0].pixels == old[0].pixels).all()
    assert len(edit.of(LowRankEdit)[0].factors) == len(backbone.sites)
    assert len(edit.of(TokenEdit)[0].vectors) == len(backbone.text_encoders)


def test_steps_change_what_is_drawn_and_the_edit_says_how_it_was_made(backbone, pictures):
    edit = personalize(backbone, ColdStart(), pictures, word="<my-cat>", class_word="red cat", steps=2, seed=3)
    assert edit.of(TokenEdit)[0].vectors[0].shape[0] == 2  # a class of two words is a word of two vectors
    assert edit.of(SecondPath)[0] == SecondPath("red cat", 0.25)
    assert (edit.about.method, edit.about.class_word, edit.about.base) == ("cold start", "red cat", backbone.name)
    assert edit.about.settings["steps"] == 2
    assert edit.about.settings["seed"] == 3
    assert edit.about.settings["rank"] == 4
    new = generate(backbone, "<my-cat> on the beach", edit, steps=2, size=64)
    old = generate(backbone, "red cat on the beach", steps=2, size=64)
    assert (new[0].pixels != old[0].pixels).any()
    plain = personalize(backbone, ColdStart(blend=1.0), pictures, class_word="cat", steps=0)
    assert not plain.of(SecondPath)


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_offsets_on_all_layers_start_at_nothing_and_learn(minis, kind, pictures):
    backbone = Backbone.load(minis[kind], device="cpu")
    method = ColdStart(layers=True, offset_rate=1e-2)
    told = {"word": "<my-cat>", "class_word": "cat"}
    still = personalize(backbone, method, pictures, **told, steps=0)
    assert set(still.of(LowRankEdit)[0].factors) == {site.path for site in backbone.sites} | set(layer_sites(backbone))
    new = generate(backbone, "<my-cat> on the beach", still, steps=2, size=64)
    old = generate(backbone, "cat on the beach", steps=2, size=64)
    assert (new[0].pixels == old[0].pixels).all()
    moved = personalize(backbone, method, pictures, **told, steps=2).of(LowRankEdit)[0].factors
    # The minis' middle has one place: queries and keys of one token have no gradient but what rounding gives them.
    resting = {path for path, (_, up) in moved.items() if not up.any()}
    assert all(path.startswith("mid_block") and path.endswith(("attn1.to_q", "attn1.to_k")) for path in resting)


def test_the_anchors_of_the_settings_hold_what_is_tuned(backbone):
    module = ColdStart(word_anchor=0.5, offset_anchor=0.25).start(backbone, {"<my-cat>": "cat"})
    assert (module.word_anchor, module.offset_anchor) == (0.5, 0.25)
    usual = ColdStart().start(backbone, {"<my-cat>": "cat"})
    assert (usual.word_anchor, usual.offset_anchor) == (1e-2, 1e-3)
    with torch.no_grad():  # and they are felt: a word at twice its size is as far away as it is long
        for word in module.words:
            word *= 2
    assert module.penalty(module()).item() == pytest.approx(0.5)


def test_longer_runs_take_smaller_steps():
    rates = [ColdStart(steps=50).paced(steps).offset_rate / 2e-3 for steps in (1, 12, 50, 200)]
    assert rates == pytest.approx([1, 1, 1, 0.5])


def test_the_class_is_a_word_for_a_thing_or_object_with_a_warning(backbone, pictures, monkeypatch):
    with pytest.warns(UserWarning, match="object"):
        edit = personalize(backbone, ColdStart(), pictures, steps=0)
    assert edit.about.class_word == "object"
    found = [("red", 0.9), ("beach", 0.8), ("robot", 0.7), ("cat", 0.6)]
    monkeypatch.setattr(backbone, "nearest_words", lambda pictures, n: found)
    assert class_of(backbone, pictures) == ("robot", 0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert personalize(backbone, ColdStart(), pictures, steps=0).about.class_word == "robot"


def test_every_picture_is_seen_alike_in_sentences_that_the_model_knows(backbone, monkeypatch):
    chance = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=chance)
    examples = Examples.of(backbone, pictures, "<it>", None, 4)
    assert torch.equal(examples.latents, backbone.encode(pictures))
    counts = torch.zeros(3)
    for step in range(6):
        batch = examples.batch(step, dice(0, step))
        for latents in batch.latents:
            counts += torch.tensor([float(torch.equal(latents, one)) for one in examples.latents])
        assert all("<it>" in prompt for prompt in batch.prompts)
        assert len(set(batch.prompts)) == 4
    assert counts.tolist() == [8.0, 8.0, 8.0]
    strange = lambda prompt: ["picture"] if "picture" in prompt else []  # noqa: E731
    monkeypatch.setattr(backbone, "unknown_words", strange)
    known = Examples.of(backbone, pictures, "<it>", None, 4).prompts
    assert known
    assert not any("picture" in prompt for prompt in known)


def test_prompts_say_what_each_picture_shows_beside_the_thing(backbone, monkeypatch):
    light = torch.full((1, 64, 64, 3), 200, dtype=torch.uint8)
    pictures = torch.cat([light, light // 4])
    assert describe(backbone, pictures, "cat") == ("{}", "{}")  # a model that cannot see
    asked = []

    def similarity(pictures, prompts):
        asked.extend(prompts)
        place = "snow" if pictures.float().mean() > 128 else "city"
        return torch.tensor(
            [0.2 * (place in text) + 0.1 * ("neon" in text) + 0.5 * ("desert" in text) for text in prompts]
        )

    monkeypatch.setattr(backbone, "similarity", similarity)
    monkeypatch.setattr(backbone, "unknown_words", lambda text: ["desert"] if "desert" in text else [])
    frames = describe(backbone, pictures, "cat")
    assert frames == ("{} in the snow, neon", "{} in the city, neon")
    assert asked[0] == "a picture of a cat"
    assert not any("desert" in text for text in asked)
    examples = Examples.of(backbone, pictures, "<it>", None, 4, frames=frames)
    batch = examples.batch(0, dice(0, 0))
    shown = [int((latents - examples.latents[1]).abs().max() == 0) for latents in batch.latents]
    assert sorted(shown) == [0, 0, 1, 1]
    for which, prompt in zip(shown, batch.prompts, strict=True):
        assert prompt.endswith((" in the snow, neon", " in the city, neon")[which])
    edit = personalize(backbone, ColdStart(), pictures, class_word="cat", steps=0)
    assert edit.about.settings["context"] == "... in the snow, neon; ... in the city, neon"
    plain = personalize(backbone, ColdStart(context=False), pictures, class_word="cat", steps=0)
    assert plain.about.settings["context"] == ""
    # Of a style the thing and its place are told, and the style is not: the word is to take that up.
    monkeypatch.setattr(backbone, "nearest_words", lambda pictures, count: [("dog", 0.3)])
    assert describe(backbone, pictures, None) == ("a dog in the snow, {}", "a dog in the city, {}")
    style = personalize(backbone, StyleInversion(context=True), pictures, class_word="drawing", steps=0)
    assert style.about.settings["context"] == "a dog in the snow, ...; a dog in the city, ..."


def test_prompts_say_on_which_side_the_thing_stands():
    """With the shipped model. (Of one in the middle it says a side in every sixth picture; LOG.md.)"""
    backbone = Backbone.load(device="cpu")
    right = 0
    for category in ("cat", "house", "mug"):
        made = concept(number_of("tuning", category, 3))
        for x, side in ((-17.0, ", on the left"), (17.0, ", on the right")):
            drawn = draw(made, Scene("beach", pose=Pose(x=x, scale=0.8), seed=1)).picture
            picture = torch.from_numpy(drawn)[None]
            (bare,) = describe(backbone, picture, category)
            (told,) = describe(backbone, picture, category, sides=True)
            assert told.removeprefix(bare) in ("", ", on the left", ", on the right")
            right += told == bare + side
    assert right >= 5, right
    assert describe(backbone, picture, None, sides=True) == describe(backbone, picture, None)  # a style stands nowhere


def test_the_likeliest_sentence_is_that_with_the_least_error(backbone, pictures, monkeypatch):
    errors, seen = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 1.995}, []  # whose squares are the errors

    def denoise(latents, timesteps, text):
        seen.append((latents, timesteps))
        return torch.full_like(latents, errors[text])

    monkeypatch.setattr(backbone, "target", lambda latents, noise, t: torch.zeros_like(noise))
    monkeypatch.setattr(backbone, "denoise", denoise)
    monkeypatch.setattr(backbone, "text", lambda said: said[0])
    assert likeliest(backbone, pictures[:1], ["a", "b", "c"]) == 1
    assert likeliest(backbone, pictures[:1], ["a", "c"]) == 1
    assert likeliest(backbone, pictures[:1], ["c", "a", "d"]) == 0  # hardly better
    for noisy, timesteps in seen:  # all at the same noise
        assert torch.equal(noisy, seen[0][0])
        assert torch.equal(timesteps, seen[0][1])


def test_the_word_begins_as_what_the_thing_looks_like(backbone, pictures, monkeypatch):
    assert looks(backbone, pictures, "cat") == "cat"  # a model that cannot see
    seen = {"blue"}

    def similarity(pictures, prompts):
        return torch.tensor([float(bool(seen & set(text.split()))) for text in prompts])

    monkeypatch.setattr(backbone, "similarity", similarity)
    monkeypatch.setattr(backbone, "unknown_words", lambda text: [])
    assert looks(backbone, pictures, "cat") == "blue cat"
    assert looks(backbone, pictures, "red cat") == "red cat"  # it was told the color
    assert looks(backbone, pictures, "cyan cat") == "cyan cat"
    seen = {"gray"}
    edit = personalize(backbone, ColdStart(), pictures, class_word="cat", steps=0)
    assert (edit.about.class_word, edit.of(SecondPath)[0].hard_word) == ("gray cat", "gray cat")
    for own, real in zip(edit.of(TokenEdit)[0].vectors, word_vectors(backbone, "gray cat"), strict=True):
        assert torch.equal(own, real)
    bare = personalize(backbone, ColdStart(looks=False), pictures, class_word="cat", steps=0)
    assert bare.about.class_word == "cat"


def test_the_picture_books_own_eye_sees_colors():
    backbone, seen = Backbone.load(device="cpu"), 0
    for made in chosen("tuning", SMALL_WORLD, 24):
        picture = torch.from_numpy(draw(made, reference_of(made, SMALL_WORLD)).picture)[None]
        said = looks(backbone, picture, made.category).split()
        assert said[1:] == [made.category]
        seen += said[0] in [color.name for color in made.colors]
    assert seen >= 14  # 16 of 24 when it was written; a quarter by chance


def test_masks_go_where_the_latents_are_and_show_something(backbone):
    picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 16:48, 16:48] = True
    examples = Examples.of(backbone, picture, "<it>", mask, 4)
    assert examples.masks.shape == (1, 1, 8, 8)
    assert examples.masks[0, 0, 2:6, 2:6].sum() == examples.masks.sum() == 16
    assert examples.batch(0, dice(0, 0)).mask.shape == (4, 1, 8, 8)
    with pytest.raises(Refusal, match="mask is empty"):
        Examples.of(backbone, picture, "<it>", torch.zeros_like(mask), 4)


def test_what_cannot_be_learned_is_refused(backbone, pictures):
    with pytest.raises(Refusal, match="no picture"):
        personalize(backbone, ColdStart(), pictures[:0], class_word="cat")
    with pytest.raises(Refusal, match="malformed"):
        personalize(backbone, ColdStart(), pictures, word="my cat", class_word="cat")
    for word in ("", "a cat and a dog and a robot and a house"):
        with pytest.raises(Refusal, match="1 to 8 ordinary tokens"):
            personalize(backbone, ColdStart(), pictures, class_word=word)
