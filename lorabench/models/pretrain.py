"""Pretrains the models that ship: python -m lorabench.models.pretrain --data DIR --size 1m

A family of three Llama-architecture models over one byte-level BPE tokenizer, trained on the plain
text files of a folder. The family keeps Llama's proportions and varies the width alone, so that a
study over sizes varies one thing. Every training window starts with the begin-of-text token, so the
models can be sampled from nothing (the forgetting measure needs that).

Sequence length grows during training (128, then 256, then 512 tokens; Li et al. 2021,
arXiv:2108.06084): short windows are cheap, and the last tenth teaches the positions up to 512. The largest
model starts with a quarter of its layers, and each layer is doubled twice on the way (progressive stacking;
Gong et al. 2019, ICML): four tenths less work for the same tokens. `--again` trains a finished model through one
more cosine cycle, on windows that no cycle before has drawn; the largest had one.

Files named in HELD_OUT are never trained on; bits per byte is measured on them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BEGIN = "<|begin|>"
VOCABULARY = 1024
POSITIONS = 512
HELD_OUT = ("The-War-of-the-Worlds_36.txt", "The-Picture-of-Dorian-Gray_174.txt")
TOKENS_PER_STEP = 2048
STAGES = ((0.7, 128), (0.9, 256), (1.0, 512))  # (until this share of the tokens, sequence length)
STAGES_AGAIN = ((0.85, 256), (1.0, 512))  # as STAGES, in a cycle that starts from a trained model
AGAIN_LEARNING_RATE = 0.5  # of the size's own
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Size:
    """One member of the family; tokens is the training budget, at least 20 a parameter for the two smaller."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    tokens: int
    learning_rate: float
    stack_at: tuple[float, ...] = ()
    """shares of the steps after which the layers so far are doubled; none: all layers from the start"""


SIZES = {
    "300k": Size(64, 4, 2, 192, 6_000_000, 6e-3),
    "1m": Size(128, 4, 4, 384, 20_000_000, 4e-3),
    "4m": Size(256, 4, 4, 768, 20_000_000, 2e-3, stack_at=(0.4, 0.7)),
}


def read_books(folder: Path) -> tuple[list[str], list[str]]:
    """(training texts, held-out texts), by file name so that the split never moves."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise SystemExit(f"no .txt files in {folder}; --data takes a folder of plain text files")
    train = [f.read_text(encoding="utf-8", errors="replace") for f in files if f.name not in HELD_OUT]
    held_out = [f.read_text(encoding="utf-8", errors="replace") for f in files if f.name in HELD_OUT]
    if not held_out:
        raise SystemExit(f"none of the held-out files {HELD_OUT} is in {folder}; they are needed for evaluation")
    return train, held_out


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Radford et al. 2019): any text can be encoded, none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[BEGIN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=BEGIN, pad_token=BEGIN, model_max_length=POSITIONS
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All texts as one row of token ids, each led by the begin-of-text token."""
    ids: list[int] = []
    for text in texts:
        ids.append(tokenizer.bos_token_id)
        ids.extend(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    return torch.tensor(ids, dtype=torch.int32)


def build(size: Size, layers: int | None = None) -> LlamaForCausalLM:
    """A model with random weights."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        num_hidden_layers=layers or size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def stacked(shallow: LlamaForCausalLM, size: Size) -> LlamaForCausalLM:
    """A model of twice the layers: 0 1 become 0 0 1 1."""
    layers = 2 * len(shallow.model.layers)
    whole = build(size, layers)
    state = {k: v for k, v in shallow.state_dict().items() if ".layers." not in k}
    for i in range(layers):
        prefix = f"model.layers.{i // 2}."
        state |= {
            f"model.layers.{i}.{k.removeprefix(prefix)}": v
            for k, v in shallow.state_dict().items()
            if k.startswith(prefix)
        }
    whole.load_state_dict(state)
    return whole


def make_optimizer(model: LlamaForCausalLM, size: Size) -> torch.optim.Optimizer:
    """AdamW, weight decay on matrices only."""
    decay = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=size.learning_rate, betas=(0.9, 0.95), fused=True)


@torch.no_grad()
def held_out_bits_per_byte(model: LlamaForCausalLM, ids: torch.Tensor, n_bytes: int, length: int = 256) -> float:
    """Cross-entropy of the held-out text in bits, over its UTF-8 bytes; windows of `length` tokens, each led by
    BEGIN."""
    model.eval()
    usable = (len(ids) // length) * length
    windows = ids[:usable].view(-1, length).long()
    nats = 0.0
    for batch in windows.split(16):
        inputs = torch.cat([torch.zeros(len(batch), 1, dtype=torch.long), batch[:, :-1]], dim=1)
        logits = model(input_ids=inputs).logits.float()
        nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.flatten(), reduction="sum").item()
    model.train()
    return nats / math.log(2) / (n_bytes * usable / len(ids))


def sequence_length_at(share: float, stages: tuple[tuple[float, int], ...]) -> int:
    """Tokens of a training window once this share (0 to below 1) of the tokens was trained on."""
    return next(length for until, length in stages if share < until)


def pretrain(
    data: Path, name: str, out: Path, tokens: int | None = None, threads: int | None = None, again: bool = False
) -> dict[str, object]:
    """Trains one size from its first token (again: from the finished model in `out`), or on from its checkpoint there.

    Writes a transformers directory with `pretraining.json`, whose counts are those of all cycles.
    """
    size = SIZES[name]
    budget = tokens or size.tokens
    tokens_before, seconds_before, cycles = 0, 0.0, []
    if again:
        former = json.loads((out / "pretraining.json").read_text())
        tokens_before, seconds_before, cycles = former["tokens"], former["seconds"], former["cycles"]
        size = replace(size, tokens=budget, learning_rate=AGAIN_LEARNING_RATE * size.learning_rate, stack_at=())
    stages = STAGES_AGAIN if again else STAGES
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    train_texts, held_texts = read_books(data)
    out.mkdir(parents=True, exist_ok=True)
    shipped = FOLDER / "tiny-300k"
    has_tokenizer = (shipped / "tokenizer.json").exists()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(shipped) if has_tokenizer else train_tokenizer(train_texts)
    tokenizer.save_pretrained(out)
    train_ids, held_ids = encode(tokenizer, train_texts), encode(tokenizer, held_texts)
    held_bytes = sum(len(t.encode()) for t in held_texts)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    steps = math.ceil(budget / TOKENS_PER_STEP)
    doublings = [int(share * steps) for share in size.stack_at]
    checkpoint = out / "checkpoint.pt"
    saved = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    start, seconds = (saved["step"], saved["seconds"]) if saved else (0, 0.0)
    model = (
        LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
        if again
        else build(size, size.layers // 2 ** sum(start <= d for d in doublings))
    )
    model = model.to(device)  # type: ignore[arg-type]  # transformers' stubs know only other spellings
    optimizer = make_optimizer(model, size)
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    print(f"{name}: {len(train_ids):,} training tokens, {steps:,} steps from {start}", flush=True)

    began = time.perf_counter()
    for step in range(start, steps):
        if step in doublings:
            model = stacked(model, size).to(device)  # type: ignore[arg-type]  # as above
            optimizer = make_optimizer(model, size)
        length = sequence_length_at(step / steps, stages)
        generator = torch.Generator().manual_seed(
            tokens_before // TOKENS_PER_STEP + step
        )  # a resumed run draws what an undisturbed one draws
        starts = torch.randint(0, len(train_ids) - length, (TOKENS_PER_STEP // length,), generator=generator)
        labels = torch.stack([train_ids[s : s + length] for s in starts]).long().to(device)
        inputs = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], dim=1)
        warmup, progress = (
            min(1.0, (step + 1 - max((d for d in doublings if d <= step), default=0)) / 200),
            step / steps,
        )
        for group in optimizer.param_groups:
            group["lr"] = size.learning_rate * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            elapsed = seconds + time.perf_counter() - began
            print(f"{name} step {step}/{steps} length {length} loss {loss.item():.3f} {elapsed:.0f} s", flush=True)
        if (step + 1) % 500 == 0:
            elapsed = seconds + time.perf_counter() - began
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "seconds": elapsed,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)

    parameters = sum(p.numel() for p in model.parameters())
    model = model.to("cpu").to(torch.bfloat16)
    model.save_pretrained(out)
    tokens_trained = tokens_before + steps * TOKENS_PER_STEP
    facts = {
        "name": f"tiny-{name}",
        "parameters": parameters,
        "tokens": tokens_trained,
        "tokens_per_parameter": round(tokens_trained / parameters, 1),
        "held_out_bits_per_byte": round(held_out_bits_per_byte(model.float(), held_ids, held_bytes), 4),
        "held_out_files": list(HELD_OUT),
        "seconds": round(seconds_before + seconds + time.perf_counter() - began),
        "device": device,
        "torch": torch.__version__,
        "cycles": [*cycles, asdict(size)],
    }
    (out / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n")
    checkpoint.unlink(missing_ok=True)
    print(json.dumps(facts, indent=2), flush=True)
    return facts


def main() -> None:
    """The command python -m lorabench.models.pretrain."""
    parser = argparse.ArgumentParser(
        prog="python -m lorabench.models.pretrain", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of plain text files")
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--out", type=Path, help="default: the package's own folder for that size")
    parser.add_argument("--tokens", type=int, help="training tokens (default: the size's own budget)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--again", action="store_true", help="one more cosine cycle from the finished model")
    args = parser.parse_args()
    pretrain(args.data, args.size, args.out or FOLDER / f"tiny-{args.size}", args.tokens, args.threads, args.again)


if __name__ == "__main__":
    main()
