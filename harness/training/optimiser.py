"""Adam with gradient clipping, decoder projection and renormalisation folded into two passes over the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..threads.side_by_side import side_by_side
from .kernels import normalise_rows_
from .sparse_ops import native_ops

_CHUNK_BYTES = 2**21
"""Decoder rows taken at a time: parameter, gradient and both averages of a chunk stay in the cache between the
operations on them. From 1 to 4 MiB the time is the same; the whole matrix at once costs the projection half as
much again."""


class FusedAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) over groups with their own learning rate and betas.

    Matrices go through the compiled kernels of `native` where numba is installed. All else through one
    `torch._fused_adam_` call a group: the kernel behind `torch.optim.Adam(fused=True)`, called directly so that
    clipping costs no extra pass over the gradients. Averages take the memory layout of their parameter.

    The rows of `unit_rows` (a decoder [d_sae, d_in], one of the parameters) are kept at norm 1: `gradient_norm` first
    takes from their gradient the part along the row, and `step` rescales the rows. Both work through the matrix in
    pieces that stay in the cache.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        beta1: float,
        beta2: float,
        eps: float,
        unit_rows: Tensor | None = None,
    ) -> None:
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
        self.unit_rows = unit_rows

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Global L2 norm of all gradients, those of `unit_rows` projected: 0-dimensional, float64 over parameters.

        To be called once a step, before `step`: it edits the gradient of `unit_rows`.
        """
        norms, pieces = list[Tensor](), list[tuple[Tensor, ...]]()
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            given = (parameter.grad, parameter) if parameter is self.unit_rows else (parameter.grad,)
            if (rows := _compiled_rows(given)) is not None:
                pieces += _pieces(*rows)
            elif len(given) == 2:
                norms += side_by_side(lambda p: remove_parallel_(p[1], p[0]).double(), _pieces(*given))
            else:
                norms.append(parameter.grad.norm().double())
        if pieces and (native := native_ops()):
            squares = side_by_side(lambda piece: native.gradient_squares(*piece), pieces)
            norms.append(torch.tensor(squares, dtype=torch.float64).sum().sqrt())
        return torch.stack(norms).norm() if norms else torch.zeros(())

    @torch.no_grad()
    def step(self, lr: float, scale: float = 1.0) -> None:
        """One update with learning rate `lr`, the gradients multiplied by `scale` first; rescales `unit_rows`."""
        start, compiled = 0, list[Callable[[], None]]()
        for group in self.groups:
            count = len(group["params"])
            chosen = [i for i in range(start, start + count) if self.parameters[i].grad is not None]
            start += count
            for i in chosen:
                self.steps[i].add_(1)
            rows = {i: _compiled_rows(self._tensors(i)) for i in chosen}
            for i, tensors in rows.items():
                if tensors is not None:
                    update = partial(self._update_compiled, i, group, lr, scale)
                    compiled += [partial(update, piece) for piece in _pieces(*tensors)]
            left = [i for i in chosen if rows[i] is None]
            whole = [i for i in left if self.parameters[i] is not self.unit_rows]
            self._update([self._tensors(i) for i in whole], [self.steps[i] for i in whole], group, lr, scale)
            for i in set(left).difference(whole):
                side_by_side(partial(self._update_unit_rows, i, group, lr, scale), _pieces(*self._tensors(i)))
        side_by_side(_call, compiled)
        if self.unit_rows is not None and self.unit_rows.grad is None:
            normalise_rows_(self.unit_rows)

    def _update_compiled(
        self, i: int, group: dict[str, Any], lr: float, scale: float, piece: tuple[Tensor, ...]
    ) -> None:
        native = native_ops()
        assert native is not None
        native.adam(
            *piece,
            lr=lr * group["lr_scale"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            step=int(self.steps[i]),
            scale=scale,
            unit_rows=self.parameters[i] is self.unit_rows,
        )

    def _update_unit_rows(
        self, i: int, group: dict[str, Any], lr: float, scale: float, piece: tuple[Tensor, ...]
    ) -> None:
        self._update([piece], [self.steps[i]], group, lr, scale)
        normalise_rows_(piece[0])

    def _tensors(self, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tensors = self.parameters[i], _laid_out_as(self.parameters[i]), self.averages[i], self.squares[i]
        if self.parameters[i].ndim == 2 and not self.parameters[i].is_contiguous():
            # The same memory in its own order: the kernel would copy tensors that are not contiguous.
            return tensors[0].t(), tensors[1].t(), tensors[2].t(), tensors[3].t()
        return tensors

    def _update(
        self, tensors: Sequence[tuple[Tensor, ...]], steps: list[Tensor], group: dict[str, Any], lr: float, scale: float
    ) -> None:
        if not tensors:
            return
        parameters, gradients, averages, squares = (list(column) for column in zip(*tensors, strict=True))
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            parameters,
            gradients,
            averages,
            squares,
            [],
            steps,
            lr=lr * group["lr_scale"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=None if scale == 1.0 else torch.tensor(1.0 / scale, device=parameters[0].device),
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


def _call(work: Callable[[], None]) -> None:
    work()


def _compiled_rows(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """The tensors as matrices that are contiguous in memory, for the compiled kernels; None where these do not take
    them. A parameter laid out [d_sae, d_in] and used as its transpose is turned back."""
    if tensors[0].ndim != 2 or native_ops(*tensors) is None:
        return None
    rows = [t if tensors[0].is_contiguous() else t.t() for t in tensors]
    return rows if all(t.is_contiguous() for t in rows) else None


def _pieces(*matrices: Tensor) -> list[tuple[Tensor, ...]]:
    """The matrices [m, d] side by side in pieces of rows; in one piece on a GPU, where launches cost more."""
    first = matrices[0]
    if first.is_cuda:
        return [matrices]
    rows = max(1, _CHUNK_BYTES // (first.shape[1] * first.element_size()))
    return list(zip(*(matrix.split(rows) for matrix in matrices), strict=True))


@torch.no_grad()
def remove_parallel_(rows: Tensor, grad: Tensor) -> Tensor:
    """Remove from each row of `grad` [m, d] its part along the row of `rows` (of norm 1), in place; the norm of what
    is left, 0-dimensional."""
    along = (rows * grad).sum(1, keepdim=True)
    return grad.addcmul_(along, rows, value=-1.0).norm()


def _laid_out_as(parameter: Tensor) -> Tensor:
    """The parameter's gradient in the parameter's memory layout."""
    assert parameter.grad is not None
    if parameter.grad.stride() == parameter.stride():
        return parameter.grad
    return torch.empty_like(parameter).copy_(parameter.grad)
