"""Whether a GGUF file has the tensors of its model, told by names and shapes before any weight is read.

Names are mapped by the gguf package (get_tensor_name_map), as transformers' loader does. What has no name there, or is
put together from several tensors (experts), is judged when transformers loads it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lorabench.config.gguf_file import GgufFile
from lorabench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def gguf_names(model: PreTrainedModel, gguf: GgufFile) -> dict[str, str]:
    """The model's own names, each for itself; ModelError where the file lacks one of its tensors, or has it in another
    size.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    arch = next((key for key, name in MODEL_ARCH_NAMES.items() if name == gguf.architecture), None)
    names = {name: name for name, _ in model.named_parameters()}  # a tied matrix once
    if arch is None:
        return names
    table = get_tensor_name_map(arch, model.config.get_text_config().num_hidden_layers)
    faults = []
    for name, parameter in model.named_parameters():
        stored = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            continue
        shape = gguf.tensors.get(stored)
        if shape is None and not _in_parts(stored, gguf):
            faults.append(f"{stored} is missing")
        elif shape is not None and math.prod(shape) != parameter.numel():
            faults.append(f"{stored} has {math.prod(shape):,} numbers, its configuration {parameter.numel():,}")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ModelError(
            f"the weights in {gguf.file} do not match its header: {'; '.join(faults[:3])}{more}; download it again"
        )
    return names


def _in_parts(name: str, gguf: GgufFile) -> bool:
    """Whether a layer has tensors that a name is put together from: experts, q, k and v in one."""
    layer = name.rpartition(".")[0].rpartition(".")[0]
    return any(n.startswith(f"{layer}.") and ("_exps" in n or "_qkv" in n) for n in gguf.tensors)
