"""Muon: an optimizer for the weight matrices of hidden layers."""

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor, nn

from synergic.hardware import pick_precision


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is made orthogonal before every step, so that all its directions are learnt alike.

    K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024
    (kellerjordan.github.io/posts/muon). Steps are as long as AdamW's, so that both take one learning rate
    (J. Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, equation 4). A convolution is the matrix of
    its output channels by everything else.

    torch.optim.Muon takes no convolutions and works through one matrix at a time; here all of a shape are one product.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        """matrices: parameters of 2 dimensions or more. momentum: share of the past in the (Nesterov) average."""
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "this optimizer takes no closure"
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for parameters in alike.values():
                self.move(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def move(self, parameters: list[Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        """One step of parameters of one shape."""
        directions = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            average = state["momentum"]
            average.lerp_(gradient, 1 - momentum)
            directions.append(gradient.lerp(average, momentum).flatten(1))
        steps = orthogonalized(torch.stack(directions))
        lr_of_shape = lr * 0.2 * max(steps.shape[1:]) ** 0.5
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.mul_(1 - lr * weight_decay).sub_(step.view_as(parameter), alpha=lr_of_shape)


def orthogonalized(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices N R C with the same singular vectors and singular values near 1 (0.7-1.2), by Newton-Schulz in bfloat16,
    or in float32 where that is faster.

    Jordan et al.'s quintic: each singular value s becomes 3.4445 s - 4.7750 s^3 + 2.0315 s^5 in each iteration.
    """
    x = matrices.to(fast_precision(matrices.device))
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(iterations):
        square = x @ x.mT  # N R R
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).to(matrices)


@cache
def fast_precision(device: torch.device) -> torch.dtype:
    """As `pick_precision` has it, asked once and not at every step: Linux takes its time to describe many cores."""
    return pick_precision("auto", device)
