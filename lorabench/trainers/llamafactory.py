"""LLaMA-Factory, which drives transformers' Trainer from a YAML file or its web page"""

from lorabench.config.trainer import Trainer

TRAINER = Trainer(
    name="llamafactory",
    title="LLaMA-Factory",
    versions=(("llamafactory", "0.9"), ("transformers", "5.24"), ("peft", "0.21"), ("accelerate", "1.15")),
    differences=(
        "Norms, embeddings and head keep the dtype of the run unless upcast_layernorm or upcast_lmhead_output is set"
        " (src/llamafactory/model/model_utils/checkpointing.py).",
        "All trained weights are float32, adapters and full fine-tuning alike, unless pure_bf16 is set"
        " (src/llamafactory/model/adapter.py, init_adapter).",
        "Gradient checkpointing is on by default and reentrant (use_reentrant_gc).",
        "The loss is transformers' own, with accelerate's float32 copy of all logits; Liger's fused loss on request"
        " (enable_liger_kernel).",
        "The rest is transformers' Trainer: clipping, the optimizer, 32-bit states of embeddings.",
    ),
    measured="Live tensors on a CPU (0.9.5 with transformers 5.6, PEFT 0.18), 4 settings: 0.1 %; no GPU.",
    errors=(0.93, 1.06),  # of the own loop, whose live tensors agree as well, on GPUs
    losses=(("full", "transformers"), ("fused", "liger")),
    full_dtype="float32",
    checkpoints=True,
    reentrant=True,
    wide_embedding_state=True,
    unavailable=("target_parameters",),
)
