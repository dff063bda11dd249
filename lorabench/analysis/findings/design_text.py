"""The sentences of findings about a study's design, its hyperparameters and its training. Each function is named after
its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorabench.analysis.findings.base import listed
from lorabench.config.condition_labels import method_label

_TUNE = "training.learning_rate: {tune: [...]}"
_IMPORTED = "The results are imported: a study of your own can tune each."
_METHODS_NAMED = 8  # with their learning rates in a sentence; imported studies have dozens


def metric_not_measured(
    requested: str, cells: int, lacking: Sequence[str], instead: str | None, usable: Sequence[str]
) -> str:
    """`cells`: finished ones without the metric; `lacking`: labels of their conditions, where others have it;
    `instead`: the metric that the report answers with; `usable`: those that were measured."""
    number = "the one finished cell" if cells == 1 else f"none of the {cells} finished cells"
    some = f" of {listed(lacking)}" if lacking else ""
    why = f"which {number}{some} has{' not' if cells == 1 else ''}"
    return _metric_absent(requested, why, instead, usable)


def metric_without_direction(requested: str, instead: str, usable: Sequence[str]) -> str:
    """The metric was measured, but of it nobody knows what is better."""
    return _metric_absent(requested, "of which lorabench does not know whether more is better", instead, usable)


def _metric_absent(requested: str, why: str, instead: str | None, usable: Sequence[str]) -> str:
    answer = f"; the report answers with {instead}" if instead else ""
    return (
        f"comparison.metric is {requested}, {why}{answer}. Name one that was measured ({', '.join(usable)}), or have it"
        " measured under evaluation."
    )


def one_seed(alone: Sequence[str], trained: int, enough: int, *, some: bool) -> str:
    """`alone`: labels of the conditions with one seed, of so many trained ones; `some`: others have more; `enough`:
    seeds to give."""
    who = (
        f"{len(alone)} of {trained} trained conditions {'has' if len(alone) == 1 else 'have'} a single finished"
        f" seed ({listed(alone)})"
        if some
        else f"None of the {trained} trained conditions has more than one finished seed"
    )
    which = "no difference of theirs" if some else "no difference"
    return f"{who}, so the noise between seeds is unknown: {which} can be called decisive. Use {enough} or more seeds."


def few_seeds(seeds: Sequence[tuple[str, int]], trained: int, quantile: float, enough: int, *, alike: bool) -> str:
    """`seeds`: label and seeds of each condition with few, the fewest first; `quantile`: of t, for the fewest; `alike`:
    all trained conditions have as many."""
    least, factor = seeds[0][1], f"a t factor of {quantile:.1f}"
    if alike:
        wide = f"{least} seeds give wide intervals ({factor} against 2.0 with many)"
    else:
        one = len(seeds) == 1
        each = listed([f"{label} {n}" for label, n in seeds])
        wide = (
            f"{len(seeds)} of {trained} trained conditions {'has' if one else 'have'} 2 to"
            f" {enough - 1} finished seeds ({each}), which {'gives' if one else 'give'} wide intervals"
            f" ({factor} with {least} against 2.0 with many)"
        )
    return f"{wide}. Use {enough} or more seeds to resolve small differences."


def only_condition(label: str) -> str:
    """No reference, since there is one condition."""
    return (
        f"{label} is the only condition: there is nothing to compare it with. Include full"
        " fine-tuning, or another condition as `reference`."
    )


def without_reference(labels: Sequence[str], conditions: int, *, imported: bool = False) -> str:
    """`labels`: of the conditions that have no reference; `imported`: the study has no file to name one in."""
    remedy = "Name one when importing (--reference)." if imported else "Name one condition under `reference`."
    return f"{len(labels)} of {conditions} conditions have no reference ({listed(labels)}). {remedy}"


def no_shared_seed(number: int, conditions: int, references: Sequence[str]) -> str:
    """`references`: labels of those whose seeds are not the conditions'."""
    return (
        f"{number} of {conditions} conditions share no finished seed with their reference ({listed(references)}),"
        " so they are compared with nothing. Complete the reference's cells, or name a trained condition under"
        " `reference`."
    )


def shared_rate(methods: Sequence[str], learning_rates: Sequence[float], *, imported: bool = False) -> str:
    """`methods`: those that share the learning rates; `imported`: nothing can be tuned here."""
    shown = ", ".join(f"{x:g}" for x in learning_rates)
    if "full" in methods:
        shared = (
            f"Adapters and full fine-tuning share one learning rate ({shown}). LoRA's best rate is about ten times full"
            " fine-tuning's, so the rate is likely a poor one for at least one of them."
        )
    else:
        shared = (
            f"{' and '.join(map(method_label, methods))} share one learning rate ({shown}), which may suit one of them"
            " better."
        )
    return f"{shared} {_IMPORTED}" if imported else f"{shared} Let each condition choose its own with {_TUNE}."


def untuned_rates(
    learning_rates: Mapping[str, Sequence[float]], untuned: int, trained: int, *, imported: bool = False
) -> str:
    """`learning_rates`: by method; `imported`: nothing can be tuned here."""
    each = "; ".join(
        f"{method_label(method)} {', '.join(f'{x:g}' for x in values)}" for method, values in learning_rates.items()
    )
    some = f" for {untuned} of {trained} trained conditions" if untuned < trained else ""
    if len(learning_rates) > _METHODS_NAMED:
        rates = sorted(x for values in learning_rates.values() for x in values)
        each = f"{len(learning_rates)} methods, {rates[0]:g} to {rates[-1]:g}"
    remedy = "." if imported else f": tune with {_TUNE}."
    return (
        f"Learning rates were chosen beforehand, not tuned for each condition{some} ({each}). A better rate may change"
        f" the order{remedy}"
    )


@dataclass(frozen=True)
class ChosenAtEdge:
    """A chosen learning rate that ends its grid."""

    label: str
    chosen: float
    lowest: float
    highest: float


def edge_rate(at_edge: Sequence[ChosenAtEdge], tuned: int) -> str:
    """`tuned`: conditions that chose a learning rate."""
    parts = []
    for side, beyond in (("lowest", "lower"), ("highest", "higher")):
        members = [c for c in at_edge if (c.chosen == c.lowest) == (side == "lowest")]
        if members:
            each = listed([f"{c.label} ({c.chosen:g} of {c.lowest:g} to {c.highest:g})" for c in members])
            parts.append(f"the {side} was chosen by {each}: try {beyond} ones")
    return (
        f"{len(at_edge)} of {tuned} chosen learning rates are at the edge of their grid, and a better one may lie"
        " outside:"
        f" {'; '.join(parts)}."
    )


def few_validation_rows(number: int, tuned: int, rows: int) -> str:
    """`rows`: at most so many chose any of the rates; `tuned`: conditions that chose one."""
    return (
        f"{number} of {tuned} learning rates were chosen by no more than"
        f" {rows} validation rows, too few to tell two rates apart: a larger"
        " task.validation_percent takes more of the training data."
    )


@dataclass(frozen=True)
class MovingScale:
    """A family of ranks whose alpha stays."""

    family: str
    alpha: float
    root: bool
    """whether the scaling is alpha / sqrt(rank)"""
    low_rank: int
    high_rank: int
    low_scaling: float
    """at the low rank"""
    high_scaling: float


def scaling_moves(families: Sequence[MovingScale]) -> str:
    """`families`: those whose scaling moves with the rank."""
    parts = [
        f"{f.family}: alpha {f.alpha:g}, {'alpha / sqrt(rank)' if f.root else 'alpha / rank'} from {f.low_scaling:.3g}"
        " at"
        f" rank {f.low_rank} to {f.high_scaling:.3g} at rank {f.high_rank}"
        for f in families
    ]
    return (
        "Alpha is fixed while the rank varies, so rank and scaling change together and the effect of one cannot be told"
        f" from the other's ({listed(parts, '; ')}). Let alpha grow with the rank, or vary alpha too."
    )


def prediction_off(errors: Sequence[tuple[str, float]], conditions: int, tolerated: float) -> str:
    """`errors`: label and relative error of each prediction that is off, the largest first."""
    each = listed([f"{label} {'+' if error > 0 else '−'}{100 * abs(error):.1f} %" for label, error in errors])
    return (
        f"The predicted training peak is off by more than {100 * tolerated:g} % in {len(errors)} of {conditions}"
        f" conditions ({each}). Leave that much headroom when planning similar runs; the measured peaks are"
        " not affected."
    )


def still_falling(falls: Sequence[tuple[str, float]], trained: int, margin: float) -> str:
    """`falls`: label and nats of each loss that falls, the steepest first."""
    each = listed([f"{label} by {nats:.3f} nats" for label, nats in falls])
    return (
        f"Over the last quarter of the steps the training loss still falls by more than the margin of {margin:g} nats"
        f" in {len(falls)} of {trained} trained conditions ({each}). The comparison shows which learns faster, not"
        " where each would end: train for more steps."
    )
