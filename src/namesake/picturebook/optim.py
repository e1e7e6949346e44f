"""The optimizer of the picture book's training: torch's Muon for matrices and convolutions, AdamW for everything else.

torch's Muon takes matrices only. A convolution `[out, in, k, k]` is given to it as the matrix `[out, k * k * in]` that shares its
memory; orthogonalising does not care in which order the columns stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def _as_matrix(values: Tensor) -> Tensor:
    """A view `[out, rest]` of a matrix or of a convolution's weight, whichever memory format it has."""
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.view(values.shape[0], -1)


class MuonAndAdamW:
    """Both optimizers as one.

    Args:
        named: parameters with their names. Those of two or four axes are Muon's, except embeddings (`"embedding" in name`) and
            those whose name ends with one of `plain`, whose rows are not directions of one map.
        lr_matrix: rate of Muon, scaled so that its steps have AdamW's usual size (`match_rms_adamw`).
        lr_rest: rate of AdamW.
        plain: endings of names that AdamW takes although they are matrices, e.g. the first and the last convolution.
        gentle: prefixes of names whose every parameter AdamW takes at `lr_gentle`.
        ns_steps: Newton-Schulz iterations of Muon.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        lr_matrix: float,
        lr_rest: float,
        plain: tuple[str, ...] = (),
        gentle: tuple[str, ...] = (),
        lr_gentle: float = 0.0,
        ns_steps: int = 5,
    ) -> None:
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        slow: list[nn.Parameter] = []
        for name, parameter in named:
            if not parameter.requires_grad:
                continue
            if gentle and name.startswith(gentle):
                slow.append(parameter)
            elif parameter.ndim in (2, 4) and "embedding" not in name and not (plain and name.endswith(plain)):
                matrices.append(parameter)
            else:
                rest.append(parameter)
        self._matrices = matrices
        self._views = [nn.Parameter(_as_matrix(p.data)) for p in matrices]
        self._muon = torch.optim.Muon(
            self._views,
            lr=lr_matrix,
            weight_decay=0.01,
            momentum=0.95,
            ns_steps=ns_steps,
            adjust_lr_fn="match_rms_adamw",
        )
        groups: list[dict[str, Any]] = [{"params": rest, "lr": lr_rest}]
        if slow:
            groups.append({"params": slow, "lr": lr_gentle})
        self._adamw = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
        self._base = [[group["lr"] for group in o.param_groups] for o in (self._muon, self._adamw)]

    def step(self, factor: float = 1.0) -> None:
        """One step at `factor` times the base rates; gradients are cleared."""
        for optimizer, rates in zip((self._muon, self._adamw), self._base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        for parameter, view in zip(self._matrices, self._views, strict=True):
            if parameter.grad is not None:
                view.grad = parameter.grad.reshape(view.shape) if parameter.ndim == 2 else self._grad(parameter, view)
        self._muon.step()
        self._adamw.step()
        for parameter in (*self._matrices, *(p for g in self._adamw.param_groups for p in g["params"])):
            parameter.grad = None

    @staticmethod
    def _grad(parameter: nn.Parameter, view: nn.Parameter) -> Tensor:
        grad = parameter.grad
        assert grad is not None
        if parameter.data.is_contiguous(memory_format=torch.channels_last):
            grad = grad.permute(0, 2, 3, 1)
        return grad.reshape(view.shape)

    def state_dict(self) -> dict[str, Any]:
        """The state of both, for a checkpoint."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's state."""
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])
