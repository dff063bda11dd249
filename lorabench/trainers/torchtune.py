"""torchtune's recipes for one device; torchtune is being wound down, new projects should take another trainer"""

from lorabench.config.trainer import Trainer

TRAINER = Trainer(
    name="torchtune",
    title="torchtune",
    versions=(("torchtune", "0.6"),),
    differences=(
        "Everything is bfloat16, without autocast: base, adapters, gradients and optimizer states, in full"
        " fine-tuning too.",
        "The loss takes logits in eight chunks, all of them kept in bfloat16; one at a time is cast to float32.",
        "Gradients are not clipped by default.",
        "Quantized bases are torchao's nf4, not int8 or fp4; methods are LoRA and DoRA.",
        "torchtune is being wound down: no new models and features are added to it.",
    ),
    measured="Two published peaks, compiled: 1.5 and 5.4 % above them.",
    errors=(0.85, 1.10),
    losses=(("chunked", "torchtune"),),
    adapter_dtype="base",
    mixed_precision=False,
    outputs="freed",
    clips=False,
    unavailable=("rslora", "pissa", "int8", "fp4", "target_parameters"),
)
