"""transformers' Trainer with PEFT's adapters, as its documentation sets them up"""

from lorabench.config.trainer import Trainer

TRAINER = Trainer(
    name="transformers",
    title="transformers Trainer",
    versions=(("transformers", "5.24"), ("peft", "0.21"), ("accelerate", "1.15"), ("bitsandbytes", "0.50")),
    differences=(
        "Base weights keep the checkpoint's dtype, mostly bfloat16, in full fine-tuning too (from_pretrained).",
        "PEFT's prepare_model_for_kbit_training, which its documentation of quantized training calls, casts norms,"
        " embeddings and head of a quantized base to float32, and with them the hidden states between layers.",
        "Adapters are float32 (PEFT's autocast_adapter_dtype).",
        "accelerate copies the model's outputs, all logits among them, to float32 while the loss is computed.",
        "The loss is transformers' own: a float32 copy of all logits; Liger's fused loss on request"
        " (use_liger_kernel).",
        "Gradient checkpointing is non-reentrant, and the embeddings' output has a gradient, too.",
        "bitsandbytes' 8-bit optimizers keep the state of embeddings in 32 bits.",
        "Gradients are clipped; the optimizer is torch's fused AdamW.",
    ),
    measured="Step's bytes on an H200, 34 settings: 0.03 % median, 1.2 % worst; live tensors on a CPU, 22: 0.02 %.",
    errors=(0.97, 1.05),
    losses=(("full", "transformers"), ("fused", "liger")),
    kbit_preparation=True,
    wide_embedding_state=True,
)
