"""The oracle and the permuted decoder: true codes of held-out rows, and honest ones of all others."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness import ActivationBatch, ConfigError, SAEConfig
from harness.artefacts.key import canonical_json
from harness.builtin.controls.oracle import OracleOptions, OracleSAE, OracleTrainer, row_keys
from harness.builtin.controls.permuted import PermutedDecoderTrainer
from harness.config import WorldConfig
from harness.data.worlds import World
from harness.evaluation.metrics import dense
from harness.training.checkpoint import load_sae, save_sae

CONFIG = WorldConfig(
    n_features=30, d_in=8, seq_len=16, n_train_tokens=64, n_eval_sequences=5, roots=3, branching=2, depth=1, p_min=0.05
)
SCALE = 0.37


@pytest.fixture(scope="module")
def world() -> World:
    return World(CONFIG)


def made(world, trainer_class=OracleTrainer, d_sae: int = 40, seed: int = 0) -> OracleSAE:
    """As the loop makes it: initialised on scaled activations, then folded."""
    trainer = trainer_class(OracleOptions(world=canonical_json(world.config)))
    options = trainer.sae_options(None)
    sae = OracleSAE(SAEConfig(architecture="oracle", d_in=world.config.d_in, d_sae=d_sae, options=options))
    generator = torch.Generator().manual_seed(seed)
    sae.reset_parameters(generator)
    rows = world.batch("train", range(4)).activations.view(-1, world.config.d_in) * SCALE
    position = torch.arange(len(rows)) % 16
    sample = ActivationBatch(activations=rows, document=torch.arange(len(rows)) // 16, position=position)
    trainer.initialise(sae, sample, None, generator)
    sae.fold_input_scale(SCALE)
    return sae


def held_out(world):
    batch = world.batch("eval", range(world.config.n_eval_sequences))
    return batch.activations.view(-1, world.config.d_in), batch.codes


def test_held_out_rows_get_their_true_codes_and_are_rebuilt(world):
    sae = made(world)
    rows, codes = held_out(world)
    found = sae.encode(rows)
    assert torch.equal(found[:, :30], dense(codes, 30))
    assert not bool(found[:, 30:].any())
    assert torch.allclose(sae(rows), rows, atol=1e-5)
    assert torch.equal(sae.decoder_directions()[:30], world.features)


def test_codes_do_not_depend_on_order_or_shape(world):
    sae = made(world)
    rows, _ = held_out(world)
    assert torch.equal(sae.encode(rows.flip(0)).flip(0), sae.encode(rows))
    assert torch.equal(sae.encode(rows.view(5, 16, 8)).view(80, 40), sae.encode(rows))


def test_other_rows_get_codes_by_matching_pursuit(world):
    sae = made(world)
    rows = world.batch("train", range(3)).activations.view(-1, 8)
    found = sae.encode(rows)
    assert bool((found >= 0).all())
    assert int((found > 0).sum(1).max()) <= sae.k
    assert float((sae.decode(found) - rows).square().sum()) < float((rows - sae.b_dec).square().sum())
    alone = sae.encode((3.0 * world.features[2] + world.bias)[None])
    assert int(alone.argmax()) == 2


def test_a_saved_oracle_is_the_same(world, tmp_path):
    sae = made(world)
    rows, _ = held_out(world)
    save_sae(sae, tmp_path)
    assert torch.equal(load_sae(tmp_path, lambda _: OracleSAE).encode(rows), sae.encode(rows))


def test_with_fewer_latents_than_features_the_most_frequent_are_kept(world):
    sae = made(world, d_sae=12)
    kept = world.structure.probability.argsort(descending=True, stable=True)[:12].sort().values
    rows, codes = held_out(world)
    assert torch.equal(sae.decoder_directions(), world.features[kept])
    assert torch.equal(sae.encode(rows), dense(codes, 30)[:, kept])


def test_a_permuted_decoder_has_true_codes_and_no_direction_in_its_place(world):
    sae, oracle = made(world, PermutedDecoderTrainer), made(world)
    rows, _ = held_out(world)
    assert torch.equal(sae.encode(rows), oracle.encode(rows))
    ours, theirs = sae.decoder_directions()[:30], world.features
    assert not bool((ours == theirs).all(1).any())
    assert torch.equal(torch.sort(ours[:, 0]).values, torch.sort(theirs[:, 0]).values)
    assert not torch.equal(made(world, PermutedDecoderTrainer, seed=1).decoder_directions()[:30], ours)


def test_keys_tell_rows_apart_by_their_bits():
    rows = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    assert len(row_keys(rows).unique()) == 2000
    near = rows.clone()
    near[:, 3] = torch.nextafter(near[:, 3], torch.tensor(torch.inf))
    assert not bool((row_keys(near) == row_keys(rows)).any())
    assert torch.equal(row_keys(torch.zeros(1, 8)), row_keys(-torch.zeros(1, 8)))
    assert torch.equal(row_keys(rows.double()), row_keys(rows))


def test_an_oracle_that_is_told_no_world_says_what_to_do():
    with pytest.raises(ConfigError, match="--suite world-tiny"):
        OracleTrainer(OracleOptions()).sae_options(None)


def test_activations_of_another_width_are_refused(world):
    other = World(dataclasses.replace(CONFIG, d_in=9))
    trainer = OracleTrainer(OracleOptions(world=canonical_json(other.config)))
    sae = OracleSAE(SAEConfig(architecture="oracle", d_in=8, d_sae=40, options=trainer.sae_options(None)))
    sample = ActivationBatch(
        activations=torch.ones(2, 8), document=torch.zeros(2, dtype=torch.int64), position=torch.arange(2)
    )
    with pytest.raises(ConfigError, match="9 dimensions, the activations 8"):
        trainer.initialise(sae, sample, None, torch.Generator())


def test_wrong_sizes_are_refused():
    with pytest.raises(ConfigError, match="k, n_rows and n_codes"):
        OracleSAE(SAEConfig(architecture="oracle", d_in=8, d_sae=40, options={"k": 3}))
