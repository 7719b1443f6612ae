"""Pair statistics from active latents equal the dense definition; tables, selections and the control do as they say."""

from __future__ import annotations

import pytest
import torch

from harness.errors import ConfigError, ShapeError
from harness.interfaces.sae import RaggedCodes, SparseCodes
from harness.training.pairs import (
    COMPETITIONS,
    CORRELATIONS,
    PairStatistics,
    PairTable,
    competition,
    correlation,
    pair_statistics,
    random_pairs,
    select_pairs,
)

N, D_SAE, K = 200, 512, 12


def dense_codes(seed=0, n=N, d_sae=D_SAE, k=K):
    """k latents a token; a few latents fire often, so that pairs recur."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, d_sae, generator=g) + torch.linspace(1, 0, d_sae).pow(8)
    keep = scores.topk(k, dim=1).indices
    return torch.zeros(n, d_sae).scatter(1, keep, 0.1 + torch.rand(n, k, generator=g))


def as_sparse(f, k=K):
    values, indices = f.topk(k, dim=1)
    return SparseCodes(indices, values)


def as_ragged(f):
    token, latent = f.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1).long(), torch.bincount(token, minlength=len(f)).cumsum(0)])
    return RaggedCodes(latent, offsets, f[token, latent])


FORMS = {"dense": lambda f: f, "sparse": as_sparse, "ragged": as_ragged}


def spread(found: PairStatistics, values):
    """[d_sae, d_sae] with the values of the pairs above the diagonal, 0 elsewhere."""
    table = torch.zeros(len(found.fires), len(found.fires), dtype=values.dtype)
    table[found.first, found.second] = values
    return table


@pytest.mark.parametrize("form", FORMS)
def test_counts_and_dots_equal_the_dense_matrices(form):
    f = dense_codes()
    found = pair_statistics(FORMS[form](f), D_SAE)
    masks = (f > 0).double()
    torch.testing.assert_close(spread(found, found.count.double()), torch.triu(masks.T @ masks, 1))
    torch.testing.assert_close(
        spread(found, found.dot.double()), torch.triu(f.double().T @ f.double(), 1), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(found.fires, masks.sum(0).float())
    torch.testing.assert_close(found.squares, f.square().sum(0))
    assert found.n_tokens == N
    assert bool((found.keys.diff() > 0).all())
    assert bool((found.first < found.second).all())


@pytest.mark.parametrize("kind", COMPETITIONS)
def test_competition_equals_the_dense_definition(kind):
    f = dense_codes(1)
    found = pair_statistics(as_sparse(f), D_SAE)
    masks = (f > 0).double()
    joint, n = masks.T @ masks, masks.sum(0)
    least, product = torch.minimum(n[:, None], n), n[:, None] * n
    wanted = {
        "min": joint / least,
        "jaccard": joint / (n[:, None] + n - joint),
        "ochiai": joint / product.sqrt(),
        "lift": (joint * N / product - 1).clamp(0, 1),
        "shrunk": joint / (least + 10),
    }[kind]
    wanted = torch.triu(torch.where(joint > 0, wanted, torch.zeros(())), 1)
    torch.testing.assert_close(spread(found, competition(found, kind).double()), wanted, atol=1e-6, rtol=1e-6)


def test_correlations_equal_the_dense_definition():
    f = dense_codes(2)
    found = pair_statistics(as_ragged(f), D_SAE)
    unit = torch.nn.functional.normalize(f, dim=0)
    there = spread(found, torch.ones(len(found)))
    torch.testing.assert_close(spread(found, correlation(found, "cos")), (unit.T @ unit) * there)
    torch.testing.assert_close(spread(found, correlation(found, "dot")), (f.T @ f) * there / N)
    pearson = torch.nan_to_num(torch.corrcoef((f > 0).double().T)) * there
    torch.testing.assert_close(spread(found, correlation(found, "phi").double()), pearson, atol=1e-5, rtol=1e-5)
    W = torch.randn(D_SAE, 7, generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.normalize(W, dim=1)
    torch.testing.assert_close(
        spread(found, correlation(found, "cos_times_dec", W)), (unit.T @ unit) * there * (rows @ rows.T).abs()
    )


@pytest.mark.parametrize("kind", ["cos", "phi", "jaccard"])
def test_two_identical_columns_correlate_one(kind):
    f = dense_codes(3, d_sae=40, k=4)
    f[:, 7] = f[:, 2]
    f[:10] = f[:10] * (torch.arange(40) != 2) * (torch.arange(40) != 7)  # neither fires always
    found = pair_statistics(f, 40)
    where = int((found.keys == 2 * 40 + 7).nonzero())
    assert correlation(found, kind)[where].item() == pytest.approx(1.0, abs=1e-6)
    bound = 1 + 1e-6
    assert bool((correlation(found, kind).abs() <= bound).all())


def test_tokens_are_sampled_from_the_generator_and_a_small_batch_is_taken_whole():
    f = dense_codes(4)
    drawn = pair_statistics(f, D_SAE, n_tokens=50, generator=torch.Generator().manual_seed(1))
    again = pair_statistics(as_sparse(f), D_SAE, n_tokens=50, generator=torch.Generator().manual_seed(1))
    other = pair_statistics(f, D_SAE, n_tokens=50, generator=torch.Generator().manual_seed(2))
    assert torch.equal(drawn.keys, again.keys)
    assert drawn.n_tokens == 50
    assert not torch.equal(drawn.fires, other.fires)
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    pair_statistics(f, D_SAE, n_tokens=N, generator=generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("form", FORMS)
def test_only_the_largest_codes_of_a_token_are_looked_at(form):
    f = dense_codes(5)
    cut = torch.zeros_like(f).scatter(1, f.topk(3, dim=1).indices, f.topk(3, dim=1).values)
    found, wanted = pair_statistics(FORMS[form](f), D_SAE, per_token=3), pair_statistics(cut, D_SAE)
    assert torch.equal(found.keys, wanted.keys)
    torch.testing.assert_close(found.squares, wanted.squares)


def test_unused_slots_empty_tokens_and_empty_codes_make_no_pairs():
    sparse = SparseCodes(torch.tensor([[3, 0, 0], [1, 2, 0]]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0]]))
    found = pair_statistics(sparse, 4)
    assert found.keys.tolist() == [1 * 4 + 2]
    assert found.dot.tolist() == [2.0]
    assert found.fires.tolist() == [0.0, 1.0, 1.0, 1.0]
    empty = RaggedCodes(torch.zeros(0).long(), torch.zeros(5).long(), torch.zeros(0))
    assert len(pair_statistics(empty, 4)) == 0
    assert len(pair_statistics(torch.zeros(3, 4), 4)) == 0


def test_keys_do_not_overflow_at_large_widths():
    sparse = SparseCodes(torch.tensor([[65_534, 65_535]]), torch.ones(1, 2))
    found = pair_statistics(sparse, 65_536)
    assert (found.first.item(), found.second.item()) == (65_534, 65_535)


def test_too_few_tokens_or_latents_are_refused():
    with pytest.raises(ShapeError, match="per_token >= 2"):
        pair_statistics(torch.zeros(3, 4), 4, per_token=1)
    found = pair_statistics(torch.ones(2, 3), 3)
    with pytest.raises(ConfigError, match="allowed are min, jaccard"):
        competition(found, "most")
    with pytest.raises(ConfigError, match="allowed are cos, phi"):
        correlation(found, "most")
    with pytest.raises(ConfigError, match="needs W_dec"):
        correlation(found, "cos_times_dec")


def by_count(found):
    return found.count


def test_a_table_holds_bias_corrected_averages():
    batches = [pair_statistics(dense_codes(seed, d_sae=20, k=3), 20) for seed in range(4)]
    table, rho = PairTable(decay=0.9, capacity=1000), 0.9
    for batch in batches:
        held = table.update(batch, by_count)
    average = torch.zeros(20, 20)
    for batch in batches:
        average = rho * average + (1 - rho) * spread(batch, batch.count)
    corrected = average / (1 - rho ** len(batches))
    torch.testing.assert_close(spread(held, held.count) / held.n_tokens * N, corrected)
    assert held.n_tokens == pytest.approx(N * sum(rho**i for i in range(4)))


def test_without_decay_a_table_remembers_nothing():
    table = PairTable(decay=0.0, capacity=3)
    new = pair_statistics(dense_codes(0), D_SAE)
    assert table.update(new, by_count) is new
    assert table.state_dict() == {}


def test_a_table_keeps_the_pairs_of_highest_priority():
    found = pair_statistics(dense_codes(6), D_SAE)
    held = PairTable(decay=0.5, capacity=25).update(found, by_count)
    assert len(held) == 25
    assert held.count.min() >= found.count.sort(descending=True).values[25]
    assert bool((held.keys.diff() > 0).all())


def test_absent_pairs_fade_and_a_saved_table_goes_on_as_it_was():
    first, second = pair_statistics(torch.ones(2, 2), 4), pair_statistics(torch.tensor([[0.0, 0, 1, 1]]), 4)
    table = PairTable(decay=0.5, capacity=10)
    table.update(first, by_count)
    again = PairTable(decay=0.5, capacity=10)
    again.load_state_dict(table.state_dict())
    held, also = table.update(second, by_count), again.update(second, by_count)
    assert dict(zip(held.keys.tolist(), held.count.tolist(), strict=True)) == {1: 1.0, 11: 1.0}
    assert torch.equal(held.dot, also.dot)


def stats_of(counts):
    """Statistics with pairs (0, 1), (0, 2), ... of these counts."""
    return PairStatistics(
        keys=torch.arange(1, len(counts) + 1),
        count=torch.tensor(counts, dtype=torch.float32),
        dot=torch.zeros(len(counts)),
        fires=torch.ones(11),
        squares=torch.ones(11),
        n_tokens=1.0,
    )


def test_selection_filters_then_takes_the_largest():
    found = stats_of([5, 5, 5, 5, 5, 5, 5, 5, 1, 5])
    scores = torch.tensor([0.05, 0.9, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.1])

    def chosen(**options):
        return select_pairs(scores, found, **{"fraction": 1.0, "min_count": 3, **options}).tolist()

    assert chosen() == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    assert chosen(minimum=0.1, maximum=0.8) == [2, 3, 4, 5, 6, 7]
    assert chosen(minimum=0.1, quantiles=(0.8, 1.0)) == [1, 7]
    assert chosen(minimum=0.1, quantiles=(0.0, 0.2)) == [2, 3]
    assert chosen(fraction=0.3) == [1, 6, 7]  # of nine observed: three
    assert chosen(fraction=0.02, of="all") == [1, 7]  # of 55: two
    assert chosen(max_pairs=1) == [1]
    assert chosen(minimum=2.0) == []
    with pytest.raises(ConfigError, match="got 'some'"):
        chosen(of="some")


def test_random_pairs_are_distinct_pairs_of_the_given_latents():
    among = torch.tensor([3, 5, 8, 13, 21])
    first, second = random_pairs(10, among, torch.Generator().manual_seed(0))
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(pairs) == 10
    assert {x for pair in pairs for x in pair} == set(among.tolist())
    assert bool((first < second).all())
    with pytest.raises(ShapeError, match="5 latents have 10 pairs, 11"):
        random_pairs(11, among, torch.Generator())


def test_correlations_are_all_named():
    found = pair_statistics(dense_codes(7), D_SAE)
    W = torch.randn(D_SAE, 5, generator=torch.Generator().manual_seed(0))
    for kind in CORRELATIONS:
        assert correlation(found, kind, W).shape == found.keys.shape
