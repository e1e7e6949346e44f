"""Captions: they say what is true, name what they claim to name, and the tokenizer keeps every word of them whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from namesake.picturebook import captions as grammar
from namesake.picturebook.captions import caption, vocabulary, words_of
from namesake.picturebook.figures import CATEGORIES
from namesake.picturebook.train import TEXT_LENGTH, make_tokenizer

CONTENTLESS = {*("a", "an", "and", "the", "of", "in", "on", "at", "by", "to", "with", "under", "near", "next", "top")}
CONTENTLESS |= {*("below", "beneath", "inside", "beside", "among", "atop")}
SHIPPED = Path(grammar.__file__).parent / "model"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder, samples=150)
    return CLIPTokenizer.from_pretrained(folder / "tokenizer")


def test_there_are_300_content_words(scenes):
    assert len(set(vocabulary()) - CONTENTLESS) >= 300
    said = {word for *_, words in scenes("training", 3000) for word in words_of(words.text)}
    assert said <= set(vocabulary())
    assert len(said - CONTENTLESS) >= 300  # not a list only: captions use them


def test_captions_vary_and_often_leave_things_out(scenes):
    made = scenes("tuning", 600)
    named = [words.named for *_, words in made]
    for what, low, high in (("category", 0.85, 0.99), ("color", 0.3, 0.7), ("pattern", 0.1, 0.5), ("place", 0.5, 0.9)):
        assert low < np.mean([what in one for one in named]) < high, what
    assert any("," in words.text for *_, words in made)
    assert any(made.category not in words.text for made, _, words in made)  # synonyms and hypernyms
    assert len({words.text for *_, words in made}) > 550


def test_a_caption_names_only_what_is_true_and_says_what_it_names(scenes):
    tables = {
        "color": lambda made, scene: grammar.COLOR_WORDS[made.colors[0].name],
        "place": lambda made, scene: (*grammar.PLACE_PHRASES[scene.place], scene.place),
        "worn": lambda made, scene: grammar.WORN_NOUNS[scene.worn.name],
        "style": lambda made, scene: (*grammar.STYLE_TAGS[scene.style.name], *grammar.STYLE_OPENINGS[scene.style.name]),
        "category": lambda made, scene: (made.kind.name, *made.kind.words, made.name.lower() or made.kind.name),
        "second category": lambda made, scene: (scene.second.concept.kind.name, *scene.second.concept.kind.words),
    }
    for made, scene, words in scenes("training", 3000):
        for what, options in tables.items():
            if what in words.named:
                assert any(option in words.text for option in options(made, scene)), (what, words.text)
    unstyled = {tag for style, tags in grammar.STYLE_TAGS.items() if style != "plain" for tag in tags}
    for _, scene, words in scenes("tuning", 600):
        if scene.style.name == "plain":
            assert not any(words.text.endswith(", " + tag) for tag in unstyled), words.text


def test_the_fullest_caption_says_all_that_words_can(scenes):
    rng = np.random.default_rng(0)
    for made, scene, _ in scenes("tuning", 600)[:80]:
        full = caption(made, scene, rng, share=1.0)
        wanted = {"category", "color", "second color", "third color", "pattern", "patches", "style"}
        assert wanted <= full.named
        assert made.category in full.text
        assert ("place" in full.named) == (scene.place != "studio")


def test_every_caption_fits(tokenizer, scenes):
    rng = np.random.default_rng(1)
    texts = [caption(made, scene, rng, share=1.0).text for made, scene, _ in scenes("training", 3000)[:600]]
    texts += [words.text for *_, words in scenes("training", 3000)]
    assert max(len(ids) for ids in tokenizer(texts).input_ids) <= TEXT_LENGTH


@pytest.mark.parametrize("which", ["made", "shipped"])
def test_every_content_word_is_one_token(which, tokenizer):
    if which == "shipped":
        if not (SHIPPED / "tokenizer").is_dir():
            pytest.skip("no weights in this copy")
        tokenizer = type(tokenizer).from_pretrained(SHIPPED / "tokenizer")
    broken = [word for word in vocabulary() if len(tokenizer(word).input_ids) != 3]
    assert not broken
    ids = tokenizer(list(vocabulary())).input_ids
    assert len({row[1] for row in ids}) == len(vocabulary())
    nouns = {one.name for one in CATEGORIES}
    assert nouns <= set(vocabulary())


@pytest.mark.parametrize(
    "text", ["a cat! $5, (red)", "100% of a cat; why?", "a naïve café — 猫 🐈", "<my-cat> & #1 'x' \"y\""]
)
def test_punctuation_does_not_cut_the_prompt(tokenizer, text):
    end = tokenizer.eos_token_id
    ids = tokenizer(text + " robot").input_ids
    assert ids[-1] == end
    assert end not in ids[:-1]
    assert ids[-2] == tokenizer("robot").input_ids[1]
    kept = tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
    assert kept == f"{text} robot".replace(" ", "").lower()


def test_begin_end_and_pad_are_known_to_the_text_encoder(tokenizer):
    from namesake.picturebook.train import make_text_encoder

    config = make_text_encoder(tokenizer).config
    assert config.bos_token_id == tokenizer.bos_token_id != config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.max_position_embeddings == TEXT_LENGTH == tokenizer.model_max_length
