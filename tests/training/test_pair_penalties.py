"""Products of pairs of rows and their gradients equal the dense ones; memory stays within its estimate."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from harness.errors import ConfigError
from harness.interfaces.sae import RaggedCodes, SparseCodes
from harness.training import pair_penalties
from harness.training.pair_penalties import code_columns, memory_estimate, pair_cosines, pair_dots, penalty


@pytest.fixture
def table():
    return torch.randn(30, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


FIRST, SECOND = torch.tensor([0, 0, 3, 7, 7]), torch.tensor([1, 2, 4, 8, 9])


@pytest.mark.parametrize("found", [pair_cosines, pair_dots])
def test_products_and_gradients_equal_the_dense_ones(found, table, monkeypatch):
    monkeypatch.setattr(pair_penalties, "_CHUNK_BYTES", 48)  # two pairs a block
    rows = torch.nn.functional.normalize(table, dim=1) if found is pair_cosines else table
    wanted = (rows @ rows.T)[FIRST, SECOND]
    ours = found(table, FIRST, SECOND)
    torch.testing.assert_close(ours, wanted)
    weights = torch.arange(1.0, 6.0)
    ours_grad, wanted_grad = (
        torch.autograd.grad((weights * value.square()).sum(), table, retain_graph=True)[0] for value in (ours, wanted)
    )
    torch.testing.assert_close(ours_grad, wanted_grad)
    untouched = torch.ones(30, dtype=torch.bool)
    untouched[torch.cat([FIRST, SECOND])] = False
    assert not bool(ours_grad[untouched].any())
    assert torch.autograd.gradcheck(lambda t: found(t, FIRST, SECOND), (table,))


def test_the_gradient_of_a_cosine_is_across_the_row():
    table = torch.randn(12, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    pair_cosines(table, FIRST, SECOND).square().sum().backward()
    assert table.grad is not None
    assert (table.grad * table.detach()).sum(1).abs().max() < 1e-6


def test_a_row_of_zeros_has_cosine_zero_and_no_pair_gives_no_gradient(table):
    with torch.no_grad():
        table[1] = 0.0
    cosines = pair_cosines(table, FIRST, SECOND)
    assert cosines[0].item() == 0.0
    assert bool(torch.isfinite(torch.autograd.grad(cosines.sum(), table)[0]).all())
    nothing = torch.empty(0, dtype=torch.int64)
    (grad,) = torch.autograd.grad(pair_cosines(table, nothing, nothing).sum(), table)
    assert not bool(grad.any())


def test_penalties_have_their_known_values():
    c = torch.tensor([-0.5, 0.05, 0.3])
    for kind, wanted in {
        "abs": [0.5, 0.05, 0.3],
        "sq": [0.25, 0.0025, 0.09],
        "hinge": [0.16, 0.0, 0.04],
        "relu2": [0.0, 0.0025, 0.09],
    }.items():
        torch.testing.assert_close(penalty(c, kind, margin=0.1), torch.tensor(wanted))
    with pytest.raises(ConfigError, match="allowed are abs, sq, hinge, relu2"):
        penalty(c, "cube")


def as_sparse(f):
    values, indices = f.topk(6, dim=1)
    return SparseCodes(indices, values)


def as_ragged(f):
    token, latent = f.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1).long(), torch.bincount(token, minlength=len(f)).cumsum(0)])
    return RaggedCodes(latent, offsets, f[token, latent])


@pytest.mark.parametrize("form", [torch.Tensor.clone, as_sparse, as_ragged])
def test_columns_of_codes_are_the_dense_ones_with_their_gradient(form):
    f = torch.rand(50, 20, generator=torch.Generator().manual_seed(8))
    f = f * (f >= f.topk(6, dim=1).values[:, -1:])
    codes = form(f)
    values = codes if isinstance(codes, torch.Tensor) else codes.values
    values.requires_grad_()
    latents = torch.tensor([2, 19, 11])
    rows, place = code_columns(codes, latents, 20)
    torch.testing.assert_close(rows.detach(), f[:, latents].T.detach())
    assert place[latents].tolist() == [0, 1, 2]
    assert place.max() == 2
    (grad,) = torch.autograd.grad(rows.square().sum(), values)
    assert grad.sum().item() == pytest.approx(2 * f[:, latents].sum().item(), rel=1e-5)


def test_the_estimate_grows_with_tokens_and_pairs_and_not_with_the_square_of_the_width():
    small = memory_estimate(n_tokens=256, per_token=64, d_sae=4096, d_in=64, max_pairs=4096)
    wide = memory_estimate(n_tokens=256, per_token=64, d_sae=65_536, d_in=64, max_pairs=4096)
    more = memory_estimate(n_tokens=512, per_token=64, d_sae=65_536, d_in=64, max_pairs=4096)
    assert wide.peak < 4 * 65_536 * 65_536 / 50
    assert small.peak < wide.peak < more.peak


MEASURE = """
    import torch
    from harness.interfaces.sae import SparseCodes
    from harness.training.pair_penalties import memory_estimate, pair_cosines
    from harness.training.pairs import PairTable, correlation, pair_statistics, select_pairs
    torch.set_num_threads(1)
    n, d_sae, d_in, k, most, capacity = {n}, {d_sae}, {d_in}, {k}, 65536, {capacity}
    g = torch.Generator().manual_seed(0)
    W = torch.randn(d_sae, d_in, generator=g).requires_grad_()
    indices = torch.stack([torch.randperm(d_sae, generator=g)[:k].clone() for _ in range(n)])
    codes = SparseCodes(indices, torch.rand(n, k, generator=g))
    # What the first call of an operation sets up is no part of the estimate: a small run comes first.
    def step(codes, rows, d_sae, table):
        found = table.update(pair_statistics(codes, d_sae, n_tokens=n, per_token=k), lambda s: s.count)
        chosen = select_pairs(correlation(found, "cos"), found, fraction=1.0, max_pairs=most)
        pair_cosines(rows, found.first[chosen], found.second[chosen]).square().mean().backward()
    warm = torch.randn(512, 8, requires_grad=True)
    step(SparseCodes(indices[:64, :8] % 512, codes.values[:64, :8]), warm, 512, PairTable(decay=0.5, capacity=99))
    def resident(field):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts anew
    table = PairTable(decay={decay}, capacity=capacity)
    for _ in range(2):
        W.grad = None
        step(codes, W, d_sae, table)
    used = resident("VmHWM") - before
    estimate = memory_estimate(
        n_tokens=n, per_token=k, d_sae=d_sae, d_in=d_in, max_pairs=most, capacity=capacity if {decay} else 0)
    print(used, estimate.peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "sizes",
    [
        {"n": 256, "d_sae": 65_536, "d_in": 64, "k": 160, "decay": 0.0, "capacity": 0},
        {"n": 256, "d_sae": 65_536, "d_in": 512, "k": 64, "decay": 0.9, "capacity": 262_144},
        {"n": 256, "d_sae": 18_432, "d_in": 512, "k": 160, "decay": 0.0, "capacity": 0},
    ],
)
def test_memory_stays_within_a_fifth_above_the_estimate(sizes):
    script = textwrap.dedent(MEASURE.format(**sizes))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    used, estimate = map(int, done.stdout.split())
    print(f"{sizes}: used {used / 1e6:.0f} MB, estimate {estimate / 1e6:.0f} MB")
    assert used <= 1.2 * estimate
    assert used >= estimate / 5  # an estimate that promises nothing is none
