"""Adam in one fused pass, with gradient clipping folded into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class FusedAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) over groups with their own learning rate and betas.

    One `torch._fused_adam_` call a group: the kernel behind `torch.optim.Adam(fused=True)`, called directly so
    that clipping costs no extra pass over the gradients. Averages take the memory layout of their parameter,
    which the kernel reads in raw order.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, beta1: float, beta2: float, eps: float) -> None:
        self.groups = [
            {
                "params": list(group["params"]),
                "lr_scale": float(group.get("lr_scale", 1.0)),
                "betas": tuple(group.get("betas", (beta1, beta2))),
                "eps": float(group.get("eps", eps)),
            }
            for group in groups
        ]
        self.parameters: list[Tensor] = [p for group in self.groups for p in group["params"]]
        self.averages = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Global L2 norm of all gradients: 0-dimensional, float64 sum over parameters."""
        norms = [p.grad.norm() for p in self.parameters if p.grad is not None]
        if not norms:
            return torch.zeros(())
        return torch.stack([n.double() for n in norms]).norm()

    @torch.no_grad()
    def step(self, lr: float, scale: float = 1.0) -> None:
        """One update with learning rate `lr`, the gradients multiplied by `scale` first."""
        start = 0
        for group in self.groups:
            count = len(group["params"])
            chosen = [i for i in range(start, start + count) if self.parameters[i].grad is not None]
            start += count
            if not chosen:
                continue
            inverse = None if scale == 1.0 else torch.tensor(1.0 / scale, device=self.parameters[chosen[0]].device)
            torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
                [self.parameters[i] for i in chosen],
                [_laid_out_as(self.parameters[i]) for i in chosen],
                [self.averages[i] for i in chosen],
                [self.squares[i] for i in chosen],
                [],
                [self.steps[i].add_(1) for i in chosen],
                lr=lr * group["lr_scale"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=0.0,
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=inverse,
                found_inf=None,
            )

    def state_dict(self) -> dict[str, Any]:
        """The averages and step counts, in the order of the parameters."""
        return {"averages": self.averages, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, in this optimiser's own memory layout."""
        for name, own in (("averages", self.averages), ("squares", self.squares), ("steps", self.steps)):
            for mine, saved in zip(own, state[name], strict=True):
                mine.copy_(saved)


def _laid_out_as(parameter: Tensor) -> Tensor:
    """The parameter's gradient in the parameter's memory layout."""
    assert parameter.grad is not None
    if parameter.grad.stride() == parameter.stride():
        return parameter.grad
    return torch.empty_like(parameter).copy_(parameter.grad)
