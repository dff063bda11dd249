"""unsloth, whose kernels save memory that is only partly modelled here; not measured"""

from lorabench.config.trainer import Trainer

TRAINER = Trainer(
    name="unsloth",
    title="unsloth",
    versions=(("unsloth", "2026.1"), ("unsloth_zoo", "2026.1"), ("trl", "1.16")),
    differences=(
        "The loss takes logits in chunks, at least four and as many as keep one within half of the free memory, and"
        " computes gradients in the forward pass (unsloth_zoo, fused_losses/cross_entropy_loss.py); the prediction"
        " assumes four.",
        "Gradient checkpointing keeps the checkpointed activations in the host's memory.",
        "Adapters are float32; norms, embeddings and head keep the dtype of the run.",
        "Its own kernels for MLP, norms, positions and LoRA keep fewer activations than PEFT's layers: they are not"
        " modelled, so without checkpointing the prediction is too high.",
        "The rest is TRL's and transformers' Trainer.",
        "Not measured.",
    ),
    errors=(0.60, 1.15),
    losses=(("chunked", "unsloth"),),
    outputs="freed",
    checkpoints=True,
    offloads_checkpoints=True,
    wide_embedding_state=True,
)
