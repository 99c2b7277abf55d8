"""The adversary beside the tokenizer: what it adds to the loss, and how it learns itself.

It is small: every worker holds all of it, and its gradients are averaged. Suffixes: B batch, F bins, N frames.
"""

import math

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils import get_total_norm

from mars_dist.config import AdversaryConfig, Precision
from mars_dist.discriminator import Discriminator, Features, discriminator_loss, feature_distance, generator_loss
from mars_dist.errors import TrainingFailed
from mars_dist.training import sharding

BETAS = (0.5, 0.9)
LARGEST_WEIGHT = 1e4


class Adversary:
    """A discriminator and its optimizer. All that it remembers is in `memory`, the same on every worker."""

    def __init__(self, config: AdversaryConfig, precision: Precision, device: torch.device) -> None:
        self.config, self.device, self.low_precision = config, device, precision == "bf16"
        self.discriminator = Discriminator(config).to(device)
        self.parameters: dict[str, Tensor] = dict(self.discriminator.named_parameters())
        self.optimizer = torch.optim.AdamW(self.parameters.values(), betas=BETAS, weight_decay=0.0, fused=True)
        for parameter in self.parameters.values():  # at once, so that there is something to checkpoint before the start
            moments = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
            self.optimizer.state[parameter] = {"step": torch.zeros((), device=device)} | moments
        self.seen: list[tuple[Tensor, Tensor]] = []

    def terms(self, y_B1FN: Tensor, x_B1FN: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """What the tokenizer's loss gets: how picture y, made after x, is judged and how its features differ.

        Weighted such that the gradient at y is `weight` times that of the reconstruction loss, over all workers
        (VQGAN's adaptive weight, arXiv 2012.09841, equation 7, taken at the picture instead of the last layer). With
        train.accumulate each part of the batch is weighted by itself.
        """
        self.seen.append((y_B1FN.detach(), x_B1FN))
        frozen = {name: parameter.detach() for name, parameter in self.parameters.items()}
        fake = self.look(y_B1FN, frozen)
        with torch.no_grad():
            real = self.look(x_B1FN, frozen)
        loss = generator_loss(fake) + self.config.feature_matching * feature_distance(real, fake)
        weight = (
            self.config.weight * gradient_norm(reconstruction, y_B1FN) / gradient_norm(loss, y_B1FN).clamp(min=1e-8)
        )
        return {"adversary": weight.clamp(max=LARGEST_WEIGHT) * loss}

    def learn(self, rate: float, num_pictures: int) -> dict[str, float]:
        """One step on the pictures that `terms` saw, so many of all workers; nothing where it has seen none."""
        if not self.seen:
            return {}
        figures_2 = torch.zeros(2, device=self.device)
        for y_B1FN, x_B1FN in self.seen:  # part after part, or train.accumulate would spare no memory here
            real, fake = self.look(x_B1FN, self.parameters), self.look(y_B1FN, self.parameters)
            share = len(y_B1FN) * sharding.num_workers() / num_pictures
            loss = share * discriminator_loss(real, fake)
            loss.backward()
            figures_2 += torch.stack([loss.detach(), share * told_apart(real, fake)])
        self.seen.clear()
        sharding.average_gradients(self.discriminator)
        # One wait for a GPU, before the optimizer's step, instead of another one after it.
        total_norm = get_total_norm(sharding.gradients_of(self.parameters.values()))
        norm, *told = torch.stack([total_norm, *figures_2]).tolist()
        if not math.isfinite(norm):  # alike on all workers
            raise TrainingFailed(f"the adversary's gradient is {norm}: try a lower --adversary.lr")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return dict(zip(("adversary/loss", "adversary/told_apart"), told, strict=True))

    def look(self, x_B1FN: Tensor, parameters: dict[str, Tensor]) -> Features:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
            features: Features = functional_call(self.discriminator, parameters, (x_B1FN,))
        return [[feature.float() for feature in view] for view in features]

    def memory(self) -> dict[str, Tensor]:
        """Weights and moments by name: the very tensors, so that loading into them is recalling."""
        remembered: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state[parameter].items()
            remembered[f"adversary.{name}"] = parameter.detach()
            remembered |= {f"adversary.{name}.{moment}": value for moment, value in moments}
        return remembered


def told_apart(real: Features, fake: Features) -> Tensor:
    """The share of judgements that are right."""
    right = [(r[-1] > 0).float().mean() + (f[-1] < 0).float().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(right).mean() / 2


def gradient_norm(loss: Tensor, y_B1FN: Tensor) -> Tensor:
    """The norm of the gradient of the loss, here a mean over pictures y, as a sum over those of all workers."""
    (gradient_B1FN,) = torch.autograd.grad(len(y_B1FN) * loss, y_B1FN, retain_graph=True)
    return sharding.sum_over_workers(gradient_B1FN.square().sum()).sqrt()
