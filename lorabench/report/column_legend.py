"""What the columns of a table of spectra mean, one line each, with the source: below every such table, on a page and as
text."""

from __future__ import annotations

from collections.abc import Sequence

MEANINGS = {
    "norm": "Frobenius norm of the change delta_w of a weight matrix: root of the sum of its squared singular values",
    "of base": "norm of the change / norm of the base weight",
    "stable rank": (
        "sum of squared singular values / the largest squared; insensitive to small ones (Rudelson and Vershynin 2007,"
        " J. ACM 54.4)"
    ),
    "entropy rank": (
        "exp of the entropy of the singular values as shares of their sum, often called effective rank (Roy and"
        " Vetterli 2007, EUSIPCO)"
    ),
    "numerical rank": "number of singular values above the rounding error of the stored numbers",
    "k(q)": (
        "smallest number of singular directions that hold a share q of the energy (of the squared singular values):"
        " k(0.9) holds 90 %"
    ),
    "utilisation": "entropy rank / the rank that the change can have, an adapter's own",
    "amplification": (
        "norm of the change / norm of the base weight within the change's own directions: large where it strengthens"
        " what the base hardly has (Hu et al. 2022, LoRA, section 7.3)"
    ),
    "intruders": (
        "singular vectors of the changed weight, among its leading ones, that resemble none of the base's (Shuttleworth"
        " et al. 2024, arXiv:2410.21228)"
    ),
    "their energy": "share of the changed weight's energy that lies in its intruders",
    "relative error": "norm of what quantization changes in a weight / norm of the weight",
    "worst": "the largest relative error among the modules",
    "maximum": "largest error of one number / largest number of the weight",
    "SNR (dB)": "signal to noise: 20 log10(norm of the weight / norm of the error)",
    "repair cosine": (
        "cosine between the change and the negative error of quantization: 1 undoes it, 0 has nothing to do with it"
    ),
    "repaired": (
        "share of the squared error of quantization that adding the change removes; negative where it adds to the error"
    ),
    "at best": "the most that any change of that rank could remove (Eckart and Young 1936)",
}
"""by the head of a column; k(q) stands for all shares q"""


def legend(heads: Sequence[str]) -> tuple[str, ...]:
    """A line for each column of a table that has a meaning here, in the table's order."""
    keys = dict.fromkeys("k(q)" if head.startswith("k(") else head for head in heads)
    return tuple(f"{key}: {MEANINGS[key]}" for key in keys if key in MEANINGS)
