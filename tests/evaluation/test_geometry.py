"""Directions with known angles, and dictionaries that are, and are not, made of common parts."""

from __future__ import annotations

import pytest
import torch

from harness.errors import DataError, ShapeError
from harness.evaluation.geometry import composition, encoder_directions, neighbours, surrogate, twins
from harness.testing.fixtures import identity_sae, random_sae


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_neighbours_of_known_angles():
    found = neighbours(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 0.0]]))
    half = 0.5**0.5
    assert found.nearest.tolist() == pytest.approx([half, half, half, 0.0])
    # Pairs: 0-1 0, 0-2 h, 0-3 1, 1-2 h, 1-3 0, 2-3 h.
    assert found.mean_absolute == pytest.approx((3 * half + 1) / 6)


def test_neighbours_do_not_depend_on_how_the_rows_are_cut(monkeypatch):
    directions = torch.randn(50, 8, generator=generator())
    whole = neighbours(directions)
    monkeypatch.setattr("harness.evaluation.geometry._CHUNK_ROWS", 7)
    cut = neighbours(directions)
    torch.testing.assert_close(cut.nearest, whole.nearest)
    assert cut.mean_absolute == pytest.approx(whole.mean_absolute)


def test_one_direction_has_no_neighbour():
    with pytest.raises(ShapeError, match="at least 2"):
        neighbours(torch.ones(1, 4))


def test_the_gradient_of_a_linear_code_is_its_encoder_column():
    sae = random_sae()
    rows = torch.randn(40, 16, generator=generator())
    codes = sae.encode(rows)
    tokens, latents = codes.nonzero(as_tuple=True)
    found = encoder_directions(sae, rows[tokens], latents)
    torch.testing.assert_close(found, sae.decoder_directions()[latents])
    assert not torch.is_inference_mode_enabled()
    silent = (codes == 0).nonzero()[:5]
    assert float(encoder_directions(sae, rows[silent[:, 0]], silent[:, 1]).abs().max()) == 0.0


def test_gradients_leave_no_trace_in_the_sae():
    sae = identity_sae()
    with torch.no_grad():
        encoder_directions(sae, torch.randn(4, 16), torch.tensor([0, 1, 2, 3]))
        assert not torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in sae.parameters())


def test_permuted_directions_are_all_twins_and_orthogonal_ones_are_not():
    directions = torch.eye(12)[:6]
    assert twins(directions, directions[torch.randperm(6, generator=generator())]).tolist() == pytest.approx([1.0] * 6)
    assert twins(directions, torch.eye(12)[6:]).tolist() == pytest.approx([0.0] * 6)


def test_two_copies_of_a_direction_share_one_twin():
    directions = torch.eye(4)[[0, 0]]
    assert sorted(twins(directions, torch.eye(4)[[0, 1]]).tolist()) == pytest.approx([0.0, 1.0])


def test_sums_of_common_parts_are_explained_and_random_directions_are_not():
    parts = torch.randn(40, 64, generator=generator(1))
    chosen = torch.stack([torch.randperm(40, generator=generator(i))[:3] for i in range(400)])
    composed = parts[chosen].sum(1)
    share, n = composition(composed, generator(2))
    by_chance, _ = composition(surrogate(composed, generator(3)), generator(2))
    assert n == 80
    assert share > 0.8
    assert by_chance < share - 0.3
    alone, _ = composition(torch.randn(400, 64, generator=generator(4)), generator(2))
    assert alone < 0.3


def test_a_surrogate_keeps_mean_and_covariance():
    directions = torch.randn(3000, 6, generator=generator()) * torch.tensor([3.0, 1, 1, 1, 1, 0.1]) + 2
    unit = torch.nn.functional.normalize(directions, dim=1)
    for n in (3000, 6000):
        found = surrogate(directions.repeat(n // 3000, 1), generator(1))
        assert len(found) == n
        torch.testing.assert_close(found.mean(0), unit.mean(0), atol=0.03, rtol=0)
        torch.testing.assert_close(found.T.cov(), unit.T.cov(), atol=0.02, rtol=0)


def test_composition_is_the_same_twice_and_refuses_a_handful_of_rows():
    directions = torch.randn(60, 16, generator=generator())
    assert composition(directions, generator(5)) == composition(directions, generator(5))
    with pytest.raises(DataError, match="held-out decoder rows"):
        composition(directions[:10], generator())
