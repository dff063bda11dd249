"""Eight adapters trained as a pack, and each by a bare PEFT loop that shares no line with the engine's own."""

import copy
import dataclasses
import math

import bitsandbytes
import numpy as np
import peft
import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lorabench.config.settings import MethodSpec, TrainingSpec
from lorabench.engine.batches import Layout
from lorabench.engine.data import Example
from lorabench.engine.model import load_base
from lorabench.engine.packed import train_packed
from lorabench.engine.packed_adapters import AdapterStart, Learned, attached
from tests.engine.conftest import cell_of

CPU = torch.device("cpu")
EIGHT = (  # rank, alpha, target modules, dropout, learning rate, schedule, warm-up, decay, clipping, seed
    (1, 2, "all-linear", 0.0, 1e-3, "constant", 0.0, 0.0, 1.0, 0),
    (2, 16, ["q_proj", "down_proj"], 0.1, 5e-3, "cosine", 0.1, 0.01, 1.0, 1),
    (4, 3, ["q_proj", "k_proj", "v_proj", "o_proj"], 0.0, 2e-3, "linear", 0.2, 0.1, 0.1, 2),
    (8, 8, "all-linear", 0.2, 3e-3, "constant", 0.3, 0.0, 1.0, 0),
    (16, 32, ["gate_proj", "up_proj", "down_proj"], 0.0, 1e-3, "cosine", 0.0, 0.05, 0.5, 4),
    (32, 4, "all-linear", 0.0, 1e-2, "linear", 0.1, 0.0, 1.0, 5),
    (3, 3, "all-linear", 0.0, 1e-3, "constant", 0.1, 0.0, 1.0, 3),
    (64, 16, ["v_proj", "o_proj"], 0.05, 5e-3, "constant", 0.0, 0.01, 2.0, 7),
)
RATES = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


def rows(count=40):
    """Of many lengths, with a prompt that is not predicted."""
    chance = np.random.default_rng(0)
    made = []
    for _ in range(count):
        length = int(chance.integers(6, 40))
        predicted = np.arange(length) >= chance.integers(1, 5)
        made.append(Example(chance.integers(3, 500, length).astype(np.int32), predicted, length))
    return made


def drawn(count, size, seed):
    """Each row once an epoch, in numpy's permutation of the seed."""
    generator, waiting = np.random.default_rng(seed), []
    while True:
        while len(waiting) < size:
            waiting += list(generator.permutation(count))
        yield waiting[:size]
        waiting = waiting[size:]


def cross_entropy(model, ids, labels):
    logits = model(input_ids=ids).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none")


def peft_training(base, method, setting, examples, steps, accumulation, checkpointing):
    """Losses and trained tensors of a PEFT training over a copy of the base."""
    rank, alpha, targets, dropout, rate, schedule, warmup, decay, clipping, seed = setting
    base, exact = copy.deepcopy(base), base.dtype
    if method == "pissa":  # whose start PEFT makes in float32 alone
        base = base.float()
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        use_dora=method == "dora",
        use_rslora=method == "rslora",
        init_lora_weights="pissa" if method == "pissa" else True,
    )
    whole = {n: m.weight.detach().clone() for n, m in base.named_modules() if isinstance(m, torch.nn.Linear)}
    model = peft.get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # in float32 over codes, whatever computes beside them
            parameter.data = parameter.data.to(exact)
    if method == "pissa" and exact == torch.float64:  # its residual as PEFT means it, without the rounding to float32
        model.double()
        for name, layer in model.named_modules():
            if isinstance(layer, peft.tuners.lora.Linear):
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                full = whole[name.removeprefix("base_model.model.")].double()
                layer.base_layer.weight.data = full - layer.scaling["default"] * b.detach() @ a.detach()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained.values() if p.ndim == 2], "weight_decay": decay},
            {"params": [p for p in trained.values() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=rate,
    )
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(seed)
    order, warm, losses = drawn(len(examples), 4, seed), round(warmup * steps), []
    for step in range(1, steps + 1):
        slope = step / warm if step <= warm else RATES[schedule]((step - 1 - warm) / (steps - warm))
        for group in optimizer.param_groups:
            group["lr"] = rate * slope
        micro = []
        for _ in range(accumulation):
            picked = [examples[i] for i in next(order)]
            pad = torch.nn.utils.rnn.pad_sequence
            ids = pad([torch.from_numpy(e.ids).long() for e in picked], batch_first=True)
            labels = pad(
                [torch.from_numpy(np.where(e.predicted, e.ids, -100)).long() for e in picked],
                batch_first=True,
                padding_value=-100,
            )
            micro.append((ids, labels))
        predicted = sum(int((labels[:, 1:] != -100).sum()) for _, labels in micro)
        loss_now = 0.0
        for ids, labels in micro:
            loss = cross_entropy(model, ids, labels).sum() / predicted
            loss.backward()
            loss_now += loss.item()
        torch.nn.utils.clip_grad_norm_(trained.values(), clipping)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_now)
    return losses, {n: p.detach() for n, p in trained.items()}


def pack_training(base, adapters, examples, steps, accumulation, checkpointing):
    """What becomes of (method, setting) pairs in one pack."""
    exact, starts, specs = base.dtype, [], []
    for method, (rank, alpha, targets, dropout, rate, schedule, warmup, decay, clipping, seed) in adapters:
        spec = MethodSpec(name=method, rank=rank, alpha=alpha, dropout=dropout, target_modules=targets)
        narrow = method == "pissa" and exact == torch.float64
        with attached(base.float() if narrow else base, spec, seed) as model:
            start = AdapterStart.of(model, seed)
        if narrow:
            base.double()
        pairs = {n: (a.to(exact), b.to(exact)) for n, (a, b) in start.factors.items()}
        learned = Learned(pairs, {n: m.to(exact) for n, m in start.learned.magnitudes.items()})
        starts.append(dataclasses.replace(start, learned=learned))
        specs.append(
            TrainingSpec(
                steps=steps,
                batch_size=4,
                gradient_accumulation=accumulation,
                gradient_checkpointing=checkpointing,
                learning_rate=rate,
                schedule=schedule,
                warmup=warmup,
                weight_decay=decay,
                max_grad_norm=clipping,
            )
        )
    return train_packed(
        base,
        starts,
        examples,
        specs,
        seeds=[setting[-1] for _, setting in adapters],
        layout=Layout(0, labelled=False),
        where=CPU,
        autocast=None,
        loss_of=lambda model, batch, reduction: F.pad(
            cross_entropy(model, batch.ids, batch.labels).view(len(batch.ids), -1), (0, 1)
        ),
    )


class Linear4bit(bitsandbytes.nn.Linear4bit):
    """Computes in the dtype of what it is given: bitsandbytes' own kernel has no float64."""

    def forward(self, x):
        weight = bitsandbytes.functional.dequantize_4bit(self.weight.data, self.weight.quant_state)
        return F.linear(x, weight.to(x.dtype), self.bias)


class RMSNorm(LlamaRMSNorm):
    """In the dtype of its input: transformers' goes through float32, where two float64 values that differ in their last
    bit may round to neighbours (6e-8 apart), once in some thirty steps."""

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


def based(quantization="none", dtype=torch.float64):
    """The 300k model in a dtype; int8 layers take their products in float16 as ever."""
    base = load_base(cell_of(f"quantization={quantization}"), CPU)
    for module in base.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit) and dtype == torch.float64:
            module.__class__ = Linear4bit
        if isinstance(module, LlamaRMSNorm) and dtype == torch.float64:
            module.__class__ = RMSNorm
    for tensor in (*base.parameters(), *base.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return base


def named(tensors):
    """PEFT's tensors by module and kind."""
    return {
        n.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".default"): t
        for n, t in tensors.items()
    }


def own(training):
    """A pack's of an adapter, by the same names."""
    factors = training.learned.factors.items()
    mine = {f"{n}.lora_{k}": t for n, pair in factors for k, t in zip("AB", pair, strict=True)}
    return mine | {f"{n}.lora_magnitude_vector": t for n, t in training.learned.magnitudes.items()}


def distance(tensors, exact):
    """Of all of an adapter's tensors, relative to their size."""
    apart = sum(float((tensors[n].double() - t).square().sum()) for n, t in exact.items())
    return math.sqrt(apart / sum(float(t.square().sum()) for t in exact.values()))


def eight(*methods):
    return [(methods[i % len(methods)], setting) for i, setting in enumerate(EIGHT)]
