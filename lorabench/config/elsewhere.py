"""Words of other tools: what lorabench calls by another name, and what it does not have, with what stands nearest to
it.

A typing error is answered with the nearest spelling (errors.unknown). These words are spelled right and mean something,
so a near spelling would mislead: "adalora" is no slip for "dora", and "4bit" is nf4 whatever looks like it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lorabench.errors import unknown

_NF4, _INT8 = "nf4 (4-bit NormalFloat, as QLoRA stores the base)", "int8 (LLM.int8())"
_PRECISION = (
    "a precision of unquantized weights: write quantization none and model.dtype {0} (on the command line: --dtype {0})"
)
_UNPACKED = "none, which also reads a checkpoint that bitsandbytes stored in int8, fp4 or nf4"
_LOW_RANK, _FEWER = (
    "lora, rslora, dora and pissa train low-rank adapters of the same matrices",
    "lora at a low rank, which also trains few parameters",
)
_START, _PROMPT = (
    "pissa, which also starts the adapter from the base's weights",
    "lora; adapters that act on the input alone are not supported",
)

_CALLED: dict[str, dict[str, str]] = {
    "quantization": {
        **dict.fromkeys(("4bit", "int4", "bnb4bit", "bitsandbytes4bit", "loadin4bit", "qlora", "nf4bit", "normalfloat4",
            "q4"), _NF4),
        **dict.fromkeys(("8bit", "llmint8", "bnb8bit", "bitsandbytes8bit", "loadin8bit", "q8"), _INT8),
        **dict.fromkeys(("no", "off", "false", "16", "full"), "none (weights as the checkpoint stores them)"),
    },
    "method": {
        "qlora": "method lora with quantization nf4 (QLoRA also sets quantization.double_quant)",
        **dict.fromkeys(("fullfinetuning", "finetuning", "finetune", "fft", "sft"), "full"),
        **dict.fromkeys(("none", "zeroshot"), "base (no training)"),
        "rankstabilizedlora": "rslora",
    },
    "optimizer": {
        **dict.fromkeys(("adamwtorch", "adamwtorchfused", "adamwhf", "adamwfused"), "adamw"),
        **dict.fromkeys(("adam8bit", "adamwbnb8bit", "adamw8bit", "bnbadamw8bit"), "adamw-8bit"),
        **dict.fromkeys(("pagedadamw32bit", "pagedadamw", "pagedadam"), "paged-adamw"),
        **dict.fromkeys(("pagedadamw8bit", "pagedadam8bit"), "paged-adamw-8bit"),
    },
    "schedule": {
        **dict.fromkeys(("cosineannealing", "cosinedecay", "cosinewithwarmup"), "cosine"),
        **dict.fromkeys(("constantwithwarmup", "none"),
            "constant (training.warmup is the share of steps in which the learning rate rises)"),
        **dict.fromkeys(("lineardecay", "linearwithwarmup"), "linear"),
    },
    "task": {
        **dict.fromkeys(("gsm8k", "alpaca", "dolly", "oasst", "metamath", "chat", "sft", "ultrachat"),
            "instruct, with its rows as task.train or its hub id as task.dataset"),
        **dict.fromkeys(("sst2", "sst", "glue", "mnli", "cola", "mrpc", "imdb", "agnews", "classification"),
            "classify, with its rows as task.train or its hub id as task.dataset"),
        **dict.fromkeys(("wikitext", "c4", "pretraining", "clm", "lm"), "text, with a text file as task.train"),
        **dict.fromkeys(("mmlu", "hellaswag", "arc", "arceasy", "arcchallenge", "winogrande", "piqa", "truthfulqa",
            "boolq"), "an lm-eval task: it is measured after training, so name it in evaluation.lm_eval"),
    },
}  # fmt: skip
"""kind: squeezed word: what it is here"""

_ABSENT: dict[str, dict[str, str]] = {
    "quantization": dict.fromkeys(("gptq", "awq", "hqq", "aqlm", "fp8", "mxfp4", "nvfp4", "eetq", "quanto", "torchao",
        "gguf", "exl2", "int3", "3bit", "2bit", "int2", "loftq"), f"nf4 (4 bits), int8 (8 bits) or {_UNPACKED}"),
    "method": {
        **dict.fromkeys(("adalora", "lorafa", "lora+", "loraplus", "randlora", "mora", "miss", "bone", "delora",
            "moslora", "melora", "relora", "flora", "lokr", "loha", "lycoris", "xlora", "poly", "molora", "road",
            "shira", "c3a", "hra"), _LOW_RANK),
        **dict.fromkeys(("vera", "fourierft", "vblora", "ia3", "lntuning", "bitfit", "waveft"), _FEWER),
        **dict.fromkeys(("olora", "eva", "corda", "milora", "loftq", "loraga"), _START),
        **dict.fromkeys(("prefixtuning", "prompttuning", "ptuning", "ptuningv2", "multitaskprompttuning",
            "adaptionprompt", "llamaadapter", "trainabletokens", "cpt"), _PROMPT),
        **dict.fromkeys(("oft", "boft", "qoft"), "dora, which also separates magnitude from direction"),
        **dict.fromkeys(("galore", "lisa", "lomo", "badam"),
            "full with optimizer paged-adamw-8bit, which also saves optimizer memory"),
        "adapters": _LOW_RANK,
    },
    "optimizer": {
        **dict.fromkeys(("lion", "lion8bit", "pagedlion", "pagedlion8bit"),
            "adamw-8bit, with two bytes of optimizer state per parameter"),
        **dict.fromkeys(("adafactor", "came", "galore", "galoreadamw", "apollo", "adamini", "ademamix", "lomo",
            "adalomo"), "adamw-8bit and paged-adamw-8bit, which also save optimizer memory"),
        **dict.fromkeys(("muon", "shampoo", "soap", "sophia", "lamb", "adagrad", "rmsprop", "radam", "nadam", "prodigy",
            "schedulefree", "schedulefreeadamw", "adamax"), "adamw"),
    },
    "schedule": {
        "cosinewithrestarts": "cosine, of one period",
        "cosinewithminlr": "cosine, which ends at zero",
        **dict.fromkeys(("polynomial", "inversesqrt", "reducelronplateau"), "linear"),
        **dict.fromkeys(("warmupstabledecay", "wsd"), "constant or linear"),
    },
}  # fmt: skip
"""kind: squeezed word: what is nearest to it here"""

_PRECISIONS = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "16bit": "bfloat16",
    "fp16": "float16",
    "float16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float32": "float32",
    "32bit": "float32",
}


def unknown_choice(kind: str, name: object, allowed: Iterable[object]) -> str:
    """The sentence for a name of a kind ("method", "quantization", "optimizer", "schedule", "task") that is not
    allowed.

    A word of another tool is answered by what it means here; any other by the nearest spelling.
    """
    names = [str(a) for a in allowed]
    word = _squeezed(str(name))
    plain = {_squeezed(n): n for n in names}
    if kind == "quantization" and word in _PRECISIONS:
        return f"'{name}' is {_PRECISION.format(_PRECISIONS[word])}"
    if word in plain and plain[word] != name:
        return f"{kind} '{name}' is written {plain[word]}"
    if called := _CALLED.get(kind, {}).get(word):
        return f"{kind} '{name}' has another name here: {called}; allowed: {', '.join(names)}"
    if nearest := _ABSENT.get(kind, {}).get(word):
        return f"{kind} '{name}' is not built into lorabench; allowed: {', '.join(names)}; nearest: {nearest}"
    return unknown(kind, name, names)


def _squeezed(word: str) -> str:
    """ "adamw_8bit", "AdamW-8bit" and "adamw 8bit" are one word."""
    return re.sub(r"[^a-z0-9+]", "", word.lower())
