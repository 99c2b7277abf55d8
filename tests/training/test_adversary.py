"""What the adversary adds to the loss, and that it learns."""

from pathlib import Path

import pytest
import torch

from mars_dist.config import AdversaryConfig
from mars_dist.dryrun import WorkCounter
from mars_dist.training.adversary import Adversary
from mars_dist.training.run import LocalRun


@pytest.fixture
def adversary(tmp_path: Path) -> Adversary:
    device = LocalRun(tmp_path).device
    torch.manual_seed(0)
    return Adversary(AdversaryConfig(weight=0.3, width=8, resolutions=2), "float32", device)


def test_its_gradient_is_a_share_of_the_reconstructions(adversary: Adversary) -> None:
    x_B1FN, y_B1FN = torch.randn(2, 1, 64, 32), torch.randn(2, 1, 64, 32, requires_grad=True)
    for size in (1.0, 1000.0):
        reconstruction = size * (y_B1FN - x_B1FN).square().mean()
        (of_reconstruction,) = torch.autograd.grad(reconstruction, y_B1FN, retain_graph=True)
        terms = adversary.terms(y_B1FN, x_B1FN, reconstruction)
        (of_adversary,) = torch.autograd.grad(terms["adversary"], y_B1FN)
        torch.testing.assert_close(of_adversary.norm(), 0.3 * of_reconstruction.norm(), rtol=0.01, atol=0)


def test_the_tokenizers_loss_does_not_teach_it(adversary: Adversary) -> None:
    y_B1FN = torch.randn(2, 1, 64, 32, requires_grad=True)
    adversary.terms(y_B1FN, torch.randn(2, 1, 64, 32), y_B1FN.square().mean())["adversary"].backward()
    assert y_B1FN.grad is not None and y_B1FN.grad.any()
    assert all(parameter.grad is None for parameter in adversary.parameters.values())


def test_a_step_takes_ten_times_what_looking_at_a_picture_takes(adversary: Adversary) -> None:
    """As sweeps count it; that it follows nothing back to the pictures that it learns from spares a little."""
    x_B1FN, y_B1FN = torch.randn(2, 1, 128, 64), torch.randn(2, 1, 128, 64, requires_grad=True)
    with WorkCounter() as look, torch.no_grad():
        adversary.discriminator(x_B1FN)
    with WorkCounter() as step:
        adversary.terms(y_B1FN, x_B1FN, y_B1FN.square().mean())["adversary"].backward()
        adversary.learn(1e-3, 2)
    assert step.work.total_flops == pytest.approx(10 * look.work.total_flops, rel=0.1)


def test_it_learns_to_tell_blurred_pictures(adversary: Adversary) -> None:
    """Made pictures that lack detail."""
    figures = {}
    for step in range(60):
        x_B1FN = torch.randn(4, 1, 64, 32, generator=torch.Generator().manual_seed(step))
        y_B1FN = torch.nn.functional.avg_pool2d(x_B1FN, 3, stride=1, padding=1).requires_grad_()
        adversary.terms(y_B1FN, x_B1FN, y_B1FN.square().mean())
        figures = adversary.learn(2e-3, 4)
    assert figures["adversary/told_apart"] > 0.95
    assert figures["adversary/loss"] < 0.5


@pytest.mark.parametrize("num_parts", [2, 3])
def test_it_learns_the_same_of_parts_and_looks_at_one_at_a_time(
    adversary: Adversary, monkeypatch: pytest.MonkeyPatch, num_parts: int
) -> None:
    """Of five pictures, so that parts differ in size."""
    x_B1FN, y_B1FN = torch.randn(5, 1, 64, 32), torch.randn(5, 1, 64, 32)
    given = {name: tensor.clone() for name, tensor in adversary.memory().items()}
    rows, look = list[int](), adversary.look
    monkeypatch.setattr(adversary, "look", lambda x, parameters: rows.append(len(x)) or look(x, parameters))
    gradients, figures = [], []
    for num in (1, num_parts):
        for name, tensor in adversary.memory().items():
            tensor.copy_(given[name])
        adversary.seen = list(zip(y_B1FN.tensor_split(num), x_B1FN.tensor_split(num), strict=True))
        rows.clear()
        step = adversary.optimizer.register_step_pre_hook(
            lambda *_: gradients.append(
                [one.grad.clone() for one in adversary.parameters.values() if one.grad is not None]
            )
        )
        figures.append(adversary.learn(1e-3, 5))
        step.remove()
    for whole, of_parts in zip(*gradients, strict=True):
        torch.testing.assert_close(of_parts, whole, rtol=1e-4, atol=1e-6)
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)
    assert max(rows) == -(-5 // num_parts)


def test_a_step_waits_for_a_gpu_once(adversary: Adversary, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read a number is to wait for all that a GPU was given before."""
    adversary.seen = [(torch.randn(2, 1, 64, 32), torch.randn(2, 1, 64, 32))]
    waits = list[str]()
    for name in ("item", "tolist", "cpu"):
        read = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, name=name, read=read: waits.append(name) or read(x))
    adversary.learn(1e-3, 2)
    assert waits == ["tolist"]


def test_nothing_is_learnt_before_it_takes_part(adversary: Adversary) -> None:
    before = {name: tensor.clone() for name, tensor in adversary.memory().items()}
    assert adversary.learn(1e-3, 4) == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in adversary.memory().items())


def test_its_memory_is_all_there_is(adversary: Adversary) -> None:
    """Another one that is given the memory goes on alike."""
    other = Adversary(adversary.config, "float32", adversary.device)
    y_B1FN, x_B1FN = torch.randn(2, 1, 64, 32, requires_grad=True), torch.randn(2, 1, 64, 32)

    def step(one: Adversary) -> None:
        one.terms(y_B1FN, x_B1FN, y_B1FN.square().mean())
        one.learn(1e-2, 2)

    step(adversary)
    for name, tensor in other.memory().items():
        tensor.copy_(adversary.memory()[name])
    step(adversary)
    step(other)
    for name, tensor in other.memory().items():
        assert torch.equal(tensor, adversary.memory()[name]), name
