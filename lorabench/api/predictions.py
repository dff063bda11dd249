"""What a setting, a study or a model needs, and which setting to take: predicted, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorabench.config import Study
    from lorabench.config.gpus import Gpu
    from lorabench.workflows.estimate import MemoryEstimate
    from lorabench.workflows.parameters import ParameterCounts
    from lorabench.workflows.plan import StudyPlan
    from lorabench.workflows.trainers import TrainerEstimates


def estimate(
    model: str,
    *,
    method: str | None = None,
    rank: int | None = None,
    target_modules: str | Sequence[str] | None = None,
    target_parameters: str | Sequence[str] | None = None,
    quantization: str | None = None,
    double_quant: bool | None = None,
    dtype: str | None = None,
    micro_batch_size: int | None = None,
    sequence_length: int | None = None,
    gradient_accumulation: int | None = None,
    gradient_checkpointing: bool | None = None,
    optimizer: str | None = None,
    autocast: str | None = None,
    gpu: str | None = None,
    trainer: str = "lorabench",
    loss: str | None = None,
    attention: str | None = None,
    kbit_preparation: bool | None = None,
    packing: bool = False,
    gpus: int = 1,
    strategy: str | None = None,
    calibrations: str | Path | None = None,
) -> MemoryEstimate:
    """The memory that one training step needs, traced on torch's meta device without weights, GPU or network.

    What is absent has the default of a study file (lorabench.config.settings).

    Args:
        model: preset (llama-3.1-8b), shipped model, directory or hub id.
        method: full, lora, rslora, dora or pissa.
        rank: of the adapter.
        target_modules: all-linear, attention, mlp, or names of modules.
        target_parameters: experts, or names of parameters that are adapted beside the modules.
        quantization: of the frozen base: none, int8, fp4 or nf4.
        double_quant: quantize the block constants, too.
        dtype: of unquantized weights.
        micro_batch_size: sequences of one forward pass.
        sequence_length: in tokens.
        gradient_accumulation: micro-batches of an optimizer step.
        gradient_checkpointing: recompute activations in the backward pass.
        optimizer: adamw, adamw-8bit, paged-adamw, paged-adamw-8bit or sgd.
        autocast: none or bfloat16.
        gpu: a known card, a size such as 24GB, or cpu: does it fit, and how much would?
        trainer: the program that trains: lorabench's own loop, or one of `lorabench trainers`.
        loss: full, chunked or fused; the trainer's own where it is absent.
        attention: sdpa, flash or eager; the model's own where it is absent.
        kbit_preparation: PEFT's prepare_model_for_kbit_training on a quantized base; as the trainer does where absent.
        packing: examples packed end to end, a micro-batch in one row.
        gpus: that train together; the bytes are then those of one of them, and not measured.
        strategy: what they share: ddp, zero2, zero3 or fsdp.
        calibrations: folder of what `lorabench calibrate` stored (~/.cache/lorabench/calibrations), which corrects the
            prediction for that card; none is read where absent.
    Returns:
        MemoryEstimate: bytes by category, the peak with its range, and with a gpu whether it fits.
    Raises:
        LorabenchError: a value is none that is allowed.
    Example:
        >>> import lorabench as lb
        >>> one = lb.estimate("lorabench/tiny-300k", rank=4, micro_batch_size=2, sequence_length=32, gpu="24GB")
        >>> one.fits
        True
        >>> bool(one.frame().bytes.sum() == one.peak_bytes)
        True
    """
    from lorabench.workflows import estimate as workflow
    from lorabench.workflows.trainers import chosen, sharding_of

    settings = _settings(
        model,
        method=method,
        rank=rank,
        target_modules=target_modules,
        target_parameters=target_parameters,
        quantization=quantization,
        double_quant=double_quant,
        dtype=dtype,
        micro_batch_size=micro_batch_size,
        sequence_length=sequence_length,
        gradient_accumulation=gradient_accumulation,
        gradient_checkpointing=gradient_checkpointing,
        optimizer=optimizer,
        autocast=autocast,
    )
    by = chosen(trainer, loss, attention, kbit_preparation, packing)
    return workflow.estimate(settings, card_named(gpu, calibrations), by, sharding_of(gpus, strategy))


def compare_trainers(
    model: str,
    *,
    gpu: str | None = None,
    loss: str | None = None,
    attention: str | None = None,
    kbit_preparation: bool | None = None,
    packing: bool = False,
    calibrations: str | Path | None = None,
    **settings: Any,
) -> TrainerEstimates:
    """The memory of one setting under every trainer that is known, and why they differ.

    Args:
        model: as for estimate.
        gpu: as for estimate.
        loss: as for estimate; a trainer that has it not is told of as such.
        attention: as for estimate.
        kbit_preparation: as for estimate.
        packing: as for estimate.
        calibrations: as for estimate.
        settings: method, rank, quantization, micro_batch_size and the other settings of estimate.
    Returns:
        TrainerEstimates: a row per trainer, the least peak first.
    Raises:
        LorabenchError: a value is none that is allowed.
    Example:
        >>> import lorabench as lb
        >>> frame = lb.compare_trainers("lorabench/tiny-300k", rank=4, micro_batch_size=2, sequence_length=32).frame()
        >>> bool(frame.peak_bytes["trl"] > 0)
        True
    """
    from lorabench.workflows import trainers as workflow

    return workflow.compare_trainers(
        _settings(model, **settings), card_named(gpu, calibrations), loss, attention, kbit_preparation
    )


def _settings(
    model: str,
    *,
    method: str | None = None,
    rank: int | None = None,
    target_modules: str | Sequence[str] | None = None,
    target_parameters: str | Sequence[str] | None = None,
    quantization: str | None = None,
    double_quant: bool | None = None,
    dtype: str | None = None,
    micro_batch_size: int | None = None,
    sequence_length: int | None = None,
    gradient_accumulation: int | None = None,
    gradient_checkpointing: bool | None = None,
    optimizer: str | None = None,
    autocast: str | None = None,
) -> dict[str, dict[str, object]]:
    """As a study nests them, only what was said."""
    settings: dict[str, dict[str, object]] = {
        "model": {"name": model, "dtype": dtype},
        "quantization": {"name": quantization, "double_quant": double_quant},
        "method": {
            "name": method,
            "rank": rank,
            "target_modules": modules(target_modules),
            "target_parameters": modules(target_parameters),
        },
        "training": {
            "batch_size": micro_batch_size,
            "sequence_length": sequence_length,
            "gradient_accumulation": gradient_accumulation,
            "gradient_checkpointing": gradient_checkpointing,
            "optimizer": optimizer,
            "autocast": autocast,
        },
    }
    declared = {part: {k: v for k, v in fields.items() if v is not None} for part, fields in settings.items()}
    return {part: fields for part, fields in declared.items() if fields}


def plan(
    study: Study | str | Path,
    gpu: str,
    *,
    studies: Sequence[str | Path] = (),
    trainer: str = "lorabench",
    loss: str | None = None,
    attention: str | None = None,
    kbit_preparation: bool | None = None,
    packing: bool = False,
    calibrations: str | Path | None = None,
) -> StudyPlan:
    """What every condition of a study needs on a card: parameters, memory, time.

    Args:
        study: a Study, or the path of a study file.
        gpu: a known card, a size such as 24GB, or cpu for this machine.
        studies: results directories, or folders that hold some, whose cells tell how fast the card is; without one that
            ran there its data sheet does (a roofline).
        trainer: as for estimate.
        loss: as for estimate.
        attention: as for estimate.
        kbit_preparation: as for estimate.
        packing: as for estimate.
        calibrations: as for estimate.
    Returns:
        StudyPlan: a row per condition; bytes, and seconds as a range.
    Raises:
        LorabenchError: the study or the card is none that is allowed.
    Example:
        >>> import lorabench as lb
        >>> settings = ["model=lorabench/tiny-300k", "seeds=[0]", "grid={method.rank: [4]}"]
        >>> study = lb.load_study("studies/quickstart.yaml", settings)
        >>> lb.plan(study, "24GB").frame().fits.dropna().unique().tolist()
        ['fits']
    """
    from lorabench.config import Study, load_study
    from lorabench.workflows import plan as workflow
    from lorabench.workflows.trainers import chosen

    read = study if isinstance(study, Study) else load_study(study)
    card = card_named(gpu, calibrations) or gpu
    return workflow.plan(read, card, studies, trainer=chosen(trainer, loss, attention, kbit_preparation, packing))


def parameters(
    model: str,
    *,
    rank: int | Sequence[int],
    target_modules: str | Sequence[str] = "all-linear",
    method: str = "lora",
    target_parameters: str | Sequence[str] | None = None,
) -> ParameterCounts:
    """Trainable parameters by rank: rank (in + out) for each matrix (Hu et al. 2021, arXiv:2106.09685, section 4.1).

    Args:
        model: as for estimate.
        rank: one or several.
        target_modules: as for estimate.
        method: lora or a variant of it.
        target_parameters: as for estimate.
    Returns:
        ParameterCounts: a row per rank.
    Raises:
        LorabenchError: the model, a module or the method is none that is known, or a rank is not possible.
    Example:
        >>> import lorabench as lb
        >>> counts = lb.parameters("lorabench/tiny-300k", rank=[4, 8]).frame().trainable_parameters
        >>> bool(counts[8] == 2 * counts[4])
        True
    """
    from lorabench.workflows import parameters as workflow

    ranks = [rank] if isinstance(rank, int) else list(rank)
    return workflow.parameters(model, ranks, modules(target_modules) or "all-linear", method, target_parameters)


def card_named(gpu: str | None, calibrations: str | Path | None) -> str | Gpu | None:
    """The card with what a folder of calibrations says of it; as it was named without a folder."""
    if gpu is None or calibrations is None:
        return gpu
    from lorabench.record.card_calibration import calibrated_card

    return calibrated_card(gpu, Path(calibrations))


def modules(names: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    return names if names is None or isinstance(names, str) else tuple(names)
