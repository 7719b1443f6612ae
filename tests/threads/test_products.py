"""The encoder's product is the same by either library, on any number of threads, and leaves numpy's threads as they
were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.threads import products
from harness.threads.products import product
from harness.threads.side_by_side import side_by_side


class Library:
    """Stands in for numpy's OpenBLAS, so that the path is taken whatever processor and numpy the test runs on."""

    def __init__(self, threads=4):
        self.threads, self.set = threads, []

    def get_num_threads(self):
        return self.threads

    def set_num_threads(self, n):
        self.threads = n
        self.set.append(n)


@pytest.fixture
def library(monkeypatch):
    library = Library()
    openblas = products._OpenBLAS([library])
    monkeypatch.setattr(products, "_openblas", lambda: openblas)
    monkeypatch.setattr(products, "_WORTH", 0)
    return library


@pytest.fixture
def threads():
    """Sets the number of threads, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def matrices(n=1100, d=40, m=96, transposed=True):
    g = torch.Generator().manual_seed(n)
    x, W = torch.randn(n, d, generator=g), torch.randn(m, d, generator=g)
    return x, W.t() if transposed else W.t().contiguous()


@pytest.mark.parametrize("transposed", [True, False])
def test_equals_torchs_product(library, transposed):
    x, W = matrices(transposed=transposed)
    torch.testing.assert_close(product(x, W), torch.mm(x, W))
    assert library.set == [1, 4]


def test_threads_change_nothing(library, threads):
    x, W = matrices(n=2100)
    found = []
    for n in (1, 2, 4):
        threads(n)
        found.append(product(x, W))
    assert len(library.set) == 6
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_few_rows_are_left_to_torch(library, threads):
    threads(2)
    product(*matrices(n=500))
    assert library.set == []
    product(*matrices(n=512))
    assert library.set == [1, 4]


@pytest.mark.parametrize("case", ["double", "gradient", "autocast", "strided"])
def test_what_numpy_cannot_take_is_torchs(library, case):
    x, W = matrices()
    if case == "double":
        found = product(x.double(), W.double())
        assert found.dtype == torch.float64
    elif case == "gradient":
        product(x, W.clone().requires_grad_()).sum().backward()
    elif case == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = product(x, W)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.mm(x.bfloat16(), W.bfloat16()).float())
    else:
        found = product(x, W[:, ::2])
        torch.testing.assert_close(found, torch.mm(x, W[:, ::2]))
    assert library.set == []


def test_threads_are_set_back_when_the_last_of_several_has_ended(library):
    openblas = products._openblas()
    with openblas.on_one_thread():
        with openblas.on_one_thread():
            assert library.threads == 1
        assert library.threads == 1
    assert library.threads == 4
    with pytest.raises(ZeroDivisionError), openblas.on_one_thread():
        1 // 0  # noqa: B018
    assert library.threads == 4
    side_by_side(lambda _: product(*matrices()), range(4))
    assert library.threads == 4


@pytest.mark.parametrize("vendor", ["GenuineIntel", ""])
def test_processors_that_mkl_is_made_for_and_unknown_ones_keep_torchs(vendor, monkeypatch):
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    products._openblas.cache_clear()
    assert products._openblas() is None
    products._openblas.cache_clear()


def test_on_other_processors_numpys_openblas_is_found(monkeypatch):
    monkeypatch.setattr(products, "_vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    products._openblas.cache_clear()
    found = products._openblas()
    products._openblas.cache_clear()
    bundled = (Path(np.__file__).parents[1] / "numpy.libs").glob("*openblas*")
    assert (found is not None) == any(bundled)


def test_small_products_are_left_to_torch(library, monkeypatch):
    x, W = matrices(n=1100, d=40, m=96)
    monkeypatch.setattr(products, "_WORTH", 1100 * 40 * 96 + 1)
    product(x, W)
    assert library.set == []
