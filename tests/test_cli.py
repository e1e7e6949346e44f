"""The command line as a user meets it: what it writes, what it says, and what it refuses in one sentence."""

import errno
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from namesake import cli, recipes
from namesake.backbone import Backbone
from namesake.edits import Edit, LowRankEdit, SecondPath, TokenEdit
from namesake.errors import Refusal
from namesake.sheet import read_settings
from namesake.train import fit

SMALL = ["--steps", "2", "--size", "64"]


class Quiet(recipes.Report):
    def warn(self, sentence: str) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def _polite(monkeypatch, tmp_path):
    """Each test in a folder of its own; the process-wide silence of the command line only where it is tested."""
    monkeypatch.setattr(cli, "_quiet", lambda: None)
    monkeypatch.delenv("NAMESAKE_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def backbone(sd15):
    """A mini whose own size is small, so that pictures cost little."""
    from namesake.backbone import Backbone

    made = Backbone.load(sd15, device="cpu")
    made.unet.register_to_config(sample_size=8)
    return made


@pytest.fixture(scope="session")
def concept(backbone, picture, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("concept") / "my-cat.safetensors"
    made = recipes.personalize(
        [picture], word="<my-cat>", class_word="cat", model=backbone, steps=1, seed=3, output=path
    )
    assert made.path == path
    assert set(made.seconds) == {"learning"}
    return path


@pytest.fixture
def one_model(monkeypatch, backbone):
    """Every command uses the one loaded model."""
    monkeypatch.setattr("namesake.backbone.Backbone.load", lambda *_, **__: backbone)


def refused(capsys, *arguments: str, words: tuple[str, ...] = (), status: int = 2) -> str:
    before = sorted(Path().rglob("*"))
    assert cli.main(arguments) == status
    out, err = capsys.readouterr()
    sentence = err.strip().splitlines()[-1]
    assert out == ""
    assert sentence.startswith("namesake: ")
    assert "Traceback" not in err
    for word in words:
        assert word in sentence
    assert sorted(Path().rglob("*")) == before
    return sentence


def test_a_name_that_the_terminal_cannot_spell_ends_nothing(monkeypatch):
    monkeypatch.setattr(cli, "_quiet", lambda: None)
    out = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr("namesake.recipes.methods", lambda: "\u732b.png")
    assert cli.main(["methods"]) == 0
    assert out.buffer.getvalue().strip() == b"\\u732b.png"


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from namesake.cli import main; main(['--help']);"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'rich'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime - before.ru_utime < 0.5  # CPU seconds: a loaded machine is no slower in these
    for command in ("personalize", "generate", "show", "demo", "picturebook"):
        assert command in done.stdout


def test_from_a_picture_to_pictures_of_its_word(capsys, one_model, picture):
    assert cli.main(["personalize", str(picture), "--class", "cat", "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert Path("my-cat.safetensors").is_file()
    assert "<my-cat>" in said
    assert "namesake generate" in said
    assert cli.main(["personalize", str(picture), "--class", "cat", "--steps", "0"]) == 0
    assert Path("my-cat-2.safetensors").is_file()  # nothing is overwritten that was not named

    prompt = "<my-cat> on the beach"
    arguments = ["generate", prompt, "--concept", "my-cat.safetensors", "--count", "2", "--seed", "5", "-o", "new/out"]
    assert cli.main([*arguments, *SMALL]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()[-3:]]
    assert [path.name for path in paths] == ["my-cat-on-the-beach-5.png", "my-cat-on-the-beach-6.png",
                                             "my-cat-on-the-beach-sheet.png"]  # fmt: skip
    settings = read_settings(paths[1])
    assert (settings["prompt"], settings["seed"], settings["steps"]) == (prompt, 6, 2)
    before = paths[0].read_bytes()
    assert cli.main([*arguments, *SMALL]) == 0
    assert len(list(Path("new/out").iterdir())) == 6
    assert paths[0].read_bytes() == before
    again = paths[0].with_stem(paths[0].stem + "-2")
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(paths[0])))


def test_what_is_said_of_drawing_reaches_the_pictures(one_model, concept):
    arguments = ["generate", "<my-cat> on the beach", "--concept", str(concept), "--count", "1", *SMALL]
    wanted = {"blend": 0.9, "scale": 4.0, "guidance": 3.0, "scheduler": "ddim"}

    def drawn(name: str, options: dict) -> tuple[dict, np.ndarray]:
        said = [part for option, value in options.items() for part in (f"--{option}", str(value))]
        assert cli.main([*arguments, *said, "-o", name]) == 0
        (path,) = Path(name).iterdir()
        return read_settings(path), np.asarray(Image.open(path))

    settings, plain = drawn("plain", {})
    assert {option: settings[option] for option in wanted} == {
        "blend": None, "scale": 1.0, "guidance": 7.5, "scheduler": "dpm++",
    }  # fmt: skip
    for option, value in wanted.items():
        told, pixels = drawn(option, {option: value})
        assert {key for key in wanted if told[key] != settings[key]} == {option}
        assert told[option] == value
        assert not np.array_equal(pixels, plain), option


@pytest.mark.parametrize("method", [None, "textual-inversion"])
def test_a_strip_shows_the_word_along_the_run(capsys, one_model, picture, monkeypatch, method):
    from namesake import generate

    drawn, original = [], generate.generate

    def quick(backbone, prompts, edit, **options):
        drawn.append((prompts, edit.about.settings.get("steps")))
        return original(backbone, prompts, edit, **options, steps=1)

    monkeypatch.setattr(generate, "generate", quick)
    arguments = ["personalize", str(picture), "--class", "cat", "--steps", "3", "--strip", "-o", "course"]
    assert cli.main([*arguments, *(["--method", method] if method else [])]) == 0
    assert "course-strip.png" in capsys.readouterr().out
    assert [prompts for prompts, _ in drawn] == [["a picture of <my-cat>"]] * 4  # after 0, 1, 2 and 3 steps
    wide, tall = Image.open("course-strip.png").size
    assert wide > 3 * tall / 2
    with pytest.raises(Refusal, match="beside the concept's file"):
        recipes.personalize([picture], class_word="cat", strip=True)


def test_a_guessed_class_and_a_word_never_seen_are_told_everywhere(capsys, one_model, backbone, picture, monkeypatch):
    """Not on terminals alone: a script's output has them too."""
    assert cli.main(["personalize", str(picture), "--steps", "0"]) == 0
    said = capsys.readouterr().err
    assert 'taken for "object", as this model cannot see pictures without openai/clip-vit-large-patch14' in said
    assert "(hf download openai/clip-vit-large-patch14)" in said
    monkeypatch.setattr(
        type(backbone), "unknown_words", lambda _, prompt: ["zebra"] if "zebra" in prompt.split() else []
    )
    assert cli.main(["personalize", str(picture), "--class", "zebra", "--steps", "0"]) == 0
    assert f"The model {backbone.name} never saw the word zebra." in capsys.readouterr().err
    assert cli.main(["personalize", str(picture), "--class", "cat", "--steps", "0"]) == 0
    assert capsys.readouterr().err == ""


def test_the_next_command_names_the_model_that_was_used(capsys, one_model, picture, monkeypatch):
    arguments = ["personalize", str(picture), "--class", "cat", "--steps", "0"]
    for told, named, wanted in (
        (None, "picturebook", ""),
        (None, "./my model", " --model './my model'"),
        ("./other", "picturebook", " --model picturebook"),
        ("./other", "./other", ""),
    ):
        monkeypatch.delenv("NAMESAKE_MODEL", raising=False) if told is None else monkeypatch.setenv(
            "NAMESAKE_MODEL", told
        )
        assert cli.main([*arguments, "--model", named, "-o", "one"]) == 0
        assert capsys.readouterr().out.endswith(f" --concept one.safetensors{wanted}\n")


def test_a_checkpoint_file_of_sd_2_does_not_tell_what_it_predicts(minis, monkeypatch):
    told, load = [], Backbone.load
    report = recipes.Report()
    monkeypatch.setattr(report, "warn", told.append)
    for kind, named, warned in (
        ("sd21", "two.safetensors", True),
        ("sd21", str(minis["sd21"]), False),
        ("sd15", "one.safetensors", False),
        ("sdxl", "large.safetensors", False),
    ):
        monkeypatch.setattr(Backbone, "load", lambda _, kind=kind: load(minis[kind]))
        recipes._backbone(named, recipes._Clock(), report)
        assert len(told) == warned, kind
        assert all("taken to predict the velocity" in sentence for sentence in told)
        told.clear()


def test_what_is_empty_is_no_method_and_no_encoder(capsys, one_model, picture, backbone, tmp_path):
    refused(capsys, "personalize", str(picture), "--method", "", words=("method", "cold-start"))
    with pytest.raises(Refusal, match="encoder's name is empty"):
        recipes.encoder_of(backbone, " ", recipes.Report())
    with pytest.raises(Refusal, match=r"encoder.safetensors cannot be read"):  # a folder as the hub has it
        recipes.encoder_of(backbone, str(tmp_path), recipes.Report())


def test_an_encoder_comes_from_the_hub_by_its_id(monkeypatch, tmp_path):
    from huggingface_hub import constants

    named = Backbone.load(device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Refusal, match="no encoder 'somebody/date'"):
        recipes.encoder_of(named, "somebody/date", recipes.Report())
    place = tmp_path / "models--somebody--date"  # as its cache has it
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copy(recipes.shipped_encoder(), place / "snapshots" / ("0" * 40) / "encoder.safetensors")
    found = recipes.encoder_of(named, "somebody/date", recipes.Report())
    assert found is not None
    assert found.settings == recipes.encoder_of(named, None, recipes.Report()).settings


def test_settings_of_a_method_can_be_others(capsys, one_model, picture):
    arguments = ["personalize", str(picture), "--class", "cat", "--steps", "0", "-o", "it.safetensors"]
    assert cli.main([*arguments, "--method", "lora", "--set", "rank=2", "--set", "text = true"]) == 0
    low = Edit.load("it.safetensors").of(LowRankEdit)[0]
    assert {down.shape[0] for down, _ in low.factors.values()} == {2}
    assert any(path.startswith("text_encoder") for path in low.factors)
    assert cli.main([*arguments, "--set", "blend=0.5"]) == 0  # of the cold start, since no encoder is at hand
    assert Edit.load("it.safetensors").of(SecondPath)[0].blend == 0.5
    capsys.readouterr()
    Path("it.safetensors").unlink()
    for given, words in (
        ("rank", ("NAME=VALUE",)),
        ("=2", ("NAME=VALUE",)),
        ("rank=2.5", ("rank", "2.5", "whole number")),
        ("rank=0", ("rank", "from 1 to 1024")),
        ("ranks=2", ("no setting 'ranks'", "rare_word")),
        ("text=maybe", ("true or false",)),
    ):
        refused(capsys, *arguments, "--method", "lora", "--set", given, words=words)


def test_ctrl_c_while_the_program_starts(monkeypatch):
    from namesake import __main__

    def interrupted(name, *_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "namesake.cli")
        patch.setattr("builtins.__import__", interrupted)
        status = __main__.main()
    assert status == 130
    monkeypatch.setattr(cli, "main", lambda: 5)
    assert __main__.main() == 5


def test_a_picture_and_a_prompt_at_once(capsys, one_model, picture, monkeypatch):
    teach = recipes._teach
    monkeypatch.setattr(recipes, "_teach", lambda *a, **k: teach(*a, **{**k, "steps": 1}))
    arguments = ["generate", "<it> on the beach", "--picture", str(picture), "--class", "cat", "--count", "1", *SMALL]
    assert cli.main(arguments) == 0
    assert [path.name for path in Path("out").iterdir()] == ["it-on-the-beach-0.png"]
    capsys.readouterr()
    assert cli.main([arguments[0], "<It> and <it>", *arguments[2:]]) == 0  # one word, however it is written
    assert read_settings("out/it-and-it-0.png")["prompt"] == "<it> and <it>"
    frugal, asked = fit.frugal, []
    monkeypatch.setattr(fit, "frugal", lambda backbone, on: asked.append(on) or frugal(backbone, on))
    assert cli.main([*arguments, "--low-memory"]) == 0
    assert asked == [True, True]  # learning, and drawing
    capsys.readouterr()
    for prompt in ("a cat", "<a> and <b>"):
        refused(capsys, "generate", prompt, "--picture", str(picture), words=("angle brackets",))
    monkeypatch.setattr(recipes, "_teach", lambda *a, **k: pytest.fail("learned before the prompt was looked at"))
    refused(capsys, "generate", "a cat " * 60 + "<it>", "--picture", str(picture), words=("too long", "<it>"))


def test_the_demo_ends_with_a_sheet_and_the_next_command(capsys, one_model, picture, monkeypatch, tmp_path):
    from namesake import generate, sheet

    example = tmp_path / "example.png"
    example.write_bytes(picture.read_bytes())
    example.with_suffix(".json").write_text('{"class": "cat", "concept": 2000000000}')
    monkeypatch.setattr(recipes, "_examples", lambda: [example])
    teach = recipes._teach
    monkeypatch.setattr(recipes, "_teach", lambda *a, **k: teach(*a, **{**k, "steps": 1}))
    drawn, laid, original, sheet_of = [], [], generate.generate, sheet.contact_sheet

    def recorded(backbone, prompts, edit, **options):
        drawn.append((prompts, edit, original(backbone, prompts, edit, **options, steps=2)))
        return drawn[-1][2]

    monkeypatch.setattr(generate, "generate", recorded)
    monkeypatch.setattr(sheet, "contact_sheet", lambda rows, *a, **k: laid.extend(rows) or sheet_of(rows, *a, **k))
    monkeypatch.setattr(sys, "argv", ["some where/namesake", "demo"])
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert cli.main(["demo", "-o", "demo"]) == 0
    out = capsys.readouterr().out
    # Where the environment is not activated, as in `make demo`.
    assert "Next: 'some where/namesake' generate \"<my-cat> in the snow\" --concept demo/my-cat.safetensors" in out
    monkeypatch.setattr("shutil.which", lambda name: f"bin/{name}")
    # Above the picture and its class word, below the new word; the same scenes from the same noise.
    (above, base, first), (below, edit, second) = drawn
    assert above == [scene.format("a cat") for scene in recipes.DEMO_PROMPTS]
    assert below == [scene.format("<my-cat>") for scene in recipes.DEMO_PROMPTS]
    assert (base, edit.placeholders) == (None, ("<my-cat>",))
    assert [one.seed for one in first] == [one.seed for one in second]
    plain, new = first[0].settings, second[0].settings
    assert plain | {"prompt": below[0], "concepts": new["concepts"]} == new
    assert [word["words"] for word in new["concepts"]] == [["<my-cat>"]]
    assert np.array_equal(laid[0][0], np.asarray(Image.open(example)))
    assert laid[1][0] is None
    for row, made in zip(laid, (first, second), strict=True):
        assert all(cell is one.pixels for cell, one in zip(row[1:], made, strict=True))
    for word in (
        "sheet.png",
        "loading",
        "learning",
        "drawing",
        " s;",
        "MiB",
        "kB",
        "--concept demo/my-cat.safetensors",
    ):
        assert word in out
    with Image.open("demo/sheet.png") as image:
        assert image.width > 5 * 190
        assert image.height > 2 * 190
    monkeypatch.setenv("NAMESAKE_MODEL", "./other")
    assert cli.main(["demo", "-o", "my demo"]) == 0
    out = capsys.readouterr().out
    assert "Next: namesake generate " in out
    assert "--concept 'my demo/my-cat.safetensors' --model picturebook\n" in out
    monkeypatch.setattr(recipes, "_examples", list)
    refused(capsys, "demo", "-o", "demo", words=("no example",))


def test_ctrl_c_while_learning_keeps_the_word_and_draws_no_pictures_of_it(capsys, one_model, picture, monkeypatch):
    from namesake.train import fit

    loss_of = fit.loss_of

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return loss_of(*arguments)

    monkeypatch.setattr(fit, "loss_of", interrupted)
    example = Path("example.png")
    example.write_bytes(picture.read_bytes())
    example.with_suffix(".json").write_text('{"class": "cat", "concept": 2000000000}')
    monkeypatch.setattr(recipes, "_examples", lambda: [example])
    for arguments in (["generate", "<it>", "--picture", str(picture), "--class", "cat"], ["demo"]):
        refused(capsys, *arguments, words=("stopped",), status=130)
    assert (
        cli.main(["personalize", str(picture), "--class", "cat"]) == 130
    )  # kept, and `&& namesake generate` is not gone on to
    assert "ended after 1 steps (by the user)" in capsys.readouterr().err
    assert Edit.load("my-cat.safetensors").about.settings["steps"] == 1


def test_a_picture_of_another_world_is_told_from_a_drawing(backbone, monkeypatch, picture, capsys):
    said: list[str] = []

    class Listening(recipes.Report):
        def warn(self, sentence: str) -> None:
            said.append(sentence)

    monkeypatch.setattr(backbone, "_card", {**backbone._card, "kind": "drawn"})
    monkeypatch.setattr(recipes, "OWN_WORLD", {"drawn": 0.0})
    recipes.personalize([picture], class_word="cat", model=backbone, steps=0, report=Listening())
    monkeypatch.setattr(recipes, "OWN_WORLD", {"drawn": 256.0})
    recipes.personalize([picture], class_word="cat", model=backbone, steps=0, report=Listening())
    assert len(said) == 1
    assert "--model" in said[0]


def test_many_photographs_are_brought_down_and_encoded_a_few_at_a_time(backbone, monkeypatch, tmp_path):
    """Five hundred of a phone's at their full size have 18 GB, and the autoencoder takes a gigabyte for each."""
    large, small = np.random.default_rng(0).integers(0, 255, (1300, 1100, 3), dtype=np.uint8), tmp_path / "small.png"
    inside = np.zeros((1300, 1100), np.uint8)
    inside[650:] = 255
    Image.fromarray(large).save(tmp_path / "large.png")
    Image.fromarray(inside).save(tmp_path / "mask.png")
    Image.fromarray(large[:300, :1024]).save(small)
    Image.new("L", (1024, 300), 255).save(tmp_path / "whole.png")
    asked, teach = [], recipes._teach

    def stop(_, concepts, *rest):
        asked.extend(concepts)
        raise Refusal("Enough.")

    monkeypatch.setattr(recipes, "_teach", stop)
    masks = [tmp_path / "mask.png", tmp_path / "whole.png"]
    with pytest.raises(Refusal, match="Enough"):
        recipes.personalize([tmp_path / "large.png", small], class_word="cat", model=backbone, mask=masks)
    first, second = asked[0].seen
    assert first.pixels.shape == (1210, 1024, 3)
    assert first.mask.shape == (1210, 1024)
    assert (first.mask[:604].any(), first.mask[606:].all()) == (False, True)
    assert np.array_equal(second.pixels, large[:300, :1024])

    monkeypatch.setattr(recipes, "_teach", teach)
    monkeypatch.setattr(backbone, "_card", {**backbone._card, "kind": "drawn"})
    monkeypatch.setattr(recipes, "OWN_WORLD", {"drawn": 100.0})
    encode, sizes = backbone.encode, []
    monkeypatch.setattr(backbone, "encode", lambda some, *rest: (sizes.append(len(some)), encode(some, *rest))[1])
    monkeypatch.setattr(backbone, "decode", lambda latents: torch.zeros(len(latents), 64, 64, 3, dtype=torch.uint8))
    dark, light = tmp_path / "dark.png", tmp_path / "light.png"
    Image.new("L", (64, 64), 0).save(dark)
    Image.new("L", (64, 64), 255).save(light)
    for pictures, told in (([dark] * 9, 0), ([light, *[dark] * 8], 1), ([*[dark] * 8, light], 1)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            recipes.personalize(pictures, class_word="cat", model=backbone, steps=0)
        assert sum("does not look like one" in str(one.message) for one in said) == told
    assert max(sizes) == 8


def test_the_picture_book_tells_a_photograph_from_a_drawing_and_a_word_that_it_never_saw(tmp_path, recwarn):
    """With the shipped weights and the shipped threshold: a drawing that no training saw, and smooth light under grain."""
    from namesake.backbone import Backbone
    from namesake.picturebook.dataset import Drawings
    from namesake.picturebook.scene import SMALL_WORLD

    y, x = np.mgrid[:64, :64] / 63
    light = np.stack([120 + 90 * np.sin(2 * x + y), 110 + 70 * np.cos(3 * y), 100 + 80 * x * y], -1)
    grain = np.random.default_rng(0).normal(0, 14, (64, 64, 1))
    pictures = {
        "drawing": Drawings("reporting", SMALL_WORLD, seed=11)[0][0].picture,
        "photograph": (light + grain).clip(0, 255).astype(np.uint8),
    }
    backbone = Backbone.load("picturebook", device="cpu")
    for name, class_word, wanted in (
        ("drawing", "cat", []),
        ("photograph", "cat", ["does not look like one"]),
        ("drawing", "zebra", ["The model picturebook never saw the word zebra."]),
    ):
        Image.fromarray(pictures[name]).save(tmp_path / f"{name}.png")
        recwarn.clear()
        recipes.personalize([tmp_path / f"{name}.png"], class_word=class_word, model=backbone, encoder="none", steps=0)
        said = [str(one.message) for one in recwarn if issubclass(one.category, UserWarning)]
        assert len(said) == len(wanted), said
        assert all(some in sentence for some, sentence in zip(wanted, said, strict=True))


def test_a_word_made_of_the_class_is_one_that_can_be_used(backbone, picture, tmp_path):
    """Cut to its length and not in the vocabulary, with an encoder and without one."""
    import copy

    from namesake.backbone import Backbone
    from namesake.edits import check_word

    long = " ".join(["lighthouse"] * 6)
    words = [f"<my-{'-'.join(['lighthouse'] * 5)[:50]}{end}>" for end in ("", "-2", "-3")]
    tokenizer = copy.deepcopy(backbone.tokenizers[0])
    tokenizer.add_tokens([words[0], "<my-cat>"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(backbone), "tokenizers", (tokenizer,))
        assert recipes._word_for(backbone, "cat") == "<my-cat-2>"
        assert recipes._word_for(backbone, long) == words[1]
        assert recipes._word_for(backbone, long, words[1:2]) == words[2]
    shipped = Backbone.load("picturebook", device="cpu")
    for encoder in (None, "none"):
        made = recipes.personalize(
            [picture], class_word=long, model=shipped, encoder=encoder, steps=0, output=tmp_path, report=Quiet()
        )
        assert made.edit.placeholders == (words[0],)
        check_word(words[0], shipped.tokenizers)
        assert Edit.load(made.path).placeholders == (words[0],)


def test_show_says_what_a_concept_is(capsys, backbone, concept):
    text = recipes.show(concept, backbone)
    edit = Edit.load(concept)
    low, rest = edit.of(LowRankEdit)[0], [part for part in edit.parts if not isinstance(part, LowRankEdit)]
    path, (down, up) = next(iter(low.factors.items()))
    few = replace(low, factors={path: (down[:1], up[:, :1])})
    replace(edit, parts=(*rest, low, few)).save("two.safetensors")  # as DATE's have, the predicted ones and the tuned
    (line,) = (line for line in recipes.show("two.safetensors", backbone).splitlines() if line.startswith("low rank"))
    rank, count = down.shape[0], down[:1].numel() + up[:, :1].numel()
    assert f"{len(low.factors)} sites, rank {rank}, " in line
    assert line.endswith(f"; 1 sites, rank 1, {count:,} numbers")
    assert cli.main(["show", str(concept)]) == 0
    short = capsys.readouterr().out
    for line in (text, short):
        for word in ("<my-cat>", "cat", "cold start", backbone.name, "128 sites", "blend 0.25", "seed 3", "torch"):
            assert word in line
    assert "not looked up (--model" in short
    with pytest.MonkeyPatch.context() as patch:  # what cannot be looked up hides nothing else
        patch.setenv("NAMESAKE_MODEL", "./no-such-model")
        assert cli.main(["show", str(concept)]) == 0
    lost = capsys.readouterr().out
    assert "not known for ./no-such-model" in lost
    assert [line for line in lost.splitlines() if "nearest" not in line] == [
        line for line in short.splitlines() if "nearest" not in line
    ]
    assert "not known for picturebook" in recipes.show(concept, "picturebook")  # of another architecture
    # What comes with the package is looked up whatever model is named.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "OWN_WORLD", {backbone.name: 2.0})
        load = Backbone.load
        patch.setattr(Backbone, "load", lambda name: backbone if name == backbone.name else load(name))
        for named in (None, "./no-such-model"):
            assert recipes.show(concept, named) == text
    nearest = next(line for line in text.splitlines() if line.startswith("nearest"))
    assert nearest.split()[2] == "cat"  # one step away from it
    assert float(nearest.split()[3].rstrip(",")) > 0.9
    edit = Edit.load(concept)
    offsets = tuple(part for part in edit.parts if isinstance(part, LowRankEdit))
    Edit(offsets, edit.about).save(Path("wordless.safetensors"))
    assert "none, as the concept has no word" in recipes.show("wordless.safetensors")
    Edit(edit.parts, replace(edit.about, settings={"context": "in the snow; " * 100})).save(Path("long.safetensors"))
    assert max(map(len, recipes.show("long.safetensors").splitlines())) < 300


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--count", "0"], ("count", "0")),
        (["--count", "-3"], ("count",)),
        (["--count", "two"], ("--count", "integer")),
        (["--steps", "-1"], ("steps", "-1")),
        (["--steps", "1000000"], ("steps",)),
        (["--seed", "-1"], ("seed",)),
        (["--guidance", "nan"], ("guidance", "nan")),
        (["--guidance", "-2"], ("guidance",)),
        (["--blend", "1.5"], ("blend", "1.5")),
        (["--blend", "nan"], ("blend",)),
        (["--scale", "inf"], ("scale", "inf")),
        (["--size", "7"], ("size", "7")),
        (["--size", "-64"], ("size",)),
        (["--concept", "missing.safetensors"], ("missing.safetensors",)),
        (["--picture", "missing.png"], ("angle brackets",)),
        (["--nonsense"], ("--nonsense",)),
    ],
)
def test_absurd_options_are_refused_before_a_model_is_loaded(capsys, monkeypatch, options, words):
    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("namesake.backbone.Backbone.load", load)
    refused(capsys, "generate", "a cat", *options, words=words)


def test_an_absurd_rate_of_pretraining_is_refused(capsys):
    refused(capsys, "pretrain", "--rate", "2", words=("rate", "2.0", "from 0 to 1"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "100"], ("size", "100")),
        (["--scheduler", "magic"], ("magic", "dpm++")),
    ],
)
def test_what_only_the_model_can_tell_is_refused_before_it_works(capsys, one_model, options, words):
    refused(capsys, "generate", "a cat", *options, words=words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--word", ""], ("empty",)),
        (["--word", "My Cat"], ("My Cat", "<my-cat>")),
        (["--word", "<a\x1b[31m>"], ("malformed",)),
        (["--class", ""], ("class",)),
        (["--class", "<cat>"], ("class",)),
        (["--steps", "-1"], ("steps", "-1")),
        (["--steps", "100000000"], ("steps",)),
        (["--seed", "-1"], ("seed",)),
        (["--method", "magic"], ("magic", "cold-start", "lora-pti", "custom-diffusion")),
        (["--mask", "none.png"], ("none.png", "no file")),
        (["--mask", "small.png"], ("small.png", "32 x 64", "64 x 64")),
        (["--mask", "dark.png"], ("dark.png", "light")),
        (["--mask", "light.png", "--mask", "light.png"], ("2 masks", "1 pictures")),
        (["--mask", "light.png", "--alpha"], ("--mask", "--alpha")),
        (["--word", "<a>", "--word", "<b>"], ("2 words", "--together")),
        (["light.png", "--together"], ("textual-inversion", "custom-diffusion", "--method")),
        (["light.png", "--together", "--method", "lora"], ("textual-inversion", "custom-diffusion")),
        (["light.png", "--together", "--method", "custom-diffusion", "--class", "cat"], ("1 classes", "2 concepts")),
        (["--prior", "light.png"], ("dreambooth", "--method")),
        (["--prior", "light.png", "--method", "lora"], ("dreambooth", "custom-diffusion")),
        (["--prior", "none", "--method", "dreambooth"], ("none",)),
        (["-o", "none/cat.safetensors"], ("none", "folder")),
        pytest.param(
            ["-o", "/proc/cat.safetensors"],
            ("/proc", "written"),
            marks=pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux has a /proc to write to"),
        ),
    ],
)
def test_absurd_personalizing_is_refused_before_a_model_is_loaded(capsys, monkeypatch, picture, options, words):
    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("namesake.backbone.Backbone.load", load)
    for name, size, level in (("small", (32, 64), 255), ("dark", (64, 64), 0), ("light", (64, 64), 255)):
        Image.new("L", size, level).save(f"{name}.png")
    refused(capsys, "personalize", str(picture), *options, words=words)


def test_masks_come_from_files_or_from_the_alpha_and_a_run_may_end_early(capsys, one_model, monkeypatch):
    from namesake.train import tune

    given = []
    learn = tune.learn

    def note(backbone, method, concepts, **options):
        given.append((concepts[0], options.get("dvar")))
        return learn(backbone, method, concepts, **{**options, "steps": 0})

    monkeypatch.setattr(tune, "learn", note)
    half = np.zeros((64, 64), np.uint8)
    half[:, :32] = 255
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save("plain.png")
    Image.fromarray(half).save("half.png")
    Image.fromarray(np.dstack([noise, half])).save("cut.png")
    for options in (["plain.png", "--mask", "half.png"], ["plain.png", "--mask", "cut.png"], ["cut.png", "--alpha"]):
        arguments = ["--class", "cat", "--method", "textual-inversion", "--until-settled", "--steps", "400"]
        assert cli.main(["personalize", *options, *arguments]) == 0
        assert np.array_equal(given[-1][0].masks.numpy(), half[None] > 0)
        assert given[-1][1] == tune.Dvar(every=4)
    assert cli.main(["personalize", "cut.png", "--class", "cat", "--steps", "0"]) == 0
    assert given[-1][0].masks is None
    assert given[-1][1] is None


def test_concepts_are_merged_and_made_smaller(capsys, one_model, picture):
    for word in ("<one>", "<two>"):
        arguments = ["--class", "cat", "--method", "custom-diffusion", "--steps", "0", "--word", word]
        assert cli.main(["personalize", str(picture), *arguments, "-o", f"{word[1:-1]}.safetensors"]) == 0
    capsys.readouterr()
    assert cli.main(["merge", "one.safetensors", "two.safetensors", "-o", "both.safetensors"]) == 0
    assert cli.main(["merge", "one.safetensors", "--keep", "0.6", "-o", "small.safetensors"]) == 0
    assert "error" in capsys.readouterr().out.splitlines()[-1]
    assert Path("small.safetensors").stat().st_size < Path("one.safetensors").stat().st_size
    for arguments, words in (
        (["one.safetensors", "one.safetensors"], ("<one>", "two different")),
        (["one.safetensors"], ("two different",)),
        (["one.safetensors", "--keep", "0"], ("share to keep",)),
    ):
        refused(capsys, "merge", *arguments, "-o", "new.safetensors", words=words)


def test_concepts_are_learned_together_with_pictures_of_their_classes(capsys, one_model, picture, monkeypatch):
    from namesake.train import tune

    given = []
    learn = tune.learn

    def note(backbone, method, concepts, **options):
        given.extend(concepts)
        return learn(backbone, method, concepts, **options)

    def draw(*_, **__):
        raise AssertionError("pictures of the class were drawn")

    monkeypatch.setattr(tune, "learn", note)
    monkeypatch.setattr(recipes, "class_pictures", draw)
    for name in ("thing", "cats", "dogs"):
        Path(name).mkdir()
        for number in range(2):
            Image.new("RGB", (64, 64), (100, 40 * number, len(name))).save(f"{name}/{number}.png")
    words = ["--class", "cat", "--class", "cat", "--prior", "cats", "--prior", "dogs"]
    arguments = ["--together", "--method", "custom-diffusion", "--steps", "1", "-o", "both.safetensors", *words]
    assert cli.main(["personalize", str(picture), "thing", *arguments]) == 0
    assert "<my-cat> <my-cat-2>" in capsys.readouterr().out
    assert [(one.word, len(one.pictures), len(one.prior)) for one in given] == [
        ("<my-cat>", 1, 2),
        ("<my-cat-2>", 2, 2),
    ]
    assert cli.main(["show", "both.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert "<my-cat>, <my-cat-2>" in shown
    assert "cat, cat" in shown
    assert re.search("second path +cat, blend .*; cat, blend ", shown)


def test_every_method_is_listed_and_makes_a_concept(capsys, one_model, picture, tmp_path, monkeypatch):
    from namesake.methods import METHODS

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cli.main(["methods"]) == 0
    listed = capsys.readouterr().out
    for name, method in METHODS.items():
        default = " (by default, where no encoder is at hand)" if name == recipes.COLD_START else ""
        assert f"{name}{default}\n  trains  {method.trains}\n" in listed
        output = f"{name}.safetensors"
        arguments = ["--class", "cat", "--method", name, "--steps", "0", "-o", output]
        assert cli.main(["personalize", str(picture), *arguments]) == 0
        assert cli.main(["show", output]) == 0
        assert f"method         {method.name}\n" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()  # no step needs no pictures of the class


def test_pictures_of_the_class_are_drawn_once_for_a_model(backbone, picture, tmp_path, monkeypatch):
    from namesake import generate, methods
    from namesake.train import tune

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(methods.METHODS, "dreambooth", replace(methods.METHODS["dreambooth"], prior=18))
    drawn, given = [], []
    draw, learn = generate.drawn, tune.learn

    def spy(model, prompt, *, count, seed):
        drawn.append((prompt, seed, count))
        return draw(model, prompt, count=count, seed=seed, steps=2)

    def note(backbone, method, concepts, **options):
        given.append(concepts[0].prior)
        return learn(backbone, method, concepts, **options)

    monkeypatch.setattr(generate, "drawn", spy)
    monkeypatch.setattr(tune, "learn", note)

    def make(class_word="cat"):
        return recipes.personalize([picture], class_word=class_word, model=backbone, method="dreambooth", steps=1)

    assert make().edit.about.method == "DreamBooth"
    assert drawn == [("a cat", 0, 16), ("a cat", 16, 2)]
    files = sorted((tmp_path / "cache").rglob("*.png"))
    assert len(files) == 18
    make()
    assert len(drawn) == 2
    for name in ("3.png", "7.png"):
        (files[0].parent / name).write_bytes(b"damaged")
    make()
    assert drawn[2:] == [("a cat", 0, 16)]  # the same batch as before, and so the same pictures to the bit
    fresh, kept, mended = given
    assert fresh.shape == (18, 64, 64, 3)
    assert torch.equal(fresh, kept)
    assert torch.equal(fresh, mended)
    with pytest.raises(Refusal, match="1 to 8 ordinary tokens"):
        make("a cat and a dog and a robot")
    make("dog")
    assert drawn[3][0] == "a dog"

    def screened(*arguments, **options):
        """Of a bird the model's safety checker leaves every third picture black."""
        made = spy(*arguments, **options)
        return [replace(one, pixels=one.pixels * (one.seed % 3 > 0)) for one in made]

    monkeypatch.setattr(generate, "drawn", screened)
    make("bird")
    assert drawn[-1] == ("a bird", 18, 16)
    make("bird")
    assert drawn[-1] == ("a bird", 18, 16)  # what was black is not drawn again
    assert given[-1].shape == (18, 64, 64, 3)
    assert given[-1].flatten(1).any(dim=1).all()
    assert torch.equal(given[-1], given[-2])
    monkeypatch.setattr(
        generate, "drawn", lambda *a, **o: [replace(one, pixels=0 * one.pixels) for one in spy(*a, **o)]
    )
    with pytest.raises(Refusal, match="blacked out all but 0"):
        make("thing")
    monkeypatch.setattr(generate, "drawn", spy)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(Refusal, match="name another folder with XDG_CACHE_HOME, or give pictures of your own"):
        make()


def test_bad_pictures_are_refused(capsys, tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    refused(capsys, "personalize", "missing.png", words=("missing.png",))
    refused(capsys, "personalize", "empty.png", words=("empty",))
    refused(capsys, "personalize", "folder", words=("no pictures",))
    refused(capsys, "personalize", "dot.png", words=("1 x 1",))
    refused(capsys, "personalize", words=("PICTURE",))
    Image.new("RGB", (64, 64)).save("here.png")  # which the current folder would give
    method = ["--method", "dreambooth", "--prior", ""]
    for arguments in ([""], ["here.png", ""], ["here.png", *method]):
        refused(capsys, "personalize", *arguments, words=('empty name ""', "name a file"))
    refused(capsys, "generate", "<it>", "--picture", "", words=('empty name ""', "name a file"))


def test_a_folder_that_cannot_be_written_to_is_found_out_first(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(capsys, "generate", "a cat", "-o", "file/out", words=("file/out",))
    refused(capsys, "generate", "a cat", "-o", "file", words=("file",))


def test_prompts(capsys, one_model, concept):
    arguments = ["--concept", str(concept), "--count", "1", *SMALL]
    refused(capsys, "generate", "  ", *arguments, words=("empty",))
    refused(capsys, "generate", "a cat\nwith a hat", *arguments, words=("control characters",))
    refused(capsys, "generate", "a cat " * 60 + "<my-cat>", *arguments, words=("too long", "<my-cat>"))
    assert cli.main(["generate", "a cat\u00a0on the beach", *arguments]) == 0  # as text from a page has it
    told = capsys.readouterr().err.replace("\n", " ")
    assert "does not hold the word <my-cat>" in told
    assert "what it changes in the model acts all the same" in told
    edit = Edit.load(concept)
    replace(edit, parts=edit.of(TokenEdit)).save("word.safetensors")
    assert cli.main(["generate", "a cat", "--concept", "word.safetensors", "--count", "1", *SMALL]) == 0
    assert "that concept is not asked for." in capsys.readouterr().err.replace("\n", " ")
    for prompt in ("<my-cat> in the snow", "<My-Cat> in the snow"):
        assert cli.main(["generate", prompt, *arguments]) == 0
        assert capsys.readouterr().err == ""
    lower, upper = (np.asarray(Image.open(f"out/my-cat-in-the-snow-0{number}.png")) for number in ("", "-2"))
    assert np.array_equal(lower, upper)
    refused(capsys, "generate", "a cat " * 60 + "<MY-CAT>", *arguments, words=("too long", "<my-cat>"))
    assert cli.main(["generate", "<my-cat> with <your-cat>", *arguments]) == 0
    assert "No concept brings the word <your-cat>;" in capsys.readouterr().err.replace("\n", " ")
    assert cli.main(["generate", "<your-cat> on the beach", "--count", "1", *SMALL]) == 0
    assert "No concept brings the word <your-cat>;" in capsys.readouterr().err.replace("\n", " ")
    refused(capsys, "generate", "<it>", "--picture", "cat.png", "--class", "", words=("class", "no word"))
    refused(
        capsys, "personalize", "one.png", "two.png", "--together", "--method", "custom-diffusion",
        "--word", "<it>", "--word", "<it>", words=("share the words",),
    )  # fmt: skip
    assert cli.main(["generate", "<my-cat> " + "and a cat " * 60, *arguments]) == 0
    assert "too long" in capsys.readouterr().err


def test_a_concept_of_other_weights(capsys, monkeypatch, sd15, concept):
    from namesake.backbone import Backbone

    other = Backbone.load(sd15, device="cpu")
    other.unet.register_to_config(sample_size=8)
    for parameter in other.unet.parameters():
        parameter.data.mul_(1.1)
    monkeypatch.setattr("namesake.backbone.Backbone.load", lambda *_, **__: other)
    arguments = ["generate", "<my-cat>", "--concept", str(concept), "--count", "1", *SMALL]
    refused(capsys, *arguments, words=("--any-base",))
    assert cli.main(["show", str(concept), "--model", "other"]) == 0  # as wide, and yet another table of words
    assert "not known for other," in capsys.readouterr().out
    assert cli.main([*arguments, "--any-base"]) == 0


def test_pictures_are_written_batch_by_batch(capsys, monkeypatch, one_model, backbone, concept):
    from namesake import generate
    from namesake.edits import edited
    from namesake.sheet import contact_sheet

    monkeypatch.setattr(generate, "BATCH_ROWS", 2)
    edit, prompt = Edit.load(concept), "<my-cat> in the snow"
    arguments = ["generate", prompt, "--concept", str(concept), "--count", "5", "--steps", "2", "--size", "320"]
    wanted = [one.pixels for one in generate.generate(backbone, prompt, edit, count=5, steps=2, size=320)]
    assert cli.main([*arguments, "-o", "whole"]) == 0
    found = [np.asarray(Image.open(f"whole/my-cat-in-the-snow-{seed}.png")) for seed in range(5)]
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
    captions = [["seed 0", "seed 1", "seed 2"], ["seed 3", "seed 4"]]
    sheet = contact_sheet([wanted[:3], wanted[3:]], captions=captions, title=prompt, cell=256)
    assert np.array_equal(np.asarray(Image.open("whole/my-cat-in-the-snow-sheet.png")), np.asarray(sheet))
    monkeypatch.setattr(recipes, "SHOWN", 3)  # all are written, and so many are on the sheet
    assert cli.main([*arguments, "-o", "few"]) == 0
    sheet = contact_sheet(
        [wanted[:2], wanted[2:3]], captions=[captions[0][:2], captions[0][2:]], title=prompt, cell=256
    )
    assert np.array_equal(np.asarray(Image.open("few/my-cat-in-the-snow-sheet.png")), np.asarray(sheet))
    assert len(list(Path("few").iterdir())) == 6

    sample, done = generate._sample, []

    def stopped(*given):
        done.append(len(list(Path("part").glob("*.png"))))
        if len(done) == 3:
            raise KeyboardInterrupt
        return sample(*given)

    monkeypatch.setattr(generate, "_sample", stopped)
    assert cli.main([*arguments, "-o", "part"]) == 130
    assert done == [0, 2, 4]
    assert capsys.readouterr().err == "namesake: stopped\n"
    for seed in range(4):
        assert read_settings(f"part/my-cat-in-the-snow-{seed}.png")["seed"] == seed
    with edited(backbone, edit):  # the model is free again
        pass


def test_a_full_disk_leaves_nothing_behind(capsys, monkeypatch, one_model):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(capsys, "generate", "a cat", "--count", "1", *SMALL, words=("No space left",))


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        (KeyboardInterrupt(), 130, ("stopped",)),
        (MemoryError(), 2, ("memory",)),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 2, ("memory",)),
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), 2, ("No space left", "x.png")),
        (Refusal("No."), 2, ("No.",)),
    ],
)
def test_every_end_has_one_sentence(capsys, monkeypatch, failure, status, words):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(recipes, "show", fail)
    refused(capsys, "show", "x.safetensors", words=words, status=status)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["pretrain"], ("--accumulation", "--checkpointing", "namesake plan")),
        (["personalize", "it.png"], ("--low-memory", "--method", "namesake methods", "--model")),
        (["generate", "a cat"], ("--low-memory", "--size", "--count", "--model")),
        (["merge", "x.safetensors", "-o", "y.safetensors"], ("model",)),
    ],
)
def test_where_a_gpu_is_too_small_it_is_said_what_helps(capsys, monkeypatch, command, words):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    for name in ("pretrain", "personalize", "generate_pictures", "merge"):
        monkeypatch.setattr(recipes, name, fail)
    refused(capsys, *command, words=("not enough memory", *words))


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(recipes, "show", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        cli.main(["show", "x.safetensors"])


def test_a_reader_who_leaves_is_no_error():
    code = "import sys; from namesake.cli import main; sys.exit(main(['generate', '--help']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode != 0
    assert done.stderr == ""


def test_the_libraries_are_silent_and_the_model_is_set_once(sd15, picture, tmp_path):
    import json
    import shutil

    small = shutil.copytree(sd15, tmp_path / "mini")
    config = json.loads((small / "unet" / "config.json").read_text())
    (small / "unet" / "config.json").write_text(json.dumps({**config, "sample_size": 8}))
    environment = {**os.environ, "NAMESAKE_MODEL": str(small), "NO_COLOR": "1"}
    code = "import sys; from namesake.cli import main; sys.exit(main())"

    def said(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert said("generate", "a cat", "--count", "1", *SMALL) == "out/a-cat-0.png\n"
    told = said("personalize", str(picture), "--class", "cat", "--steps", "1").splitlines()
    assert [line.partition(":")[0] for line in told] == ["my-cat.safetensors", "Next"]


def test_bars_are_for_people(capsys, monkeypatch):
    report = cli._report()
    with report.bar("drawing") as progress:
        assert progress is None
    report.say("hidden")
    report.warn("shown <my-cat> [not markup]")
    assert capsys.readouterr().err == "namesake: shown <my-cat> [not markup]\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    report = cli._report()
    with report.bar("drawing") as progress:
        assert progress is not None
        progress(1, 2)
    report.say("shown")
    assert "drawing" in (text := capsys.readouterr().err)
    assert "shown" in text
    assert logging.root.manager.disable == 0
