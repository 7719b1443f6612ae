"""Optional additions, each off by default: position weights, a pruning ramp, resampling of dead latents.

The notebook's text describes them and its code lacked them; here they do what the text says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import SAE, ActivationBatch, ConfigError, TrainState

from .penalties import Codes, l1_norm, latent_sums, weighted

_MEMORY = 0.99


class PositionWeights:
    """w_p = clip((L_p / mean L)^g, .5, 2) of each position p, with mean 1 over a batch; L_p is the running mean of
    the reconstruction loss at p. Positions that reconstruct badly count more."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent
        self.losses = torch.zeros(0)
        """[positions] running mean loss; 0 where a position was never seen."""

    @torch.no_grad()
    def update(self, losses: Tensor, position: Tensor) -> Tensor:
        """Take in the losses [n] of tokens at the positions [n]; their weights [n]."""
        size = max(int(position.max()) + 1, len(self.losses))
        known = F.pad(self.losses.to(losses), (0, size - len(self.losses)))
        counts = torch.bincount(position, minlength=size)
        means = losses.new_zeros(size).index_add_(0, position, losses) / counts.clamp_min(1)
        moved = torch.where(known > 0, _MEMORY * known + (1 - _MEMORY) * means, means)
        self.losses = torch.where(counts > 0, moved, known)
        here = self.losses[position]
        weights = (here / here.mean().clamp_min(1e-12)).pow(self.exponent).clamp(0.5, 2.0)
        return weights / weights.mean()

    def term(self, losses: Tensor, position: Tensor) -> Tensor:
        """mean_t (w_t - 1) · loss_t: what the weights change in the mean loss."""
        return ((self.update(losses.detach(), position) - 1) * losses).mean()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"losses": self.losses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.losses = state["losses"]


class Pruning:
    """sum_i (1 - m_i) f_i with the soft mask m_i = sigmoid(log I_i - log I*): an L1 penalty on unimportant latents.

    I_i = EMA of mean f_i · ||d_i||; I* is its quantile. The weight rises linearly from a quarter of its end.
    """

    def __init__(self, end: float, quantile: float) -> None:
        self.end, self.quantile = end, quantile
        self.importance = torch.zeros(0)

    def weight(self, progress: float) -> float:
        """Of the term, at a share of the steps in [0, 1)."""
        return self.end * (0.25 + 0.75 * progress)

    def term(self, codes: Codes, sae: SAE) -> Tensor:
        """Mean over tokens; the mask is detached."""
        return l1_norm(weighted(codes, 1 - self.mask(codes, sae))).mean()

    @torch.no_grad()
    def mask(self, codes: Codes, sae: SAE) -> Tensor:
        """[d_sae] in (0, 1), with the codes taken in."""
        n = len(l1_norm(codes))
        now = latent_sums(codes, sae.config.d_sae) / n * sae.decoder_directions().norm(dim=1)
        first = len(self.importance) == 0
        self.importance = now if first else _MEMORY * self.importance.to(now) + (1 - _MEMORY) * now
        logs = self.importance.clamp_min(1e-12).log()
        return torch.sigmoid(logs - torch.quantile(logs, self.quantile))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"importance": self.importance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.importance = state["importance"]


class Resampling:
    """Every so many steps, give random dead latents the directions of badly reconstructed inputs.

    Dead is what the loop counts at every step. Inputs are drawn with probability in proportion to their squared
    error^2; the decoder row becomes the centred input's direction, the encoder column .2 times the mean norm of those
    alive along it, the bias 0. Nothing is done where more than half are dead: the run then has another fault. (Adam's
    averages of these rows are not the trainer's to reset; without firings they have decayed.)
    """

    def __init__(self, every: int, share: float) -> None:
        self.every, self.share = every, share
        self._seen: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def see(self, batch: ActivationBatch, reconstruction: Tensor) -> None:
        """Keep the batch of this step, from which inputs are drawn in `after_step`."""
        self._seen = batch.activations, (batch.activations - reconstruction).square().sum(1)

    @torch.no_grad()
    def after_step(self, sae: Any, state: TrainState) -> int:
        """Resample if it is time; how many latents were.

        Raises:
            ConfigError: the SAE has not the weights of a linear encoder and decoder.
        """
        if (state.step + 1) % self.every or self._seen is None:
            return 0
        missing = [name for name in ("W_enc", "W_dec", "b_enc", "b_dec") if not hasattr(sae, name)]
        if missing:
            raise ConfigError(f"Resampling writes encoder and decoder rows; this SAE has no {', '.join(missing)}.")
        dead = state.dead.nonzero().squeeze(1)
        if len(dead) == 0 or len(dead) > len(state.dead) // 2:
            return 0
        x, errors = self._seen
        n = min(len(dead), max(1, int(self.share * len(state.dead))), int((errors > 0).sum()))
        if n == 0:
            return 0
        chosen = dead[torch.randperm(len(dead), generator=state.generator)[:n].to(dead.device)]
        drawn = torch.multinomial(errors.square().double().cpu(), n, generator=state.generator).to(x.device)
        directions = F.normalize(x[drawn] - sae.b_dec, dim=1)
        alive = sae.W_enc[:, ~state.dead].norm(dim=0).mean()
        sae.W_dec[chosen] = directions.to(sae.W_dec.dtype)
        sae.W_enc[:, chosen] = (0.2 * alive * directions).t().to(sae.W_enc.dtype)
        sae.b_enc[chosen] = 0.0
        return n
