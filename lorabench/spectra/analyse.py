"""The spectra of everything that was learned, beside the base where it is known; and of two such, how alike they
are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from lorabench.errors import LorabenchError
from lorabench.record.spectrum import Spectrum
from lorabench.record.truncations import DIRECTIONS
from lorabench.spectra.alignment import INTRUDERS_UP_TO, align, intruders, repair
from lorabench.spectra.decompose import GRAM, Decomposition
from lorabench.spectra.delta import Delta
from lorabench.spectra.own import Own
from lorabench.spectra.quantized import Quantize
from lorabench.spectra.source import Learned
from lorabench.spectra.subspace import SubspaceSimilarity, similarity


def analyse(learned: Learned, all_intruders: bool = False) -> Iterator[Spectrum]:
    """A spectrum a module, in the model's order; stored ones where the weights were not kept."""
    if not learned.has_weights:
        yield from learned.stored or ()
        return
    for delta in learned.deltas():
        weight = learned.weight(delta)
        if weight is None:
            yield delta.spectrum()
        else:
            quantize = None if delta.expert is not None else learned.quantize  # bitsandbytes leaves stacks as they are
            yield beside_base(delta, decomposed(delta), weight, quantize, all_intruders)


def beside_base(
    delta: Delta,
    change: Decomposition,
    weight: torch.Tensor | None,
    quantize: Quantize | None = None,
    all_intruders: bool = False,
    own: Own | None = None,
) -> Spectrum:
    """The spectrum of a change with its alignment, intruders and repair; without them where the base has no weight of
    that size.

    `change` is its decomposition, of a dense one the first terms (`decomposed`).

    Intruder dimensions take decompositions of the weight and of the sum: beyond INTRUDERS_UP_TO (smaller side) only
    where asked for. What of that belongs to the base alone is taken from `own`, or put there.
    """
    spectrum = delta.spectrum() if delta.a is None else delta.spectrum_of(change)
    if weight is None or tuple(weight.shape) != (delta.out_features, delta.in_features):
        return spectrum
    own = own if own is not None else Own()
    weight, rank, name = weight.to(change.u.device), directions_of(delta, spectrum), delta.module
    with_intruders = min(weight.shape) <= (GRAM if all_intruders else INTRUDERS_UP_TO)
    values, left = own.of_weight(name, weight, rank, with_left=with_intruders)
    weight_repair = None
    if quantize is not None:
        weight_repair = repair(
            change,
            delta.inner or rank,
            *quantize(weight),
            lambda error, k: own.error_values(name, error, k),
            delta.dense,
        )
    return replace(
        spectrum,
        alignment=align(change, rank, weight, values),
        intruders=intruders(delta, weight, own_left=left) if with_intruders else None,
        repair=weight_repair,
    )


def decomposed(delta: Delta) -> Decomposition:
    """All of a change that has factors, the first terms of a dense one: as many as are kept or looked at."""
    return delta.decompose(DIRECTIONS if delta.dense is not None else None)


def directions_of(delta: Delta, spectrum: Spectrum) -> int:
    """How many singular vectors stand for a change: all of a factored one, the first few of a dense one, none that
    rounding made."""
    return spectrum.numerical_rank if delta.a is not None else min(DIRECTIONS, spectrum.numerical_rank)


def compare(one: Learned, other: Learned) -> Iterator[SubspaceSimilarity]:
    """The subspace similarity of every module that both changed; LorabenchError where they share none."""
    shared = False
    for delta in one.deltas():
        match = other.delta(delta.module)
        if match is None or (match.in_features, match.out_features) != (delta.in_features, delta.out_features):
            continue
        shared = True
        changes = (delta.decompose(), match.decompose())
        ranks = (
            directions_of(delta, delta.spectrum_of(changes[0])),
            directions_of(match, match.spectrum_of(changes[1])),
        )
        yield similarity(delta.module, *changes, ranks)
    if not shared:
        raise LorabenchError(
            f"{one.title} and {other.title} have no module of the same name and size in common; both must come from"
            " the same model"
        )
