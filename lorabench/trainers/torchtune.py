"""torchtune's recipes for one device; torchtune is being wound down, new projects should take another trainer"""

from lorabench.config.trainer import Trainer

TRAINER = Trainer(
    name="torchtune",
    title="torchtune",
    versions=(("torchtune", "0.6"),),
    differences=(
        "Everything is bfloat16, without autocast: base, adapters, gradients and optimizer states, in full fine-tuning"
        " too.",
        "The loss takes logits in eight chunks, which all exist at once, and keeps the float32 log-probabilities of"
        " each: its configurations have compile: False. With compile: True (here --loss fused) a chunk is float32 only"
        " within one kernel, and only bfloat16 logits are kept.",
        "Gradients are not clipped by default.",
        "Quantized bases are torchao's nf4, not int8 or fp4; methods are LoRA and DoRA.",
        "torchtune is being wound down: no new models and features are added to it.",
    ),
    measured="Live tensors of its LoRA recipe (0.6.1) on a CPU, 3 settings: 0.3 to 2.3 % more than predicted; two"
    " published peaks, compiled: 1.5 and 5.1 % less.",
    errors=(0.85, 1.10),
    losses=(("chunked", "torchtune"), ("fused", "torchtune-compiled")),
    checkpoints=True,
    adapter_dtype="base",
    mixed_precision=False,
    outputs="freed",
    clips=False,
    unavailable=("rslora", "pissa", "int8", "fp4", "target_parameters"),
)
