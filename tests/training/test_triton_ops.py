"""The Triton kernels equal their definition: through Triton's interpreter on a CPU, and compiled on a GPU.

Triton decides when it is imported whether it interprets, so the interpreter runs in a process of its own: this file,
started as a script, answers calls there. Every test has both forms; that of the GPU is marked.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from harness.errors import HarnessError, ShapeError

ROOT = Path(__file__).parents[2]
PIECE = 128  # the kernels' own, checked below

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install 'sae-harness[gpu]'"
)


class Csr(NamedTuple):
    columns: Tensor
    offsets: Tensor
    weights: Tensor
    table: Tensor
    grad: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.offsets.long().diff()

    @property
    def segment(self) -> Tensor:
        """[nnz]: the segment of each slot."""
        return torch.repeat_interleave(torch.arange(len(self.offsets) - 1), self.lengths)


def make(lengths: list[int], *, d: int = 20, m: int = 30, dtype=torch.float32, index=torch.int64, seed=0) -> Csr:
    g = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    nnz = int(offsets[-1])
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    columns = torch.randint(0, m, (nnz,), generator=g)
    return Csr(columns.to(index), offsets.to(index), draw(nnz), draw(m, d), draw(len(lengths), d))


def reference_sum(csr: Csr) -> tuple[Tensor, Tensor]:
    """[n_segments, d] in float64: the sums, and the sums of absolute values that bound the rounding."""
    terms = csr.weights.double()[:, None] * csr.table.double()[csr.columns.long()]
    zero = torch.zeros(len(csr.lengths), csr.table.shape[1], dtype=torch.float64)
    return zero.index_add(0, csr.segment, terms), zero.index_add(0, csr.segment, terms.abs())


def reference_dots(csr: Csr) -> tuple[Tensor, Tensor]:
    """[nnz] in float64: the dot products, and the sums of absolute values."""
    terms = csr.grad.double()[csr.segment] * csr.table.double()[csr.columns.long()]
    return terms.sum(1), terms.abs().sum(1)


def assert_close(got: Tensor, wanted: Tensor, magnitude: Tensor, n_terms: int, unit: float = 2.0**-24) -> None:
    """Within what n_terms roundings of size `unit` can do, and one rounding to the result's dtype.

    The last is allowed a whole step (the interpreter cuts bfloat16 off where a GPU rounds).
    """
    bound = n_terms * unit * magnitude + torch.finfo(got.dtype).eps * wanted.abs() * (got.dtype.itemsize < 4)
    excess = (got.double() - wanted).abs() - 1.01 * bound
    assert excess.numel() == 0 or excess.max() <= 1e-30


def tall_segment_sum(module: Any, columns: Tensor, offsets: Tensor, weights: Tensor, rows: Tensor, m: int) -> Tensor:
    """`segment_sum` over a table of m rows of which only the last are written, or ever touched."""
    table = torch.empty(m, rows.shape[1], dtype=rows.dtype, device=rows.device)
    table[-len(rows) :] = rows
    return module.segment_sum(columns, offsets, weights, table)


def call(name: str, args: tuple, kwargs: dict) -> Any:
    from harness.training import triton_ops

    if name == "tall_segment_sum":
        return tall_segment_sum(triton_ops, *args, **kwargs)
    return getattr(triton_ops, name)(*args, **kwargs)


def serve() -> None:
    """Answer pickled calls until the other side closes the pipe."""
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = call(*request)
        except HarnessError as error:
            answer = error
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


class Interpreter:
    """Runs calls in a process whose Triton interprets."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump((name, args, kwargs), self.process.stdin)
        self.process.stdin.flush()
        answer = pickle.load(self.process.stdout)  # EOFError: the process died, and said why on stderr
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.process.communicate(timeout=60)


class Gpu:
    """Runs calls on the GPU."""

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        answer = call(name, tuple(a.cuda() if isinstance(a, Tensor) else a for a in args), kwargs)
        return answer.cpu() if isinstance(answer, Tensor) else answer

    def close(self) -> None:
        pass


@pytest.fixture(scope="module", params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def run(request):
    if request.param == "gpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    runner = Interpreter() if request.param == "interpreter" else Gpu()
    yield runner
    runner.close()


LISTS = {
    "even": [4] * 6,
    "with empty segments": [0, 3, 0, 0, 1, 5, 0],
    "one huge segment": [2, 0, 5 * PIECE + 17, 1, 0, 5],
    "huge neighbours": [2 * PIECE + 3, PIECE + 1, 3 * PIECE, 2],
    "whole pieces": [PIECE, 1, 2 * PIECE, PIECE - 1, 0, PIECE + 1, 3 * PIECE],
    "one segment": [300],
    "the last is empty": [PIECE + 1, 0, 0],
}


@pytest.mark.parametrize("lengths", LISTS.values(), ids=LISTS)
def test_both_operations_equal_their_definition(run, lengths):
    csr = make(lengths)
    got = run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table)
    assert_close(got, *reference_sum(csr), n_terms=max(lengths))
    got = run("segment_dots", csr.grad, csr.columns, csr.offsets, csr.table)
    assert_close(got, *reference_dots(csr), n_terms=csr.table.shape[1])


@pytest.mark.parametrize("d", [1, 513, 576])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_width_and_precision(run, d, dtype):
    """Widths that fill no column block; sums run in float32 whatever the inputs."""
    csr = make([3, 0, PIECE + 6, 5], d=d, dtype=dtype)
    wanted = reference_sum(csr)
    full = run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table, out_dtype=torch.float32)
    assert_close(full, *wanted, n_terms=PIECE + 6)
    rounded = run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table)
    assert rounded.dtype == dtype
    assert_close(rounded, *wanted, n_terms=PIECE + 6)
    dots = run("segment_dots", csr.grad, csr.columns, csr.offsets, csr.table)
    assert dots.dtype == torch.float32
    assert_close(dots, *reference_dots(csr), n_terms=d)


def test_float64_is_kept(run):
    csr = make([3, 0, PIECE + 6, 5], d=300, dtype=torch.float64)
    got = run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table)
    assert_close(got, *reference_sum(csr), n_terms=PIECE + 6, unit=2.0**-53)
    got = run("segment_dots", csr.grad, csr.columns, csr.offsets, csr.table)
    assert got.dtype == torch.float64
    assert_close(got, *reference_dots(csr), n_terms=300, unit=2.0**-53)


def test_weights_and_indices_may_have_other_types(run):
    csr = make([4, 0, 200], dtype=torch.bfloat16)
    wide = csr._replace(weights=csr.weights.float() + 1e-3)
    got = run("segment_sum", csr.columns, csr.offsets, wide.weights, csr.table, out_dtype=torch.float32)
    assert_close(got, *reference_sum(wide), n_terms=200)
    again = run("segment_sum", csr.columns.int(), csr.offsets.int(), wide.weights, csr.table, out_dtype=torch.float32)
    assert torch.equal(got, again)


@pytest.mark.parametrize("seed", range(3))
def test_any_mixture_of_lengths(run, seed):
    """Every later piece is found once: lengths around multiples of a piece, next to short and empty segments."""
    g = torch.Generator().manual_seed(seed)
    pick = lambda *choices: choices[int(torch.randint(len(choices), (), generator=g))]  # noqa: E731
    lengths = [max(0, pick(0, 0, 3, PIECE, 2 * PIECE, 3 * PIECE) + pick(-1, 0, 1, 40)) for _ in range(10)]
    csr = make(lengths, d=3, seed=seed)
    got = run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table)
    assert_close(got, *reference_sum(csr), n_terms=max(lengths))
    got = run("segment_dots", csr.grad, csr.columns, csr.offsets, csr.table)
    assert_close(got, *reference_dots(csr), n_terms=3)


@pytest.mark.parametrize(
    ("lengths", "d"), [([0, 0, 0], 20), ([], 20), ([3, 2], 0)], ids=["empty", "no segments", "d 0"]
)
def test_nothing_to_sum_gives_zeros(run, lengths, d):
    csr = make(lengths, d=d)
    got = run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table, out_dtype=torch.float16)
    assert got.dtype == torch.float16
    assert torch.equal(got, torch.zeros(len(lengths), d, dtype=torch.float16))
    got = run("segment_dots", csr.grad, csr.columns, csr.offsets, csr.table)
    assert torch.equal(got, torch.zeros(sum(lengths)))


def test_same_input_gives_the_same_bits(run):
    csr = make([300, 3, 0, 1], d=300)
    first, second = (run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table) for _ in range(2))
    assert torch.equal(first, second)
    first, second = (run("segment_dots", csr.grad, csr.columns, csr.offsets, csr.table) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("longest", [1, PIECE, 300])
def test_the_bound_on_lengths_moves_no_bit(run, longest):
    """Also where it is wrong."""
    csr = make([300, 3, 0, 200, 1], d=40)
    arguments = (csr.columns, csr.offsets, csr.weights, csr.table)
    assert torch.equal(run("segment_sum", *arguments, longest=longest), run("segment_sum", *arguments))
    arguments = (csr.grad, csr.columns, csr.offsets, csr.table)
    assert torch.equal(run("segment_dots", *arguments, longest=longest), run("segment_dots", *arguments))


def test_a_segment_does_not_depend_on_the_rest_of_the_list(run):
    csr = make([45, 500, 7], d=40)
    alone = Csr(csr.columns[45:545], torch.tensor([0, 500]), csr.weights[45:545], csr.table, csr.grad[1:2])
    in_list = run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table)[1:2]
    assert torch.equal(run("segment_sum", alone.columns, alone.offsets, alone.weights, alone.table), in_list)
    in_list = run("segment_dots", csr.grad, csr.columns, csr.offsets, csr.table)[45:545]
    assert torch.equal(run("segment_dots", alone.grad, alone.columns, alone.offsets, alone.table), in_list)


def test_values_that_no_slot_names_are_never_read(run):
    """Masked lanes of a block must not let NaN or infinity in."""
    csr = make([3, 1], m=8, d=17)
    table = csr.table.clone()
    table[0] = float("nan")
    named = csr._replace(columns=csr.columns.clamp(min=1), table=table)
    assert run("segment_sum", named.columns, named.offsets, named.weights, table).isfinite().all()
    assert run("segment_dots", named.grad, named.columns, named.offsets, table).isfinite().all()


def test_a_table_of_more_than_2_to_the_31_numbers(run):
    """4.3 GB of addresses in float16; on a CPU next to none of it is ever memory."""
    m, d = 2**31 // 4096 + 3, 4096
    csr = make([3, 5], m=4, d=d, dtype=torch.float16, index=torch.int32)
    got = run("tall_segment_sum", csr.columns + (m - 4), csr.offsets, csr.weights, csr.table, m)
    assert_close(got, *reference_sum(csr), n_terms=5)


def test_a_sparse_step_from_the_two_operations_equals_dense_autograd(run):
    """Decode, the gradient of the codes and both weight gradients of a top-k SAE."""
    n, d_in, d_sae, k = 40, 24, 60, 5
    g = torch.Generator().manual_seed(1)
    x, W_dec = torch.randn(n, d_in, generator=g), torch.randn(d_sae, d_in, generator=g)
    values, ids = torch.randn(n, d_sae, generator=g).topk(k, dim=1)
    dense = torch.zeros(n, d_sae).scatter(1, ids, values).requires_grad_()
    weights = W_dec.clone().requires_grad_()
    x_hat = dense @ weights
    (x_hat - x).square().sum().backward()

    by_token = torch.arange(0, n * k + 1, k)
    ours = run("segment_sum", ids.reshape(-1), by_token, values.reshape(-1), W_dec, longest=k)
    torch.testing.assert_close(ours, x_hat.detach(), rtol=1e-5, atol=1e-5)
    grad = 2 * (x_hat.detach() - x)
    ours = run("segment_dots", grad, ids.reshape(-1), by_token, W_dec, longest=k)
    torch.testing.assert_close(ours.view(n, k), dense.grad.gather(1, ids), rtol=1e-5, atol=1e-4)
    order = torch.argsort(ids.reshape(-1), stable=True)
    by_latent = torch.cat([torch.zeros(1).long(), torch.bincount(ids.reshape(-1), minlength=d_sae).cumsum(0)])
    ours = run("segment_sum", order // k, by_latent, values.reshape(-1)[order], grad)
    torch.testing.assert_close(ours, weights.grad, rtol=1e-5, atol=1e-4)


WRONG = {
    "columns of two dimensions": (lambda c: c._replace(columns=c.columns[None]), r"expected \[nnz\]"),
    "no offsets": (lambda c: c._replace(offsets=c.offsets[:0]), r"\[n_segments \+ 1\]"),
    "a table of one dimension": (lambda c: c._replace(table=c.table[0]), r"\[m, d\]"),
    "a table without rows": (lambda c: c._replace(table=c.table[:0]), "needs a table with rows"),
    "columns of floats": (lambda c: c._replace(columns=c.columns.float()), "columns must be int32 or int64"),
    "short offsets": (lambda c: c._replace(offsets=c.offsets.short()), "offsets must be int32 or int64"),
    "a table of integers": (lambda c: c._replace(table=c.table.int()), "table must be one of"),
    "a transposed table": (lambda c: c._replace(table=c.table.t().contiguous().t()), r"pass table\.contiguous\(\)"),
}


@pytest.mark.parametrize(("spoil", "message"), WRONG.values(), ids=WRONG)
def test_both_refuse(run, spoil, message):
    csr = spoil(make([3, 0, 4]))
    with pytest.raises(ShapeError, match=message):
        run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table)
    with pytest.raises(ShapeError, match=message):
        run("segment_dots", csr.grad, csr.columns, csr.offsets, csr.table)


def test_sums_refuse_weights_of_another_length_and_an_integer_result(run):
    csr = make([3, 0, 4])
    with pytest.raises(ShapeError, match=r"weights must be \[nnz\] as columns: got \(6,\) and \(7,\)"):
        run("segment_sum", csr.columns, csr.offsets, csr.weights[:-1], csr.table)
    with pytest.raises(ShapeError, match=r"out_dtype must be one of .*got torch\.int32"):
        run("segment_sum", csr.columns, csr.offsets, csr.weights, csr.table, out_dtype=torch.int32)


def test_dots_refuse_a_gradient_of_another_shape(run):
    csr = make([3, 0, 4])
    with pytest.raises(ShapeError, match=r"grad must be \[n_segments, d\] = \(3, 20\)"):
        run("segment_dots", csr.grad[:2], csr.columns, csr.offsets, csr.table)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The module as a GPU would run it, with nothing cached."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this process interprets")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from harness.training import triton_ops

    return triton_ops


def test_the_piece_that_the_lists_here_are_built_around(compiled):
    assert compiled.PIECE == PIECE


def test_compiled_kernels_refuse_tensors_of_the_cpu(compiled):
    csr = make([3, 0, 4])
    with pytest.raises(ShapeError, match="take CUDA tensors; on a CPU use the torch path"):
        compiled.segment_sum(csr.columns, csr.offsets, csr.weights, csr.table)


@pytest.mark.parametrize(("capability", "number"), [(80, "fp32"), (90, "bf16")])
@pytest.mark.parametrize("name", ["_later_pieces_kernel", "_segment_sum_kernel", "_segment_dots_kernel"])
def test_kernels_compile_without_a_gpu(compiled, name, capability, number):
    """For Ampere and Hopper: the interpreter would let a type error of the compiler's pass. Rows come 16 bytes a
    thread, and no sum uses atomics."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(compiled, name)
    fixed = {"SPLIT": True, "ACC": triton.language.float32, "PIECE": compiled.PIECE, "BLOCK": compiled.BLOCK}
    fixed["ROWS"] = compiled.ROWS
    types = dict.fromkeys(("columns", "offsets"), "*i64") | dict.fromkeys(("n_segments", "nnz", "d"), "i32")
    types |= {"partial": "*fp32", "out": "*fp32"} | dict.fromkeys(("table", "weights", "grad"), f"*{number}")
    names = kernel.arg_names
    aligned = [name for name in names if name in types and name not in ("n_segments", "nnz")]
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in fixed.items() if name in names},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = dict(compiled._LAUNCH)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert f"sm_{capability}" in built.asm["ptx"]
    assert "ld.global.v4" in built.asm["ptx"]
    assert not [line for line in built.asm["ptx"].splitlines() if line.strip().startswith(("atom", "red."))]
    assert len(built.asm["cubin"]) > 0


def test_training_loads_no_triton():
    script = "import sys, harness.training.fit, harness.training.kernels; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


if __name__ == "__main__":
    serve()
