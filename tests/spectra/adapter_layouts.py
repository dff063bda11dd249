"""Factors, written as trainers lay them out."""

import json

import torch
from safetensors.torch import save_file

from lorabench.spectra.adapter import Adapter

A, B = (
    torch.randn(4, 12, generator=torch.Generator().manual_seed(1)),
    torch.randn(10, 4, generator=torch.Generator().manual_seed(2)),
)


def written(path, tensors, metadata=None, config=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, metadata=metadata)
    if config is not None:
        (path.parent / "adapter_config.json").write_text(json.dumps(config))
    return path


def only(path, alpha=None):
    (delta,) = Adapter(path, alpha).deltas()
    return delta
