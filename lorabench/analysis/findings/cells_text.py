"""The sentences of findings about cells. Each function is named after its kind; counts come as (name, number) pairs or
as numbers of cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from lorabench.analysis.findings.base import cells_of, listed


def failed(number: int, total: int, kinds: Counter[str], *, imported: bool = False) -> str:
    """`kinds`: the classes of the errors; `imported`: nothing can be run again here."""
    why = f" ({listed([f'{kind} {n} times' if n > 1 else kind for kind, n in kinds.most_common()])})" if kinds else ""
    if imported:
        return f"{cells_of(number, total)} failed{why}, as their source tells: lorabench explain gives its message."
    return f"{cells_of(number, total)} failed{why}. Run the study again to retry them; their log.txt tells more."


def analysis_failed(phases: Mapping[str, int], message: str) -> str:
    """`phases`: cells by the phase that failed; `message`: of the first fault."""
    why = listed([f"{phase} in {n} cell{'s' * (n > 1)}" for phase, n in phases.items()])
    return (
        f"A phase after training failed ({why}; {message}), and its numbers are absent."
        " Repeat it alone with: lorabench evaluate DIR."
    )


def diverged(number: int, total: int, learning_rates: Collection[float], at_first_step: int) -> str:
    """`at_first_step`: cells that diverged there."""
    why = f"Their learning rate ({_joined(learning_rates)}) is too high for the setting: lower it."
    if at_first_step:  # nothing was updated yet
        why = (
            f"{at_first_step} of them did so at the first step, before any update, so the learning rate is not the"
            " cause: check the base, its dtype and the data." + (f" {why}" if at_first_step < number else "")
        )
    return f"{cells_of(number, total)} diverged: the loss is no longer finite, and there are no results. {why}"


def out_of_memory(number: int, total: int, batch_sizes: Collection[int]) -> str:
    """`batch_sizes`: those of the cells."""
    sizes = ", ".join(map(str, sorted(batch_sizes)))
    return (
        f"{cells_of(number, total)} did not fit into memory. A batch smaller than theirs ({sizes}) or gradient"
        " checkpointing may let them run."
    )


def skipped(number: int, total: int) -> str:
    """`number`: cells that were not run, of so many in total."""
    return (
        f"{cells_of(number, total)} {'was' if number == 1 else 'were'} not run, being predicted not to fit into memory."
        " Run the study without --skip-infeasible to try anyway."
    )


def missing(number: int, total: int, not_chosen: int) -> str:
    """`not_chosen`: of these cells those at learning rates that are not the chosen ones."""
    choice = (
        f", {not_chosen} of them at rates that are not chosen so far, so that the choice may change"
        if not_chosen
        else ""
    )
    return (
        f"{cells_of(number, total)} {'has' if number == 1 else 'have'} not been run yet{choice}. Run the study again to"
        " complete it."
    )


def rates_broke(outcomes: Counter[str], total: int, learning_rates: Collection[float]) -> str:
    """`outcomes`: cells by what became of them; `total`: all cells of the plan."""
    how = ", ".join(f"{n} {outcome.replace('_', ' ')}" for outcome, n in outcomes.most_common())
    again = " Run the study again to retry those that failed: their rates may be better." if outcomes["failed"] else ""
    return (
        f"{cells_of(outcomes.total(), total)} ended early at learning rates that were not chosen ({how}; rates"
        f" {listed([f'{x:g}' for x in sorted(learning_rates)])}). No reported number comes from them.{again}"
    )


def mixed_environments(
    environments: int,
    differing: Mapping[str, Counter[str]],
    odd: int,
    timed_on: str | None = None,
    joined: int = 0,
    *,
    imported: bool = False,
) -> str:
    """`differing`: by name of a fact its values with the cells that have each; `odd`: cells that are not in the most
    common environment; `timed_on`: the machine that times are shown of, where there are several; `joined`: directories
    that were merged; `imported`: nothing can be run again here."""
    parts = [
        f"{name} ({', '.join(f'{value}: {n}' for value, n in values.most_common())})"
        for name, values in differing.items()
    ]
    remedy = "Compare" if imported else f"Run the {odd} that differ from the most common one again, or compare"
    shown = f"; times are shown of {timed_on} alone" if timed_on is not None else ""
    merged = f" in {joined} directories that were merged" if joined else ""
    return (
        f"Cells ran in {environments} environments{merged}, which differ in {listed(parts)}; the numbers count cells."
        f" Times and memory are not comparable between them{shown}. {remedy} quality alone."
    )


def merged_differ(number: int, twice: int, metric: str, most: float, margin: float) -> str:
    """`number` of the `twice` cells that finished in two directories differ in the study's metric, by `most` at most;
    `margin`: what counts as a difference."""
    held = "more" if most > margin else "less"
    return (
        f"{cells_of(number, twice)} that finished in two of the merged directories {'has' if number == 1 else 'have'}"
        f" another {metric} there, by up to {most:.2g}, {held} than the study's margin of {margin:g}: what a machine,"
        " its libraries and training in a pack change in a cell of the same seed. The record of the directory named"
        " first is shown; merged.json keeps both values."
    )


def stored_quantised(bases: Sequence[tuple[str, str, bool]]) -> str:
    """`bases`: model, quantization, whether its constants are quantized, too."""
    names = [f"{model} ({kind}{' with double quantization' if double else ''})" for model, kind, double in bases]
    return (
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} stored quantized and"
        f" {'was' if len(names) == 1 else 'were'} loaded as such: nothing was quantized here, and no number includes"
        " what that quantization cost. Compare with the unquantized checkpoint to see it."
    )


def gguf(files: Mapping[str, str]) -> str:
    """`files`: model, and how its weights are stored: Q4_1."""
    names = [f"{model} ({kind})" for model, kind in files.items()]
    one = len(names) == 1
    return (
        f"{listed(names)} {'is a GGUF file, whose weights were' if one else 'are GGUF files, whose weights were'}"
        " dequantized as they loaded. A base in fewer than 16 bits carries the error of that form in every condition,"
        " full fine-tuning too, and a quantization asked for here comes on top of it; differences between conditions"
        " are of this base, not of the model that the file was made from."
    )


def unreached(weights: Sequence[tuple[str, str]]) -> str:
    """`weights`: model, and which of its weights are not reached."""
    sentences = [f"{model}: {words}." for model, words in weights]
    return f"{listed(sentences, ' ')} Weight bytes and trained parameters count as they are."


def mixed_precision(by_dtype: Counter[str], shared_base: int) -> str:
    """`by_dtype`: cells of models that were evaluated in several; `shared_base`: cells whose forgetting may be counted
    from a base in another precision."""
    sentences = []
    if by_dtype:
        each = ", ".join(f"{dtype}: {n}" for dtype, n in sorted(by_dtype.items()))
        sentences.append(
            f"Cells of one model were evaluated in different precisions ({each}; the numbers count cells), so that"
            " differences include the effect of precision alone."
        )
    if shared_base:
        sentences.append(
            f"Forgetting of {shared_base} cells may be counted from a base in another precision than theirs."
        )
    return (
        f"{' '.join(sentences)} CPUs with and without bfloat16 and earlier versions do so; set model.dtype, or remove"
        " the folders of these cells and run the study again on one machine."
    )


def _joined(learning_rates: Collection[float]) -> str:
    return ", ".join(f"{x:g}" for x in sorted(learning_rates))
