"""Each check of SAEs catches an architecture that is broken in just that way."""

from __future__ import annotations

import pytest
import torch

from harness.builtin.saes.relu import ReluSAE
from harness.builtin.saes.topk import TopKSAE
from harness.builtin.trainers.relu import ReluTrainer
from harness.builtin.trainers.topk import TopKTrainer
from harness.errors import ConformanceError
from harness.interfaces.sae import SAE, RaggedCodes, SparseCodes


def provided(kit, cls, trainer=ReluTrainer, **spec):
    """The architecture, trained by a method that fits it."""
    sparsity = "k" if trainer is TopKTrainer else "coefficient"
    return kit.sae(cls, **spec).trainer(trainer, sae="shape", sparsity=sparsity)


def test_a_sound_architecture_passes_everything(kit):
    provided(kit, TopKSAE, TopKTrainer, sparse=True)
    checks = [check for check in kit.checks() if check.spec == "sae:shape:mine"]
    assert len(checks) == 10
    for check in checks:
        check()


def test_an_architecture_that_no_method_trains_is_told(kit):
    with pytest.raises(ConformanceError, match="No installed method has sae='shape'"):
        kit.sae(ReluSAE).run("a_method_trains_it")


def test_a_missing_summary_is_caught(kit):
    with pytest.raises(ConformanceError, match="has no summary"):
        provided(kit, ReluSAE, summary="").run("spec_is_complete", "sae:shape:mine")


class Flattens(ReluSAE):
    def encode(self, x):
        return super().encode(x.reshape(-1, self.config.d_in))


class Transposes(ReluSAE):
    """Takes the second dimension for the tokens'."""

    def decode(self, codes):
        return super().decode(codes - codes.mean(-2, keepdim=True) if codes.ndim == 3 else codes)


class OnlyFloat32(ReluSAE):
    def encode(self, x):
        return super().encode(x).float()


class Hidden(ReluSAE):
    """Computes with a number that is not saved."""

    gain = 1.0

    def reset_parameters(self, generator):
        super().reset_parameters(generator)
        self.gain = 2.0

    def decode(self, codes):
        return self.gain * super().decode(codes)


class Unfilled(ReluSAE):
    def reset_parameters(self, generator):
        bias = self.b_enc.detach().clone()
        super().reset_parameters(generator)
        self.b_enc.data.copy_(bias)


class GlobalDraw(ReluSAE):
    def reset_parameters(self, generator):
        super().reset_parameters(torch.Generator().manual_seed(int(torch.randint(1000, ()))))


class OneSeed(ReluSAE):
    def reset_parameters(self, generator):
        super().reset_parameters(torch.Generator().manual_seed(0))


class Centres(ReluSAE):
    """Batch-coupled: subtracts the mean of the batch."""

    def encode(self, x):
        return super().encode(x - x.reshape(-1, x.shape[-1]).mean(0))


class FoldsNothing(ReluSAE):
    def fold_input_scale(self, scale):
        """Forgets the biases."""


class FoldsTwice(ReluSAE):
    def fold_input_scale(self, scale):
        super().fold_input_scale(scale)
        self.W_dec.data.div_(scale)


class Shifted(ReluSAE):
    def decoder_directions(self):
        return self.W_dec.roll(1, 0)


class Transposed(ReluSAE):
    def decoder_directions(self):
        return self.W_dec.T


class LongRows(ReluSAE):
    def reset_parameters(self, generator):
        super().reset_parameters(generator)
        self.W_dec.data.mul_(2)


BROKEN = [
    (Flattens, "encode_and_decode_keep_leading_dimensions", "encode gives shape"),
    (Transposes, "encode_and_decode_keep_leading_dimensions", "decode of the same codes"),
    (OnlyFloat32, "dtypes_and_devices_are_kept", "float64 on cpu gives torch.float32"),
    (Hidden, "saving_and_loading_changes_nothing", "register_buffer"),
    (Unfilled, "reset_parameters_follows_the_seed", "leaves b_enc"),
    (GlobalDraw, "reset_parameters_follows_the_seed", "for the same generator"),
    (OneSeed, "reset_parameters_follows_the_seed", "for every seed"),
    (Centres, "a_code_does_not_depend_on_its_batch", "one row at a time differs"),
    (FoldsNothing, "folding_a_scale_gives_the_same_function", "after fold_input_scale"),
    (FoldsTwice, "folding_a_scale_gives_the_same_function", "after fold_input_scale"),
    (Shifted, "decoder_directions_are_what_latents_write", "not the direction"),
    (Transposed, "decoder_directions_are_what_latents_write", "gives shape"),
    (LongRows, "unit_norm_decoder_is_as_declared", "norms 2 to 2"),
]


@pytest.mark.parametrize(("cls", "check", "match"), BROKEN, ids=[cls.__name__ for cls, *_ in BROKEN])
def test_a_broken_architecture_is_caught(kit, cls, check, match):
    with pytest.raises(ConformanceError, match=match):
        provided(kit, cls).run(check, "sae:shape:mine")


def test_rows_that_grow_in_training_are_caught(kit):
    class Grows(ReluTrainer):
        def after_step(self, sae, state):
            sae.W_dec.data.mul_(1.01)

    with pytest.raises(ConformanceError, match="after 60 steps"):
        provided(kit, ReluSAE, Grows).run("unit_norm_decoder_is_as_declared")


class OtherSparse(TopKSAE):
    def encode_sparse(self, x):
        codes = super().encode_sparse(x)
        return SparseCodes(codes.indices, 2 * codes.values)

    def encode(self, x):
        return super().encode(x) / 3


class Repeats(TopKSAE):
    def encode_sparse(self, x):
        codes = super().encode_sparse(x)
        return SparseCodes(codes.indices[:, :1].expand_as(codes.indices), codes.values)


class Negative(TopKSAE):
    def encode_sparse(self, x):
        codes = super().encode_sparse(x)
        return SparseCodes(codes.indices, -codes.values)


@pytest.mark.parametrize(
    ("cls", "sparse", "match"),
    [
        (OtherSparse, True, "made dense, differs"),
        (Repeats, True, "twice in one row"),
        (Negative, True, "below 0"),
        (TopKSAE, False, "does not say sparse=True"),
    ],
)
def test_sparse_codes_that_differ_from_what_is_declared_are_caught(kit, cls, sparse, match):
    provided(kit, cls, TopKTrainer, sparse=sparse)
    with pytest.raises(ConformanceError, match=match):
        kit.run("sparse_codes_are_as_declared")


class DenseOnly(ReluSAE):
    encode_sparse = SAE.encode_sparse


class BackwardOffsets(ReluSAE):
    def encode_sparse(self, x):
        codes = super().encode_sparse(x)
        return RaggedCodes(codes.latents, codes.offsets.flip(0), codes.values)


def test_ragged_codes_with_offsets_that_do_not_rise_are_caught(kit):
    with pytest.raises(ConformanceError, match="must rise from 0"):
        provided(kit, BackwardOffsets, sparse=True).run("sparse_codes_are_as_declared")


def test_sparse_codes_that_are_declared_and_missing_are_caught(kit):
    with pytest.raises(NotImplementedError, match="no sparse codes"):
        provided(kit, DenseOnly, sparse=True).run("sparse_codes_are_as_declared")
