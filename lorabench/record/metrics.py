"""The one table of metrics: unit, direction, label and the sentence that explains each.

lm-eval metrics are named task/metric ("python-docs-cloze/acc") and described by their last part.
"""

from __future__ import annotations

from typing import Literal

from lorabench.record.imported_metrics import IMPORTED_METRICS
from lorabench.record.metric import Direction as Direction
from lorabench.record.metric import Metric as Metric

_TABLE = (
    Metric("total_parameters", "parameters", "count", "none", "all parameters, adapters included"),
    Metric("trainable_parameters", "trainable", "count", "lower", "parameters that training changes"),
    Metric("trainable_percent", "trainable %", "percent", "lower", "trainable share of all parameters"),
    Metric("adapter_bytes", "adapter", "bytes", "lower", "saved adapter (or weights, of full fine-tuning) on disk"),
    Metric("weight_bytes", "weights", "bytes", "lower", "base weights in memory, quantization constants included"),
    Metric("load_seconds", "load time", "seconds", "lower", "reading, quantizing, adapting; absent of a kept base"),
    Metric("train_seconds", "training time", "seconds", "lower", "optimizer steps alone, synchronised"),
    Metric("step_seconds", "step", "seconds", "lower", "median optimizer step, the first one left out"),
    Metric("step_spread_seconds", "step's spread", "seconds", "none", "interquartile range of those steps"),
    Metric("pack_seconds", "pack's training time", "seconds", "lower", "steps of all cells that trained as one pack"),
    Metric("pack_cells", "cells of the pack", "count", "none", "that trained at once, this one included"),
    Metric("pack_eval_seconds", "pack's evaluation time", "seconds", "lower", "held-out rows of all its cells at once"),
    Metric("train_cards", "cards of the training", "count", "none", "GPUs that trained the cell together"),
    Metric("eval_seconds", "evaluation time", "seconds", "lower", "held-out loss, lm-eval and forgetting"),
    Metric(
        "sample_seconds",
        "sampling time",
        "seconds",
        "lower",
        "sampling the base's own text, on which forgetting is measured; once for cells that share a base",
    ),
    Metric(
        "prepare_seconds",
        "lm-eval start-up time",
        "seconds",
        "lower",
        "importing lm-eval and finding its tasks, once per process",
    ),
    Metric("save_seconds", "saving time", "seconds", "lower", "writing what was trained"),
    Metric(
        "decompose_seconds",
        "decomposition time",
        "seconds",
        "lower",
        "singular values and directions of what was learned, beside the base",
    ),
    Metric("truncate_seconds", "truncation time", "seconds", "lower", "evaluating what was learned at lower ranks"),
    Metric(
        "measure_seconds",
        "memory measuring time",
        "seconds",
        "lower",
        "two more steps and an evaluation batch whose tensors are counted, on a CPU",
    ),
    Metric(
        "cell_seconds",
        "time",
        "seconds",
        "lower",
        "the whole cell: loading, training, evaluation and all that comes after",
    ),
    Metric("train_tokens", "training tokens", "count", "none", "tokens trained on, padding left out"),
    Metric("padding_percent", "padding %", "percent", "lower", "share of the training positions that held padding"),
    Metric("tokens_per_second", "tokens/s", "tokens/s", "higher", "without padding, over the steps after the first"),
    Metric(
        "train_peak_bytes",
        "train peak",
        "bytes",
        "lower",
        "peak of live tensors during training (CUDA: max_memory_allocated, which paged optimizer state is not part of)",
    ),
    Metric(
        "predicted_train_peak_bytes",
        "predicted peak",
        "bytes",
        "none",
        "the same, predicted from shapes before the cell ran",
    ),
    Metric(
        "eval_peak_bytes",
        "eval peak",
        "bytes",
        "lower",
        "peak of live tensors during evaluation (CUDA: max_memory_allocated)",
    ),
    Metric("train_reserved_bytes", "train reserved", "bytes", "lower", "CUDA max_memory_reserved during training"),
    Metric("eval_reserved_bytes", "eval reserved", "bytes", "lower", "CUDA max_memory_reserved during evaluation"),
    Metric("train_loss", "training loss", "nats", "lower", "mean over the last tenth of the steps"),
    Metric("eval_loss", "held-out loss", "nats", "lower", "cross-entropy per predicted token on the test split"),
    Metric(
        "accuracy",
        "accuracy",
        "share",
        "higher",
        "share of the test rows whose right label the model finds most likely; of imported results, of right answers as"
        " their source counts them",
    ),
    Metric("macro_f1", "macro F1", "share", "higher", "F1 of each label, averaged over the labels"),
    Metric(
        "exact_match",
        "exact match",
        "share",
        "higher",
        "share of the test rows whose generated answer is the reference's",
    ),
    Metric(
        "unanswered",
        "without an answer",
        "share",
        "lower",
        "share of the generated texts in which the answer's pattern finds nothing",
    ),
    Metric(
        "unended",
        "unfinished answers",
        "share",
        "lower",
        "share of the generated texts that reached max_new_tokens before their end",
    ),
    Metric(
        "divergence",
        "divergence from the teacher",
        "nats",
        "lower",
        "KL(teacher || student) per predicted token on the test split",
    ),
    Metric(
        "validation_loss",
        "validation loss",
        "nats",
        "lower",
        "cross-entropy per predicted token on the validation split, by which a learning rate is chosen",
    ),
    Metric("perplexity", "perplexity", "ratio", "lower", "exp(held-out loss)"),
    Metric(
        "bits_per_byte",
        "bits per byte",
        "bits",
        "lower",
        "held-out loss per byte of text: comparable between tokenizers",
    ),
    Metric(
        "information_bits",
        "information",
        "bits",
        "none",
        "information in the predicted tokens of the test split, where it is known because they are made up",
    ),
    Metric(
        "learned_bits",
        "learned information",
        "bits",
        "higher",
        "information of the test split minus the bits that the model needs to encode it; 0 where it needs more",
    ),
    Metric(
        "learned_bits_per_parameter",
        "learned per parameter",
        "bits per parameter",
        "higher",
        "learned information over trainable parameters",
    ),
    Metric("forgetting", "forgetting", "nats", "lower", "rise of the base domain's loss through fine-tuning"),
)

# what the predicted training peak is made of, by memory.tensor_tracker's categories: bytes that live at the highest
# moment of the step
_PARTS = (
    (
        "weights",
        "base weights",
        "of the predicted peak: weights of the base as stored, including those that full fine-tuning trains",
    ),
    (
        "quantization_state",
        "quantization constants",
        "of the predicted peak: constants by which blocks of quantized weights are scaled",
    ),
    ("adapters", "adapter weights", "of the predicted peak: weights that a method adds to the base"),
    (
        "gradients",
        "gradients",
        "of the predicted peak: gradients of the trained weights, as far as they exist at that moment",
    ),
    ("optimizer", "optimizer state", "of the predicted peak: what the optimizer keeps for each trained weight"),
    (
        "activations",
        "activations",
        "of the predicted peak: what is kept for the backward pass, and what the running operator holds",
    ),
    (
        "logits",
        "logits and loss",
        "of the predicted peak: a number for each token and entry of the vocabulary, its copies and gradient",
    ),
    (
        "workspace",
        "kernels' scratch",
        "of the predicted peak: scratch space inside operators, such as dequantized copies of weights",
    ),
)
PREDICTED_PARTS = tuple(f"predicted_{part}_bytes" for part, _, _ in _PARTS)
"""the metrics of the parts; they sum to predicted_train_peak_bytes"""

TABLE = {
    m.name: m
    for m in (
        *_TABLE,
        *IMPORTED_METRICS,
        *(Metric(f"predicted_{part}_bytes", label, "bytes", "none", meaning) for part, label, meaning in _PARTS),
    )
}

_LM_EVAL = {
    "acc": ("accuracy", "share", "higher", "share of items whose most likely choice is right"),
    "acc_norm": ("accuracy (by length)", "share", "higher", "the same, likelihood divided by the choice's length"),
    "exact_match": ("exact match", "share", "higher", "share of answers equal to the reference"),
    "f1": ("F1", "share", "higher", "harmonic mean of precision and recall"),
    "em": ("exact match", "share", "higher", "share of answers equal to the reference"),
    "mcc": ("Matthews correlation", "ratio", "higher", "correlation between answers and truth"),
    "bleu": ("BLEU", "ratio", "higher", "overlap of n-grams with the reference"),
    "chrf": ("chrF", "ratio", "higher", "overlap of characters' n-grams with the reference"),
    "ter": ("TER", "ratio", "lower", "edits needed to reach the reference"),
    "rouge1": ("ROUGE-1", "ratio", "higher", "overlap of words with the reference"),
    "rouge2": ("ROUGE-2", "ratio", "higher", "overlap of word pairs with the reference"),
    "rougeL": ("ROUGE-L", "ratio", "higher", "longest common subsequence with the reference"),
    "pass@1": ("pass@1", "share", "higher", "share of programs that pass their tests"),
    "brier_score": ("Brier score", "ratio", "lower", "mean squared error of the choices' probabilities"),
    "perplexity": ("perplexity", "ratio", "lower", "exp of the mean loss"),
    "word_perplexity": ("word perplexity", "ratio", "lower", "perplexity per word"),
    "byte_perplexity": ("byte perplexity", "ratio", "lower", "perplexity per byte"),
    "bits_per_byte": ("bits per byte", "bits", "lower", "loss in bits per byte"),
    "score": ("score", "ratio", "higher", "as its source defines it; more is better"),
    "error": ("error", "ratio", "lower", "as its source defines it; less is better"),
}


def metric(name: str) -> Metric:
    """The description of a metric; an lm-eval metric that is not in the table has no direction."""
    if name in TABLE:
        return TABLE[name]
    task, _, last = name.rpartition("/")
    plain, _, kind = last.partition(":")  # exact_match:strict-match is exact match after a filter
    label, unit, better, meaning = _LM_EVAL.get(plain, (plain, "ratio", "none", "as lm-eval defines it"))
    label = f"{label} ({kind})" if kind else label
    return Metric(name, f"{task} {label}".strip(), unit, better, meaning)  # type: ignore[arg-type]  # rows above are of these literals


def is_accuracy(name: str) -> bool:
    """Whether a metric is a share of right answers: a task's own accuracy or exact match, or the plain accuracy of an
    lm-eval task."""
    return name in ("accuracy", "exact_match") or name.endswith("/acc")


_OF_LOADING = ("total_parameters", "trainable_parameters", "trainable_percent", "weight_bytes", "load_seconds")
_OF_TRAINING = (
    "pack_seconds",
    "pack_cells",
    "train_cards",
    "train_seconds",
    "step_seconds",
    "step_spread_seconds",
    "train_tokens",
    "padding_percent",
    "tokens_per_second",
    "train_loss",
)
_PEAKS = ("train_peak_bytes", "eval_peak_bytes")


_TIMES: dict[str, Literal["load", "save", "decompose", "truncate", "measure"]] = {
    "cell_seconds": "load", "save_seconds": "save", "decompose_seconds": "decompose", "truncate_seconds": "truncate",
    "measure_seconds": "measure",
}  # fmt: skip


def read_in(
    name: str, *, on_cpu: bool
) -> Literal["foresee", "load", "train", "save", "evaluate", "decompose", "truncate", "measure"]:
    """The phase of a cell in which a metric is read; peaks are measured by themselves on a CPU, and in their own phase
    on a GPU."""
    if name.startswith("predicted_"):
        return "foresee"
    if name in _TIMES:
        return _TIMES[name]
    if name in _OF_LOADING:
        return "load"
    if name in _PEAKS and on_cpu:
        return "measure"
    if name in _OF_TRAINING or name in ("train_peak_bytes", "train_reserved_bytes"):
        return "train"
    return "save" if name == "adapter_bytes" else "evaluate"
