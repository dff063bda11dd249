"""axolotl, which drives transformers' Trainer from a YAML file; not measured"""

from lorabench.config.trainer import Trainer

TRAINER = Trainer(
    name="axolotl",
    title="axolotl",
    versions=(("axolotl", "0.17"), ("transformers", "5.24"), ("peft", "0.21"), ("accelerate", "1.15")),
    differences=(
        "A quantized base is prepared for k-bit training, and then norms, embeddings and head are put back into the"
        " dtype of the run, so that hidden states stay in bfloat16 (src/axolotl/loaders/model.py).",
        "Weights are loaded in the dtype of mixed precision (bf16, fp16), and in float32 only without it: full"
        " fine-tuning in float32 takes its products in float32, too (src/axolotl/utils/config, torch_dtype).",
        "Full fine-tuning has norms, embeddings and head in float32, and hidden states with them, unless"
        " flash attention or cut cross entropy is switched on (_configure_embedding_dtypes there).",
        "Adapters are float32; accelerate copies all logits to float32 while the loss is computed.",
        "The loss is transformers' own; cut cross entropy, which many of its examples switch on, keeps no logits.",
        "The rest is transformers' Trainer: clipping, the optimizer, 32-bit states of embeddings.",
        "Its examples pack sequences and use FlashAttention-2: the same bytes as sdpa's flash kernel.",
        "Not measured.",
    ),
    errors=(0.80, 1.20),
    losses=(("full", "transformers"), ("fused", "cut")),
    weights_follow=True,
    wide_residual=True,
    wide_embedding_state=True,
)
