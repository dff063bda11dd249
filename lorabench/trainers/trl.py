"""TRL's SFTTrainer, with its default loss in tiles of logits"""

from lorabench.config.trainer import Trainer

TRAINER = Trainer(
    name="trl",
    title="TRL SFTTrainer",
    versions=(("trl", "1.16"), ("transformers", "5.24"), ("peft", "0.21"), ("accelerate", "1.15")),
    differences=(
        "Base weights keep the checkpoint's dtype, mostly bfloat16, in full fine-tuning too.",
        "A quantized base is not prepared for k-bit training: hidden states stay in bfloat16.",
        "Adapters on a quantized base are bfloat16 (except DoRA's magnitudes), on others float32.",
        "The loss computes the head in tiles of 4,096 tokens by 32,768 words, which the backward pass recomputes, so"
        " that no logits are kept; since 1.15 there is no other, and use_liger_kernel replaces kernels in the layers"
        " alone (--loss fused). --loss full is loss_type nll of TRL up to 1.14: all logits.",
        "Packing (bfd) lays a micro-batch in one row; FlashAttention needs no mask for it, sdpa takes one of tokens by"
        " tokens and the memory-efficient kernel. activation_offloading is not predicted.",
        "Mixed precision and gradient checkpointing (non-reentrant) are on by default.",
        "bitsandbytes' 8-bit optimizers keep the state of embeddings in 32 bits.",
        "Gradients are clipped; the optimizer is torch's fused AdamW.",
    ),
    measured="Step's bytes on an H200, 18 settings: 0.05 % median, 0.8 % worst; live tensors on a CPU, 11: 0.02 %.",
    errors=(0.97, 1.05),
    losses=(("chunked", "trl"), ("full", "transformers"), ("fused", "trl and liger")),
    packing=False,
    checkpoints=True,
    adapter_dtype="bfloat16 on quantized",
    wide_embedding_state=True,
)
