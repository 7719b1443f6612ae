"""Checks of SAE architectures. Each takes a bench of a method that trains the SAE and raises ConformanceError."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..interfaces.codes import token_of_slot
from ..interfaces.sae import SAE, RaggedCodes, SparseCodes
from ..training.checkpoint import load_sae, sae_id, save_sae
from ..training.code_distance import ragged
from ..training.kernels import to_dense
from .bench import MethodBench, require
from .fixtures import D_IN, D_SAE

ROW_TOLERANCE = 1e-5
SCALE_TOLERANCE = 1e-4
"""Relative to the largest value: folding a scale changes where sums are rounded."""


def spec_is_complete(bench: MethodBench) -> None:
    """The spec has a summary and names a subclass of SAE."""
    spec = bench.method.sae
    require(bool(spec.summary.strip()), f"SAE {spec.name!r} has no summary: say in one line what it is.")
    target = bench.sae_class()
    require(issubclass(target, SAE), f"SAE {spec.name!r} names {spec.target}, which is no subclass of harness.SAE.")


def encode_and_decode_keep_leading_dimensions(bench: MethodBench) -> None:
    """[..., d_in] becomes [..., d_sae] and comes back, whatever the leading dimensions."""
    sae = bench.trained_sae()
    rows = bench.held_out()[:6]
    codes = sae.encode(rows)
    for shape in ((6,), (2, 3), (1, 6, 1)):
        folded = sae.encode(rows.view(*shape, D_IN))
        _require_shape("encode", folded, (*shape, D_SAE), (*shape, D_IN))
        _require_close(folded.reshape(6, D_SAE), codes, ROW_TOLERANCE, f"encode of the same rows as {list(shape)}")
        decoded = sae.decode(folded)
        _require_shape("decode", decoded, (*shape, D_IN), (*shape, D_SAE))
        _require_close(
            decoded.reshape(6, D_IN), sae.decode(codes), ROW_TOLERANCE, f"decode of the same codes as {list(shape)}"
        )
    _require_close(sae(rows), sae.decode(codes), 0.0, "forward, which must be decode(encode(x)),")


def dtypes_and_devices_are_kept(bench: MethodBench) -> None:
    """Codes and reconstructions have the dtype and device of the input, for float32 and float64 and on a GPU."""
    places = [("cpu", torch.float32), ("cpu", torch.float64)]
    places += [("cuda", torch.float32)] if torch.cuda.is_available() else []
    for device, dtype in places:
        sae = bench.trained_sae().to(device, dtype)
        x = bench.held_out()[:6].to(device, dtype)
        codes = sae.encode(x)
        for name, decode in (("encode", lambda codes: codes), ("decode", sae.decode)):
            found = decode(codes)
            require(
                found.dtype == dtype and found.device.type == device,
                f"{name} of {dtype} on {device} gives {found.dtype} on {found.device.type}: keep the input's. "
                "Make constants with x.new_zeros(...), and tensors of the SAE parameters or buffers.",
            )
            require(bool(torch.isfinite(found).all()), f"{name} gives NaN or infinity on ordinary {dtype} input.")


def sparse_codes_are_as_declared(bench: MethodBench) -> None:
    """`encode_sparse` equals `encode` where the spec says sparse=True, and is not offered elsewhere."""
    sae = bench.trained_sae()
    rows = bench.held_out()
    if not bench.method.sae.sparse:
        offered = type(sae).encode_sparse is not SAE.encode_sparse
        require(not offered, f"{type(sae).__name__} offers encode_sparse, but its spec does not say sparse=True.")
        return
    codes = sae.encode_sparse(rows)
    flat = _as_ragged(codes, len(rows))
    require(bool((flat.values >= 0).all()), "encode_sparse gives values below 0: code values are at least 0.")
    cells = token_of_slot(flat) * D_SAE + flat.latents
    require(len(cells.unique()) == len(cells), "encode_sparse names a latent twice in one row.")
    _require_close(to_dense(codes, D_SAE), sae.encode(rows), ROW_TOLERANCE, "encode_sparse, made dense,")


def _as_ragged(codes: object, n: int) -> RaggedCodes:
    """The codes of n tokens as one flat list, their shapes and types checked."""
    if isinstance(codes, SparseCodes):
        require(
            codes.indices.dtype == torch.int64 and codes.indices.ndim == 2 and codes.indices.shape[0] == n,
            f"encode_sparse must give indices [{n}, k] int64, got {list(codes.indices.shape)} {codes.indices.dtype}.",
        )
        _require_shape("encode_sparse values", codes.values, tuple(codes.indices.shape), (n, D_IN))
        return ragged(codes)
    require(isinstance(codes, RaggedCodes), "encode_sparse must give SparseCodes or RaggedCodes.")
    assert isinstance(codes, RaggedCodes)
    latents, offsets, values = codes
    fits = latents.ndim == 1 and latents.shape == values.shape and tuple(offsets.shape) == (n + 1,)
    require(fits and latents.dtype == offsets.dtype == torch.int64, "RaggedCodes must be [nnz], [n + 1], [nnz], int64.")
    steps = offsets[1:] - offsets[:-1]
    whole = int(offsets[0]) == 0 and int(offsets[-1]) == len(latents) and bool((steps >= 0).all())
    require(whole, "RaggedCodes' offsets must rise from 0 to nnz.")
    return codes


def saving_and_loading_changes_nothing(bench: MethodBench) -> None:
    """A saved SAE comes back with the same id and the same outputs to the bit."""
    sae = bench.trained_sae()
    rows = bench.held_out()
    with tempfile.TemporaryDirectory() as folder:
        saved = save_sae(sae, Path(folder))
        loaded = load_sae(Path(folder), lambda _: bench.sae_class())
    require(sae_id(loaded) == saved, "The id of the SAE differs after saving and loading.")
    require(
        torch.equal(loaded.encode(rows), sae.encode(rows)) and torch.equal(loaded(rows), sae(rows)),
        f"{type(sae).__name__} gives other outputs after saving and loading: something it computes with is neither a "
        "parameter, a buffer nor in config.options. Use register_buffer.",
    )


def reset_parameters_follows_the_seed(bench: MethodBench) -> None:
    """`reset_parameters` fills everything, from its generator alone: same seed same weights, other seed others."""
    first, again, other = (_reset(bench, seed, outer) for seed, outer in ((0, 1), (0, 2), (1, 1)))
    for name, value in first.state_dict().items():
        require(
            bool(torch.isfinite(value).all()),
            f"reset_parameters leaves {name} as it was: a parameter that is not filled holds whatever memory held.",
        )
    require(
        _same_weights(first, again),
        "reset_parameters gives other weights for the same generator: draw all random numbers from `generator`.",
    )
    drawn = any(p.requires_grad for p in first.parameters())
    require(
        not drawn or not _same_weights(first, other),
        "reset_parameters gives the same weights for every seed: draw from `generator`.",
    )


def a_code_does_not_depend_on_its_batch(bench: MethodBench) -> None:
    """A row has the same code and reconstruction alone, among others, and in another order."""
    sae = bench.trained_sae()
    rows = bench.held_out()[:64]
    codes = sae.encode(rows)
    alone = torch.cat([sae.encode(row[None]) for row in rows])
    _require_close(alone, codes, ROW_TOLERANCE, "encode of one row at a time")
    _require_close(sae.encode(rows.flip(0)).flip(0), codes, ROW_TOLERANCE, "encode of the rows in another order")
    apart = torch.cat([sae.decode(code[None]) for code in codes])
    _require_close(apart, sae.decode(codes), ROW_TOLERANCE, "decode of one row at a time")


def folding_a_scale_gives_the_same_function(bench: MethodBench) -> None:
    """After `fold_input_scale(s)`, the SAE at x gives what it gave at s·x, divided by s."""
    rows = bench.held_out()
    for scale in (0.4, 2.5):
        before, after = bench.trained_sae(), bench.trained_sae()
        after.fold_input_scale(scale)
        _require_close(
            after(rows), before(scale * rows) / scale, SCALE_TOLERANCE, f"the SAE after fold_input_scale({scale})"
        )


def decoder_directions_are_what_latents_write(bench: MethodBench) -> None:
    """`decoder_directions` is [d_sae, d_in], row i along what latent i adds to the reconstruction."""
    sae = bench.trained_sae()
    directions = sae.decoder_directions()
    _require_shape("decoder_directions", directions, (D_SAE, D_IN), (D_SAE, D_IN))
    written = sae.decode(torch.eye(D_SAE)) - sae.decode(torch.zeros(1, D_SAE))
    cosine = torch.nn.functional.cosine_similarity(directions, written, dim=1)
    unused = (directions.norm(dim=1) < 1e-6) & (written.norm(dim=1) < 1e-6)
    wrong = (~unused & (cosine < 0.999)).nonzero()
    require(
        len(wrong) == 0,
        f"decoder_directions of latent {wrong.flatten()[:3].tolist()} is not the direction that decode writes for it.",
    )


def unit_norm_decoder_is_as_declared(bench: MethodBench) -> None:
    """Where `unit_norm_decoder` is True, `W_dec [d_sae, d_in]` has rows of norm 1 before and after training."""
    if not bench.sae_class().unit_norm_decoder:
        return
    for when, sae in (("initialise", bench.start()[1]), (f"{bench.result.steps} steps", bench.result.sae)):
        W_dec: Any = getattr(sae, "W_dec", None)
        require(
            isinstance(W_dec, torch.nn.Parameter),
            f"{type(sae).__name__}.unit_norm_decoder is True: it needs a parameter W_dec [d_sae, d_in].",
        )
        _require_shape("W_dec", W_dec, (D_SAE, D_IN), (D_SAE, D_IN))
        norms = W_dec.detach().norm(dim=1)
        require(
            bool(((norms - 1).abs() < 1e-4).all()),
            f"unit_norm_decoder is True, but after {when} the rows of W_dec have norms {float(norms.min()):.4g} to "
            f"{float(norms.max()):.4g}: normalise them in reset_parameters, and change them nowhere else.",
        )


SAE_CHECKS = (
    spec_is_complete,
    encode_and_decode_keep_leading_dimensions,
    dtypes_and_devices_are_kept,
    sparse_codes_are_as_declared,
    saving_and_loading_changes_nothing,
    reset_parameters_follows_the_seed,
    a_code_does_not_depend_on_its_batch,
    folding_a_scale_gives_the_same_function,
    decoder_directions_are_what_latents_write,
    unit_norm_decoder_is_as_declared,
)


@torch.no_grad()
def _reset(bench: MethodBench, seed: int, outer_seed: int) -> SAE:
    """A new SAE whose parameters were NaN before `reset_parameters`."""
    _, sae = bench.build()
    for parameter in sae.parameters():
        parameter.fill_(torch.nan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(outer_seed)
        sae.reset_parameters(torch.Generator().manual_seed(seed))
    return sae


def _same_weights(a: SAE, b: SAE) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def _require_shape(what: str, found: Tensor, wanted: tuple[int, ...], given: tuple[int, ...]) -> None:
    require(
        tuple(found.shape) == wanted,
        f"{what} gives shape {list(found.shape)} for {list(given)}: it must be {list(wanted)}.",
    )


def _require_close(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Equal up to `tolerance` times the largest value wanted (at least 1)."""
    _require_shape(what, found, tuple(wanted.shape), tuple(wanted.shape))
    difference = float((found - wanted).abs().max())
    allowed = tolerance * max(1.0, float(wanted.abs().max()))
    require(difference <= allowed, f"{what} differs by {difference:.3g} where at most {allowed:.3g} is allowed.")
