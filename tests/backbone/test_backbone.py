import copy
import json
import shutil
import struct
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from minis import KINDS, write_mini
from torch import nn

from namesake.backbone import Backbone
from namesake.backbone import load as loading
from namesake.errors import Refusal
from namesake.train.examples import describe, encoded


@pytest.fixture(scope="module")
def backbones(minis: dict[str, Path]) -> dict[str, Backbone]:
    return {kind: Backbone.load(folder, device="cpu") for kind, folder in minis.items()}


@pytest.fixture
def terminal(sd21: Path, tmp_path: Path) -> Backbone:
    """SD 2.1's mini with zero terminal SNR and trailing timesteps, as the picture book has them."""
    folder = Path(shutil.copytree(sd21, tmp_path / "terminal"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "set_alpha_to_one": True}
        )
    )
    return Backbone.load(folder, device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_loads_frozen(kind: str, backbones: dict[str, Backbone]):
    backbone = backbones[kind]
    assert backbone.name == kind
    assert backbone.prediction == ("v_prediction" if kind == "sd21" else "epsilon")
    assert len(backbone.text_encoders) == len(backbone.tokenizers) == (2 if kind == "sdxl" else 1)
    assert backbone.size == (64 if kind == "sdxl" else 128)
    assert backbone.factor == 8
    assert (backbone.device.type, backbone.dtype) == ("cpu", torch.float32)
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_half_precision_files_load_as_asked(tmp_path: Path):
    folder = write_mini("sd15", tmp_path / "half", torch.float16)
    assert Backbone.load(folder, device="cpu").unet.conv_in.weight.dtype == torch.float32
    assert Backbone.load(folder, device="cpu", dtype=torch.float64).dtype == torch.float64


def test_a_folder_with_nothing_but_the_half_precision_files_loads(tmp_path: Path):
    folder = write_mini("sd15", tmp_path / "half", torch.float16)
    wanted = Backbone.load(folder, device="cpu")
    for path in list(folder.rglob("*.safetensors")):
        path.rename(path.with_suffix(".fp16.safetensors"))
    found = Backbone.load(folder, device="cpu")
    assert found.unet.conv_in.weight.dtype == torch.float32
    for part in ("unet", "vae", "text_encoder"):
        weights = getattr(wanted.pipeline, part).state_dict()
        ours = getattr(found.pipeline, part).state_dict()
        assert all(torch.equal(weight, weights[name]) for name, weight in ours.items())


def test_what_a_hub_id_has_yet_to_fetch_is_known_and_told_as_it_comes(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    folder = tmp_path / "models--me--model"
    snapshot = folder / "snapshots" / "abc"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "blobs").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    kinds = {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "scheduler": "DDIMScheduler",
        "tokenizer": "CLIPTokenizer",
    }
    index = {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None]}
    index |= {name: ["diffusers", kind] for name, kind in kinds.items()}
    name = "diffusion_pytorch_model"
    sizes = {f"unet/{name}.safetensors": 3, f"unet/{name}.fp16.safetensors": 2, f"vae/{name}.safetensors": 1}
    sizes |= {f"vae_1_0/{name}.safetensors": 1, "v1-5-pruned.safetensors": 9, "unet/config.json": 1}
    siblings = [SimpleNamespace(rfilename=name, size=size * 10**6) for name, size in sizes.items()]
    asked = []

    class Hub:
        def model_info(self, name, files_metadata):
            asked.append(name)
            return SimpleNamespace(siblings=siblings)

    def fetch(name, file):
        snapshot.mkdir(parents=True)
        (snapshot / file).write_text(json.dumps(index))
        return str(snapshot / file)

    def cached(name, file):
        return str(snapshot / file) if (snapshot / file).exists() else None

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert loading.bytes_to_fetch("me/model") == 4 * 10**6
    for part in ("unet", "vae"):
        (snapshot / part).mkdir()
        (snapshot / part / "diffusion_pytorch_model.safetensors").touch()
        assert loading.bytes_to_fetch("me/model") == (10**6 if part == "unet" else 0)
    assert asked == ["me/model"] * 2  # not once all is there
    assert loading.bytes_to_fetch("picturebook") == loading.bytes_to_fetch(tmp_path) == 0
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: 1 / 0)  # no answer
    assert loading.bytes_to_fetch("me/other") == 0
    told = []
    (folder / "blobs" / "before").write_bytes(bytes(10**6))
    with loading.arriving("me/model", 4 * 10**6, lambda *some: told.append(some)):
        (folder / "blobs" / "it.incomplete").write_bytes(bytes(2 * 10**6))
        for _ in range(200):
            if told:
                break
            time.sleep(0.05)
    assert told[0] == (2, 4)


def test_a_hub_id_loads_from_the_cache_while_offline(sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place, revision = tmp_path / "models--someone--small-model", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(sd15, place / "snapshots" / revision)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    backbone = Backbone.load("someone/small-model", device="cpu")
    assert backbone.name == "someone/small-model"
    weights = Backbone.load(sd15, device="cpu").unet.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in backbone.unet.state_dict().items())


@pytest.mark.parametrize(
    ("cuda", "ampere", "mps", "asked", "device", "dtype"),
    [
        (True, True, False, None, "cuda", torch.bfloat16),
        (True, True, True, None, "cuda", torch.bfloat16),
        (True, False, False, None, "cuda", torch.float16),
        (False, False, True, None, "mps", torch.float16),
        (False, False, False, None, "cpu", torch.float32),
        (True, True, True, "mps", "mps", torch.float16),
        (True, True, True, "cpu", "cpu", torch.float32),
    ],
)
def test_the_device_and_the_precision_suit_the_machine(
    cuda: bool,
    ampere: bool,
    mps: bool,
    asked: str | None,
    device: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    # torch counts what it imitates, unless told otherwise.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or ampere)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    tried = []
    monkeypatch.setattr(torch, "empty", lambda size, device: tried.append(device.type))  # none of them need be here
    assert loading.choose(asked, None) == (torch.device(device), dtype)
    assert loading.choose(asked, torch.float64) == (torch.device(device), torch.float64)
    monkeypatch.setenv("NAMESAKE_DTYPE", "float32")
    assert loading.choose(asked, None)[1] == torch.float32
    assert loading.choose(asked, torch.float64)[1] == torch.float64
    monkeypatch.setenv("NAMESAKE_DTYPE", "fp32")
    with pytest.raises(Refusal, match="NAMESAKE_DTYPE is 'fp32'; one of float32, bfloat16"):
        loading.choose(asked, None)
    assert tried == [device] * 5


def test_a_pipeline_is_shared_not_copied(sd15: Path):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(sd15)
    backbone = Backbone.from_pipeline(pipeline)
    assert backbone.unet is pipeline.unet
    assert backbone.tokenizers[0] is pipeline.tokenizer
    assert backbone.name == "sd15"
    pipeline.tokenizer = copy.deepcopy(pipeline.tokenizer)
    assert backbone.tokenizers[0] is pipeline.tokenizer


def test_loading_is_silent(sd15: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    folder = Path(shutil.copytree(sd15, tmp_path / "model"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps_offset": 0}))  # diffusers complains of it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = Backbone.load(folder, device="cpu")
        backbone.text(["a cat"])
        backbone.scheduler("ddim")
    assert capfd.readouterr() == ("", "")


class TestRefusals:
    def refused(self, model: str | Path, match: str):
        with pytest.raises(Refusal, match=match) as caught:
            Backbone.load(model, device="cpu")
        assert "\n" not in str(caught.value)

    def test_the_picture_book_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(loading, "files", lambda package: tmp_path)
        self.refused("picturebook", "not installed.*--model")

    def test_nothing_there(self, tmp_path: Path):
        self.refused(tmp_path / "no" / "such" / "thing", "no model")
        self.refused("no-such-name", "no model")

    def test_no_diffusers_folder(self, tmp_path: Path):
        self.refused(tmp_path, "model_index.json")

    def test_not_in_the_cache(self):
        self.refused("nobody/nothing-of-the-kind", "cannot be loaded.*HF_HUB_OFFLINE")

    def test_pickles(self, sd15: Path, tmp_path: Path):
        for name in ("model.ckpt", "model.bin", "model.pt"):
            (tmp_path / name).write_bytes(b"\x80\x04.")
            self.refused(tmp_path / name, "can run code")
        folder = Path(shutil.copytree(sd15, tmp_path / "folder"))
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        torch.save({}, weights.with_suffix(".bin"))
        weights.unlink()
        self.refused(folder, "cannot be loaded")

    @pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{", b"\x02\0\0\0\0\0\0\0{}", b"PK" * 99,
                                         b"\x05\0\0\0\0\0\0\0[[1]]", struct.pack("<Q", 10**5) + b"[" * 10**5])  # fmt: skip
    def test_damaged_checkpoints(self, content: bytes, tmp_path: Path):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        self.refused(path, "not a whole .safetensors file|holds no U-Net")

    def test_a_truncated_folder(self, sd15: Path, tmp_path: Path):
        folder = Path(shutil.copytree(sd15, tmp_path / "folder"))
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        self.refused(folder, "cannot be loaded")

    def test_other_families(self, sd15: Path, tmp_path: Path):
        from diffusers import DiffusionPipeline

        for part, key, value, match in (
            ("unet", "in_channels", 9, "inpainting"),
            ("unet", "time_cond_proj_dim", 256, "LCM"),
            ("vae", "shift_factor", 0.1, "shifts"),
            ("scheduler", "prediction_type", "sample", "predicts 'sample'"),
            ("scheduler", "rescale_betas_zero_snr", True, "pure noise"),
        ):
            pipeline = DiffusionPipeline.from_pretrained(sd15)
            getattr(pipeline, part).register_to_config(**{key: value})
            with pytest.raises(Refusal, match=match):
                Backbone.from_pipeline(pipeline)
        pipeline.text_encoder = None
        with pytest.raises(Refusal, match="without text_encoder"):
            Backbone.from_pipeline(pipeline)

    def test_a_device_that_is_not_here(self, sd15: Path):
        with pytest.raises(Refusal, match="cannot be used"):
            Backbone.load(sd15, device="no-such-device")


class TestNoise:
    @pytest.mark.parametrize("kind", ["sd15", "sd21", "terminal"])
    def test_closed_forms(self, kind: str, request: pytest.FixtureRequest, backbones: dict[str, Backbone]):
        backbone = request.getfixturevalue("terminal") if kind == "terminal" else backbones[kind]
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        root = (1 - betas).cumprod(0).sqrt()
        if kind == "terminal":  # Lin et al. 2024, algorithm 1
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        t = torch.tensor([0, 300, 998 if kind == "sd15" else 999])
        s = root[t].view(3, 1, 1, 1)
        d = (1 - s**2).sqrt()
        z, e = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
        noisy = backbone.add_noise(z, e, t)
        target = backbone.target(z, e, t)
        torch.testing.assert_close(noisy, s * z + d * e, atol=2e-4, rtol=0)
        torch.testing.assert_close(target, e if kind == "sd15" else s * e - d * z, atol=2e-4, rtol=0)

    def test_zero_terminal_snr_is_pure_noise(self, terminal: Backbone):
        z, e = torch.randn(2, 1, 4, 2, 2)
        last = torch.tensor([terminal.train_timesteps - 1])
        assert torch.equal(terminal.add_noise(z, e, last), e)
        assert torch.equal(terminal.target(z, e, last), -z)

    def test_schedulers_keep_what_the_model_needs(self, terminal: Backbone, backbones: dict[str, Backbone]):
        assert {"dpm++", "ddim", "euler", "euler-a", "unipc"} <= set(terminal.schedulers)
        assert "pndm" not in terminal.schedulers
        assert "heun" not in terminal.schedulers
        assert {"pndm", "heun", "HeunDiscreteScheduler"} <= set(backbones["sd15"].schedulers)
        for name in terminal.schedulers:
            config = terminal.scheduler(name).config
            assert config.prediction_type == "v_prediction"
            assert config.rescale_betas_zero_snr
            assert config.timestep_spacing == "trailing"
        with pytest.raises(Refusal, match=r"no-such.*dpm\+\+, "):
            terminal.scheduler("no-such")

    @pytest.mark.parametrize("name", ["dpm++", "ddim", "euler", "unipc"])
    def test_a_perfect_model_is_sampled_exactly(self, name: str, terminal: Backbone):
        """The velocity that points at one picture everywhere must lead any solver there, from pure noise on."""
        picture, solver = torch.randn(1, 4, 2, 2), terminal.scheduler(name)
        solver.set_timesteps(10)
        assert int(solver.timesteps[0]) == terminal.train_timesteps - 1
        x = torch.randn(1, 4, 2, 2) * solver.init_noise_sigma
        for t in solver.timesteps:
            scaled, row = solver.scale_model_input(x, t), t.long().view(1)
            s = terminal.add_noise(torch.ones_like(x), torch.zeros_like(x), row)
            d = (1 - s**2).sqrt()
            x = solver.step(s * (scaled - s * picture) / d - d * picture, t, x, return_dict=False)[0]
        torch.testing.assert_close(x, picture, atol=0.02, rtol=0)


class TestLatents:
    def test_mean_and_sample(self, backbones: dict[str, Backbone]):
        backbone = backbones["sdxl"]
        pictures = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
        latents = backbone.encode(pictures)
        posterior = backbone.vae.encode(pictures.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        assert latents.shape == (2, 4, 8, 12)
        assert torch.equal(latents, posterior.mean * 0.13025)
        draws = [backbone.encode(pictures, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])
        decoded = backbone.decode(latents)
        assert decoded.shape == pictures.shape
        assert decoded.dtype == torch.uint8

    def test_a_size_that_does_not_fit(self, backbones: dict[str, Backbone]):
        with pytest.raises(Refusal, match="multiples of 8"):
            backbones["sd15"].encode(torch.zeros(1, 60, 64, 3, dtype=torch.uint8))

    def test_half_precision_decodes_exactly_and_comes_back(self, sd15: Path, tmp_path: Path):
        folder = write_mini("sd15", tmp_path / "half", torch.float16)
        full, half = Backbone.load(folder, "cpu"), Backbone.load(folder, "cpu", torch.float16)
        before = {name: weight.clone() for name, weight in half.vae.state_dict().items()}
        latents = torch.randn(1, 4, 8, 8)
        assert torch.equal(full.decode(latents), half.decode(latents))
        for name, weight in half.vae.state_dict().items():
            assert weight.dtype == torch.float16
            assert torch.equal(weight, before[name])


class TestText:
    @pytest.mark.parametrize("kind", KINDS)
    def test_states_and_gradients(self, kind: str, backbones: dict[str, Backbone]):
        backbone = backbones[kind]
        text = backbone.text(["a cat", "a big red dog on the beach"])
        assert text.states.shape == (2, 77, backbone.unet.config.cross_attention_dim)
        assert (text.pooled is not None) == (kind == "sdxl")
        assert torch.equal(text.rows([1, 1, 0]).states, text.states[[1, 1, 0]])
        assert len(type(text).joined(text, text.rows([0]))) == 3
        states = text.states.clone().requires_grad_()
        output = backbone.denoise(torch.randn(2, 4, 8, 8), torch.tensor([3, 800]), type(text)(states, text.pooled))
        output.square().sum().backward()
        assert states.grad is not None
        assert (states.grad.abs().amax((1, 2)) > 0).all()

    def test_rows_of_the_u_net_are_independent(self, backbones: dict[str, Backbone]):
        backbone = backbones["sdxl"]
        text, latents = backbone.text(["a cat", "a dog"]), torch.randn(2, 4, 8, 8)
        both = backbone.denoise(latents, torch.tensor([3, 800]), text)
        torch.testing.assert_close(both[1:], backbone.denoise(latents[1:], 800, text.rows([1])), atol=1e-4, rtol=1e-4)

    def test_the_cut_off_end_is_named(self, backbones: dict[str, Backbone]):
        for kind, backbone in backbones.items():
            fits = " ".join(["cat"] * 75)
            assert backbone.truncated(fits) == "", kind
            assert backbone.truncated(fits + " red dog") == "red dog"
            with pytest.warns(UserWarning, match='does not see "red dog"'):
                cut = backbone.text([fits + " red dog"])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert torch.equal(cut.states, backbone.text([fits]).states)

    def test_sdxl_guides_away_from_zeros_or_from_words(self, backbones: dict[str, Backbone]):
        for kind, backbone in backbones.items():
            text = backbone.text(["a cat", "a dog"])
            empty = backbone.against("", text)
            assert empty.states.shape == text.states.shape
            assert empty.states.any() == (kind != "sdxl")
            assert torch.equal(backbone.against("red", text).states[0], backbone.text(["red", "red"]).states[0])


class TestWords:
    def test_any_model_has_the_whole_words_of_its_vocabulary(self, backbones: dict[str, Backbone]):
        for kind, backbone in backbones.items():
            words = backbone.real_words()
            assert {"cat", "dog", "robot", "object", "beach"} <= {word.text for word in words}
            assert all(len(word.text) >= 3 and word.text.isalpha() for word in words)
            for word in words:
                assert word.ids == tuple(tokenizer(word.text).input_ids[1] for tokenizer in backbone.tokenizers)
                assert len(word.ids) == (2 if kind == "sdxl" else 1)
            assert backbone.unknown_words("a zebra") == []

    def test_a_model_that_lists_its_words(self, sd15: Path, tmp_path: Path):
        folder = Path(shutil.copytree(sd15, tmp_path / "listed"))
        (folder / "words.json").write_text(
            json.dumps({"words": ["a", "dog", "cat", "zebra"], "guidance": 3, "kind": "drawn"})
        )
        backbone = Backbone.load(folder, device="cpu")
        assert [word.text for word in backbone.real_words()] == ["a", "dog", "cat"]  # "zebra" is several tokens
        assert backbone.unknown_words("A cat, <my-dog> & a Quokka's robot; robot") == ["quokka", "s", "robot"]
        assert (backbone.guidance, backbone.kind) == (3, "drawn")
        # Not by a name: any copy of the picture book has its settings, and no folder that is only called so.
        assert Backbone.load(device="cpu").kind == "picturebook"
        assert Backbone.load(shutil.copytree(sd15, tmp_path / "picturebook"), device="cpu").kind == ""
        (folder / "words.json").write_text("[")
        with pytest.raises(Refusal, match=r"words\.json"):
            Backbone.load(folder, device="cpu")

    def test_seeing(self, sd15: Path, tmp_path: Path):
        from diffusers import StableDiffusionPipeline
        from minis import image_encoder

        pictures = torch.randint(0, 256, (3, 48, 64, 3), dtype=torch.uint8)
        blind = Backbone.load(sd15, device="cpu")
        assert blind.see(pictures) is None
        assert blind.nearest_words(pictures, 3) is None
        pipeline = StableDiffusionPipeline.from_pretrained(sd15, image_encoder=image_encoder(32, 5))
        backbone = Backbone.from_pipeline(pipeline)
        seen = backbone.see(pictures)
        assert seen.shape == (3, 32)
        assert torch.equal(seen, backbone.see(pictures))
        near = backbone.nearest_words(pictures, 4)
        assert near == sorted(near, key=lambda pair: -pair[1])
        mean = torch.nn.functional.normalize(seen, dim=-1).mean(0)
        for word, value in near:
            ids = pipeline.tokenizer(f"a picture of a {word}", padding="max_length", return_tensors="pt").input_ids
            pooled = pipeline.text_encoder(ids).pooler_output[0]
            assert torch.cosine_similarity(mean, pooled, dim=0).item() == pytest.approx(value, abs=1e-5)
        assert len(backbone.nearest_words(pictures, 10_000)) == len(backbone.real_words())
        told = backbone.similarity(pictures, [f"a picture of a {word}" for word, _ in near])
        assert told.tolist() == pytest.approx([value for _, value in near], abs=1e-5)
        assert blind.similarity(pictures, ["a cat"]) is None
        stranger = Backbone.from_pipeline(
            StableDiffusionPipeline.from_pretrained(sd15, image_encoder=image_encoder(16, 5))
        )
        assert stranger.see(pictures).shape == (3, 16)
        assert stranger.nearest_words(pictures) is None

    def test_clip_sees_for_a_blind_model(self, sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        from minis import fill
        from transformers import CLIPConfig, CLIPModel

        from namesake.backbone import backbone as room

        backbone = Backbone.load(sd15, device="cpu")
        tokenizer = backbone.tokenizers[0]
        small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
        config = CLIPConfig(
            text_config=small | ids | {"vocab_size": len(tokenizer)},
            vision_config=small | {"image_size": 32, "patch_size": 8},
            projection_dim=24,
        )
        clip = fill(CLIPModel(config), 3).eval()
        clip.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        monkeypatch.setattr(room, "CLIP", str(tmp_path))
        pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
        (word, value), *_ = near = backbone.nearest_words(pictures, 3)
        assert len(near) == 3
        mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
        pixels = (pictures / 255 - torch.tensor(mean)) / torch.tensor(std)
        inputs = tokenizer([f"a picture of a {word}"], return_tensors="pt")
        one = clip(input_ids=inputs.input_ids, pixel_values=pixels.permute(0, 3, 1, 2))
        assert torch.cosine_similarity(one.image_embeds.mean(0), one.text_embeds[0], dim=0).item() == pytest.approx(
            value, abs=1e-5
        )

    def test_seeing_agrees_with_the_library_s_own_processor(self, sd15: Path):
        """Cropping and scaling are ours; where nothing is resized they must be the library's to the last bit or so."""
        from transformers import CLIPImageProcessor

        from namesake.backbone import backbone as room

        class Reads(torch.nn.Module):
            device, dtype = torch.device("cpu"), torch.float32
            config = type("config", (), {"image_size": 32})()

            def forward(self, pixel_values):
                return type("output", (), {"image_embeds": pixel_values.flatten(1)})()

        picture = torch.randint(0, 256, (1, 32, 46, 3), dtype=torch.uint8)
        theirs = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        wanted = theirs(picture[0].numpy(), return_tensors="pt").pixel_values.flatten(1)
        torch.testing.assert_close(room._embed(Reads(), picture, theirs), wanted, atol=1e-5, rtol=0)


@pytest.fixture
def on_a_gpu(sd15, monkeypatch):
    """A model that takes itself to be on a GPU, whose networks say where they are and of every move."""
    backbone = Backbone.load(sd15, device="cpu")
    places = {}
    moves = []

    def to(module, place):
        places[id(module)] = torch.device(place)
        moves.append((module, torch.device(place).type))

    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr(
        nn.Module, "parameters", lambda module: iter([SimpleNamespace(device=places.get(id(module), GPU))])
    )
    monkeypatch.setattr(Backbone, "device", GPU)
    return backbone, moves


GPU = torch.device("cuda")


def test_networks_come_to_the_gpu_to_work_and_leave_it(on_a_gpu):
    backbone, moves = on_a_gpu
    others = [*backbone.bystanders]
    with backbone.at_work(backbone.vae, instead=[backbone.unet]), backbone.waiting(backbone.vae):
        assert not moves  # nothing was said of memory
    hooked, more = nn.Linear(1, 1), nn.Linear(1, 1)
    hooked._hf_hook = object()  # diffusers moves it

    def work():
        with backbone.frugally(), backbone.waiting(more):
            assert moves == [(one, "cpu") for one in (*others, more)]
            del moves[:]
            with backbone.at_work(backbone.vae, hooked, instead=[backbone.unet]):
                assert moves == [(backbone.unet, "cpu"), (backbone.vae, "cuda")]
                with backbone.frugally(), backbone.at_work(backbone.vae):
                    assert backbone.bystanders == tuple(others)
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    # The inner run sent the bystander at work away and it came back for its own work; at its end all is as before it.
    assert moves[2:6] == [(backbone.vae, "cpu"), (backbone.vae, "cuda"), (backbone.vae, "cpu"), (backbone.vae, "cuda")]
    assert moves[6:8] == [(backbone.vae, "cpu"), (backbone.unet, "cuda")]
    assert moves[8:] == [(more, "cuda"), *((one, "cuda") for one in others)]
    assert not backbone.frugal


def test_what_a_frugal_run_has_loaded_comes_to_stay_when_it_works_later(on_a_gpu):
    backbone, moves = on_a_gpu
    loaded = nn.Linear(1, 1)
    loaded.to("cpu")
    del moves[:]
    with backbone.at_work(loaded):
        assert moves == [(loaded, "cuda")]
    assert moves == [(loaded, "cuda")]


def test_clip_works_in_the_place_of_the_unet(sd15, monkeypatch):
    backbone, clip, seen = Backbone.load(sd15, device="cpu"), nn.Linear(1, 1), []

    @contextmanager
    def at_work(self, *modules, instead=()):
        seen.append(([*modules], [*instead]))
        yield

    monkeypatch.setattr(Backbone, "at_work", at_work)
    monkeypatch.setattr(Backbone, "_mean_seen", lambda *_: torch.ones(4))
    monkeypatch.setattr(Backbone, "_text_embeddings", lambda _, prompts: torch.ones(len(prompts), 4))
    backbone.__dict__["_clip"] = (clip, None)
    picture = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    assert backbone.similarity(picture, ["a cat"]) is not None
    assert backbone.nearest_words(picture)
    assert seen == [([clip], [backbone.unet])] * 2
    with backbone.looking():
        assert seen[2:] == [([clip], [backbone.unet])]


def test_clip_comes_once_to_describe_some_pictures(sd15, monkeypatch):
    backbone, depth = Backbone.load(sd15, device="cpu"), [0]
    asked = []

    @contextmanager
    def looking(self):
        depth[0] += 1
        yield
        depth[0] -= 1

    monkeypatch.setattr(Backbone, "looking", looking)
    monkeypatch.setattr(
        Backbone, "similarity", lambda self, _, prompts: asked.append(depth[0]) or torch.arange(len(prompts)).float()
    )
    monkeypatch.setattr("namesake.train.examples.likeliest", lambda *_: asked.append(depth[0]) or 1)
    pictures = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    frames = describe(backbone, pictures, "cat", sides=True)
    assert asked == [1] * 6 + [0] * 3  # the U-Net, which waits while CLIP looks, finds the side
    assert len(set(frames)) == 1
    assert frames[0].startswith("{} ")


def test_where_memory_is_short_the_autoencoder_works_alone_and_on_one_picture(sd15, monkeypatch):
    backbone, seen, rows = Backbone.load(sd15, device="cpu"), [], []
    pictures = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    latents = encoded(backbone, pictures)
    whole = backbone.decode(latents)
    with monkeypatch.context() as patch:

        @contextmanager
        def at_work(self, *modules, instead=()):
            seen.append(([*modules], [*instead]))
            yield

        patch.setattr(Backbone, "at_work", at_work)
        patch.setattr(Backbone, "frugal", True)
        encode, decode = backbone.vae.encode, backbone.vae.decode
        patch.setattr(backbone.vae, "encode", lambda x: rows.append(len(x)) or encode(x))
        patch.setattr(backbone.vae, "decode", lambda x, **options: rows.append(len(x)) or decode(x, **options))
        torch.testing.assert_close(encoded(backbone, pictures), latents)
        assert (backbone.decode(latents).int() - whole.int()).abs().max() <= 1
    assert rows == [1] * 6
    assert seen == [([backbone.vae], [])] * 3 + [([backbone.vae], [backbone.unet])]


def test_off_a_gpu_nothing_is_moved(sd15, monkeypatch):
    backbone = Backbone.load(sd15, device="cpu")
    monkeypatch.setattr(nn.Module, "to", lambda *_: pytest.fail("moved"))
    with backbone.frugally(), backbone.waiting(backbone.vae), backbone.at_work(backbone.vae, instead=[backbone.unet]):
        assert not backbone.frugal


def test_bystanders_are_all_but_unet_and_text_encoders(sd15, sdxl):
    for folder in (sd15, sdxl):
        backbone = Backbone.load(folder, device="cpu")
        known = [part for part in backbone.pipeline.components.values() if isinstance(part, nn.Module)]
        rest = [part for part in known if part is not backbone.unet and part not in backbone.text_encoders]
        assert list(backbone.bystanders) == rest
        assert backbone.vae in rest
        backbone.__dict__["_clip"] = (clip := nn.Linear(1, 1), None)  # read out of the cache for a class word
        assert backbone.bystanders[-1] is clip
