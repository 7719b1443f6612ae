"""The oracle: a world's true features with their true codes. The ceiling of every metric, on worlds alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness import SAE, ActivationBatch, ConfigError, RaggedCodes, SAEConfig, TrainerOptions
from harness.data.worlds import World, WorldConfig, join_codes
from harness.evaluation.metrics import take

from .identity import Untrained

_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)


class OracleSAE(SAE):
    """Directions are the true features, and codes the true ones, looked up by the row.

    Codes cannot be had from an activation alone: with more features than dimensions many sums of features come close
    to any point. So the SAE carries a table of the world's held-out rows with their codes. Any other row gets the
    codes of matching pursuit over the true features, which is what one can do who knows the features alone.

    Of a world with more features than latents the most frequent are kept, in their order.
    """

    row_key: Tensor
    row_offset: Tensor
    code_latent: Tensor
    code_value: Tensor

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        sizes = {name: config.options.get(name) for name in ("k", "n_rows", "n_codes")}
        wrong = [
            name for name, size in sizes.items() if isinstance(size, bool) or not isinstance(size, int) or size < 0
        ]
        if wrong:
            raise ConfigError(f"The oracle SAE needs the options k, n_rows and n_codes, counts; got {sizes}.")
        k, n_rows, n_codes = (int(sizes[name] or 0) for name in ("k", "n_rows", "n_codes"))
        self.k = k
        self.W_dec = nn.Parameter(torch.zeros(config.d_sae, config.d_in), requires_grad=False)
        self.W_match = nn.Parameter(torch.zeros(config.d_sae, config.d_in), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(config.d_in), requires_grad=False)
        self.register_buffer("row_key", torch.zeros(n_rows, dtype=torch.int64))
        self.register_buffer("row_offset", torch.zeros(n_rows + 1, dtype=torch.int64))
        self.register_buffer("code_latent", torch.zeros(n_codes, dtype=torch.int32))
        self.register_buffer("code_value", torch.zeros(n_codes, dtype=torch.float32))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        for parameter in self.parameters():
            parameter.zero_()

    @torch.no_grad()
    def know(self, rows: Tensor, codes: RaggedCodes) -> None:
        """Take the codes of rows [n, d_in] into the table; a latent of -1 is one this SAE does not have."""
        key, order = row_keys(rows).sort()
        sorted_codes = take(codes, order)
        self.row_key.copy_(key)
        self.row_offset.copy_(sorted_codes.offsets)
        self.code_latent.copy_(sorted_codes.latents)
        self.code_value.copy_(sorted_codes.values)

    def encode(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.config.d_in)
        codes = x.new_zeros(len(flat), self.config.d_sae)
        slot, known = self._find(flat)
        if bool(known.any()):
            start, stop = self.row_offset[slot[known]], self.row_offset[slot[known] + 1]
            lengths = stop - start
            row = known.nonzero().squeeze(1).repeat_interleave(lengths)
            first = (start - (lengths.cumsum(0) - lengths)).repeat_interleave(lengths)
            at = first + torch.arange(len(row), device=x.device)
            latent = self.code_latent[at].long()
            codes[row[latent >= 0], latent[latent >= 0]] = self.code_value[at[latent >= 0]].to(codes.dtype)
        if not bool(known.all()):
            codes[~known] = self._pursued(flat[~known])
        return codes.view(*x.shape[:-1], self.config.d_sae)

    def _find(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """[n] the place of each row in the table, and whether it is there."""
        if not len(self.row_key):
            return flat.new_zeros(len(flat), dtype=torch.int64), flat.new_zeros(len(flat), dtype=torch.bool)
        key = row_keys(flat)
        slot = torch.searchsorted(self.row_key, key).clamp_max(len(self.row_key) - 1)
        return slot, self.row_key[slot] == key

    def _pursued(self, rows: Tensor) -> Tensor:
        """Codes >= 0 by k steps of matching pursuit."""
        codes = rows.new_zeros(len(rows), self.config.d_sae)
        left = rows - self.b_dec
        for _ in range(self.k):
            value, latent = (left @ self.W_match.T).max(1)
            value = value.relu()
            codes[torch.arange(len(rows), device=rows.device), latent] += value
            left = left - value[:, None] * self.W_match[latent]
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec + self.b_dec

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        """The table holds unscaled rows, as evaluation gives them: nothing of it changes."""
        self.b_dec.div_(scale)

    def decoder_directions(self) -> Tensor:
        return self.W_dec


def row_keys(rows: Tensor) -> Tensor:
    """[n] int64 hashes of the bits of rows [n, d_in] as float32: the same on every device."""
    # Adding 0 makes -0 and 0 one.
    bits = (rows.detach().to(torch.float32) + 0.0).contiguous().view(torch.int32).to(torch.int64)
    key = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for column in bits.unbind(1):
        key = (key ^ column) * _MULTIPLIER
        key = key ^ (key >> 29)
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleOptions(TrainerOptions):
    world: str = ""
    """The world as JSON of its config: given by the suite, not by hand."""


class _Known(NamedTuple):
    world: World
    rows: Tensor
    """[n, d_in]: the held-out activations."""
    codes: RaggedCodes
    """Their features."""


@lru_cache(maxsize=1)
def _known(world_json: str) -> _Known:
    """The world and its held-out rows, made once for all seeds."""
    if not world_json:
        raise ConfigError(
            "This control must be told the world, as suites of a synthetic world do by themselves: "
            "choose such a suite, as --suite world-tiny."
        )
    world = World(WorldConfig(**json.loads(world_json)))
    parts = [world.codes("eval", number) for number in range(world.config.n_eval_sequences)]
    return _Known(world, torch.cat([world.activations(part) for part in parts]), join_codes(parts))


class OracleTrainer(Untrained):
    """The oracle SAE of the suite's world."""

    options_type = OracleOptions

    def sae_options(self, target_l0: int | None) -> dict[str, Any]:
        known = _known(self.options.world)
        mean_l0 = len(known.codes.latents) / len(known.rows)
        return {"k": max(1, round(mean_l0)), "n_rows": len(known.rows), "n_codes": len(known.codes.latents)}

    @torch.no_grad()
    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        known = _known(self.options.world)
        features, d_sae = known.world.features, sae.config.d_sae
        if features.shape[1] != sae.config.d_in:
            raise ConfigError(f"The world has {features.shape[1]} dimensions, the activations {sae.config.d_in}.")
        kept = torch.arange(len(features))
        if len(features) > d_sae:
            kept = known.world.structure.probability.argsort(descending=True, stable=True)[:d_sae].sort().values
        latent_of = torch.full((len(features),), -1)
        latent_of[kept] = torch.arange(len(kept))
        sae.W_match[: len(kept)] = features[kept]
        sae.W_dec[: len(kept)] = self.directions(features[kept], generator)
        # The loop divides the bias by the scale of its stream when it is done (`fold_input_scale`).
        sae.b_dec.copy_(known.world.bias * _stream_scale(sample, known.world))
        sae.know(known.rows, known.codes._replace(latents=latent_of[known.codes.latents]))

    def directions(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """[n, d_in]: what each latent writes."""
        return features


def _stream_scale(sample: ActivationBatch, world: World) -> float:
    """What the training stream multiplies activations by: a sampled row held against the world's own."""
    document, position = int(sample.document[0]), int(sample.position[0])
    row = world.activations(world.codes("train", document))[position % world.config.seq_len]
    return float(sample.activations[0].norm().cpu() / row.norm())
