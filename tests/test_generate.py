import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from minis import KINDS

from namesake import recipes
from namesake.backbone import Backbone
from namesake.edits import About, Edit, LowRankEdit, SecondPath, TokenEdit, edited
from namesake.errors import Refusal
from namesake.generate import generate
from namesake.methods.cold_start import ColdStart
from namesake.sheet import read_settings
from namesake.train.tune import personalize


@pytest.fixture(scope="module")
def backbones(minis: dict[str, Path]) -> dict[str, Backbone]:
    return {kind: Backbone.load(folder, device="cpu") for kind, folder in minis.items()}


@pytest.mark.parametrize("scheduler", ["dpm++", "ddim", "euler-a", "heun", "pndm"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_edits_it_is_diffusers_to_the_bit(kind: str, scheduler: str, backbones: dict[str, Backbone]):
    backbone = backbones[kind]
    prompts, seeds = ["a cat on the beach", "a red dog"], [5, 6, 5, 6]
    negative = "blue" if scheduler == "dpm++" else ""
    guidance = 1.0 if scheduler == "ddim" else 4.0
    ours = generate(
        backbone, prompts, count=2, seed=5, steps=3, guidance=guidance, negative=negative, scheduler=scheduler
    )
    assert [(picture.prompt, picture.seed) for picture in ours] == list(zip(np.repeat(prompts, 2), seeds, strict=True))

    pipeline = backbone.pipeline
    own, pipeline.scheduler = pipeline.scheduler, backbone.scheduler(scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompts,
        num_images_per_prompt=2,
        num_inference_steps=3,
        guidance_scale=guidance,
        negative_prompt=[negative] * 2 if negative else None,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images
    pipeline.scheduler = own
    assert np.array_equal(np.stack([picture.pixels for picture in ours]), (theirs * 255).round().astype("uint8"))
    assert len({picture.pixels.tobytes() for picture in ours}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_of_ones_own_draws_the_same_with_an_edit(kind: str, backbones: dict[str, Backbone], tmp_path: Path):
    """As the README has it: a vanilla diffusers pipeline, its own call, guidance and two pictures a prompt."""
    backbone, chance = backbones[kind], torch.Generator().manual_seed(0)
    method = ColdStart(word_rate=1e-2, offset_rate=1e-2, looks=False, batch=1)
    picture = torch.randint(0, 256, (1, backbone.size, backbone.size, 3), dtype=torch.uint8, generator=chance)
    personalize(backbone, method, picture, word="<my-cat>", class_word="cat", steps=2).save(
        tmp_path / "cat.safetensors"
    )
    prompts, seeds = ["<my-cat> on the beach", "a red dog"], [5, 6, 5, 6]
    edit = Edit.load(tmp_path / "cat.safetensors")
    assert {type(part) for part in edit.parts} == {TokenEdit, LowRankEdit, SecondPath}
    assert all(bool(up.any()) for _, up in edit.of(LowRankEdit)[0].factors.values())
    assert 0 < edit.of(SecondPath)[0].blend < 1
    ours = generate(backbone, prompts, edit, count=2, seed=5, steps=3, guidance=4.0, scheduler="ddim")
    plain = generate(backbone, prompts, count=2, seed=5, steps=3, guidance=4.0, scheduler="ddim")
    assert not np.array_equal(ours[0].pixels, plain[0].pixels)

    pipe = backbone.pipeline
    own, pipe.scheduler = pipe.scheduler, backbone.scheduler("ddim")
    pipe.set_progress_bar_config(disable=True)
    with edited(Backbone.from_pipeline(pipe), edit):
        theirs = pipe(
            prompts,
            num_images_per_prompt=2,
            num_inference_steps=3,
            guidance_scale=4.0,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
    pipe.scheduler = own
    assert np.array_equal(np.stack([picture.pixels for picture in ours]), (theirs * 255).round().astype("uint8"))


def snippet(holding: str) -> str:
    """The README's one piece of Python with these words in it."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (lines,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if holding in code]
    return lines


def test_the_readmes_first_lines_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As they stand, on the shipped model with its encoder; only the steps are fewer."""
    teach, draw = recipes._teach, generate
    monkeypatch.setattr(recipes, "_teach", lambda *a, **k: teach(*a[:4], 1, *a[5:], **k))
    monkeypatch.setattr("namesake.generate.generate", lambda *a, **k: draw(*a, **k, steps=2))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(recipes._examples()[0].read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        exec(snippet("personalize("), {})
    assert Edit.load("my-cat.safetensors").about.settings["steps"] == 1
    paths = [Path(f"beach-{seed}.png") for seed in range(4)]
    assert sorted(tmp_path.glob("*.png")) == sorted(tmp_path / path for path in (*paths, "cat.png"))
    for path in paths:
        (told,) = read_settings(path)["concepts"]
        assert (told["words"], told["class"]) == (["<my-cat>"], "cat")
    assert len({path.read_bytes() for path in paths}) == 4


def test_the_readmes_lines_for_diffusers_users_run(backbones: dict[str, Backbone], tmp_path: Path, monkeypatch):
    pipe = backbones["sdxl"].pipeline
    pipe.set_progress_bar_config(disable=True)
    word = TokenEdit("<my-cat>", (torch.ones(1, 32), torch.ones(1, 48)))
    Edit((word,), About("test", "cat")).save(tmp_path / "my-cat.safetensors")
    monkeypatch.chdir(tmp_path)
    names = {"pipe": pipe}
    torch.manual_seed(0)
    exec(snippet("from_pipeline(pipe)"), names)
    torch.manual_seed(0)
    plain = pipe("<my-cat> on the beach").images[0]  # the word is gone again
    assert names["image"].size == plain.size == (64, 64)
    assert names["image"].tobytes() != plain.tobytes()


def test_a_picture_depends_on_its_seed_alone(backbones: dict[str, Backbone]):
    backbone = backbones["sdxl"]
    calls: list[tuple[int, int]] = []
    many = generate(
        backbone, "a cat", count=18, seed=3, steps=2, scheduler="euler-a", progress=lambda *pair: calls.append(pair)
    )
    assert calls == [(16, 36), (32, 36), (34, 36), (36, 36)]  # two batches
    for place in (0, 2, 17):
        (one,) = generate(backbone, "a cat", seed=3 + place, steps=2, scheduler="euler-a")
        assert one.seed == many[place].seed
        assert np.abs(one.pixels.astype(int) - many[place].pixels).max() <= 1
    again = generate(backbone, "a cat", count=18, seed=3, steps=2, scheduler="euler-a")
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(many, again, strict=True))


def test_size_and_settings(backbones: dict[str, Backbone]):
    (picture,) = generate(backbones["sdxl"], "a cat", steps=1, size=(64, 96), guidance=1)
    assert picture.pixels.shape == (64, 96, 3)
    assert picture.settings["size"] == [64, 96]
    assert picture.settings["model"] == "sdxl"
    assert generate(backbones["sd15"], "a cat", steps=1)[0].settings["guidance"] == 7.5
    assert "concepts" not in picture.settings
    word = TokenEdit("<my-cat>", (torch.ones(1, 32), torch.ones(1, 48)))
    edit = Edit((word,), About("test", "cat", created="today"))
    (picture,) = generate(backbones["sdxl"], "<my-cat>", edit, steps=1)
    assert picture.settings["concepts"] == [
        {"words": ["<my-cat>"], "class": "cat", "method": "test", "created": "today"}
    ]


def test_a_solver_that_seeds_itself_is_seeded(backbones: dict[str, Backbone], monkeypatch):
    """Such as DPMSolverSDEScheduler, whose steps take no generator."""
    backbone = backbones["sd15"]
    solver = backbone.scheduler("ddim")
    solver.noise_sampler_seed = None
    monkeypatch.setattr(type(backbone), "scheduler", lambda *_: solver)
    generate(backbone, "a cat", count=2, seed=7, steps=1)
    assert solver.noise_sampler_seed == [7, 8]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 10**6},
        {"count": 0},
        {"count": -1},
        {"seed": -1},
        {"seed": 2**63},
        {"guidance": float("nan")},
        {"guidance": 1e9},
        {"size": 65},
        {"size": 0},
        {"size": -64},
        {"size": 10**9},
        {"size": (64, 60)},
        {"scheduler": "nothing"},
        {"prompt": []},
    ],
)
def test_numbers_out_of_range(wrong: dict, backbones: dict[str, Backbone]):
    with pytest.raises(Refusal) as caught:
        generate(backbones["sdxl"], **({"prompt": "a cat", "steps": 1} | wrong))
    assert str(caught.value).endswith(".")


def test_a_picture_of_no_numbers_is_refused(backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Backbone, "denoise", lambda self, latents, *_: latents * float("nan"))
    with pytest.raises(Refusal, match=r"no numbers for a picture in float32.*NAMESAKE_DTYPE"):
        generate(backbones["sd15"], "a cat", steps=1)


def test_warnings_name_what_the_model_does_not_see(backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch):
    backbone = backbones["sdxl"]
    with pytest.warns(UserWarning, match='does not see "dog"'):
        generate(backbone, "cat " * 75 + "dog", steps=1)
    monkeypatch.setitem(backbone._card, "words", ["a", "cat"])
    with pytest.warns(UserWarning, match='never saw the word "zebra"'):
        generate(backbone, ["a cat", "a zebra"], steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        generate(backbone, "a cat", steps=1)


def test_the_safety_checker_of_the_pipeline_is_kept(sd15: Path):
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    )
    pipeline = StableDiffusionPipeline.from_pretrained(
        sd15,
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )
    backbone = Backbone.from_pipeline(pipeline)
    checker.concept_embeds_weights.fill_(2.0)  # no cosine reaches that
    assert generate(backbone, "a cat", steps=1)[0].pixels.any()
    checker.concept_embeds_weights.fill_(-2.0)  # every cosine does
    with pytest.warns(UserWarning, match="blacked out"):
        assert not generate(backbone, "a cat", steps=1)[0].pixels.any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_word_with_a_real_word_s_vectors_draws_the_real_word(kind: str, backbones: dict[str, Backbone]):
    from namesake.edits import About, Edit, TokenEdit

    backbone = backbones[kind]
    (word,) = [word for word in backbone.real_words() if word.text == "cat"]
    vectors = tuple(
        encoder.get_input_embeddings().weight[[number]].clone()
        for encoder, number in zip(backbone.text_encoders, word.ids, strict=True)
    )
    edit = Edit((TokenEdit("<my-cat>", vectors),), About(method="test"))
    options = {"steps": 3, "seed": 1, "count": 2}
    plain = generate(backbone, "a cat on the beach", **options)
    ours = generate(backbone, "a <my-cat> on the beach", edit, **options)
    for a, b in zip(plain, ours, strict=True):
        assert np.abs(a.pixels.astype(int) - b.pixels).max() <= 1
    after = generate(backbone, "a cat on the beach", **options)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(plain, after, strict=True))
