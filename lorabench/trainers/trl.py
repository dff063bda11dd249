"""TRL's SFTTrainer, with its default loss in tiles of logits"""

from lorabench.config.trainer import Trainer

TRAINER = Trainer(
    name="trl",
    title="TRL SFTTrainer",
    versions=(("trl", "1.16"), ("transformers", "5.24"), ("peft", "0.21"), ("accelerate", "1.15")),
    differences=(
        "Base weights keep the checkpoint's dtype, bfloat16 of most, in full fine-tuning too.",
        "A quantized base is not prepared for k-bit training: hidden states stay in bfloat16.",
        "Adapters on a quantized base are bfloat16 (but for DoRA's magnitudes), on others float32.",
        "The loss takes the head in tiles of 4,096 tokens by 32,768 words, which the backward pass makes again, so that"
        " no logits are kept; all logits (as before 1.11) or Liger's fused loss on request.",
        "Mixed precision and gradient checkpointing (non-reentrant) are on by default.",
        "bitsandbytes' 8-bit optimizers keep the state of embeddings in 32 bit.",
        "Gradients are clipped; the optimizer is torch's fused AdamW.",
    ),
    measured="Step's bytes on an H200, 17 settings: 0.05 % median, 0.8 % worst; live tensors on a CPU, 11: 0.02 %.",
    errors=(0.97, 1.05),
    losses=(("chunked", "trl"), ("full", "transformers"), ("fused", "liger")),
    checkpoints=True,
    adapter_dtype="bfloat16 on quantized",
    wide_embedding_state=True,
)
