"""What people call a condition: short, and unique within its study.

"full", "base", "LoRA r=4", "LoRA r=4 nf4", and after a comma what else tells conditions apart. A setting
that follows from the rest (a learning rate that changes with the method alone) is left out. The family is
the label without its rank: figures give one colour to each family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lorabench.config.fingerprint import flattened
from lorabench.config.paths import short_model

_METHODS = {
    "lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA",
    # of imported results, as their papers and PEFT spell them
    "adalora": "AdaLoRA", "adamss": "AdaMSS", "adaption-prompt": "LLaMA-Adapter", "bdlora": "BD-LoRA", "beft": "BEFT",
    "boft": "BOFT", "bone": "Bone", "c3a": "C3A", "corda": "CorDA", "deft": "DEFT", "delora": "DeLoRA", "eva": "EVA",
    "fourierft": "FourierFT", "frod": "FRoD", "glora": "GLoRA", "gralora": "GraLoRA", "hira": "HiRA", "hra": "HRA",
    "ia3": "IA3", "lily": "Lily", "ln-tuning": "LayerNorm tuning", "loftq": "LoftQ", "loha": "LoHa", "lokr": "LoKr",
    "lora-fa": "LoRA-FA", "lora+": "LoRA+", "lora-ga": "LoRA-GA", "mica": "MiCA", "miss": "MiSS", "oft": "OFT",
    "olora": "OLoRA", "osf": "OSF", "peanut": "PEANuT", "prefix-tuning": "prefix tuning", "psoft": "PSOFT",
    "prompt-tuning": "prompt tuning", "p-tuning": "P-tuning", "pvera": "PVeRA", "randlora": "RandLoRA", "road": "RoAd",
    "shira": "SHiRA", "tinylora": "TinyLoRA", "trainable-tokens": "trainable tokens", "unilora": "Uni-LoRA",
    "vblora": "VB-LoRA", "vera": "VeRA", "waveft": "WaveFT", "xlora": "X-LoRA",
}  # fmt: skip
_SHORT = {
    "training.learning_rate": "lr",
    "training.learning_rate.tune": "lr",
    "training.sequence_length": "length",
    "training.batch_size": "batch",
    "training.gradient_accumulation": "accumulation",
}
_NAMED = {**_SHORT, "task.rank": "planted rank"}
_BARE = ("model.name", "model.dtype", "task.name", "method.target_modules", "training.optimizer", "training.schedule")
_FLAGS = {"quantization.double_quant": "double quant", "training.gradient_checkpointing": "checkpointing"}
_VARIANT = "imported.variant"  # always shown: what the source calls it may be the one thing that tells what it is
_HEAD = ("method.name", "method.rank", "quantization.name", _VARIANT, "imported.importer", "imported.experiment")
_LONGEST = 40


@dataclass(frozen=True)
class Label:
    """A condition's name."""

    text: str
    family: str
    """the same without the rank"""


def method_label(name: str) -> str:
    """LoRA for lora; a method that has no spelling of its own keeps its name."""
    return _METHODS.get(name, name)


def condition_labels(conditions: Mapping[str, Mapping[str, object]]) -> dict[str, Label]:
    """A condition's id to its Label, of their settings as plain data."""
    settings = {key: flattened(declared) for key, declared in conditions.items()}
    shown = _telling(settings)
    by_condition = {
        c: _label(s, [f for f in shown.get(str(s["method.name"]), ()) if f in s]) for c, s in settings.items()
    }
    return _unique(by_condition)


def _telling(settings: dict[str, dict[str, object]]) -> dict[str, tuple[str, ...]]:
    """For each method the further fields that its labels name: those that differ where labels would be the same."""
    several = [f for f in ("model.name", "task.name") if len({s.get(f) for s in settings.values()}) > 1]
    shown: dict[str, dict[str, None]] = {str(s["method.name"]): dict.fromkeys(several) for s in settings.values()}
    every = dict.fromkeys(f for s in settings.values() for f in s)
    values: dict[tuple[str, str], set[str]] = {}
    for s in settings.values():
        for f in every:
            values.setdefault((str(s["method.name"]), f), set()).add(str(s.get(f)))
    # a field that is the same wherever a method is used tells none of its conditions apart
    fields = [f for f in every if f not in _HEAD and any(len(values[m, f]) > 1 for m in shown)]
    # one field at a time, most telling first: a field that follows from those already named stays out
    for field in sorted(fields, key=lambda f: list(_SHORT).index(f) if f in _SHORT else len(_SHORT)):
        groups: dict[tuple[str, str], list[dict[str, object]]] = {}
        for s in settings.values():
            method = str(s["method.name"])
            groups.setdefault((method, _label(s, shown[method]).text), []).append(s)
        for (method, _), members in groups.items():
            if len({str(s.get(field)) for s in members}) > 1:
                shown[method].setdefault(field)
    return {method: tuple(names) for method, names in shown.items()}


def _label(setting: dict[str, object], fields: Iterable[str]) -> Label:
    method = str(setting["method.name"])
    head = [method_label(method)]
    rank = setting.get("method.rank")
    stored = setting.get("quantization.name")
    tail = [str(stored)] if stored not in (None, "none") else []
    variant = setting.get(_VARIANT)
    extra = [str(variant)] if variant else []
    extra += [words for f in fields if (words := _words(f, setting.get(f)))]
    ranked = [f"r={rank}"] if rank is not None else []
    return Label(", ".join([" ".join([*head, *ranked, *tail]), *extra]), ", ".join([" ".join([*head, *tail]), *extra]))


def _words(field: str, value: object) -> str:
    if value is None:
        return ""
    if field in _FLAGS:
        return _FLAGS[field] if value else ""
    if isinstance(value, list):
        joined = "+".join(map(str, value))
        value = joined if len(joined) <= _LONGEST else f"{len(value)} {field.rpartition('.')[2].replace('_', ' ')}"
    shown = f"{value:g}" if isinstance(value, float) else short_model(value) if isinstance(value, str) else str(value)
    return shown if field in _BARE else f"{_NAMED.get(field, field.rpartition('.')[2])}={shown}"


def _unique(by_condition: dict[str, Label]) -> dict[str, Label]:
    """Two that still read the same (one name over other bytes, a path's last part) get the head of their condition
    id."""
    often = Counter(label.text for label in by_condition.values())
    return {
        c: label if often[label.text] == 1 else Label(f"{label.text} [{c[:6]}]", f"{label.family} [{c[:6]}]")
        for c, label in by_condition.items()
    }
