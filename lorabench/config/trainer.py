"""What a trainer does to a model and to a step, as far as memory and time follow from it.

Each trainer is a file of `lorabench/trainers`; memory.trainer applies what it says to the traced step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from lorabench import plugins
from lorabench.errors import LorabenchError

OWN = "lorabench"
"""the trainer that runs studies"""
Loss = Literal["full", "labelled", "chunked", "fused"]
Attention = Literal["sdpa", "flash", "eager"]
LOSSES: tuple[Loss, ...] = ("full", "labelled", "chunked", "fused")
ATTENTIONS: tuple[Attention, ...] = ("sdpa", "flash", "eager")


@dataclass(frozen=True)
class Trainer:
    """A trainer at the versions whose behaviour it is."""

    name: str
    title: str
    """as its users call it"""
    versions: tuple[tuple[str, str], ...]
    """packages and the versions that were read or measured"""
    differences: tuple[str, ...]
    """one sentence each: what it does otherwise than lorabench's own loop"""
    measured: str = ""
    """where its bytes were measured, and how far off the prediction was; empty where they were not"""
    errors: tuple[float, float] = field(default=(0.80, 1.20), compare=False)
    """measured over predicted bytes, least and most; wide where nothing was measured"""
    losses: tuple[tuple[Loss, str], ...] = (("full", "transformers"),)
    """the losses that it offers, each with the program that memory.losses has for it; the first is its default"""
    loss: Loss | None = None
    """the one that is asked for; None: its default"""
    attention: Attention | None = None
    """None: the model's default, sdpa where it has it"""
    kbit_preparation: bool = False
    """calls PEFT's prepare_model_for_kbit_training on quantized bases"""
    packing: bool | None = None
    """lays examples end to end, a micro-batch in one row without padding; None where that is not predicted"""
    adapter_dtype: Literal["float32", "base", "bfloat16 on quantized"] = "float32"
    """of the adapters' weights, gradients and optimizer states; PEFT's own default is float32"""
    full_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """of all weights, gradients and states of full fine-tuning, where the model's dtype is left open"""
    mixed_precision: bool = True
    """runs the forward pass under autocast"""
    weights_follow: bool = False
    """loads weights in the dtype of mixed precision, so that float32 ones train without it"""
    wide_residual: bool = False
    """keeps norms, embeddings and head of full fine-tuning in float32, but for flash attention and fused losses, whose
    kernels take none"""
    outputs: Literal["freed", "held", "float32"] = "float32"
    """what becomes of the model's outputs: let go of, held through the backward pass, or copied to float32 by
    accelerate"""
    checkpoints: bool = False
    """gradient checkpointing is on unless its user turns it off"""
    reentrant: bool = False
    """checkpoints as torch's older, reentrant variant"""
    offloads_checkpoints: bool = False
    """keeps checkpoints in the host's memory"""
    optimizer_kernel: Literal["fused", "foreach"] = "fused"
    wide_embedding_state: bool = False
    """keeps the states of embeddings in 32 bit under bitsandbytes' 8-bit optimizers"""
    clips: bool = True
    unavailable: tuple[str, ...] = field(default=())
    """methods and quantizations that it does not train, and target_parameters where it adapts modules alone"""

    @property
    def loss_in_force(self) -> Loss:
        """The loss that is asked for, or the default."""
        return self.loss or self.losses[0][0]

    @property
    def loss_program(self) -> str:
        """The program of the loss in force."""
        return dict(self.losses)[self.loss_in_force]

    @property
    def widens_full(self) -> bool:
        """Whether norms, embeddings and head of full fine-tuning are float32."""
        return self.wide_residual and self.attention != "flash" and self.loss_in_force != "fused"

    @property
    def released(self) -> str:
        """Its packages and versions on one line."""
        return ", ".join(f"{package} {number}" for package, number in self.versions)

    def words(self, quantized: bool = True) -> str:
        """ "TRL SFTTrainer (trl 1.16, ...), with chunked loss"; `quantized` tells whether the base is."""
        released = f" ({self.released})" if self.released else ""
        chosen = [f"{self.loss_in_force} loss"]
        if self.attention:
            chosen.append(f"{self.attention} attention")
        if self.kbit_preparation and quantized:
            chosen.append("k-bit preparation of quantized bases")
        if self.packing:
            chosen.append("packed examples")
        return f"{self.title}{released}, with {', '.join(chosen)}"

    def checkpointing_note(self, checkpointed: bool) -> str | None:
        """Of a trainer that would checkpoint, and a prediction without it; None where the two agree."""
        if not self.checkpoints or checkpointed:
            return None
        return (
            f"{self.title} has gradient checkpointing on unless it is turned off; this is without it:"
            " --gradient-checkpointing adds it"
        )

    def to_dict(self) -> dict[str, object]:
        """What `--json` says of it; absent values left out."""
        plain = {
            "name": self.name,
            "title": self.title,
            "versions": dict(self.versions),
            "installed": self.installed(),
            "measured": self.measured or None,
            "loss": self.loss_in_force,
            "attention": self.attention,
            "kbit_preparation": self.kbit_preparation,
            "packing": self.packing,
            "checkpoints_by_default": self.checkpoints,
        }
        return {k: v for k, v in plain.items() if v is not None}

    def installed(self) -> str | None:
        """The first of its packages at the version that is installed here, where that is another one; None else."""
        if not self.versions:
            return None
        package, described_version = self.versions[0]
        try:
            here = version(package)
        except PackageNotFoundError:
            return None
        return None if here.split(".")[:2] == described_version.split(".")[:2] else f"{package} {here}"

    def with_options(
        self,
        loss: Loss | None = None,
        attention: Attention | None = None,
        kbit_preparation: bool | None = None,
        packing: bool = False,
    ) -> Trainer:
        """The same with another loss, attention or preparation, or with packed examples; LorabenchError where it does
        not offer the loss, or its packing is not predicted."""
        if packing and self.packing is None:
            raise LorabenchError(f"packing is not predicted for {self.title}; allowed with --packing: --trainer trl")
        if loss is not None and loss not in dict(self.losses):
            raise LorabenchError(
                f"{self.title} has no {loss} loss; allowed: {', '.join(name for name, _ in self.losses)}"
            )
        prepared = self.kbit_preparation if kbit_preparation is None else kbit_preparation
        return replace(self, loss=loss, attention=attention, kbit_preparation=prepared, packing=packing or self.packing)


def find_trainer(name: str) -> Trainer:
    """A trainer by name; LorabenchError with the allowed names where there is none."""
    trainer = plugins.load("trainers", name).TRAINER
    assert isinstance(trainer, Trainer)
    return trainer


def trainers() -> tuple[Trainer, ...]:
    """All of them, lorabench's own loop first."""
    return tuple(sorted(map(find_trainer, plugins.names("trainers")), key=lambda t: (t.name != OWN, t.name)))
