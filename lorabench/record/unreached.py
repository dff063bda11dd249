"""Weights that neither bitsandbytes nor LoRA reaches, such as the stacked experts of a mixture (engine.experts finds
them), and the sentence on them."""

from __future__ import annotations

from lorabench.config.frozen import Frozen

SHOWN = 3  # names


class Unreached(Frozen):
    """What of a model is neither quantized nor adapted, whatever is asked for."""

    names: tuple[str, ...]
    """of the parameters, with * for the number of the layer; the largest first"""
    parameters: int
    of: int
    """parameters of the whole model"""
    bytes: int | None = None
    """as the model holds them; absent where no precision was told"""

    def words(self, *, quantized: bool, adapted: bool, size: str = "") -> str:
        """One sentence: what stays as it is, how much that is, why, and what can be done; empty where neither was asked
        for.

        size: its bytes in words.
        """
        left = [word for word, requested in (("quantized", quantized), ("adapted", adapted)) if requested]
        if not left:
            return ""
        experts = any("expert" in name for name in self.names)
        shown = " ".join(", ".join(self.names[:SHOWN]).split()) + (", ..." if len(self.names) > SHOWN else "")
        share = (
            f"{self.parameters:,} of {self.of:,} parameters, {100 * self.parameters / self.of:.0f}"
            f" %{f', {size}' if size else ''}"
        )
        remedy = "count on their full size"
        if adapted:
            remedy = "method full trains them, and a dense model has none"
            remedy = f"target_parameters: experts adapts them by lora, {remedy}" if experts else remedy
        who = {"quantized": "bitsandbytes quantizes", "adapted": "LoRA adapts"}
        return (
            f"{'its experts' if experts else 'weights outside of linear layers'} are"
            f" {'neither ' if len(left) > 1 else 'not '}{' nor '.join(left)} ({shown}: {share}):"
            f" {' and '.join(who[w] for w in left)} linear layers alone,"
            f" {'and transformers keeps experts as stacks of matrices' if experts else 'which these are not'};"
            f" {remedy}"
        )
