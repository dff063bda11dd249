"""Memory and speed of the trainers that people use, measured on this machine.

    python benchmarks/trainers.py --json FILE [--limit SECONDS] [--only WORD ...]

Each row trains a model with random weights and a published configuration for four optimizer steps with the real trainer
(transformers' Trainer with PEFT, TRL's SFTTrainer, or the plain loop `out = model(...); out.loss.backward()`) on rows
of exactly `length` random tokens, and records what the allocator held:

    loaded_bytes      after the model is on the card
    ready_bytes       after the trainer is made (adapter attached, prepared for k-bit training)
    phases            peak of allocated bytes in each step's forward, backward and optimizer part (bytes)
    peak_bytes        the largest of them: what `max_memory_allocated` of the whole training says
    reserved_bytes    the largest that the allocator kept
    step_seconds      median of the last two steps, synchronised

Without a GPU other rows (ON_CPU) run on narrow copies of the same architectures, and bytes are those of live tensors,
as the study runner's own probe counts them. A row that fails is written with its fault and costs no other. The file is
written after each row.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorabench.config.paths import MODELS
from lorabench.engine.measure import LiveBytes, held_tensors

CUDA = torch.cuda.is_available()
WHERE = torch.device("cuda" if CUDA else "cpu")
STEPS = 4
NARROW = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "n_embd": 256,
    "n_layer": 4,
    "n_head": 4,
    "vocab_size": 8192,
}
"""of the copies for a CPU"""

ROWS = """
transformers  smollm2-135m  none    lora  32   1  4096  ckpt attention
transformers  smollm2-135m  nf4     lora  32   1  4096  ckpt attention kbit
transformers  smollm2-135m  nf4     lora  32   1  4096  ckpt attention
transformers  smollm2-135m  none    lora  16   8  512
transformers  smollm2-135m  nf4     lora  16   8  512   kbit
transformers  smollm2-135m  nf4     lora  16   8  512
transformers  smollm2-135m  int8    lora  16   8  512   kbit
transformers  smollm2-135m  int8    lora  16   8  512
trl           smollm2-135m  none    lora  16   8  512
trl           smollm2-135m  nf4     lora  16   8  512
trl           smollm2-135m  none    lora  16   8  512   ckpt
trl           smollm2-135m  nf4     lora  16   8  512   ckpt
transformers  llama-3.2-1b  none    lora  16   4  1024
transformers  llama-3.2-1b  none    lora  16   4  1024  ckpt
transformers  llama-3.2-1b  none    lora  16   4  1024  ckpt reentrant
transformers  llama-3.2-1b  nf4     lora  16   4  1024  ckpt kbit
transformers  llama-3.2-1b  nf4     lora  16   4  1024  ckpt
transformers  llama-3.2-1b  nf4-dq  lora  64   2  2048  ckpt kbit paged_adamw_8bit
transformers  llama-3.2-1b  nf4     lora  16   4  512   kbit
transformers  llama-3.2-1b  nf4     lora  16   4  512
transformers  llama-3.2-1b  none    lora  16   4  1024  ckpt eager
transformers  llama-3.2-1b  nf4     lora  16   4  1024  ckpt kbit eager
trl           llama-3.2-1b  none    lora  16   4  1024
trl           llama-3.2-1b  none    lora  16   4  1024  ckpt
trl           llama-3.2-1b  nf4     lora  16   4  1024  ckpt
trl           llama-3.2-1b  nf4     lora  16   4  512
trl           llama-3.2-1b  nf4-dq  lora  64   1  4096  ckpt paged_adamw_8bit
trl           llama-3.2-1b  none    lora  16   2  1024  packing
trl           llama-3.2-1b  none    lora  16   4  1024  ckpt offload
trl           llama-3.2-1b  none    lora  16   4  1024  ckpt liger
transformers  llama-3.2-1b  none    lora  16   4  1024  ckpt liger
transformers  llama-3.2-1b  none    full  0    2  1024  ckpt
transformers  llama-3.2-1b  none    full  0    2  1024  ckpt float32
transformers  llama-3.2-1b  none    full  0    2  1024  ckpt adamw_8bit
transformers  llama-3.2-1b  none    full  0    2  1024  ckpt paged_adamw_8bit
trl           llama-3.2-1b  none    full  0    2  1024  ckpt
trl           llama-3.2-1b  none    full  0    2  1024  ckpt adamw_8bit
transformers  llama-3.2-1b  none    lora  16   2  1024  accumulate
transformers  llama-3.2-1b  none    lora  16   4  1024  ckpt evaluate
transformers  llama-3.2-1b  int8    lora  16   4  512   ckpt kbit
transformers  llama-3.2-1b  none    dora  16   2  1024  ckpt
transformers  llama-3.2-1b  nf4     dora  16   2  1024  ckpt kbit
transformers  llama-3.2-1b  none    lora  256  2  1024  ckpt
loop          llama-3.2-1b  none    lora  32   4  1024  ckpt attention
loop          llama-3.2-1b  nf4     lora  32   4  1024  ckpt attention kbit
transformers  qwen2.5-1.5b  nf4     lora  16   2  1024  ckpt kbit
trl           qwen2.5-1.5b  nf4     lora  16   2  1024  ckpt
transformers  gemma-2-2b    nf4     lora  16   1  1024  ckpt kbit
trl           gemma-2-2b    none    lora  16   1  1024  ckpt
transformers  gpt2          none    lora  8    8  512
transformers  pythia-410m   none    lora  16   4  1024  ckpt
trl           llama-3.1-8b  nf4     lora  16   2  2048  ckpt
transformers  llama-3.1-8b  nf4     lora  16   2  2048  ckpt kbit
transformers  llama-3.1-8b  none    lora  16   4  4096  ckpt
trl           llama-3.1-8b  none    lora  16   4  4096  ckpt
trl           llama-3.1-8b  nf4-dq  lora  64   1  4096  ckpt paged_adamw_8bit
transformers  llama-3.1-8b  none    lora  16   4  4096  ckpt liger
transformers  llama-3.1-8b  none    full  0    1  2048  ckpt paged_adamw_8bit
"""

ON_CPU = """
transformers  tiny-1m        none    lora  8    4  128
transformers  tiny-1m        none    lora  8    4  128   float32
transformers  tiny-1m        nf4     lora  8    4  128   kbit
transformers  tiny-1m        nf4     lora  8    4  128
transformers  tiny-4m        none    lora  16   2  256   ckpt
transformers  tiny-4m        none    lora  16   2  256   ckpt reentrant
transformers  tiny-4m        nf4     lora  16   2  256   ckpt kbit
transformers  tiny-4m        nf4     lora  16   2  256   ckpt
transformers  tiny-4m        int8    lora  16   2  256   ckpt kbit
transformers  tiny-4m        none    full  0    2  256   float32
transformers  tiny-4m        none    full  0    2  256
transformers  tiny-4m        none    full  0    2  256   ckpt
transformers  tiny-4m        none    dora  16   2  256   ckpt
transformers  tiny-4m        none    lora  16   2  256   accumulate
transformers  llama-3.2-1b   none    lora  16   2  256
transformers  llama-3.2-1b   none    lora  16   2  256   ckpt eager
transformers  llama-3.2-1b   nf4     lora  16   2  256   ckpt kbit
transformers  llama-3.2-1b   nf4     lora  16   2  256   ckpt kbit eager
transformers  llama-3.2-1b   nf4     lora  16   1  1024  ckpt kbit
transformers  qwen2.5-1.5b   nf4     lora  16   2  256   ckpt kbit
transformers  gemma-2-2b     nf4     lora  16   2  256   ckpt kbit
transformers  gemma-2-2b     none    lora  16   2  256   ckpt
transformers  gpt2           none    lora  8    4  256
transformers  pythia-410m    none    lora  16   4  256   ckpt
trl           tiny-1m        none    lora  8    4  128
trl           tiny-1m        none    lora  8    4  128   float32
trl           tiny-4m        nf4     lora  16   2  256   ckpt
trl           tiny-4m        none    lora  16   2  256   ckpt
trl           tiny-4m        none    full  0    2  256   ckpt
trl           llama-3.2-1b   none    lora  16   2  256
trl           llama-3.2-1b   none    lora  16   2  256   ckpt
trl           llama-3.2-1b   nf4     lora  16   2  256   ckpt
trl           llama-3.2-1b   nf4     lora  16   1  1024  ckpt
trl           llama-3.2-1b   none    lora  16   2  256   ckpt packing
trl           qwen2.5-1.5b   nf4     lora  16   2  256   ckpt
trl           gemma-2-2b     none    lora  16   2  256   ckpt
trl           pythia-410m    none    lora  16   4  256   ckpt
loop          llama-3.2-1b   none    lora  32   2  256   ckpt attention
loop          llama-3.2-1b   nf4     lora  32   2  256   ckpt attention kbit
loop          tiny-4m        none    lora  16   2  256
"""  # embeddings, heads and sequences are as large beside the layers as they are in full models


@dataclass(frozen=True)
class Row:
    """One configuration of a trainer."""

    trainer: str
    model: str
    quantization: str
    method: str
    rank: int
    batch: int
    length: int
    options: frozenset[str]

    @classmethod
    def read(cls, line: str) -> Row:
        trainer, model, quantization, method, rank, batch, length, *options = line.split()
        return cls(trainer, model, quantization, method, int(rank), int(batch), int(length), frozenset(options))

    @property
    def optimizer(self) -> str:
        return next((o for o in self.options if "adamw" in o), "adamw_torch_fused")

    def __str__(self) -> str:
        words = (
            self.trainer,
            self.model,
            self.quantization,
            self.method,
            f"r={self.rank}",
            f"{self.batch}x{self.length}",
        )
        return " ".join((*words, *sorted(self.options)))


class Models:
    """Random checkpoints of published configurations, one on disk at a time (a folder in memory where there is one)."""

    def __init__(self) -> None:
        shared = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(dir=shared if CUDA and shared.is_dir() else None))
        self.name = ""

    def folder(self, name: str) -> Path:
        if (MODELS / name).is_dir():
            return MODELS / name
        if name != self.name:
            shutil.rmtree(self.root, ignore_errors=True)
            self.root.mkdir()
            with WHERE:
                model = _transformers().AutoModelForCausalLM.from_config(narrow_config(name), dtype=torch.bfloat16)
            model.save_pretrained(self.root)
            del model
            empty_cache()
            self.name = name
        return self.root


def _transformers() -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


def narrow_config(name: str) -> Any:
    """A published configuration; without a GPU narrow, with four layers."""
    from lorabench.config.settings import ModelSpec
    from lorabench.memory.meta_model import configuration

    config = configuration(ModelSpec(name=name))
    if not CUDA:
        for field, value in NARROW.items():
            if hasattr(config, field):
                setattr(config, field, value)
        if hasattr(config, "layer_types") and config.layer_types:
            config.layer_types = config.layer_types[:4]
    for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, field, 0)
    return config


def empty_cache() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.synchronize()


class Peaks:
    """Peaks of allocated bytes by phase; each mark ends a phase and begins the next one."""

    def __init__(self) -> None:
        self.live: LiveBytes | None = None
        self.steps: list[dict[str, int]] = [{}]
        self.seconds: list[float] = []
        self.began = time.perf_counter()

    def mark(self, phase: str) -> None:
        if CUDA:
            now = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        elif self.live is not None:
            now, self.live.peak = self.live.peak, self.live.now
        else:
            return
        self.steps[-1][phase] = max(now, self.steps[-1].get(phase, 0))

    def step(self) -> None:
        if CUDA:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.began)
        self.began = time.perf_counter()
        self.steps.append({})

    def told(self) -> dict[str, Any]:
        phases = [s for s in self.steps if s]
        whole = {"phases": phases, "step_seconds": statistics.median(self.seconds[-2:]) if self.seconds else None}
        return whole | ({"peak_bytes": max(max(s.values()) for s in phases)} if phases else {})


def base(row: Row, folder: Path) -> Any:
    """The base model as a user's script loads it."""
    transformers = _transformers()
    kind, _, double = row.quantization.partition("-")
    quantization = None
    if kind in ("nf4", "fp4"):
        quantization = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=double == "dq",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    elif kind == "int8":
        quantization = transformers.BitsAndBytesConfig(load_in_8bit=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32 if "float32" in row.options else torch.bfloat16,
        attn_implementation="eager" if "eager" in row.options else None,  # None: the architecture's own default
        quantization_config=quantization,
        device_map={"": WHERE} if CUDA else None,
    )
    model.config.use_cache = False
    return model


def adapter(row: Row) -> Any:
    import peft

    targets: Any = ["q_proj", "k_proj", "v_proj", "o_proj"] if "attention" in row.options else "all-linear"
    return peft.LoraConfig(
        r=row.rank,
        lora_alpha=row.rank,
        lora_dropout=0.0,
        target_modules=targets,
        use_dora=row.method == "dora",
        task_type="CAUSAL_LM",
    )


def adapted(row: Row, model: Any) -> Any:
    """PEFT's own preparation and adapter, for the trainers that leave them to the user."""
    import peft

    if "kbit" in row.options:
        model = peft.prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing="ckpt" in row.options,
            gradient_checkpointing_kwargs={"use_reentrant": "reentrant" in row.options},
        )
    return model if row.method == "full" else peft.get_peft_model(model, adapter(row))


def data(row: Row, vocabulary: int) -> Any:
    import datasets

    rows = row.batch * STEPS * (4 if "accumulate" in row.options else 1)
    ids = torch.randint(5, min(vocabulary, 500), (rows, row.length)).tolist()
    return datasets.Dataset.from_dict({"input_ids": ids, "labels": ids})


def arguments(row: Row, out: str, kind: Callable[..., Any], **more: Any) -> Any:
    checkpointing = "ckpt" in row.options
    return kind(
        output_dir=out,
        per_device_train_batch_size=row.batch,
        max_steps=STEPS,
        bf16="float32" not in row.options,
        use_cpu=not CUDA,
        gradient_accumulation_steps=4 if "accumulate" in row.options else 1,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": "reentrant" in row.options} if checkpointing else None,
        optim=row.optimizer if CUDA else "adamw_torch",
        learning_rate=1e-4,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        use_liger_kernel="liger" in row.options,
        disable_tqdm=True,
        per_device_eval_batch_size=row.batch,
        eval_strategy="steps" if "evaluate" in row.options else "no",
        eval_steps=2,
        dataloader_pin_memory=False,
        **more,
    )


def watched(trainer: Any, peaks: Peaks) -> Any:
    """The trainer, telling the peaks where each phase of a step ends."""
    transformers = _transformers()
    compute_loss, training_step = trainer.compute_loss, trainer.training_step

    def loss(*args: Any, **named: Any) -> Any:
        found = compute_loss(*args, **named)
        peaks.mark("forward" if trainer.model.training else "evaluate")
        return found

    def step(*args: Any, **named: Any) -> Any:
        found = training_step(*args, **named)
        peaks.mark("backward")
        return found

    class Marks(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_begin(self, *args: Any, **named: Any) -> None:
            peaks.mark("between")

        def on_optimizer_step(self, *args: Any, **named: Any) -> None:
            peaks.mark("optimizer")

        def on_step_end(self, *args: Any, **named: Any) -> None:
            peaks.mark("end")
            peaks.step()

    trainer.compute_loss, trainer.training_step = loss, step
    trainer.add_callback(Marks())
    return trainer


def with_transformers(row: Row, model: Any, peaks: Peaks, out: str) -> Callable[[], Any]:
    transformers = _transformers()
    model = adapted(row, model)
    rows = data(row, model.config.vocab_size)
    options = arguments(row, out, transformers.TrainingArguments)
    evaluated = rows if "evaluate" in row.options else None
    collator = transformers.default_data_collator
    trainer = transformers.Trainer(
        model=model, args=options, train_dataset=rows, eval_dataset=evaluated, data_collator=collator
    )
    return watched(trainer, peaks).train


def with_trl(row: Row, model: Any, peaks: Peaks, out: str) -> Callable[[], Any]:
    import trl

    tokenizer = _transformers().AutoTokenizer.from_pretrained(MODELS / "tiny-300k")
    more = {"max_length": row.length, "packing": "packing" in row.options}
    options = arguments(row, out, trl.SFTConfig, activation_offloading="offload" in row.options, **more)
    rows = data(row, model.config.vocab_size)
    trained = None if row.method == "full" else adapter(row)
    trainer = trl.SFTTrainer(
        model=model, args=options, train_dataset=rows, peft_config=trained, processing_class=tokenizer
    )
    return watched(trainer, peaks).train


def with_loop(row: Row, model: Any, peaks: Peaks, out: str) -> Callable[[], Any]:
    """The loop of PEFT's examples: no autocast, the model's outputs alive through the backward pass."""
    model = adapted(row, model).train()
    if "ckpt" in row.options and "kbit" not in row.options:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.randint(5, 500, (row.batch, row.length), device=WHERE)

    def train() -> None:
        for _ in range(STEPS):
            peaks.mark("between")
            out = model(input_ids=ids, labels=ids)
            peaks.mark("forward")
            out.loss.backward()
            peaks.mark("backward")
            optimizer.step()
            peaks.mark("optimizer")
            optimizer.zero_grad()
            peaks.step()

    return train


TRAINERS = {"transformers": with_transformers, "trl": with_trl, "loop": with_loop}


@contextlib.contextmanager
def restored(model: Any) -> Iterator[None]:
    """Puts back what Liger replaces in the module of a model's family, where it stays for all later models."""
    module = sys.modules[type(model).__module__]
    kept, forwards = dict(vars(module)), {}
    for name, value in kept.items():
        if isinstance(value, type) and "forward" in vars(value):
            forwards[name] = vars(value)["forward"]
    try:
        yield
    finally:
        vars(module).update(kept)
        for name, forward in forwards.items():
            kept[name].forward = forward


def measure(row: Row, models: Models) -> dict[str, Any]:
    """One row, as it is written."""
    folder = models.folder(row.model)
    began, found = time.monotonic(), {**vars(row), "options": sorted(row.options), "optimizer": row.optimizer}
    empty_cache()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        found["before_bytes"] = torch.cuda.memory_allocated()
    peaks = Peaks()
    try:
        model = base(row, folder)
        if CUDA:
            found["loaded_bytes"], found["load_peak_bytes"] = (
                torch.cuda.memory_allocated(),
                torch.cuda.max_memory_allocated(),
            )
        with restored(model), tempfile.TemporaryDirectory() as out:
            train = TRAINERS[row.trainer](row, model, peaks, out)
            if CUDA:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                found["ready_bytes"] = torch.cuda.memory_allocated()
            gc.collect()
            peaks.live = None if CUDA else LiveBytes(held_tensors(model))
            peaks.began = time.perf_counter()
            with peaks.live or contextlib.nullcontext():
                train()
        found |= peaks.told()
        if CUDA:
            free, total = torch.cuda.mem_get_info()
            found["reserved_bytes"] = torch.cuda.max_memory_reserved()
            found["context_bytes"] = total - free - torch.cuda.memory_reserved()
    except Exception as e:
        found["fault"] = f"{type(e).__name__}: {e}"[:600]
    found["seconds"] = round(time.monotonic() - began, 1)
    return found


PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "liger-kernel")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"device": torch.cuda.get_device_name() if CUDA else "cpu: live tensors"}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=240, help="seconds after which no further row begins")
    parser.add_argument("--only", nargs="*", default=[], help="words that a row must contain")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    began, models, rows = time.monotonic(), Models(), []
    for line in (ROWS if CUDA else ON_CPU).strip().splitlines():
        row = Row.read(line)
        if not all(word in str(row) for word in options.only):
            continue
        if time.monotonic() - began > options.limit:
            rows.append({"row": str(row), "fault": "left out: too little time"})
            continue
        rows.append({"row": str(row), **measure(row, models)})
        last = rows[-1]
        peak = f"{last['peak_bytes'] / 2**20:,.0f} MiB" if "peak_bytes" in last else last.get("fault", "no bytes")
        print(f"{last['seconds']:5.1f} s  {row}: {peak}", flush=True)
        options.json.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")
    shutil.rmtree(models.root, ignore_errors=True)


if __name__ == "__main__":
    main()
