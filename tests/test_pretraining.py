"""Pre-training as a user starts it, and personalizing with what comes of it."""

import functools
import json
import os
import signal
import warnings
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from minis import Pool, clip_model
from PIL import Image
from safetensors.torch import load_file

from namesake import generate, recipes
from namesake.backbone import Backbone
from namesake.data.sources import Mixture
from namesake.errors import Refusal
from namesake.methods.date import Date, DateEncoder, read_note
from namesake.picturebook import dataset


@pytest.fixture(scope="module")
def backbone():
    return Backbone.load(device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The picture book's recipe on six drawings, two steps."""
    folder = tmp_path_factory.mktemp("run")
    recipe = recipes.pretrain_recipes()["picturebook"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "ProcessPoolExecutor", Pool)
        patch.setattr(recipes, "pretrain_recipes", lambda: {"picturebook": replace(recipe, drawings=6)})
        patch.setattr(generate, "generate", functools.partial(_quick, generate.generate))
        path = recipes.pretrain("picturebook", steps=2, batch=2, output=folder)
    return path


def _quick(original, *args, **options):
    return original(*args, **{**options, "steps": 1})


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "it.png"
    Image.fromarray(dataset.Drawings("tuning", seed=1, scenes="easy")[3][0].picture).save(path)
    return path


def test_the_recipe_of_the_picture_book_runs_from_drawings_to_a_file(made, backbone):
    folder = made.parent
    assert made.stat().st_size < 6 * 2**20
    encoder = DateEncoder.load(made, backbone)
    assert sum(p.numel() for p in encoder.parameters()) <= 3_000_000
    note = read_note(made)["trained"]
    assert (note["recipe"], note["steps"], note["batch"], note["data"]) == ("picturebook", 2, 2, ["picturebook"])
    pictures = np.load(folder / "drawings" / "0000.npy")
    held_out = dataset.Drawings("training", dataset.seen(), seed=4, cut=True)
    assert len(pictures) == 6
    assert all(np.array_equal(picture, held_out[i][0].picture) for i, picture in enumerate(pictures))
    assert [json.loads(line)["step"] for line in (folder / "curve.jsonl").read_text().splitlines()] == [2]
    sheets = sorted(folder.glob("previews/*.png"))
    assert [sheet.name for sheet in sheets] == ["00000000.png", "00000002.png"]
    wide, tall = Image.open(sheets[0]).size
    assert wide > tall  # four pictures, and five of each: itself, its reconstruction, three prompts


def test_the_recipe_of_views_trains_on_what_they_say(backbone, tmp_path, monkeypatch):
    recipe, asked = recipes.pretrain_recipes()["picturebook-views"], []
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(recipes, "pretrain_recipes", lambda: {"picturebook-views": replace(recipe, drawings=4)})
    monkeypatch.setattr(recipes, "_previews", lambda *_: None)
    text = Backbone.text
    monkeypatch.setattr(Backbone, "text", lambda self, said, *rest: asked.append(said) or text(self, said, *rest))
    path = recipes.pretrain("picturebook-views", steps=1, batch=2, output=tmp_path)
    captions = json.loads((tmp_path / "drawings" / "0000.json").read_text())
    said = [prompt for prompts in asked for prompt in prompts if "<it>" in prompt]
    assert said
    assert set(said) <= {caption.format("<it>") for caption in captions}
    assert path.stat().st_size < 6 * 2**20
    assert sum(p.numel() for p in DateEncoder.load(path, backbone).parameters()) <= 3_000_000


def test_personalizing_uses_the_encoder_at_hand_and_says_which(made, backbone, picture, monkeypatch):
    said, warned = [], []

    class Told(recipes.Report):
        def say(self, sentence):
            said.append(sentence)

        def warn(self, sentence):
            warned.append(sentence)

    def method(**options):
        said.clear()
        warned.clear()
        edit = recipes.personalize([picture], model=backbone, steps=0, report=Told(), **options).edit
        return edit.about.method, edit.placeholders[0], "".join(said)

    monkeypatch.setattr(recipes, "shipped_encoder", lambda recipe="": made.with_name("none"))
    assert method(class_word="cat")[::2] == (
        "cold start",
        'starting cold, without an encoderthe word began as "orange cat", as the picture looks',
    )
    name, word, sentence = method(encoder=str(made))
    assert (name, sentence) == ("DATE", "starting from the encoder's prediction")
    (guess,) = warned
    assert guess.startswith('The picture is taken for "')
    assert guess.endswith("say better with --class.")
    assert word.startswith("<my-")
    assert word.strip("<>").removeprefix("my-") in [known.text for known in backbone.real_words()]
    assert method(encoder=str(made), word="<it-is>")[1] == "<it-is>"
    assert method(encoder=str(made), class_word="red cat")[1] == "<my-red-cat>"
    assert not warned
    monkeypatch.setattr(recipes, "shipped_encoder", lambda recipe="": made)
    assert method()[0] == "DATE"
    assert method(encoder="picturebook", class_word="cat")[0] == "DATE"  # the shipped one of a recipe
    assert method(encoder="none", class_word="cat")[0] == "cold start"
    for nobody in ("nobody/nothing", "no-recipe"):
        with pytest.raises(Refusal, match=f"no encoder '{nobody}'"):
            method(encoder=nobody)


def test_a_strip_begins_at_the_encoders_prediction(made, backbone, picture, tmp_path, monkeypatch):
    drawn = []

    def quick(original, _, prompts, edit, **options):
        drawn.append(prompts)
        return original(_, prompts, edit, **options, steps=1)

    monkeypatch.setattr(generate, "generate", functools.partial(quick, generate.generate))
    done = recipes.personalize(
        [picture],
        model=backbone,
        encoder=str(made),
        word="<it-is>",
        class_word="cat",
        steps=1,
        strip=True,
        output=tmp_path,
    )
    assert done.edit.about.method == "DATE"
    assert drawn == [["a picture of <it-is>"]] * 2  # the prediction, and after a step
    assert done.strip == tmp_path / "it-is-strip.png"
    with Image.open(done.strip) as sheet:
        assert sheet.width > sheet.height


@pytest.mark.parametrize("recipe", ["picturebook-views", "picturebook"])
def test_a_shipped_encoder_is_that_of_its_recipe_and_fits_the_shipped_model(recipe):
    encoder = recipes.encoder_of(Backbone.load("picturebook", device="cpu"), recipe, recipes.Report())
    assert encoder.settings == replace(recipes.pretrain_recipes()[recipe].encoder, image_encoder="own")
    assert sum(p.numel() for p in encoder.parameters()) <= 3_000_000
    assert recipes.shipped_encoder(recipe).stat().st_size <= 6 * 2**20


def test_a_shipped_encoder_of_other_weights_is_left_aside(made, backbone, monkeypatch):
    monkeypatch.setattr(recipes, "shipped_encoder", lambda recipe="": made)
    monkeypatch.setattr("namesake.methods.date.same_base", lambda one, other: False)
    with pytest.warns(UserWarning, match="starts cold"):
        assert recipes.encoder_of(backbone, None, recipes.Report()) is None
    with pytest.raises(Refusal, match="was made for"):
        recipes.encoder_of(backbone, str(made), recipes.Report())


def test_the_recipes_are_those_of_the_paper_and_of_the_picture_book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = recipes.pretrain_recipes()
    assert {name: one.plan.steps for name, one in found.items() if name.startswith("sd")} == {
        **dict.fromkeys(("sd15", "sd21", "sdxl"), 150_000),
        **dict.fromkeys(("sd15-50k", "sd21-50k", "sdxl-50k"), 50_000),
    }
    assert {name for name, one in found.items() if one.plan.checkpointing} == {n for n in found if n.startswith("sd")}
    assert all(one.plan.rate == 1e-4 for name, one in found.items() if name.startswith("sd"))
    with pytest.raises(Refusal, match="no recipe 'sd3'"):
        recipes.pretrain("sd3")
    with pytest.raises(Refusal, match="needs pictures"):
        recipes.pretrain("sd15")
    with pytest.raises(Refusal, match="steps"):
        recipes.pretrain("picturebook", steps=0)
    for given, told in (
        ({"rank": "many"}, "setting rank is 'many'; a whole number"),
        ({"rank": 65}, "rank is 65"),
        ({"decay": 2}, "decay of the run is 2"),
        ({"ranks": 3}, "no setting 'ranks'"),
        ({"named": "perhaps"}, "true or false"),
    ):
        with pytest.raises(Refusal, match=told):
            recipes.pretrain("picturebook", settings=given)
    with pytest.raises(Refusal, match="no model"):
        recipes.pretrain("picturebook", model="./nobody", output="new/run")
    assert not any(tmp_path.iterdir())


def test_settings_of_an_encoder_and_its_run_can_be_others(backbone, tmp_path, monkeypatch):
    recipe = recipes.pretrain_recipes()["picturebook"]
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(recipes, "pretrain_recipes", lambda: {"picturebook": replace(recipe, drawings=4)})
    monkeypatch.setattr(recipes, "_previews", lambda *_: None)
    given = {"regularizer": "norm", "rank": "2", "named": "False", "temperature": "0.1", "decay": "0.05"}
    path = recipes.pretrain("picturebook", steps=1, batch=2, settings=given, output=tmp_path)
    wanted = replace(recipe.encoder, regularizer="norm", rank=2, named=False, temperature=0.1)
    assert DateEncoder.load(path, backbone).settings == replace(wanted, image_encoder="own")
    checkpoint = torch.load(next(tmp_path.glob("checkpoint-*.pt")), weights_only=True)
    assert json.loads(checkpoint["settings"])["decay"] == 0.05


def test_a_data_set_becomes_shards(tmp_path):
    for number in range(3):
        Image.new("RGB", (40, 30), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
    assert recipes.shards(f"folder:{tmp_path}", tmp_path / "out", size=32) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        makers, weights = recipes._sources([f"shards:{tmp_path / 'out'}@2", "picturebook@0.5"])
        source, drawn = (make(16) for make in makers)
    assert (len(source), weights, source[2].shape) == (3, [2.0, 0.5], (16, 16, 3))
    assert (drawn.name, drawn[5].shape) == ("picturebook", (16, 16, 3))
    assert recipes._sources(["picturebook", f"folder:{tmp_path}"])[1] is None
    with pytest.raises(Refusal, match="no number"):
        recipes._sources(["picturebook@half"])
    with pytest.raises(Refusal, match="1 of 2 --data have a weight"):
        recipes._sources(["picturebook@2", f"folder:{tmp_path}"])
    assert recipes.shards(f"folder:{tmp_path}", tmp_path / "out", size=32) == 3  # all there
    with pytest.raises(Refusal, match="shards of other pictures"):
        recipes.shards(f"folder:{tmp_path}", tmp_path / "out", size=16)
    (tmp_path / "others").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30)).save(tmp_path / "others" / f"{number}.png")
    with pytest.raises(Refusal, match="shards of other pictures"):
        recipes.shards(f"folder:{tmp_path / 'others'}", tmp_path / "out", size=32)
    for data in (f"shards:{tmp_path / 'out'}", f"folder:{tmp_path}@2"):
        with pytest.raises(Refusal, match="is to become shards"):
            recipes.shards(data, tmp_path / "other")
    with pytest.raises(Refusal, match="need no shards; imagenet:DIR"):
        recipes.shards("picturebook", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def _four_kinds(root):
    """Tiny data sets of all four kinds, as `--data` names them; one picture of a folder is broken."""
    chance = np.random.default_rng(0)

    def picture(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(place)

    for number in range(3):
        picture(root / f"folder/{number}.png")
        picture(root / f"imagenet/train/n0144076{number}/n0144076{number}_1.JPEG")
        picture(root / f"openimages/train/{number:016x}.jpg")
    (root / "folder/1.png").write_bytes((root / "folder/1.png").read_bytes()[:300])
    columns = "ImageID,XMin,XMax,YMin,YMax,IsGroupOf,IsDepiction,IsInside"
    rows = "".join(f"{number:016x},0.1,0.8,0.2,0.9,0,0,0\n" for number in range(3))
    (root / "openimages/train-annotations-bbox.csv").write_text(f"{columns}\n{rows}")
    recipes.shards(f"imagenet:{root / 'imagenet'}", root / "shards", size=64)
    return [f"{kind}:{root / kind}@1" for kind in ("folder", "shards", "imagenet", "openimages")]


class _Stopped(recipes.Report):
    """Ctrl-C in the third step."""

    def warn(self, sentence): ...

    @contextmanager
    def bar(self, title):
        yield lambda done, total: os.kill(os.getpid(), signal.SIGINT) if done == 2 else None


def test_stable_diffusion_is_pre_trained_on_all_kinds_of_data_and_taken_up_to_the_same_bytes(
    sd15, tmp_path, monkeypatch
):
    monkeypatch.setattr(recipes, "_previews", lambda *_: None)
    monkeypatch.setattr("namesake.train.pretrain._estimate", lambda *_: None)
    clip_model(4).save_pretrained(tmp_path / "clip")
    settings = Date(base_word="thing", width=32, blocks=0, layers=1, rank=1, image_encoder=str(tmp_path / "clip"))
    small = replace(recipes.pretrain_recipes()["sd15"], encoder=settings)
    monkeypatch.setattr(recipes, "pretrain_recipes", lambda: {"sd15": small})
    data, seen, read = _four_kinds(tmp_path), set(), Mixture.read

    def noted(self, rows):
        seen.update(self.pick(row)[0] for row in rows)
        return read(self, rows)

    def run(name, workers, **options):
        how = {"model": sd15, "steps": 4, "batch": 4, **options}
        path = recipes.pretrain("sd15", data=data, workers=workers, output=tmp_path / name, **how)
        (checkpoint,) = (tmp_path / name).glob("checkpoint-*.pt")
        return load_file(path), torch.load(checkpoint, weights_only=True)

    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "read", noted)
        whole, end = run("whole", workers=0)
    assert seen == {0, 1, 2, 3}
    assert end["skipped"] > 0
    with pytest.raises(KeyboardInterrupt):  # with the encoder written
        run("parts", workers=2, report=_Stopped())
    left = {path.name for path in (tmp_path / "parts").iterdir()}
    assert {"checkpoint-00000003.pt", "encoder.safetensors"} <= left
    again, other = run("parts", workers=1, resume=True)
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    for part in ("step", "skipped", "settings"):
        assert end[part] == other[part]
    for part in ("module", "optimizer", "average"):
        torch.testing.assert_close(end[part], other[part], rtol=0, atol=0)
    data[0] = data[0].replace("@1", "@2")
    with pytest.raises(Refusal, match=r"weights \[1.0, 1.0, 1.0, 1.0\] and now \[2.0, 1.0, 1.0, 1.0\]"):
        run("parts", workers=0, resume=True)


@pytest.mark.parametrize(
    ("kind", "pays", "dtype"), [("cuda", True, None), ("cuda", False, torch.float32), ("mps", False, torch.float32)]
)
def test_gradients_pass_through_no_fp16(kind, pays, dtype, tmp_path, monkeypatch):
    def load(model, **options):
        assert options == {"device": torch.device(kind), "dtype": dtype}
        raise Refusal("Enough.")

    here = SimpleNamespace(device=torch.device(kind), num_processes=1, is_main_process=True)
    monkeypatch.setattr("namesake.train.pretrain.launched", lambda *_: here)
    monkeypatch.setattr("namesake.machine.bf16_pays", lambda asked: pays and asked == kind)
    monkeypatch.setattr(Backbone, "load", load)
    with pytest.raises(Refusal, match="Enough"):
        recipes.pretrain("picturebook", output=tmp_path)


def test_what_is_wrong_is_found_before_anything_is_loaded_or_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(Backbone, "load", None)
    (tmp_path / "checkpoint-00000002.pt").touch()
    for wrong, match in (
        ({"batch": 30, "accumulation": 4}, "multiple of 4"),
        ({"workers": -1}, "workers"),
        ({"rate": 2.0}, "rate of the run is 2.0"),
        ({"data": ["coco:here"]}, "not understood"),
        ({"recipe": "picturebook-views", "data": ["picturebook"]}, "two drawings of each concept"),
        ({"output": tmp_path}, "holds a run already"),
    ):
        with pytest.raises(Refusal, match=match):
            recipes.pretrain(**{"recipe": "picturebook", "output": tmp_path / "new", **wrong})
