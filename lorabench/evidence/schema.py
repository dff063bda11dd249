"""What the columns of the library mean, in which units, and which values they take.

    data/results.csv          one value of a published table a row: a model, a task, a method, a rank, a storage
    data/learning_rates.csv   a published learning rate a row
    data/rank_rate_sweep.csv  a cell of one sweep over ranks and rates on 29 models a row
    data/sources.yaml         title, place and cautions of each source, by its id

An empty field was not printed or not read; a flag is 1 or empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VERSION = 1
"""of columns and their meaning; it rises when a column changes its name or meaning, not when rows are added"""

Kind = Literal["name", "number", "whole", "flag", "text"]
"""name: one of a set; number and whole: absent where not printed; flag: true or false; text: free"""

TASK_KINDS = (
    "classification",
    "instruction",
    "math",
    "code",
    "commonsense",
    "generation",
    "continued-pretraining",
    "other",
)
TASK_SYNONYMS = {
    "chat": "instruction",
    "instruct": "instruction",
    "instructions": "instruction",
    "classify": "classification",
    "glue": "classification",
    "mathematics": "math",
    "maths": "math",
    "coding": "code",
    "programming": "code",
    "reasoning": "commonsense",
    "summarization": "generation",
    "cpt": "continued-pretraining",
    "pretraining": "continued-pretraining",
    "continued_pretraining": "continued-pretraining",
    "domain-pretraining": "continued-pretraining",
    "text": "continued-pretraining",
}
"""other words for a task kind: what users, lorabench's tasks and papers say"""

FLAGS = {
    "untuned_rate": "its learning rate, or that of what it is compared with, was not chosen for it alone",
    "scaling_moves_with_rank": "other ranks of its table have another scaling, alpha / rank or alpha / sqrt(rank)",
    "copied": "its source took it from another paper",
    "copied_reference": "the full fine-tuning that it is compared with is taken from another paper",
    "failed": "the run diverged or collapsed: it says something of rates, nothing of ranks and methods",
    "misprint": "its number or its label contradicts the table that it stands in",
    "double": "another row of the library is the same measurement",
    "unequal_length": "what it is compared with was trained for another number of steps",
    "converted": "measured after the trained model was merged, quantized again, cut or converted",
}
"""each with its meaning"""

UNUSABLE = ("failed", "misprint", "double", "converted")
"""flags of rows that no answer rests on: they are listed only where they are asked for"""


@dataclass(frozen=True)
class Column:
    """A column of one of the files."""

    name: str
    """its head"""
    kind: Kind
    """how it is read"""
    meaning: str
    """with the unit, where it has one"""
    allowed: tuple[str, ...] = ()
    """of a name, every value that occurs; empty where there are too many to list"""


_SOURCE = (
    Column("source", "name", "id in sources.yaml"),
    Column("where", "text", "paper with version and table, or file with commit"),
)
_MODEL = (
    Column("model", "name", "under one spelling, without its owner"),
    Column("family", "name", "llama, qwen, roberta, ...; empty for several at once"),
    Column("parameters", "number", "of the whole model, experts included"),
)
SCALING_POLICIES = ("", "constant-alpha", "constant-scaling", "sqrt-rank")

RESULTS: tuple[Column, ...] = (
    *_SOURCE,
    Column("table", "name", "what may be compared and pooled: rows of one source, place, model, task, metric and data"),
    *_MODEL,
    Column("task", "name", "training data, and after -> what is evaluated where that is something else"),
    Column("task_kind", "name", "what the training is for", TASK_KINDS),
    Column(
        "aspect",
        "name",
        "what the value tells of: what was trained for, what was lost elsewhere, or the training itself",
        ("task", "forgetting", "training"),
    ),
    Column("metric", "name", "of value and full_value"),
    Column(
        "unit",
        "name",
        "points are percent (accuracies, BLEU, ROUGE, 100 times a correlation); nats a token or of a loss",
        ("points", "nats", "perplexity", "score"),
    ),
    Column("higher_is_better", "flag", "of value"),
    Column("train_examples", "number", "training examples"),
    Column("train_tokens", "number", "training tokens"),
    Column("epochs", "number", "passes over the data"),
    Column("method", "name", "full, or the adapter; what a quantized base makes of it stands in quantization"),
    Column("rank", "whole", "of the adapter"),
    Column("alpha", "number", "lora_alpha"),
    Column(
        "scaling_policy",
        "name",
        "how the scaling follows the rank: alpha / rank with the same alpha at every rank, alpha that grows with the"
        " rank, or alpha / sqrt(rank); empty where it is not known",
        SCALING_POLICIES,
    ),
    Column("target_modules", "text", "all-linear, or names of modules"),
    Column(
        "quantization",
        "name",
        "how the frozen base is stored while it is trained",
        ("none", "int8", "int4", "int3", "int2", "nf4", "nf2", "fp4", "4-bit", "mixed"),
    ),
    Column("double_quant", "name", "yes where block constants are quantized, too, as far as it is told", ("", "yes")),
    Column("storage_detail", "text", "groups, levels, and what became of the base after the training"),
    Column("learning_rate", "number", "as printed"),
    Column(
        "rate_tuned",
        "name",
        "whether the rate was chosen among several for this method and task; no: one rate for all that is compared",
        ("yes", "no", "unknown"),
    ),
    Column("value", "number", "as measured, in the unit"),
    Column("error", "number", "in the unit"),
    Column(
        "error_kind",
        "name",
        "what error is: standard deviation over seeds, the same as a rule of thumb for a whole table, standard error"
        " over test items, or a ± that is not explained",
        ("", "seed-deviation", "typical-seed-deviation", "item-standard-error", "unexplained"),
    ),
    Column("average", "name", "what value is of several seeds", ("", "mean", "median")),
    Column("seeds", "whole", "that value is over"),
    Column("test_items", "whole", "that value is over"),
    Column("full_value", "number", "of full fine-tuning that the source compares it with, in the unit"),
    Column("trainable_parameters", "number", "where they are printed"),
    *(Column(name, "flag", meaning) for name, meaning in FLAGS.items()),
    Column("note", "text", "what else is to be known of the row"),
)

LEARNING_RATES: tuple[Column, ...] = (
    *_SOURCE,
    *_MODEL[:2],
    Column("task", "text", "training data"),
    Column("task_kind", "name", "what the training is for", ("", *TASK_KINDS)),
    _MODEL[2],
    Column("active_parameters", "number", "of a mixture of experts, for one token, where its name says so"),
    Column("hidden_size", "whole", "width of the residual stream"),
    Column("method", "name", "full, or the adapter"),
    Column("quantization", "name", "how the frozen base is stored", ("none", "nf4")),
    Column("rank_low", "whole", "lowest rank that the rate is for"),
    Column("rank_high", "whole", "highest rank that the rate is for"),
    Column("alpha", "number", "lora_alpha"),
    Column("scaling_policy", "name", "as in results.csv", SCALING_POLICIES),
    Column("batch_low", "whole", "sequences of an optimizer step, the fewest"),
    Column("batch_high", "whole", "and the most"),
    Column("optimizer", "name", "where it is not Adam", ("", "lion")),
    Column("learning_rate", "number", "the rate; absent for formulas and ratios"),
    Column("full_learning_rate", "number", "best for full fine-tuning of the same"),
    Column("ratio_to_full", "number", "the adapter's best rate over that of full fine-tuning, where that is printed"),
    Column(
        "choice",
        "name",
        "best of a search; chosen by its authors after one, for stability or over several settings; merely used; the"
        " range that was searched; a formula of the hidden size; or a ratio to full fine-tuning's",
        ("tuned", "chosen", "used", "range", "formula", "ratio"),
    ),
    Column("grid_low", "number", "lowest rate that was tried"),
    Column("grid_high", "number", "highest rate that was tried and finished"),
    Column("grid_points", "whole", "rates that were tried and finished"),
    Column("at_edge", "name", "whether the best rate is the lowest or highest tried", ("", "lower", "upper")),
    Column("note", "text", "what else is to be known of the row"),
)

RANK_RATE_SWEEP: tuple[Column, ...] = (
    *_SOURCE,
    *_MODEL,
    Column("active_parameters", "number", "of a mixture of experts, for one token, where its name says so"),
    Column("hidden_size", "whole", "width of the residual stream"),
    Column("rank", "whole", "of LoRA"),
    Column("alpha", "number", "lora_alpha"),
    Column("batch", "whole", "sequences of an optimizer step"),
    Column("steps", "whole", "optimizer steps"),
    Column("learning_rate", "number", "of the cell"),
    Column("test_loss", "number", "nats a token; not comparable over tokenizers"),
    Column("training_loss", "number", "nats a token"),
)
