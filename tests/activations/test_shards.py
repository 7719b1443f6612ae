from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.activations import shards as shards_module
from harness.activations.shards import (
    DTYPES,
    MappedRows,
    MemoryRows,
    Rows,
    StoreIndex,
    open_rows,
    read_rows,
    shard_name,
    token_norms,
    write_rows,
)
from harness.errors import NonFiniteError

D_IN, SEQ_LEN, N_SEQ, PER_SHARD = 33, 5, 23, 4


def _index(dtype: str) -> StoreIndex:
    return StoreIndex(
        hookpoint="h", dtype=dtype, d_in=D_IN, seq_len=SEQ_LEN, n_sequences=N_SEQ, n_tokens=N_SEQ * SEQ_LEN,
        mean_norm=1.0, scale=1.0, sequences_per_shard=PER_SHARD, tokens_fingerprint="f",
    )  # fmt: skip


def _written(folder: Path, dtype: str) -> torch.Tensor:
    values = torch.randn(N_SEQ * SEQ_LEN, D_IN, generator=torch.Generator().manual_seed(0)).to(DTYPES[dtype])
    for number, part in enumerate(values.split(PER_SHARD * SEQ_LEN)):
        with (folder / shard_name(number)).open("wb") as file:
            write_rows(file, part)
    return values


def _open(folder: Path, dtype: str, how: str, monkeypatch: pytest.MonkeyPatch) -> Rows:
    monkeypatch.setattr(shards_module, "_available_bytes", lambda: 0 if how == "larger than memory" else 2**40)
    return open_rows(folder, _index(dtype), memory_bytes=2**30 if how == "in memory" else 0)


HOWS = ("in memory", "mapped", "larger than memory")


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("how", HOWS)
def test_rows_come_back_as_written_wherever_they_lie(
    tmp_path: Path, dtype: str, how: str, monkeypatch: pytest.MonkeyPatch
):
    values = _written(tmp_path, dtype)
    rows = _open(tmp_path, dtype, how, monkeypatch)
    assert isinstance(rows, MemoryRows if how == "in memory" else MappedRows)
    assert rows.is_mapped is (how != "in memory")
    generator = torch.Generator().manual_seed(1)
    for n in (0, 1, 7, 300):
        index = torch.randint(0, values.shape[0], (n,), generator=generator)
        taken = rows.take(index)
        assert taken.dtype == values.dtype
        assert torch.equal(taken, values[index])
        out = torch.empty(n, D_IN, dtype=values.dtype)
        assert rows.take(index, out=out) is out
        assert torch.equal(out, values[index])
    for start, stop in ((0, 115), (0, 0), (3, 4), (19, 62), (114, 115)):
        assert torch.equal(rows.slice(start, stop), values[start:stop])


@pytest.mark.parametrize("how", HOWS)
def test_rows_that_do_not_exist_are_refused(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch):
    _written(tmp_path, "float32")
    rows = _open(tmp_path, "float32", how, monkeypatch)
    for index in ([0, 115], [-1, 3]):
        with pytest.raises(IndexError):
            rows.take(torch.tensor(index))


def test_rows_near_each_other_are_announced_together_and_none_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _written(tmp_path, "float32")
    rows = _open(tmp_path, "float32", "larger than memory", monkeypatch)
    assert isinstance(rows, MappedRows)
    announced: list[tuple[int, int, int]] = []
    monkeypatch.setattr(rows, "_will_need", lambda *told: announced.append(told))
    monkeypatch.setattr(shards_module.mmap, "PAGESIZE", 256)
    rows.take(torch.tensor([40, 19, 0, 1, 3, 0, 10]))
    assert announced == [(0, 0, 4 * 132), (0, 10 * 132, 11 * 132), (0, 19 * 132, 20 * 132), (2, 0, 132)]


def test_shards_that_lack_a_part_are_refused(tmp_path: Path):
    _written(tmp_path, "float16")
    last = tmp_path / shard_name(5)
    last.write_bytes(last.read_bytes()[:-2])
    with pytest.raises(ValueError, match="size differs"):
        open_rows(tmp_path, _index("float16"), memory_bytes=2**30)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_a_part_of_a_shard_is_read_by_numbers(tmp_path: Path, dtype: str):
    values = _written(tmp_path, dtype)
    assert torch.equal(read_rows(tmp_path / shard_name(1), dtype, D_IN, 3 * D_IN).view(3, D_IN), values[21:24])


def test_memory_that_can_hold_files_is_known():
    assert 2**20 < shards_module._available_bytes() < 2**60


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_norms_are_those_of_float64(dtype: Any):
    values = (100 * torch.randn(3, 4, D_IN, generator=torch.Generator().manual_seed(0))).to(DTYPES[dtype])
    torch.testing.assert_close(token_norms(values, 0, dtype), values.double().norm(dim=-1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_norms_of_what_is_not_finite_name_the_sequence(bad: float):
    values = torch.full((3, 4, D_IN), torch.finfo(torch.float32).max)
    assert bool(torch.isfinite(token_norms(values, 0, "float32")).all())
    values[1, 2, 5] = bad
    with pytest.raises(NonFiniteError, match=r"sequence 11 at here hold NaN or infinity \(stored as float32\)\.$"):
        token_norms(values, 10, "float32", "here")
