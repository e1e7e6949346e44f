import pytest
import torch

from namesake.backbone import Backbone


@pytest.fixture(scope="module")
def backbone(sd15):
    return Backbone.load(sd15, device="cpu")


@pytest.fixture(scope="module")
def pictures():
    chance = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=chance)
