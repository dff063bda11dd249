"""What is told of one adapter, cell or checkpoint, in words and rows; `examined_page` draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorabench import formatting
from lorabench.analysis.spectra_summary import Group, SpectraSummary
from lorabench.record.spectrum import SHARES, Spectrum, place
from lorabench.record.trained import Trained

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class SubspaceSimilarity:
    """Mean phi(i, j) = ||U1_i^T U2_j||_F^2 / min(i, j) over the modules that two changes share (Hu et al. 2022, LoRA,
    equation 4), and what random subspaces of those sizes are expected to have.

    Of each side a table: row i - 1 and column j - 1 hold phi(i, j), NaN where no module has so many directions.
    """

    other: str
    modules: int
    """in which both have a direction"""
    shared: int
    """that both changed"""
    left: NDArray[np.float64]
    random_left: NDArray[np.float64]
    right: NDArray[np.float64]
    random_right: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Examined:
    """What `lorabench spectrum` shows of one adapter, cell or checkpoint."""

    title: str
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    spectra: tuple[Spectrum, ...]
    summary: SpectraSummary
    similarity: SubspaceSimilarity | None = None
    trained: Trained | None = None
    """of an adapter's file: what was trained beside the factors"""

    def frame(self) -> pd.DataFrame:
        """A row per module: sizes and measures; k(q) as energy_rank_<q>."""
        import pandas as pd

        def row(s: Spectrum) -> dict[str, object]:
            layer, kind = place(s.module)
            plain = {"module": s.module, "layer": layer, "type": kind}
            named = (
                "in_features",
                "out_features",
                "rank",
                "frobenius_norm",
                "relative_norm",
                "stable_rank",
                "entropy_rank",
                "participation_ratio",
                "numerical_rank",
                "rank_utilisation",
                "amplification",
            )
            return plain | {n: getattr(s, n) for n in named} | {f"energy_rank_{q:g}": s.energy_rank(q) for q in SHARES}

        return pd.DataFrame([row(s) for s in self.spectra])

    def to_dict(self) -> dict[str, object]:
        """What `lorabench spectrum --json` prints: every module and every group; what is not known is left out."""
        plain: dict[str, object] = {
            "source": dict(self.facts)["source"],
            "base": dict(self.facts)["base"],
            "notes": list(self.notes),
            "modules": [_module_dict(s) for s in self.spectra],
            "summary": {
                "layers": [_group_dict(g) for g in self.summary.layers],
                "types": [_group_dict(g) for g in self.summary.types],
                "model": _group_dict(self.summary.model),
            },
        }
        if (counts := self.trained) is not None:
            plain["trained"] = {
                "adapters": counts.adapters,
                "elsewhere": dict(counts.elsewhere),
                "saved_along": dict(counts.saved_along),
            }
        if (similarity := self.similarity) is not None:
            plain["similarity"] = {
                "other": similarity.other,
                "modules": similarity.modules,
                "shared": similarity.shared,
                **{
                    side: [[None if v != v else v for v in row] for row in getattr(similarity, side).tolist()]
                    for side in ("right", "left", "random_right", "random_left")
                },
            }
        return plain

    def __repr__(self) -> str:
        return (
            f"Examined: {formatting.one_line(self.title)}, {formatting.plural(len(self.spectra), 'module')}\n "
            f" {lead(self.summary.model)}"
        )


def _module_dict(s: Spectrum) -> dict[str, object]:
    plain: dict[str, object] = {
        "module": s.module,
        "in_features": s.in_features,
        "out_features": s.out_features,
        "rank": s.rank,
        "singular_values": s.singular_values.tolist(),
        "frobenius_norm": s.frobenius_norm,
        "relative_norm": s.relative_norm,
        "stable_rank": s.stable_rank,
        "entropy_rank": s.entropy_rank,
        "participation_ratio": s.participation_ratio,
        "numerical_rank": s.numerical_rank,
        "energy_rank": {f"{q:g}": s.energy_rank(q) for q in SHARES},
        "nuclear_rank": {f"{q:g}": s.nuclear_rank(q) for q in SHARES},
        "rank_utilisation": s.rank_utilisation,
        "amplification": s.amplification,
        "missed_norm": s.missed or None,
    }
    plain |= {
        name: asdict(part) for name in ("alignment", "intruders", "repair") if (part := getattr(s, name)) is not None
    }
    return {k: v for k, v in plain.items() if v is not None}


def _group_dict(group: Group) -> dict[str, object]:
    return {k: v for k, v in asdict(group).items() if v is not None}


def lead(model: Group) -> str:
    """The means over all modules in two sentences; one where nothing was learned."""
    if not model.frobenius_norm:
        return "The change is zero: nothing was learned."
    words = (
        f"On average {model.energy_rank['0.9']:.3g} singular directions of a matrix hold 90 % of the energy of its"
        f" change, {model.energy_rank['0.99']:.3g} hold 99 %."
    )
    if model.rank_utilisation is not None:
        words += f" By entropy rank, {formatting.percent(100 * model.rank_utilisation)} of the rank is used."
    return words


def trained_words(counts: Trained) -> str:
    """How many numbers were trained and where, on one line."""
    if not counts.outside:
        return f"{formatting.count(counts.adapters)} numbers, all of them in the adapters"
    return (
        f"{formatting.count(counts.total)} numbers: {formatting.count(counts.adapters)} in the adapters,"
        f" {_listed(counts.elsewhere)}"
    )


def trained_notes(counts: Trained, fate: str = "no value here shows them") -> tuple[str, ...]:
    """What no singular value shows: what was trained beside the factors, and what is in the file without having been
    trained."""
    notes = []
    if counts.outside:
        notes.append(
            f"{formatting.count(counts.outside)} of {formatting.count(counts.total)} trained numbers are outside the"
            f" adapters, and {fate}: {_listed(counts.elsewhere)}"
        )
    if counts.saved_along:
        notes.append(
            f"saved with the adapter and, as far as the configuration tells, not trained: {_listed(counts.saved_along)}"
        )
    return tuple(notes)


def _listed(parts: Mapping[str, int]) -> str:
    """The largest four by name, the rest as one."""
    order = sorted(parts.items(), key=lambda p: -p[1])
    rest = [f"{len(order) - 4} more ({formatting.count(sum(n for _, n in order[4:]))})"] if len(order) > 4 else []
    return ", ".join([*(f"{name} ({formatting.count(n)})" for name, n in order[:4]), *rest])


def grid(summary: SpectraSummary, layers: bool = True) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Heads and rows of the groups as texts: module types, layers unless `layers` is False, all; columns that no group
    has are left out."""
    groups = (*summary.types, *(summary.layers if layers else ()), summary.model)
    names = (*(g.name for g in summary.types), *(f"layer {g.name}" for g in (summary.layers if layers else ())), "all")
    columns: list[tuple[str, list[str]]] = [
        ("group", list(names)),
        ("modules", [str(g.modules) for g in groups]),
        ("norm", [f"{g.frobenius_norm:.3g}" for g in groups]),
        ("of base", [share(g.relative_norm) for g in groups]),
        ("stable rank", [f"{g.stable_rank:.2f}" for g in groups]),
        ("entropy rank", [f"{g.entropy_rank:.2f}" for g in groups]),
        *((f"k({q})", [f"{g.energy_rank[q]:.1f}" for g in groups]) for q in ("0.5", "0.9", "0.99")),
        ("utilisation", [share(g.rank_utilisation) for g in groups]),
        ("amplification", [three_digits(g.amplification) for g in groups]),
        ("intruders", [three_digits(g.intruders) for g in groups]),
        ("their energy", [share(g.intruder_energy) for g in groups]),
        ("repair cosine", [three_digits(g.repair_cosine) for g in groups]),
        ("repaired", [share(g.repaired_share) for g in groups]),
        ("at best", [share(g.best_share) for g in groups]),
    ]
    filled = [(head, fields) for head, fields in columns if set(fields) != {formatting.DASH}]
    return tuple(h for h, _ in filled), tuple(zip(*(f for _, f in filled), strict=True))


def share(value: float | None) -> str:
    """ "12 %", with a true minus sign; a dash where there is none."""
    if not value:
        return formatting.DASH if value is None else "0 %"
    return f"{'−' if value < 0 else ''}{formatting.percent(abs(100 * value))}"


def three_digits(value: float | None) -> str:
    """ "0.123", with a true minus sign; a dash where there is none."""
    return formatting.DASH if value is None else f"{value:.3g}".replace("-", "−")


def similarity_words(similarity: SubspaceSimilarity) -> str:
    """Both sides against random subspaces: phi of the first directions, and of all."""
    if not similarity.left.size:
        shared = formatting.plural(similarity.shared, "module")
        return f"In each of the {shared} that both adapt, one of the two changes is zero: there is nothing to compare."
    sides = (
        ("what is read (right)", similarity.right, similarity.random_right),
        ("what is written (left)", similarity.left, similarity.random_left),
    )
    words = "; ".join(
        f"{name}: phi(1, 1) = {t[0, 0]:.3f} (random {r[0, 0]:.3f}), all directions {last(t):.3f} (random {last(r):.3f})"
        for name, t, r in sides
    )
    modules = formatting.plural(similarity.modules, "module")
    return f"Compared with {similarity.other}, mean over {modules}. {words[0].upper()}{words[1:]}."


def last(table: NDArray[np.float64]) -> float:
    """The entry of the most directions that any module reaches."""
    return float(table[~np.isnan(table)][-1])


def sizes(spectra: Sequence[Spectrum]) -> str:
    """ "rank 8" or "ranks 2 to 16" """
    ranks = sorted({s.rank for s in spectra if s.rank})
    if not ranks:
        return "no rank"
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
