from __future__ import annotations

import pytest
import torch

from harness.artefacts.cache import Cache
from harness.errors import ConfigError, DataError, ShapeError
from harness.evaluation.context import Memo, StoreEvalContext
from harness.interfaces.sae import SAE, SAEConfig


class Vocabulary:
    """An LM of which only the vocabulary's size is asked."""

    def __init__(self, vocab_size: int = 100) -> None:
        self.vocab_size = vocab_size


def counted(value: float = 1.0):
    calls = []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"loss": torch.tensor([value], dtype=torch.float64)}

    return make, calls


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_batches_hold_every_sequence_once_in_order(make_context, store, size):
    batches = list(make_context(batch_sequences=size).batches())
    assert torch.equal(torch.cat([b.tokens for b in batches]), store.tokens)
    assert torch.equal(torch.cat([b.activations for b in batches]), store.activations)
    assert torch.equal(torch.cat([b.mask for b in batches]), store.mask)
    assert torch.equal(torch.cat([b.document for b in batches]), store.document)
    assert all(len(b.tokens) <= size for b in batches)


def test_batches_hold_so_many_tokens_and_shrink_where_the_vocabulary_is_large(make_context):
    sizes = [
        make_context(language_model=Vocabulary(vocab_size), lm_sha256="lm").batch_sequences
        for vocab_size in (100, 100_000, 2**24, 2**30)
    ]
    assert sizes == [409, 268, 1, 1]  # sequences of 5 tokens: 2048 tokens, at most 2²⁷ logits


def test_generators_depend_on_seed_and_purpose_alone(make_context):
    def draw(seed: int, purpose: str) -> list[float]:
        return torch.rand(3, generator=make_context(seed=seed).generator(purpose)).tolist()

    assert draw(1, "split") == draw(1, "split")
    assert draw(1, "split") != draw(1, "noise")
    assert draw(1, "split") != draw(2, "split")
    context = make_context()
    context.generator("other")
    assert torch.rand(3, generator=context.generator("split")).tolist() == draw(3, "split")


def test_shared_tensors_are_made_once_and_found_on_disk_again(make_context, tmp_path):
    make, calls = counted(0.1)
    for _ in range(2):
        context = make_context(cache=Cache(tmp_path)).scoped("core", "code")
        for _ in range(2):
            shared = context.shared("losses", {"k": 1}, make)
            assert shared["loss"].dtype == torch.float64
            assert shared["loss"].item() == 0.1
    assert len(calls) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"data_id": "other"},
        {"lm_sha256": "other"},
        {"hookpoint": "other"},
        {"seed": 4},
        {"name": "other"},
        {"inputs": {"k": 2}},
        {"evaluator": "other"},
        {"code": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_shared_tensors_are_made_anew_when_anything_behind_them_changes(make_context, tmp_path, change):
    make, calls = counted()
    base = {"data_id": "d", "lm_sha256": "lm", "hookpoint": "h", "seed": 3}
    extra = {"name": "losses", "inputs": {"k": 1}, "evaluator": "core", "code": "code"}
    for now in ({}, change):
        options = {k: now.get(k, v) for k, v in base.items()}
        rest = {k: now.get(k, v) for k, v in extra.items()}
        context = make_context(cache=Cache(tmp_path), **options).scoped(rest["evaluator"], rest["code"])
        context.shared(rest["name"], rest["inputs"], make)
    assert len(calls) == 2


def test_shared_tensors_without_a_cache_live_in_the_context(make_context):
    make, calls = counted()
    context = make_context()
    for _ in range(2):
        context.scoped("core", "code").shared("losses", {}, make)
    assert len(calls) == 1


def test_a_failing_maker_leaves_nothing_behind(make_context, tmp_path):
    make, calls = counted()

    def fail():
        raise DataError("no losses")

    context = make_context(cache=Cache(tmp_path))
    with pytest.raises(DataError):
        context.shared("losses", {}, fail)
    context.shared("losses", {}, make)
    assert len(calls) == 1


def test_memo_keeps_what_fits_and_remakes_the_rest():
    made = []

    def maker(name: str):
        def make() -> torch.Tensor:
            made.append(name)
            return torch.zeros(10)

        return make

    memo = Memo(max_bytes=60)
    for _ in range(2):
        for name in ("a", "b"):
            assert len(memo.get(name, maker(name))) == 10
    assert made == ["a", "b", "b"]
    assert memo.used_bytes == 40


def test_evaluators_do_not_see_one_anothers_memo(make_context):
    context = make_context()
    assert context.scoped("a", "").memo("x", lambda: torch.tensor(1)).item() == 1
    assert context.scoped("b", "").memo("x", lambda: torch.tensor(2)).item() == 2
    assert context.scoped("a", "").memo("x", lambda: torch.tensor(3)).item() == 1


class Rectified(SAE):
    """Codes are the positive parts of x."""

    def __init__(self) -> None:
        super().__init__(SAEConfig(architecture="rectified", d_in=4, d_sae=4))
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.n_encoded = 0

    def reset_parameters(self, generator) -> None: ...

    def encode(self, x):
        self.n_encoded += len(x)
        return self.scale * x.relu()

    def decode(self, codes):
        return codes

    def fold_input_scale(self, scale) -> None: ...

    def decoder_directions(self):
        return torch.eye(4)


def test_encoded_batches_hold_the_codes_of_the_counted_tokens(make_context, store):
    context, sae = make_context(batch_sequences=3), Rectified()
    with torch.no_grad():
        parts = list(context.encoded(sae))
    assert torch.equal(torch.cat([part.batch.tokens for part in parts]), store.tokens)
    assert torch.equal(torch.cat([part.rows for part in parts]), store.activations[store.mask])
    assert torch.equal(torch.cat([part.reconstruction() for part in parts]), store.activations[store.mask].relu())
    document = store.document[:, None].expand_as(store.mask)[store.mask]
    assert torch.equal(torch.cat([part.document for part in parts]), document)
    for part in parts:
        replaced = part.replaced(part.reconstruction())
        assert torch.equal(replaced[part.batch.mask], part.rows.relu())
        assert torch.equal(replaced[~part.batch.mask], part.batch.activations[~part.batch.mask])


def test_codes_of_one_sae_are_made_once_for_all_evaluators(make_context, store):
    context, sae = make_context(batch_sequences=3), Rectified()
    n = int(store.mask.sum())
    with torch.no_grad(), context.keeping_codes(sae):
        for name in ("one", "other"):
            list(context.scoped(name, "code").encoded(sae))
    assert sae.n_encoded == n
    with torch.no_grad():
        list(context.encoded(sae))
    assert sae.n_encoded == 2 * n


def test_codes_beyond_the_budget_are_made_again(make_context, store):
    context, sae = make_context(code_bytes=0), Rectified()
    with torch.no_grad(), context.keeping_codes(sae):
        first, again = (list(context.encoded(sae)) for _ in range(2))
    assert sae.n_encoded == 2 * int(store.mask.sum())
    assert torch.equal(first[0].codes.values, again[0].codes.values)


class Unigram:
    """Logits that are a fixed readout of the activation; counts how often it is run."""

    vocab_size = 9

    def __init__(self) -> None:
        self.head = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
        self.n_runs = 0

    def run_with_replacement(self, tokens, hookpoint, replace, *, activations=None):
        self.n_runs += 1
        return replace(activations) @ self.head


def test_losses_that_no_sae_changes_are_made_once_for_all_evaluators_and_seeds(make_context, tmp_path):
    lm = Unigram()
    for seed in (0, 1):
        context = make_context(language_model=lm, lm_sha256="lm", cache=Cache(tmp_path), seed=seed)
        for name in ("one", "other"):
            view = context.scoped(name, f"code of {name}")
            clean, ablated = view.clean_losses(), view.ablated_losses()
    assert lm.n_runs == 2
    assert float(clean.kl.abs().max()) == 0.0
    uniform = torch.full_like(ablated.ce, torch.tensor(9.0).log().item())
    assert torch.allclose(ablated.ce, uniform)
    assert bool((ablated.kl > 0).all())


def test_losses_are_made_anew_when_the_lm_or_the_data_change(make_context, tmp_path):
    lm = Unigram()
    for change in ({}, {"lm_sha256": "other"}, {"data_id": "other"}, {"hookpoint": "other"}):
        options = {"lm_sha256": "lm", **change}
        make_context(language_model=lm, cache=Cache(tmp_path), **options).clean_losses()
    assert lm.n_runs == 4


def test_replacements_that_do_not_fit_the_batches_are_refused(make_context):
    context = make_context(language_model=Unigram(), lm_sha256="lm", batch_sequences=3)
    activations = [batch.activations for batch in context.batches()]
    with pytest.raises(DataError, match="got 2 replacements for more batches"):
        list(context.next_token_losses(activations[:2]))
    with pytest.raises(ShapeError, match=r"\(3, 5, 4\), got \(15, 4\)"):
        list(context.next_token_losses([activations[0].reshape(15, 4)]))


def test_losses_need_a_language_model(make_context):
    with pytest.raises(DataError, match="no language model"):
        make_context().clean_losses()


def test_an_absent_language_model_is_told(make_context):
    context = make_context()
    assert not context.has_language_model
    with pytest.raises(DataError, match=r"needs=\{'language_model'\}"):
        _ = context.language_model


def test_a_store_without_counted_tokens_is_refused(make_context, store):
    store.mask[:] = False
    with pytest.raises(DataError, match="no token that counts"):
        make_context()


def test_bad_options_are_refused(make_context):
    with pytest.raises(ConfigError, match="batch_sequences"):
        make_context(batch_sequences=0)
    with pytest.raises(ConfigError, match="lm_sha256"):
        make_context(language_model=Vocabulary())


def test_the_context_is_a_complete_eval_context(make_context, store):
    context = make_context()
    assert isinstance(context, StoreEvalContext)
    assert (context.hookpoint, context.d_in, context.seed, context.device) == ("here", 4, 3, torch.device("cpu"))
