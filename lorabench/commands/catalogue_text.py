"""What is known beforehand, as text: models that ship, presets of others, graphics cards, plug-ins, the study file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lorabench import plugins
from lorabench.commands.output import columns
from lorabench.config.architectures import architectures, near_names, search
from lorabench.config.elsewhere import unknown_choice
from lorabench.config.gpus import gpus as known_gpus
from lorabench.config.paths import shipped_models
from lorabench.errors import LorabenchError
from lorabench.formatting import block, count, plural, size

if TYPE_CHECKING:
    from lorabench.config.architectures import Architecture

_FIELDS = (
    ("num_hidden_layers", "n_layer", "num_layers"),
    ("hidden_size", "n_embd", "d_model"),
    ("num_attention_heads", "n_head", "num_heads"),
    ("vocab_size",),
    ("max_position_embeddings", "n_positions", "seq_length"),
)
"""transformers' words for layers, hidden size, heads, vocabulary and context, which differ between families"""


def models(words: str = "") -> str:
    """The shipped models and all presets, or those that hold the words; LorabenchError with near names where none
    does."""
    shipped = [name for name in shipped_models() if all(w in name for w in words.lower().split())]
    if not words.strip():
        return "\n".join(
            [
                *_shipped(shipped),
                "",
                *_names(tuple(architectures().values())),
                (
                    "for estimate, plan, recommend and parameters: sizes, no weights (lorabench models SEARCH shows"
                    " layers and widths, such as: lorabench models llama 8b)"
                ),
                (
                    "also found: their ids under unsloth/ and NousResearch/, without their vendor, in any case; dense"
                    " models of unsloth ending in -bnb-4bit as the nf4 that they are stored in"
                ),
                (
                    "and any transformers model: a directory (model: ./path; for those four commands its config.json"
                    " alone is enough) or a hub id (model: Qwen/Qwen3-0.6B, revision: main)"
                ),
            ]
        )
    matches = search(words)
    if not matches and not shipped:
        near = near_names(words)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"families: {', '.join(sorted({str(a.config.get('model_type')) for a in architectures().values()}))};"
        )
        raise LorabenchError(
            f"no shipped model and no preset matches '{' '.join(words.split())}'; {hint} any other model is named by"
            " its directory or hub id"
        )
    return "\n".join(
        [
            *_shipped(shipped),
            *([""] if shipped and matches else []),
            *_presets(matches),
        ]
    )


def _shipped(names: list[str]) -> list[str]:
    rows = []
    for name in names:
        folder = shipped_models()[name]
        card = folder / "pretraining.json"
        facts = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
        notes = [
            f"{facts['parameters']:>9,} parameters" if "parameters" in facts else "",
            size(sum(f.stat().st_size for f in folder.glob("*.safetensors"))),
        ]
        if "held_out_bits_per_byte" in facts:
            notes.append(f"{facts['held_out_bits_per_byte']:.3f} bits per byte held out")
        rows.append(f"{name:<22}  {', '.join(s for s in notes if s)}")
    return rows


def _names(presets: tuple[Architecture, ...]) -> list[str]:
    rows = [("preset", "parameters", "also called"), *((a.name, _size(a), _also(a)) for a in presets)]
    names = sum(len(a.ids) for a in presets)
    return [*columns(rows, left=(0, 2)), "", f"{plural(len(presets), 'preset')}, {names:,} names of checkpoints"]


def _size(preset: Architecture) -> str:
    return "" if preset.published_parameters is None else count(preset.published_parameters)


def _also(preset: Architecture) -> str:
    """Aliases and variants, these without the vendor that the preset shows."""
    vendor = preset.name.partition("/")[0] + "/"
    names = ", ".join((*preset.aliases, *(one.removeprefix(vendor) for one in preset.variants)))
    remarks = [f"({remark})" for remark in preset.remarks]
    return " ".join([names, *remarks, *(["(for parameters only)"] if preset.parameters_only else [])])


def _presets(presets: tuple[Architecture, ...]) -> list[str]:
    if not presets:
        return []
    rows = [("preset", "parameters", "layers", "hidden", "heads", "vocabulary", "context", "also called")]
    for a in presets:
        text = a.config.get("text_config", a.config)
        fields = [next((f"{text[k]:,}" for k in names if isinstance(text.get(k), int)), "") for names in _FIELDS]
        rows.append(
            (
                a.name,
                _size(a),
                fields[0],
                fields[1],
                fields[2],
                fields[3],
                fields[4],
                _also(a),
            )
        )
    lines = columns(rows, left=(0, len(rows[0]) - 1))
    return [
        *lines,
        "",
        (
            f"{plural(len(presets), 'preset')}: sizes as published, no weights; for lorabench estimate, plan, recommend"
            " and parameters"
        ),
    ]


def gpus() -> str:
    """The known cards, a line each."""
    rows = [("gpu", "sold as", "usable", "", "bandwidth", "bf16")]
    for name, card in known_gpus().items():
        bandwidth = f"{card.bandwidth / 1e9:,.0f} GB/s" if card.bandwidth else ""
        flops = f"{card.bf16_flops / 1e12:,.0f} TFLOP/s{'' if card.bf16 else ' (fp16)'}" if card.bf16_flops else ""
        rows.append(
            (
                name,
                f"{card.nominal_gib:g} GB",
                f"{card.memory_bytes / 2**30:.1f} GiB",
                size(card.memory_bytes),
                bandwidth,
                flops,
            )
        )
    lines = columns(rows)
    note = (
        "usable: what PyTorch can use, in GiB (2**30 bytes, as PyTorch prints it) and in GB (10**9 bytes, as all"
        " predictions are shown); --gpu also takes a class such as 24GB, an amount such as 23.5GiB, or cpu"
    )
    return "\n".join([*lines, "", note])


def plugin_list(kind: str) -> str:
    """One line for each plug-in of a kind."""
    names = plugins.names(kind)
    width = max((len(n) for n in names), default=0)
    return "\n".join(f"{n:<{width}}  {plugins.describe(kind, n)}" for n in names)


def task_options(name: str) -> str:
    """What a task reads: its own page, then each option with its default."""
    if name not in plugins.names("tasks"):
        raise LorabenchError(unknown_choice("task", name, plugins.names("tasks")))
    task = plugins.load("tasks", name)
    rows = []
    for option, field in task.Options.model_fields.items():
        if option != "name":
            default = (
                "needed"
                if field.is_required()
                else json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)
            )
            rows.append(
                (
                    option,
                    f"{' '.join((field.description or '').split())} (default: {default})".replace(
                        "(default: needed)", "(needed)"
                    ).replace(" (default: null)", ""),
                )
            )
    options = block(f"options, under task: with name: {name}", rows) if rows else "it has no options"
    return f"{name}: {(task.__doc__ or '').strip()}\n\n{options}"


def schema() -> str:
    """JSON Schema of the study file, for editors."""
    from lorabench.config.explain import paths_of
    from lorabench.config.study import Study

    plain = Study.model_json_schema(by_alias=True)
    definitions = plain.setdefault("$defs", {})
    tasks: list[dict[str, object]] = [{"enum": list(plugins.names("tasks"))}]
    for name in plugins.names("tasks"):
        own = plugins.load("tasks", name).Options.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
        definitions.update(own.pop("$defs", {}))
        mapping = next((part for part in own.get("anyOf", []) if part.get("type") != "string"), own)
        reference = str(mapping.get("$ref", "")).rpartition("/")[2]
        mapping = dict(definitions.pop(reference)) if reference in definitions else dict(mapping)
        mapping["properties"] = {**mapping.get("properties", {}), "name": {"const": name}}
        mapping["required"] = sorted({"name", *mapping.get("required", [])})
        definitions[f"task-{name}"] = mapping
        tasks.append({"$ref": f"#/$defs/task-{name}"})
    plain["properties"]["task"] = {"anyOf": tasks, "description": "what is learned"}
    axes = {"anyOf": [{"enum": paths_of()}, {"pattern": r"^task\."}]}
    plain["properties"]["grid"]["propertyNames"] = axes
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "lorabench study"}
    plain.pop("title", None)
    return json.dumps({**head, **plain}, indent=2, ensure_ascii=False)
