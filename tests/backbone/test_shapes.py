"""The true shapes: what is published of them, and that a model without weights can be run and edited."""

from collections import Counter

import pytest
import torch

from namesake.backbone.shapes import KINDS, true_shape
from namesake.edits import LowRankEdit, TokenEdit, edited
from namesake.errors import Refusal
from namesake.methods.date import Date
from namesake.train.fit import Batch


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module", params=KINDS)
def backbone(request):
    return true_shape(request.param)


U_NET = {"sd15": (859_520_964, 128), "sd21": (865_910_724, 128), "sdxl": (2_567_463_684, 560)}
TEXT = {"sd15": [123_060_480], "sd21": [340_387_840], "sdxl": [123_060_480, 694_659_840]}
ENCODER = {"sd15": 30_919_424, "sd21": 31_576_064, "sdxl": 33_110_528}


def test_true_shapes_have_the_published_counts(backbone):
    parameters, number = U_NET[backbone.name]
    assert count(backbone.unet) == parameters
    assert count(backbone.vae) == 83_653_863
    assert [count(encoder) for encoder in backbone.text_encoders] == TEXT[backbone.name]
    width = 1280 if backbone.name == "sdxl" else backbone.text_encoders[0].config.hidden_size
    assert count(backbone.pipeline.image_encoder) == 632_076_800 + 1280 * (width - 1024)
    assert len({site.path for site in backbone.sites}) == len(backbone.sites) == number
    roles = Counter(site.role for site in backbone.sites)
    assert len(roles) == 8
    assert set(roles.values()) == {number // 8}
    wide = {site.in_dim for site in backbone.sites if site.role in ("cross key", "cross value")}
    assert wide == {backbone.unet.config.cross_attention_dim}
    for site in backbone.sites:
        assert backbone.unet.get_parameter(site.path + ".weight").shape == (site.out_dim, site.in_dim)
    assert backbone.size == {"sd15": 512, "sd21": 768, "sdxl": 1024}[backbone.name]
    assert backbone.prediction == ("v_prediction" if backbone.name == "sd21" else "epsilon")
    assert len(backbone.tokenizers[-1]) == 49_408
    assert 29_000 < len(backbone.real_words()) <= 30_000


def test_the_encoder_is_built_and_has_its_counts(backbone):
    encoder = Date().network(backbone)
    assert count(encoder) == ENCODER[backbone.name]
    assert all(parameter.is_meta for parameter in encoder.parameters())
    assert encoder.about.sketch is None
    pictures = torch.empty(2, backbone.size, backbone.size, 3, dtype=torch.uint8, device="meta")
    latents = torch.empty(2, 4, backbone.size // 8, backbone.size // 8, device="meta")
    edit = encoder(Batch(latents, [""] * 2, pictures=pictures))
    widths = [encoder.config.hidden_size for encoder in backbone.text_encoders]
    assert [vectors.shape for vectors in edit.of(TokenEdit)[0].vectors] == [(2, 1, width) for width in widths]
    assert list(edit.of(LowRankEdit)[0].factors) == [site.path for site in backbone.sites]
    with edited(backbone, edit):
        # One path: the states, and a feature that tells which rows hold the word, for each text encoder.
        told = backbone.text([f"a picture of {encoder.word}", encoder.word])
        assert told.states.shape == (2, 77, sum(widths) + len(widths))
        assert backbone.denoise(latents, torch.zeros(2, device="meta"), told).shape == latents.shape


def test_every_prompt_of_tuning_fits(backbone):
    from namesake.data.prompts import TEMPLATES

    assert not any(backbone.truncated(prompt) for prompt in (template.format("<my-it>") for template in TEMPLATES))


def test_another_kind_is_refused():
    with pytest.raises(Refusal, match="no true shape 'sd3'"):
        true_shape("sd3")
