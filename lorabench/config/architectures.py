"""Well-known architectures, by name: configurations as facts, no weights (models/architectures/*.yaml).

A file holds a family: `source`, the texts that were opened for it; `confirmed`, whether they state its fields, or
else their number of parameters alone speaks for a shape from memory; and under `models` each hub id with its
aliases, the published number of parameters and the fields of transformers' configuration. A model's own source and
confirmed come before its family's. Other checkpoints of the same shapes are

    variants    endings that make their ids by rule: -Instruct of Mistral-7B-v0.3 is Mistral-7B-Instruct-v0.3, of
                Llama-2-7b-hf it stands before -hf, and in the place of -pt and -Base; of the family or of one model
    also        ids that no rule makes

as lists, or as mappings to the fields of the configuration in which they differ. What has another vocabulary or
another head is a model of its own. Copies by vendors who keep the shapes are found by their own ids
(unsloth/Llama-3.2-1B-Instruct), those in 4 bits (-bnb-4bit) with the quantization that they are stored in.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml

from lorabench.config.paths import MODELS, model_directory

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 43 files: 0.04 s against 0.4 s
_COPIES = ("unsloth", "nousresearch")
_REWRITTEN = ("phi3",)  # unsloth splits their fused projections: other modules under the same name
_STORED = "-bnb-4bit"
STORED_4BIT = {  # as unsloth's -bnb-4bit checkpoints of dense models say in their config.json
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
_FROM_MEMORY = "a shape written from memory, checked only against its published number of parameters"
_ENDS = re.compile(r"(?P<stem>.*?)(?:-pt|-[Bb]ase(?P<date>-\d{4})?)?(?P<tail>(?:-v\d[\d.]*|-hf)*)")


@dataclass(frozen=True)
class Architecture:
    """One preset."""

    name: str
    """hub id"""
    aliases: tuple[str, ...]
    config: dict[str, Any]
    """fields of transformers' configuration, model_type among them"""
    published_parameters: int | None
    """exact where the source is, else as printed"""
    published_as: str
    parameters_only: bool
    """no causal language model: it can be counted, not traced"""
    source: str
    """the texts that were opened for it, with their versions"""
    confirmed: bool
    """whether those texts state its fields; else only its number of parameters agrees with a published one"""
    variants: tuple[str, ...] = ()
    """hub ids of other checkpoints with the same configuration"""
    variant_aliases: tuple[tuple[str, str], ...] = ()
    """its aliases with the endings of variants, each with the variant's hub id"""
    note: str = ""
    """what the figures leave out, or how the hub's weights differ; empty where there is nothing to say"""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user must know of its figures; each ends a sentence that begins "it is"."""
        return (*([self.note] if self.note else []), *([] if self.confirmed else [_FROM_MEMORY]))

    @property
    def ids(self) -> tuple[str, ...]:
        """Its own hub id and those of its variants."""
        return (self.name, *self.variants)


@cache
def architectures() -> dict[str, Architecture]:
    """All presets by hub id, one for each configuration; `Architecture.ids` are the names that share it."""
    presets = {}
    for file in sorted((MODELS / "architectures").glob("*.yaml")):
        family = yaml.load(file.read_text(encoding="utf-8"), _LOADER)
        for name, entry in family["models"].items():
            for preset in _with_variants(name, entry, family):
                presets[preset.name] = preset
    return presets


def _with_variants(name: str, entry: dict[str, Any], family: dict[str, Any]) -> Iterator[Architecture]:
    """A preset, and one more for each checkpoint that shares its parameters but not all of its fields."""
    endings = _fields_of(entry.get("variants", family.get("variants", ())))
    others = {_ending(name, end): fields for end, fields in endings.items()} | _fields_of(entry.get("also", ()))
    short = [(_ending(alias, end), _ending(name, end)) for end in endings for alias in entry.get("aliases", ())]
    published = entry.get("published_parameters")
    base = Architecture(
        name=name,
        aliases=tuple(entry.get("aliases", ())),
        config=entry["config"],
        published_parameters=None if published is None else int(float(published)),
        published_as=str(entry.get("published_as", "")),
        parameters_only=bool(entry.get("parameters_only", family.get("parameters_only", False))),
        source=entry.get("source", family["source"]),
        confirmed=bool(entry.get("confirmed", family.get("confirmed", False))),
        variants=tuple(other for other, fields in others.items() if not fields),
        variant_aliases=tuple((alias, other) for alias, other in short if not others[other]),
        note=str(entry.get("note", "")),
    )
    yield base
    for other, fields in others.items():
        if fields:
            yield replace(
                base,
                name=other,
                aliases=tuple(alias for alias, wanted in short if wanted == other),
                config={**base.config, **fields},
                variants=(),
                variant_aliases=(),
            )


def _fields_of(written: Any) -> dict[str, dict[str, Any]]:
    """A list of names, or a mapping of names to the fields that differ, as the latter."""
    return dict(written) if isinstance(written, Mapping) else {name: {} for name in written}


def _ending(name: str, ending: str) -> str:
    """The id or alias of a variant: its ending before a version and -hf, in the place of -pt and -Base."""
    parts = _ENDS.fullmatch(name)
    assert parts is not None
    return f"{parts['stem']}{ending}{parts['date'] or ''}{parts['tail']}"


def find_architecture(name: str) -> Architecture | None:
    """The preset of a hub id or alias, in any case and with blanks or underscores for hyphens, a name without "/" also
    without its vendor; under the id of the variant where one is meant. None where there is none."""
    preset = _by_word().get(name.strip().lower()) or _by_name().get(_plain(name))
    return preset or _copied(name)


def _copied(name: str) -> Architecture | None:
    """The preset that a vendor's copy has the shapes of; None where the copy's own config.json alone can tell: stored
    in 4 bits with experts, an image tower or layers left out (-unsloth-bnb-4bit)."""
    vendor, _, rest = name.strip().partition("/")
    if vendor.lower() not in _COPIES or not rest:
        return None
    plain = rest.lower().removesuffix(_STORED)
    preset = _by_word().get(f"{vendor.lower()}/{plain}") or _by_id().get(plain)
    if preset is None or preset.config["model_type"] in _REWRITTEN:
        return None
    if plain == rest.lower():
        return preset
    return replace(preset, config={**preset.config, "quantization_config": STORED_4BIT}) if _is_plain(preset) else None


@cache
def _by_id() -> dict[str, Architecture]:
    """Hub ids without their vendor; aliases mean the newest of a line, which a copy need not be."""
    return {one.lower().rpartition("/")[2]: _by_word()[one.lower()] for a in architectures().values() for one in a.ids}


def _is_plain(preset: Architecture) -> bool:
    """Whether a model is a dense one without towers."""
    return not any("expert" in field or field == "vision_config" for field in preset.config)


def search(words: str) -> tuple[Architecture, ...]:
    """The presets that hold every one of the words ("llama 8b") in id or aliases, vendor and case aside: whole words
    first, then parts of them."""
    query = re.findall(r"[a-z0-9.]+", words.lower())
    texts = {
        a.name: " ".join((*a.ids, *a.aliases, str(a.config.get("model_type", "")))).lower()
        for a in architectures().values()
    }
    whole = [a for a in architectures().values() if set(query) <= set(re.findall(r"[a-z0-9.]+", texts[a.name]))]
    parts = [a for a in architectures().values() if all(w in texts[a.name] for w in query)]
    return tuple(whole or parts)


def near_names(name: str, most: int = 3) -> list[str]:
    """The hub ids of presets that a name that is none is like."""
    words = {_plain(word.rpartition("/")[2]): a.name for word, a in _by_word().items()}
    near = difflib.get_close_matches(_plain(name.rpartition("/")[2]), list(words), n=3 * most, cutoff=0.6)
    return list(dict.fromkeys(words[w] for w in near))[:most]


def model_type(name: str) -> str | None:
    """transformers' word for a model's architecture, from its directory's config.json or the presets; None where
    neither tells."""
    directory = model_directory(name)
    if directory is not None:
        try:
            config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
    else:
        preset = find_architecture(name)
        config = preset.config if preset else None
    named = config.get("model_type") if isinstance(config, dict) else None
    return str(named) if named else None


@cache
def _by_word() -> dict[str, Architecture]:
    """Ids and aliases, those of variants made from the preset's by the same rule."""
    presets: dict[str, Architecture] = {}
    for preset in architectures().values():
        for word in (preset.name, *preset.aliases):
            presets[word.lower()] = preset
    for preset in architectures().values():
        for word, other in (*((one, one) for one in preset.variants), *preset.variant_aliases):
            presets.setdefault(word.lower(), replace(preset, name=other))
    return presets


def _plain(name: str) -> str:
    """ "Llama 3.1 8B" and "llama_3.1-8b" are one name."""
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


@cache
def _by_name() -> dict[str, Architecture]:
    """Ids and aliases without their vendor, where that leaves one model."""
    presets_by_name: dict[str, dict[str, Architecture]] = {}
    for word, a in _by_word().items():
        presets_by_name.setdefault(_plain(word.rpartition("/")[2]), {})[a.name] = a
    return {word: next(iter(known.values())) for word, known in presets_by_name.items() if len(known) == 1}
