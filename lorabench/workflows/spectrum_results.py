"""What cutting an adapter and quantizing a model give: values, their frames and their plain dicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.spectra.quantization_error import QuantizationError


@dataclass(frozen=True)
class TruncatedAdapter:
    """An adapter of a lower rank that was written."""

    folder: Path
    ranks: Mapping[str, int]
    """by module as PEFT names it; 0 of those that were left out"""
    parameters: int
    """of its factors"""
    parameters_before: int
    kept_energy: float
    """sum of the kept sigma^2 / sum of all, 0 to 1"""
    left_out: tuple[str, ...] = ()
    """tensors of the file that a PEFT adapter has no place for"""
    notes: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """A row per module: the rank that it was cut to."""
        import pandas as pd

        return pd.DataFrame({"rank": dict(self.ranks)}).rename_axis("module")

    def __repr__(self) -> str:
        energy = f"{100 * self.kept_energy:.2f} % of the energy"
        return f"Truncation in {self.folder}\n  {self.parameters:,} of {self.parameters_before:,} parameters, {energy}"

    def to_dict(self) -> dict[str, object]:
        """All fields as plain values, for JSON."""
        return asdict(self) | {"folder": str(self.folder), "ranks": dict(self.ranks)}


@dataclass(frozen=True, eq=False)
class QuantizationErrors:
    """The errors of a model's weights, by module and form."""

    model: str
    errors: tuple[QuantizationError, ...]
    adapter: str | None = None
    """whose part in undoing the errors was measured"""
    note: str | None = None
    """where the checkpoint is stored quantized already"""

    def frame(self) -> pd.DataFrame:
        """A row per module and form: errors as shares, the signal-to-noise ratio in decibels, ranks of the error."""
        import pandas as pd

        rows = self._modules()
        return pd.DataFrame([{k: v for k, v in r.items() if k not in ("singular_values", "repair")} for r in rows])

    def to_dict(self) -> dict[str, object]:
        """A row per module and form, as in the command's JSON; what is not known is left out."""
        return {"model": self.model, **({"note": self.note} if self.note else {}), "modules": self._modules()}

    def _modules(self) -> list[dict[str, object]]:
        rows = []
        for e in self.errors:
            row: dict[str, object] = {
                "module": e.module,
                "quantization": e.form.removesuffix(" dq"),
                "double_quant": e.form.endswith(" dq"),
                "relative_error": e.relative_error,
                "maximum_error": e.maximum_error,
                "signal_to_noise_db": e.signal_to_noise,
                "stable_rank": e.spectrum.stable_rank,
                "entropy_rank": None if e.spectrum.missed else e.spectrum.entropy_rank,
                "singular_values": e.spectrum.singular_values.tolist(),
                "repair": asdict(e.repair) if e.repair else None,
            }
            rows.append({k: v for k, v in row.items() if v is not None})
        return rows

    def __repr__(self) -> str:
        forms: dict[str, list[float]] = {}
        for e in self.errors:
            forms.setdefault(e.form, []).append(e.relative_error)
        means = ", ".join(f"{form} {sum(v) / len(v):.3g}" for form, v in forms.items())
        return f"QuantizationErrors of {self.model}\n  mean relative error: {means}"
