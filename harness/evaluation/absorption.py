"""Feature absorption on a first-letter task: ground-truth probes, split latents, and words whose letter other latents
carry (Chanin et al. 2024, arXiv:2409.14507). Everything here runs on the CPU in float64, without seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NotEvaluatedError
from ..interfaces.codes import take
from ..interfaces.sae import SAE, RaggedCodes
from .absorption_words import TEST, TRAINING, VALIDATION, Drawn
from .code_matrix import CodeMatrix
from .probes import fit_logistic

MIN_PROBE_F1 = 0.6
"""A letter counts where its probe on raw activations is above this on validation words (published)."""
MIN_LETTERS = 20 / 26
"""Share of the alphabet's letters that must count: SAEBench's 20 of 26."""
MAX_SPLIT_LATENTS = 10
MIN_F1_GAIN = 0.03
"""A split latent is added while the validation F1 rises by more than this (published)."""
MIN_COSINE_FULL = 0.025
MIN_COSINE_FRACTION = 0.1
MIN_SHARE = 0.4
"""Of the probe's projection, what absorbing latents must carry (published)."""
MAX_ABSORBERS = 3

PROBE_CS = (1.0, 10.0, 100.0, 1000.0)
"""On activations scaled to a total variance of 1."""


class Letters(NamedTuple):
    """All that does not depend on the SAE: n words of l letters, their activations, and a probe for each letter."""

    letter: Tensor
    """[l] int64: which of the alphabet."""
    rows: Tensor
    """[n, d_in] float32."""
    labels: Tensor
    """[l, n] bool."""
    part: Tensor
    """[n] int64: TRAINING, VALIDATION or TEST."""
    directions: Tensor
    """[l, d_in] float64: the probes' weights, of norm 1."""
    logits: Tensor
    """[l, n] float64: of the probes."""
    validation_f1: Tensor
    """[l] float64: of the probes."""
    test_f1: Tensor
    """[l] float64."""


def f1(logits: Tensor, labels: Tensor) -> Tensor:
    """[l]: F1 of saying a letter where its logit [l, n] is above 0, given labels [l, n] bool; 0 where it is never said
    and never true."""
    said = logits > 0
    both = (said & labels).sum(1).double()
    return 2 * both / (said.sum(1) + labels.sum(1)).clamp(min=1)


def balanced(labels: Tensor) -> Tensor:
    """[l, n] float64: weights of mean 1 that give the words with a letter, and those without, half each."""
    n, positive = labels.shape[1], labels.sum(1, keepdim=True).double()
    return torch.where(labels, n / (2 * positive), n / (2 * (n - positive)))


def letters_of(rows: Tensor, drawn: Drawn) -> Letters:
    """The words with their activations [n, d_in], and class-balanced logistic regressions of each letter on them:
    trained on training words, regularisation chosen on validation words by F1 (of equal ones the strongest), test words
    read once."""
    letter = drawn.letter.unique()
    labels = letter[:, None] == drawn.letter
    training, validation, test = (drawn.part == number for number in (TRAINING, VALIDATION, TEST))
    x = rows.double()
    mean = x[training].mean(0)
    x = (x - mean) / (x[training] - mean).square().sum(1).mean().sqrt()
    # The optimum lies in the span of the training words: where they are fewer than dimensions, those are enough.
    few = int(training.sum()) < x.shape[1]
    basis: Tensor = torch.linalg.svd(x[training], full_matrices=False).Vh if few else torch.eye(x.shape[1]).double()
    x = x @ basis.T
    y, weight = labels[:, training].double(), balanced(labels[:, training])
    best = torch.full((len(letter),), -1.0, dtype=torch.float64)
    weights, logits = x.new_zeros(len(letter), x.shape[1]), x.new_zeros(labels.shape)
    for c in PROBE_CS:
        fitted = fit_logistic(x[training].expand(len(letter), -1, -1), y, weight, torch.full_like(best, c))
        said = fitted.coefficients @ x.T + fitted.intercept[:, None]
        found = f1(said[:, validation], labels[:, validation])
        better = found > best
        best = torch.where(better, found, best)
        weights = torch.where(better[:, None], fitted.coefficients, weights)
        logits = torch.where(better[:, None], said, logits)
    return Letters(
        letter=letter,
        rows=rows,
        labels=labels,
        part=drawn.part,
        directions=F.normalize(weights @ basis, dim=1),
        logits=logits,
        validation_f1=best,
        test_f1=f1(logits[:, test], labels[:, test]),
    )


def said_words(labels: Tensor, logits: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """(letter [m], word [m]) int64: the test words of a letter that its probe says."""
    letter, word = (labels & (logits > 0) & (part == TEST)).nonzero(as_tuple=True)
    return letter, word


def counted_letters(known: Letters, alphabet: Sequence[str]) -> Tensor:
    """[l] bool: the letters that count, by their probes alone.

    Raises:
        DataError: they are too few of the alphabet.
    """
    n_said = torch.bincount(said_words(known.labels, known.logits, known.part)[0], minlength=len(known.letter))
    counted = (known.validation_f1 > MIN_PROBE_F1) & (n_said > 0)
    needed = max(2, math.ceil(MIN_LETTERS * len(alphabet)))
    if int(counted.sum()) < needed:
        each = zip(known.letter.tolist(), known.validation_f1.tolist(), strict=True)
        found = ", ".join(f"{alphabet[number]} {value:.2f}" for number, value in each)
        raise NotEvaluatedError(
            f"not evaluated: the language model knows too few first letters at this hookpoint. {int(counted.sum())} "
            f"letters have a probe on raw activations with an F1 above {MIN_PROBE_F1:g} on validation words; "
            f"{needed} are needed of {len(alphabet)}. F1 by letter, of those with words enough: {found}; mean "
            f"{float(known.validation_f1.mean()):.3f}."
        )
    return counted


class SplitLatents(NamedTuple):
    """The latents that stand for each of l letters."""

    latents: Tensor
    """[l, MAX_SPLIT_LATENTS] int64; -1 where there are fewer."""
    validation_f1: Tensor
    """[l] float64: of the probe on them; 0 where there is none."""
    test_f1: Tensor
    """[l] float64."""

    @property
    def n(self) -> Tensor:
        """[l]: how many."""
        return (self.latents >= 0).sum(1)


def split_latents(codes: RaggedCodes, d_sae: int, labels: Tensor, part: Tensor) -> SplitLatents:
    """The k latents of each letter whose probe predicts it, k growing while the validation F1 rises by more than
    MIN_F1_GAIN.

    The next latent is the one that lowers the probe's loss on training words fastest from where it is (Rao's score
    test), among those whose weight would be positive: a latent that says what another has said adds nothing, and is
    not taken. SAEBench ranks by the weights of one L1 probe, stopped after 50 epochs, and chooses k on the words that
    it then measures.

    Args:
        codes: of n words.
        labels: [l, n] bool.
        part: [n] int64.
    """
    training, validation, test = (part == number for number in (TRAINING, VALIDATION, TEST))
    learned = CodeMatrix(codes, d_sae, training.nonzero().flatten())
    every = CodeMatrix(codes, d_sae, torch.arange(len(part)))
    y, weights = labels[:, training].double(), balanced(labels[:, training])
    spread = _spread(learned, weights)
    n_letters = len(labels)
    chosen = torch.full((n_letters, MAX_SPLIT_LATENTS), -1)
    best = torch.zeros(n_letters, 2, dtype=torch.float64)
    logits = torch.zeros(n_letters, len(part), dtype=torch.float64)
    active = torch.arange(n_letters)
    for k in range(MAX_SPLIT_LATENTS):
        residual = weights[active] * (y[active] - logits[active][:, training].sigmoid())
        scores = learned.transposed_times(residual.T).T / spread[active]
        scores.scatter_(1, chosen[active, :k], -torch.inf)
        value, latent = scores.max(1)
        active, latent = active[value > 0], latent[value > 0]
        if not len(active):
            break
        tried = torch.cat([chosen[active, :k], latent[:, None]], dim=1)
        found = _fitted_logits(every, tried, labels[active], training)
        f1s = torch.stack([f1(found[:, own], labels[active][:, own]) for own in (validation, test)], dim=1)
        risen = f1s[:, 0] > best[active, 0] + (MIN_F1_GAIN if k else -1.0)
        active = active[risen]
        chosen[active, k], best[active], logits[active] = latent[risen], f1s[risen], found[risen]
        if not len(active):
            break
    return SplitLatents(chosen, best[:, 0], best[:, 1])


def _spread(codes: CodeMatrix, weights: Tensor) -> Tensor:
    """[l, d_sae]: the latents' weighted standard deviations; infinite where a latent never changes."""
    total = weights.sum(1, keepdim=True)
    mean = codes.transposed_times(weights.T).T / total
    variance = codes.squared().transposed_times(weights.T).T / total - mean.square()
    # Rounding leaves a little of a latent that is the same on all words.
    return torch.where(variance > 1e-12 * mean.square(), variance.clamp(min=0).sqrt(), torch.inf)


def _fitted_logits(codes: CodeMatrix, latents: Tensor, labels: Tensor, training: Tensor) -> Tensor:
    """[a, n]: what probes on the latents [a, k] say of all words: balanced classes, C = 1, standardised latents."""
    used, place = latents.unique(return_inverse=True)
    x = codes.columns(used)
    x = x / x[training].std(0, correction=0).clamp(min=1e-30)
    x = x[:, place].transpose(0, 1)
    y = labels[:, training]
    fitted = fit_logistic(x[:, training], y.double(), balanced(y), torch.ones(len(y), dtype=torch.float64))
    return fitted.logits(x)


class Absorbed(NamedTuple):
    """Of m words."""

    full: Tensor
    """[m] bool: no split latent is active, and one other latent carries the letter."""
    fraction: Tensor
    """[m] float64 in [0, 1]: the part of the letter that latents other than the split ones carry."""


def absorbed(
    codes: RaggedCodes, letter: Tensor, projection: Tensor, writes: Tensor, cosine: Tensor, split: Tensor
) -> Absorbed:
    """Which words' letters are absorbed.

    Args:
        codes: of m words.
        letter: [m] int64: which of the l letters.
        projection: [m] float64: what there is of the letter's direction in a word's activation.
        writes: [l, d_sae] float64: how far along each letter's direction a latent writes at activation 1.
        cosine: [l, d_sae] float64: between the two.
        split: [l, k] int64: the split latents of each letter; -1 is none.
    """
    m = len(letter)
    lengths = codes.offsets[1:] - codes.offsets[:-1]
    word = torch.arange(m).repeat_interleave(lengths)
    place = torch.arange(len(word)) - codes.offsets[:-1].repeat_interleave(lengths)
    cells = (word, place)
    own = letter[word]
    width = max(MAX_ABSORBERS, int(lengths.max()) if m else 0)

    def padded(values: Tensor) -> Tensor:
        return values.new_zeros(m, width).index_put(cells, values)

    is_split = padded((codes.latents[:, None] == split[own]).any(1))
    written = padded(codes.values.double() * writes[own, codes.latents])
    cosines = padded(cosine[own, codes.latents])
    by_split = (written * is_split).sum(1)
    absorbing = written.masked_fill(is_split | (cosines < MIN_COSINE_FRACTION), 0.0).clamp(min=0)
    others = absorbing.topk(MAX_ABSORBERS, dim=1).values.sum(1)
    left = projection - by_split
    taken = torch.minimum(others, left)
    fraction = torch.where(by_split <= 0, 1.0, taken / (taken + by_split))
    none = (projection <= 0) | (left <= 0) | (others < MIN_SHARE * projection)
    most, which = written.max(1)
    full = (projection > 0) & ~is_split.any(1) & (most >= MIN_SHARE * projection)
    full &= cosines.gather(1, which[:, None])[:, 0] >= MIN_COSINE_FULL
    return Absorbed(full, fraction.masked_fill(none, 0.0).clamp(0.0, 1.0))


class Decoded(NamedTuple):
    """How an SAE writes along directions."""

    writes: Tensor
    """[l, d_sae] float64: along each direction, at activation 1."""
    cosine: Tensor
    """[l, d_sae] float64."""
    bias: Tensor
    """[l] float64: along each direction when no latent is active."""


def decoded(sae: SAE, directions: Tensor) -> Decoded:
    """What the decoder does along directions [l, d_in] of norm 1."""
    rows = sae.decoder_directions().detach().double().cpu()
    first = next(iter(sae.parameters()), None)
    silent = torch.zeros(1, sae.config.d_sae, device=None if first is None else first.device)
    writes = directions @ rows.T
    return Decoded(
        writes=writes,
        cosine=writes / rows.norm(dim=1).clamp(min=1e-30),
        bias=directions @ sae.decode(silent)[0].detach().double().cpu(),
    )


class Measured(NamedTuple):
    """Of l letters; where a letter has no word, 0."""

    n: Tensor
    """[l] float64: test words that the probe says."""
    n_full: Tensor
    """[l] float64: of them, those that are fully absorbed."""
    fraction: Tensor
    """[l] float64: their mean absorption fraction."""

    @property
    def rate(self) -> Tensor:
        """[l] float64: share of full absorption."""
        return self.n_full / self.n.clamp(min=1)


def measure(
    codes: RaggedCodes, rows: Tensor, said: tuple[Tensor, Tensor], directions: Tensor, decode: Decoded, split: Tensor
) -> Measured:
    """Absorption of the words that probes say: (letter, word) [m] of the codes and rows [n, d_in] of all words."""
    letter, word = said
    projection = (rows[word].double() * directions[letter]).sum(1) - decode.bias[letter]
    found = absorbed(take(codes, word), letter, projection, decode.writes, decode.cosine, split)
    n = torch.bincount(letter, minlength=len(split)).double()
    full, fraction = (
        torch.zeros(len(split), dtype=torch.float64).index_add(0, letter, values.double())
        for values in (found.full, found.fraction)
    )
    return Measured(n, full, fraction / n.clamp(min=1))
