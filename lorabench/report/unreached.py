"""In words: what of a model is neither quantised nor adapted, whatever was asked for (engine.experts counts it)."""

from __future__ import annotations

from collections.abc import Sequence

from lorabench.report.human import count, one_line, size

SHOWN = 3  # names


def unreached_words(names: Sequence[str], parameters: int, stored_bytes: int | None, of: int, *, quantised: bool, adapted: bool) -> str:
    """One sentence: what stays as it is, how much that is, why, and what can be done; "" where neither was asked for.

    `names` are of parameters, with * for a layer's number; `stored_bytes` is absent where no precision was told.
    """
    left = [word for word, asked in (("quantised", quantised), ("adapted", adapted)) if asked]
    if not left:
        return ""
    experts = any("expert" in name for name in names)
    shown = one_line(", ".join(names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
    bytes_too = f", {size(stored_bytes)}" if stored_bytes is not None else ""
    who = {"quantised": "bitsandbytes quantises", "adapted": "LoRA adapts"}
    return (
        f"{'its experts' if experts else 'weights outside of linear layers'} are {'neither ' if len(left) > 1 else 'not '}{' nor '.join(left)} "
        f"({shown}: {count(parameters)} of {count(of)} parameters{bytes_too}): {' and '.join(who[w] for w in left)} linear layers alone, "
        f"{'and transformers keeps experts as stacks of matrices' if experts else 'which these are not'}; {_advice(adapted)}"
    )


def _advice(adapted: bool) -> str:
    return "method full trains them, and a dense model has none" if adapted else "count on their full size"
