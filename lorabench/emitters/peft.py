"""PEFT: adapter_config.json and train.py, a script on transformers' Trainer and bitsandbytes"""

from __future__ import annotations

import json

from lorabench.advice.types import Candidate, Workload
from lorabench.config.architectures import model_type
from lorabench.config.paths import model_source
from lorabench.config.trainer import find_trainer
from lorabench.emitters import _setting, _variant

TRAINER = find_trainer("transformers").with_options(kbit_preparation=False)  # which the script does not call
"""the program whose memory and time the files are predicted by"""
_BODY = '''
import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments, set_seed

HERE = Path(__file__).resolve().parent
IGNORED = -100


def encode(tokenizer, row):
    """(ids, labels) of a row, one or more: the loss is on the text, or on the response alone; \
a long text is cut into pieces."""
    end = [tokenizer.eos_token_id]
    if "text" in row:
        ids = tokenizer(row["text"]).input_ids
        ids += end * (ids[-1:] != end)
        pieces = [ids[i : i + SEQUENCE_LENGTH] for i in range(0, len(ids), SEQUENCE_LENGTH)]
        return [(piece, piece) for piece in pieces if len(piece) > 1]
    prompt = tokenizer(row["prompt"]).input_ids
    prompt = prompt[:-1] if prompt[-1:] == end and len(prompt) > 1 else prompt
    response = tokenizer(row["response"], add_special_tokens=False).input_ids + end
    ids, labels = prompt + response, [IGNORED] * len(prompt) + response
    return [(ids[:SEQUENCE_LENGTH], labels[:SEQUENCE_LENGTH])] if len(prompt) < SEQUENCE_LENGTH else []


def read(tokenizer, path):
    """The sequences of a JSONL file."""
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    found = [{"input_ids": ids, "labels": labels} for row in rows for ids, labels in encode(tokenizer, row)]
    if not found:
        raise SystemExit(f"{path} holds no sequence to train on; each line is {{\\"text\\": ...}} \
or {{\\"prompt\\": ..., \\"response\\": ...}}")
    return found


def collate(padding):
    """Rows padded on the right to the longest; a causal model's real tokens do not see the padding."""

    def together(rows):
        longest = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": padding, "labels": IGNORED}
        return {key: torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows]) \
for key, value in fill.items()}

    return together


def load(bf16, gpu):
    """The base, quantized as the setting asks; frozen by PEFT where an adapter is trained."""
    quantization = None
    if QUANTIZATION in ("nf4", "fp4"):
        compute = COMPUTE_DTYPE or ("bfloat16" if bf16 else DTYPE)
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=QUANTIZATION,
            bnb_4bit_use_double_quant=DOUBLE_QUANT,
            bnb_4bit_compute_dtype=getattr(torch, compute),
        )
    elif QUANTIZATION == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(
        MODEL,
        revision=REVISION,
        trust_remote_code=TRUST_REMOTE_CODE,
        dtype=getattr(torch, DTYPE),
        attn_implementation=ATTENTION,
        quantization_config=quantization,
        device_map={"": 0 if gpu else "cpu"},
    )
    model.config.use_cache = False
    return model


def main():
    parser = argparse.ArgumentParser(description="Trains as the constants above say.")
    parser.add_argument("--data", required=True, help="JSONL file, a text or a prompt with its response a line")
    parser.add_argument("--output", default=str(HERE / OUTPUT), help="folder for what is trained")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=-1, help="optimizer steps; overrides --epochs")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    set_seed(asked.seed)
    tokenizer = AutoTokenizer.from_pretrained(MODEL, revision=REVISION, trust_remote_code=TRUST_REMOTE_CODE)
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    data = read(tokenizer, asked.data)
    model = load(bf16, gpu)
@ADAPT@
    arguments = TrainingArguments(
        output_dir=asked.output,
        per_device_train_batch_size=MICRO_BATCH_SIZE,
        gradient_accumulation_steps=GRADIENT_ACCUMULATION,
        gradient_checkpointing=GRADIENT_CHECKPOINTING,
        gradient_checkpointing_kwargs={"use_reentrant": False} if GRADIENT_CHECKPOINTING else None,
        num_train_epochs=asked.epochs,
        max_steps=asked.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type=SCHEDULE,
        warmup_steps=WARMUP,
        optim=OPTIMIZER,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRAD_NORM,
        bf16=bf16,
        use_liger_kernel=LIGER_KERNEL,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=asked.seed,
    )
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate(padding)).train()
@SAVE@
    tokenizer.save_pretrained(asked.output)


if __name__ == "__main__":
    main()
'''
_ADAPT = """    model = get_peft_model(model, LoraConfig.from_pretrained(HERE))  # adapter_config.json beside this file
    model.print_trainable_parameters()
"""
_PREPARE = """    model = prepare_model_for_kbit_training(
        model, GRADIENT_CHECKPOINTING, {"use_reentrant": False} if GRADIENT_CHECKPOINTING else None
    )
"""
_START = """    start = Path(asked.output) / "start"
    model.peft_config["default"].init_lora_weights = True  # or the start, loaded again for the conversion, \
would be started anew
    model.save_pretrained(start)
    model.peft_config["default"].init_lora_weights = "pissa"
"""
_CONVERT = """    model.save_pretrained(asked.output, path_initial_model_for_weight_conversion=str(start))  \
# plain LoRA of twice the rank, onto the unchanged base
    shutil.rmtree(start)"""


def emit(workload: Workload, candidate: Candidate) -> dict[str, str]:
    """adapter_config.json (absent for full fine-tuning) and train.py."""
    _setting.check("peft", workload, candidate)
    full = _setting.trains_base(candidate)
    script = {"train.py": _script(workload, candidate)}
    return script if full else {"adapter_config.json": _config(workload, candidate), **script}


def _config(workload: Workload, candidate: Candidate) -> str:
    method = candidate.method
    assert method.rank is not None
    assert method.alpha is not None
    names = _setting.modules(workload.model, method)
    stacks = _setting.parameters("peft", workload.model, method)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model_source(workload.model.name),
        "r": method.rank,
        "lora_alpha": _setting.number(method.alpha),
        "lora_dropout": method.dropout or 0.0,
        "target_modules": "all-linear" if names is None else list(names),
        **({"target_parameters": list(stacks)} if stacks else {}),
        "bias": "none",
        "fan_in_fan_out": model_type(workload.model.name) == "gpt2",  # its Conv1D stores weights (in, out)
        "init_lora_weights": "pissa" if method.name == "pissa" else True,
        "use_rslora": method.name == "rslora",
        "use_dora": method.name == "dora",
        "inference_mode": False,
    }
    return json.dumps(config, indent=2) + "\n"


def _script(workload: Workload, candidate: Candidate) -> str:
    quantization, full, pissa = (
        candidate.quantization,
        _setting.trains_base(candidate),
        candidate.method.name == "pissa",
    )
    constants = {
        "MODEL": model_source(workload.model.name),
        "REVISION": workload.model.revision,
        "TRUST_REMOTE_CODE": workload.model.trust_remote_code,
        "DTYPE": _setting.precision(workload, candidate),
        "ATTENTION": _variant.attention(workload, _variant.ATTENTIONS),
        "LIGER_KERNEL": _variant.loss(workload, TRAINER) == "fused",
        "QUANTIZATION": quantization.name,
        "DOUBLE_QUANT": quantization.double_quant,
        "COMPUTE_DTYPE": None if quantization.compute_dtype == "auto" else quantization.compute_dtype,
        "SEQUENCE_LENGTH": workload.sequence_length,
        "MICRO_BATCH_SIZE": candidate.micro_batch_size,
        "GRADIENT_ACCUMULATION": candidate.gradient_accumulation,
        "GRADIENT_CHECKPOINTING": candidate.gradient_checkpointing,
        "OPTIMIZER": _setting.OPTIMIZERS[candidate.optimizer],
        "LEARNING_RATE": candidate.learning_rate,
        "SCHEDULE": _setting.schedule(candidate),
        "WARMUP": candidate.warmup,
        "WEIGHT_DECAY": candidate.weight_decay,
        "MAX_GRAD_NORM": candidate.max_grad_norm,
        "OUTPUT": "model" if full else "adapter",
    }
    needs = (
        "transformers 5, accelerate"
        + ("" if full else ", peft")
        + (", bitsandbytes" if _needs_bitsandbytes(candidate) else "")
    )
    opening = _setting.opening(
        workload,
        candidate,
        f"Needs {needs}. Run: python train.py --data {_setting.DATA}",
        f'{_setting.DATA} is yours to supply: each line is {{"text": ...}}, or {{"prompt": ..., "response": ...}},'
        " of which only the response is learned.",
    )
    prepares = _variant.kbit_preparation(workload, candidate)
    body = _BODY.replace("@ADAPT@", "" if full else (_PREPARE if prepares else "") + _ADAPT + (_START if pissa else ""))
    body = body.replace("@SAVE@", _CONVERT if pissa else "    model.save_pretrained(asked.output)")
    if not full:
        names = "LoraConfig, get_peft_model" + (", prepare_model_for_kbit_training" if prepares else "")
        body = body.replace("\nimport torch\n", f"\nimport torch\nfrom peft import {names}\n", 1)
    if pissa:
        body = body.replace("import json\n", "import json\nimport shutil\n", 1)
    lines = [f"{name} = {value!a}" for name, value in constants.items()]
    first, rest = body.split("\nHERE = ", 1)
    return opening + first + "\n" + "\n".join(lines) + "\nHERE = " + rest


def _needs_bitsandbytes(candidate: Candidate) -> bool:
    return candidate.quantization.name != "none" or candidate.optimizer not in ("adamw", "sgd")
