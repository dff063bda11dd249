"""What is said of the directions that two seeds, or two ranks, have in common."""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.spectra import MeanSimilarity
from lorabench.analysis.subspace_similarity import (
    RankSimilarity,
    SeedSimilarity,
)


def seed_caption(conditions: int, shown: int) -> str:
    """Of the figure of phi(k, k), of whose conditions `shown` are drawn."""
    words = (
        "How much of the first k right singular vectors (what the change reads) two seeds of a condition have in"
        " common: φ(k, k) = ‖U₁ᵀU₂‖² / k (Hu et al. 2021, equation 4), mean over pairs of seeds and modules; 1 is the"
        " same subspace. Compare each curve with the dashed line of random subspaces, and see where it falls to it:"
        " beyond that index a change is noise of its seed. The left side (what the change writes) is given below in"
        " words."
    )
    if shown < conditions:
        words += (
            f" Of {conditions} conditions {shown} are drawn (the highest rank of each family); the others are listed"
            " below in words."
        )
    return words


def seed_map_caption(label: str) -> str:
    """Of the map of one condition between its seeds."""
    return (
        f"φ(i, j) of {label}: how much of the first i directions of one seed lies within the first j of another, or"
        " the other way round. The figure opens with the right side (choose the left above it). Look at the first row:"
        " where it is bright, one seed's first direction is among the other's first."
    )


def rank_map_caption(r: RankSimilarity) -> str:
    """Of the map between two ranks."""
    return (
        f"How much of the first i right singular vectors of rank {r.low} lies within the first j of rank {r.high},"
        " or the other way round: φ(i, j) = ‖U₁ᵀU₂‖² / min(i, j), mean over seeds and modules (Hu et al. 2021,"
        " equation 4 and figure 3). Look at the first row: where it is bright, the low rank's first direction is among"
        " the high rank's first; a dark map says that the ranks found different subspaces."
    )


def corners(right: MeanSimilarity, left: MeanSimilarity) -> tuple[str, ...]:
    """ "right side, φ(1, 8): 0.43 (random subspaces: 0.12)": the first direction of either, and all of both."""
    return tuple(
        f"{side} side, φ({i}, {j}): {s.phi[i - 1][j - 1]:.2f} (random subspaces: {max(i, j) * s.random:.2f})"
        for side, s in (("right", right), ("left", left))
        for i, j in dict.fromkeys(((1, 1), (1, len(s.phi[0])), (len(s.phi), len(s.phi[0]))))
    )


def seed_sentence(s: SeedSimilarity) -> str:
    """ "LoRA r=16: seeds share 0.43 of the first 8 directions on the right and 0.31 on the left (random: 0.12 and 0.12;
    3 pairs of seeds).\""""
    k = min(len(s.right.phi), len(s.left.phi))
    first = f"the first {k} directions" if k > 1 else "the first direction"
    return (
        f"{s.label}: seeds share {s.right.diagonal[k - 1]:.2f} of {first} on the right and"
        f" {s.left.diagonal[k - 1]:.2f} on the left (random subspaces: {k * s.right.random:.2f} and"
        f" {k * s.left.random:.2f}; {formatting.plural(s.right.pairs, 'pair')} of seeds)."
    )


def rank_sentence(r: RankSimilarity) -> str:
    """ "LoRA: 0.61 of rank 4's first right direction lies within rank 8's first 8, and 0.33 of its first 4 (random
    subspaces: 0.06; 2 seeds)." """
    phi, k = r.right.phi, len(r.right.phi)
    most = len(phi[0])
    whole = f", and {phi[k - 1][most - 1]:.2f} of its first {k}" if k > 1 else ""
    within = f"first {most}" if most > 1 else "first"
    return (
        f"{r.family}: {phi[0][most - 1]:.2f} of rank {r.low}'s first right direction lies within rank {r.high}'s"
        f" {within}{whole} (random subspaces: {most * r.right.random:.2f}; {formatting.plural(r.right.pairs, 'seed')})."
    )
