"""Which base model an edit belongs to: its sketch, and the check before an edit is put on."""

import math
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from namesake.edits.kinds import About, Edit, Editable, LowRankEdit, Site, TokenEdit, WeightEdit
from namesake.errors import Refusal

TENSORS, VALUES = 64, 16  # 1,024 values: 16 of each of 64 tensors
TOLERANCE = 0.005


def sketch(backbone: Editable) -> Float[Tensor, "1024"]:
    """1,024 strided values of 64 named tensors, taken without edits, in fp32 on the CPU.

    48 matrices and convolutions of the U-Net and 16 of the text encoders, at even strides through the sorted names; 16
    values of each at even strides. So it is the same for every file form, and costs nothing to read.
    """
    from namesake.edits.mount import bypassed

    share = 16 // len(backbone.text_encoders)
    values: list[Tensor] = []
    with torch.no_grad(), bypassed(backbone):
        for module, count in (
            (backbone.unet, TENSORS - share * len(backbone.text_encoders)),
            *((encoder, share) for encoder in backbone.text_encoders),
        ):
            values.append(strided_values(module, count))
    return torch.cat(values)


def strided_values(module: nn.Module, count: int) -> Float[Tensor, "_n"]:
    """16 values of each of `count` matrices and convolutions of a module, at even strides, in fp32 on the CPU."""
    values: list[Tensor] = []
    named = sorted(module.named_parameters(), key=lambda pair: pair[0])
    tensors = [tensor.detach() for _, tensor in named if tensor.ndim >= 2]
    for tensor in (tensors[place] for place in _strided(len(tensors), count)):
        if tensor.is_meta:
            raise Refusal(
                "The model's weights are offloaded and cannot be compared with the concept's base; "
                "load the model without sequential offloading."
            )
        places = torch.tensor(list(_strided(tensor.numel(), VALUES)), device=tensor.device)
        values.append(tensor.flatten()[places].float().cpu())
    return torch.cat(values)


def _strided(length: int, count: int) -> Iterator[int]:
    return (place * length // count for place in range(count))


def same_base(one: Float[Tensor, "N"], other: Float[Tensor, "N"]) -> bool:
    """Whether two sketches are of one base.

    Each tensor's 16 values are compared by their relative distance; the root mean square over the tensors must stay
    below 0.5 %. Rounding to bf16 makes 0.17 %, to fp16 0.02 %. Tensor by tensor, because a model whose text encoder
    alone was tuned must show.
    """
    a, b = one.double().view(-1, VALUES), other.double().view(-1, VALUES)
    size = torch.maximum(a.norm(dim=1), b.norm(dim=1))
    distance = torch.where(size > 0, (a - b).norm(dim=1) / size.clamp(min=torch.finfo(size.dtype).tiny), size)
    return distance.square().mean().sqrt().item() < TOLERANCE


def now() -> str:
    """The time, in UTC, as a concept says when it was made."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def about(backbone: Editable, method: str, class_word: str | None = None, **settings: Any) -> About:
    """The About of an edit made now by `method` on this backbone; `settings` say how, in values that JSON can hold."""
    versions = {name: metadata.version(name) for name in ("namesake", "torch", "diffusers", "transformers")}
    base = None if getattr(backbone, "hollow", False) else sketch(backbone)
    return About(method, class_word, backbone.name, base, versions, now(), settings)


def number(value: Tensor) -> float:
    """The value of a tensor of one element; 1 on the meta device, where only shapes are counted."""
    return 1.0 if value.is_meta else float(value)


def check_base(edit: Edit, backbone: Editable, any_base: bool = False) -> None:
    """Refuse an edit of another architecture, always, and one of other weights of the same unless `any_base`."""
    made_on = f"a concept made on {edit.about.base}" if edit.about.base else "this concept"
    what = f"The model {backbone.name} has another architecture than {made_on} needs"
    widths = tuple(embedding(encoder).shape[1] for encoder in backbone.text_encoders)
    for token in edit.of(TokenEdit):
        wanted = tuple(vectors.shape[-1] for vectors in token.vectors)
        if wanted != widths:
            raise Refusal(
                f"{what}: its words are {_list(widths)} wide, the concept's {_list(wanted)}; use the "
                "concept with its own base model."
            )
    sites = sites_at(backbone, {path for low in edit.of(LowRankEdit) for path in low.factors})
    for low in edit.of(LowRankEdit):
        for path, (down, up) in low.factors.items():
            site = sites.get(path)
            if site is None:
                raise Refusal(f"{what}: it has no site {path}; use the concept with its own base model.")
            if (down.shape[-1], up.shape[-2]) != (site.in_dim, site.out_dim):
                raise Refusal(
                    f"{what}: {path} is {site.in_dim} to {site.out_dim} wide, the concept's offset "
                    f"{down.shape[-1]} to {up.shape[-2]}; use the concept with its own base model."
                )
    for whole in edit.of(WeightEdit):
        for name, weight in whole.weights.items():
            module, parameter = owner(backbone, name) or (None, "")
            shape = module._parameters[parameter].shape if module is not None else None  # type: ignore[union-attr]
            if shape != weight.shape:
                found = "it has no such parameter" if shape is None else f"there it is {tuple(shape)}"
                raise Refusal(
                    f"{what}: the concept's {name} is {tuple(weight.shape)}, {found}; use the concept with "
                    "its own base model."
                )
    if edit.about.sketch is not None and not any_base and not same_base(edit.about.sketch, sketch(backbone)):
        raise Refusal(
            f"The weights of {backbone.name} differ from those of {edit.about.base or 'the base'}, on which "
            "the concept was made; load that model, or allow any base of this architecture (--any-base)."
        )


def embedding(encoder: nn.Module) -> Tensor:
    """The table of a text encoder's token embedding, `[vocabulary, width]`."""
    return encoder.get_input_embeddings().weight  # type: ignore[operator]


def layer_sites(backbone: Editable) -> dict[str, Site]:
    """The sites outside the attentions by path: every other linear map and convolution of the U-Net whose weight is one
    matrix."""
    inside = {site.path for site in backbone.sites}
    roles: dict[type, str] = {nn.Linear: "linear", nn.Conv2d: "convolution"}
    sites = {}
    for path, layer in backbone.unet.named_modules():
        if path in inside or type(layer) not in roles or getattr(layer, "groups", 1) != 1:
            continue
        shape = layer.weight.shape
        sites[path] = Site(path, roles[type(layer)], math.prod(shape[1:]), shape[0])
    return sites


def text_sites(backbone: Editable) -> dict[str, Site]:
    """The attention projections of the text encoders by path: "text_encoder.encoder.layers.0.self_attn.q_proj", ..."""
    sites = {}
    for room, encoder in text_rooms(backbone).items():
        for name, layer in encoder.named_modules():
            if type(layer) is nn.Linear and ".self_attn." in name:
                path = f"{room}.{name.removeprefix('text_model.')}"
                sites[path] = Site(path, "text", layer.in_features, layer.out_features)
    return sites


def sites_at(backbone: Editable, paths: Collection[str]) -> dict[str, Site]:
    """The sites of a model by path: the U-Net's attention projections, and where these do not hold all of `paths` those
    outside the attentions and those of the text encoders too."""
    inside = {site.path: site for site in backbone.sites}
    return inside if inside.keys() >= set(paths) else inside | layer_sites(backbone) | text_sites(backbone)


def layer_at(backbone: Editable, path: str) -> nn.Module:
    """The module at a site's path."""
    found = owner(backbone, f"{path}.weight") if path.startswith("text_encoder") else None
    return backbone.unet.get_submodule(path) if found is None else found[0]


def text_rooms(backbone: Editable) -> dict[str, nn.Module]:
    """The text encoders by the first part of a name: "text_encoder", "text_encoder_2"."""
    return {f"text_encoder_{number}".removesuffix("_1"): e for number, e in enumerate(backbone.text_encoders, 1)}


def owner(backbone: Editable, name: str) -> tuple[nn.Module, str] | None:
    """The module that holds the parameter `name` ("unet.<parameter>", ...) and its name there, or None.

    transformers before 5.6 nests `CLIPTextModel` in `text_model`; the name is found in both forms.
    """
    room, _, path = name.partition(".")
    root = {"unet": backbone.unet, **text_rooms(backbone)}.get(room)
    if root is None:
        return None
    for form in (path, f"text_model.{path}", path.removeprefix("text_model.")):
        where, _, parameter = form.rpartition(".")
        try:
            module = root.get_submodule(where)
        except AttributeError:
            continue
        if module._parameters.get(parameter) is not None:
            return module, parameter
    return None


def _list(numbers: tuple[int, ...]) -> str:
    return " and ".join(map(str, numbers))
