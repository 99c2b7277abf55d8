"""The discriminator, and the losses by closed forms."""

import pytest
import torch
from torch import Tensor

from mars_dist.config import AdversaryConfig
from mars_dist.discriminator import (
    Discriminator,
    Features,
    discriminator_loss,
    feature_distance,
    generator_loss,
)


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(AdversaryConfig(weight=1.0, width=4, resolutions=3))


def test_each_resolution_judges_patches(discriminator: Discriminator) -> None:
    features = discriminator(torch.randn(2, 1, 64, 32))
    assert [view[-1].shape for view in features] == [(2, 1, 8, 16), (2, 1, 4, 8), (2, 1, 2, 4)]
    assert all(len(view) == 5 and view[0].shape[1] == 4 for view in features)


def test_a_picture_is_judged_by_itself(discriminator: Discriminator) -> None:
    x_B1FN = torch.randn(3, 1, 64, 32)
    together = discriminator(x_B1FN)
    for i in range(3):
        for view, whole in zip(discriminator(x_B1FN[i : i + 1]), together, strict=True):
            torch.testing.assert_close(view[-1][0], whole[-1][i])


def test_height_matters_and_time_does_not(discriminator: Discriminator) -> None:
    """The same tone an octave higher looks different, half a second later it looks alike."""

    def middle(row: int, column: int) -> Tensor:
        x_B1FN = torch.zeros(1, 1, 256, 128)
        x_B1FN[..., row : row + 4, column : column + 4] = 1
        logits: Tensor = discriminator(x_B1FN)[0][-1]
        return logits[0, 0, row // 8 - 4 : row // 8 + 4, column // 2 - 4 : column // 2 + 4]

    torch.testing.assert_close(middle(128, 40), middle(128, 80))
    assert (middle(128, 40) - middle(64, 40)).abs().max() > 1e-3


def views(*logits: Tensor) -> Features:
    return [[torch.zeros(1, 1, 1, 1), logit] for logit in logits]


def test_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([[[[0.5, 2.0]]]]), torch.tensor([[[[-3.0, 0.5]]]])
    assert discriminator_loss(views(real), views(fake)).item() == pytest.approx((0.5 + 0) / 2 + (0 + 1.5) / 2)
    assert generator_loss(views(fake, real)).item() == pytest.approx((1.25 - 1.25) / 2)


def test_feature_distance_by_hand() -> None:
    real = [[torch.tensor([[[[1.0, -3.0]]]]), torch.zeros(1)], [torch.tensor([[[[4.0]]]]), torch.zeros(1)]]
    fake = [[torch.tensor([[[[2.0, -3.0]]]]), torch.ones(1)], [torch.tensor([[[[4.0]]]]), torch.ones(1)]]
    assert feature_distance(real, fake).item() == pytest.approx((0.5 / 2 + 0) / 2)
    assert feature_distance(real, real).item() == 0
