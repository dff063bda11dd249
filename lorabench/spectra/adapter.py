"""LoRA adapters in files, whichever trainer wrote them: `layouts` tells their tensors apart, `declared` reads what
stands beside them.

    LoRA        scaling * B @ A, scaling = alpha / r, of rsLoRA alpha / sqrt(r); mlx's scale is the scaling itself
    AdaLoRA     lora_alpha / (init_r + 1e-5) * B @ diag(E) @ A (peft.tuners.adalora.layer; Zhang et al. 2023,
                arXiv:2303.10512, eq. 3)
    KaSA        scaling * B @ diag(d) @ A, and off the base go its r smallest singular values (Wang et al. 2024,
                arXiv:2412.06071, section 3.2)
    BD-LoRA     A (r, in / n) or B (out, r / n) hold the n blocks of a block-diagonal factor
    experts     one pair of factors for a stack: rows e r ... of A and columns e, e + n, ... of B are those of expert e
                of n (target_parameters)

alpha is what --alpha says, else a module's own .alpha tensor, else the configuration's, else the header's; where
nothing says it, the rank. Merged projections (loralib's MergedLinear: one lora_A of g r rows for a lora_B of r columns)
are told by their shapes: part i of B's rows goes with rows i r ... (i + 1) r of A, one change of rank g r.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from lorabench.errors import ModelError
from lorabench.spectra import layouts
from lorabench.spectra.adapter_checks import check_adapter
from lorabench.spectra.adapter_config import CONFIG, PeftConfig
from lorabench.spectra.adapter_files import OF_DIFFUSERS, AdapterFiles, adapter_files
from lorabench.spectra.declared import Declared, declared
from lorabench.spectra.delta import Delta, of_dora, of_factors, of_kasa
from lorabench.spectra.factor_tensors import by, factor_shape, finite, own_alpha
from lorabench.spectra.files import Weights
from lorabench.spectra.layouts import Entry
from lorabench.spectra.lookup import base_weight, lacking
from lorabench.spectra.stacks import origin, with_experts
from lorabench.spectra.tensor_file import TensorFile

_LITGPT = re.compile(r"^transformer\.h\.\d+\.attn\.(?:attn|qkv)$")
_PIPELINE = frozenset((
    "unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "diffusion_model",
    "prior",
))  # fmt: skip

AsTrained = Callable[[torch.Tensor], torch.Tensor]
"""a base weight (out, in) to the one that training saw: the same, or its quantized form given back"""


class Adapter:
    """An adapter on disk; its tensors are read when they are asked for.

    source     a folder or file, or the files that it was resolved to
    alpha      lora_alpha, over what the files say
    ModelError where the files are damaged, do not belong together, or change more than factors can tell.
    """

    def __init__(self, source: str | Path | AdapterFiles, alpha: float | None = None) -> None:
        if alpha is not None and not 0 < alpha < math.inf:
            raise ModelError(f"alpha {alpha:g} is not a scaling; give a positive number")
        files = source if isinstance(source, AdapterFiles) else adapter_files(Path(source))
        self.place, self.file = files.place, TensorFile(files.factor_file)
        self.declared: Declared = declared(files)
        self.alpha = alpha
        self.entries = with_experts(layouts.entries(self.file.names(), self.file.path), self.file, self.declared)
        self._last: dict[bool, tuple[str, torch.Tensor, float]] = {}
        check_adapter(self)

    @property
    def config(self) -> PeftConfig:
        """PEFT's own configuration; {} where there is none."""
        return self.declared.config

    @property
    def base(self) -> str | None:
        """The model that it was trained on, as its configuration names it."""
        return self.declared.base

    @property
    def is_dora(self) -> bool:
        """Whether any module has DoRA's magnitudes."""
        return any(e.magnitude for e in self.entries)

    @property
    def is_kasa(self) -> bool:
        """Whether any module has KaSA's diagonal."""
        return any(e.diag for e in self.entries)

    @property
    def moves_base(self) -> str | None:
        """The start (PiSSA and the like) that changed the base; None for what fits onto the base as it is."""
        return self.declared.moves_base

    @property
    def is_pipeline(self) -> bool:
        """Whether its modules are named by the part of a diffusers pipeline first."""
        if self.config or not {e.module.split(".")[0] for e in self.entries} <= _PIPELINE:
            return False
        is_declared = bool(self.declared.parts) or self.file.path.name in OF_DIFFUSERS
        return is_declared or any(
            not e.module.startswith("transformer.") or "transformer_blocks." in e.module for e in self.entries
        )  # some language models begin with transformer., too

    def notes(self) -> tuple[str, ...]:
        """What to know before believing the numbers."""
        notes = []
        if self.alpha is None and any(self._alpha(e) is None for e in self.entries) and self.declared.scale is None:
            why = "as diffusers takes it" if self.is_pipeline else "is assumed; give it with --alpha"
            notes.append(
                f"no {CONFIG}, no alpha in the file or its header: alpha is unknown, scaling 1 (alpha = rank) {why}"
            )
        if self.is_kasa:
            notes.append(
                "KaSA: the adapter removes the smallest singular values of each base weight; with the base (--base"
                " MODEL) the values are those of the whole change, without it those of scaling * B @ diag(d) @ A alone"
            )
        if any(e.layout == "torchtune" for e in self.entries):
            notes.append(
                "torchtune's own names and row order in query and key: the values are those of the change, but it"
                " cannot be compared with a transformers checkpoint"
            )
        if passed := self.passed_over():
            notes.append(
                f"{CONFIG} does not target {passed[0]}{f' and {len(passed) - 1} more' if len(passed) > 1 else ''},"
                " whose factors are in the file: PEFT ignores them, so a loaded model lacks this change"
            )
        return (*notes, *self.declared.notes())

    def passed_over(self) -> tuple[str, ...]:
        """The modules that have factors in the file, and that PEFT would not adapt by the configuration beside it."""
        return self.declared.passed_over([e.module for e in self.entries if not e.parameter])

    def is_merged(self, entry: Entry) -> bool:
        """Whether a module's A has the rows of several projections, or its B the groups of a convolution."""
        return (
            entry.experts == 1
            and entry.layout != "mlx"
            and self._blocks(entry) == (1, 1)
            and self.file.shape(entry.a)[0] != self.file.shape(entry.b)[1]
        )

    def rank(self, entry: Entry) -> int:
        """r of a module (of one expert of a stack), by the shapes of its factors."""
        a, b = (factor_shape(self.file, entry, of_b) for of_b in (False, True))
        if entry.experts > 1:
            return int(a[0] // entry.experts if entry.layout != "mlx" else b[-1])
        if entry.layout == "mlx":
            return int(a[1])
        blocks = self._blocks(entry)
        return int(a[0]) if len(a) > 2 or blocks[1] > 1 else int(b[1])

    def scaling(self, entry: Entry) -> float:
        """What B @ A is multiplied by."""
        rank = self.rank(entry)
        if self.declared.scale is not None and self.alpha is None:
            return self.declared.scale
        alpha = self.alpha if self.alpha is not None else self._alpha(entry)
        if entry.e is not None:
            first = self.config.get("init_r") or rank  # PEFT keeps the scaling of the ranks that training began with
            return (first if alpha is None else alpha) / (first + 1e-5)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.declared.is_rslora(entry.key) else rank)

    def factors(self, entry: Entry) -> tuple[torch.Tensor, torch.Tensor, float]:
        """(A, B, scaling) with A (rank, in) and B (out, rank) in the precision they are stored in: convolutions flat,
        block-diagonal ones whole, diagonals multiplied in."""
        a, b, scaling, _ = self._factors(entry)
        return a, b, scaling

    def delta(self, entry: Entry, base: Weights | None = None, as_trained: AsTrained = lambda weight: weight) -> Delta:
        """The change of one module; of DoRA and KaSA the whole one where the base is there (`as_trained` gives its
        weights as training saw them), else scaling * B @ A alone; ModelError where the base lacks the weight."""
        product = self.product(entry)
        if base is None or not (entry.magnitude or entry.diag):
            return product
        shape = (product.out_features, product.in_features)
        weight = base_weight(base, product.origin or entry.module, shape, entry.is_embedding)
        if weight is None:
            kind = "DoRA" if entry.magnitude else "KaSA"
            raise ModelError(
                f"{lacking(base, entry.module, shape, self.base)}; the change of {kind} depends on the base's"
                " weights; without --base the values of scaling * B @ A alone are shown"
            )
        a, b, scaling, _ = self._factors(entry)
        if entry.diag:
            whole = replace(
                of_kasa(entry.module, as_trained(weight), a, b, scaling, self.rank(entry)), noise=product.noise
            )
        else:
            assert entry.magnitude is not None
            magnitude = self.file.tensor(entry.magnitude)
            if not magnitude.is_floating_point() or not bool(torch.isfinite(magnitude.float()).all()):
                raise ModelError(
                    f"{self.file.path}: {entry.magnitude} is {by(magnitude.shape)}; {b.shape[0]} finite magnitudes are"
                    " needed"
                )
            whole = of_dora(entry.module, as_trained(weight), a, b, scaling, magnitude)
        return replace(whole, is_embedding=entry.is_embedding, origin=product.origin)

    def product(self, entry: Entry) -> Delta:
        """scaling * B @ A of one module: its change, or of DoRA the part that turns it."""
        a, b, scaling, eps = self._factors(entry)
        return replace(
            of_factors(entry.module, a, b, scaling, eps),
            is_embedding=entry.is_embedding,
            expert=entry.expert,
            stack=entry.stack,
            origin=origin(entry.module, self.config),
        )

    def deltas(self, base: Weights | None = None, as_trained: AsTrained = lambda weight: weight) -> Iterator[Delta]:
        """The changes of all modules, in the model's order of layers, one in memory at a time."""
        for entry in self.entries:
            yield self.delta(entry, base, as_trained)

    def _factors(self, entry: Entry) -> tuple[torch.Tensor, torch.Tensor, float, float]:
        """The same with the precision (eps) that they are stored in."""
        a, eps = self._matrix(entry, of_b=False)
        b, eps_b = self._matrix(entry, of_b=True)
        rank, experts = self.rank(entry), entry.experts
        if experts > 1 and entry.expert is not None:
            a = a.reshape(experts, rank, -1)[entry.expert]
            b = (
                b.reshape(experts, -1, rank)[entry.expert]
                if entry.layout == "mlx"
                else b.reshape(b.shape[0], rank, experts)[:, :, entry.expert]
            )
        of_a, of_b = self._blocks(entry)
        if any(t.shape[0] % n for t, n in ((a, of_a), (b, of_b))):
            raise ModelError(
                f"{self.file.path}: {entry.module}: lora_A is {by(a.shape)} and lora_B is {by(b.shape)}, which cannot"
                f" be split into the {max(of_a, of_b)} blocks of use_bdlora"
            )
        a, b = (torch.block_diag(*t.chunk(n)) if n > 1 else t for t, n in ((a, of_a), (b, of_b)))
        groups = self._groups(entry, a, b)
        if (declared_rank := self.declared.rank(entry.key)) is not None and rank != declared_rank:
            raise ModelError(
                f"{self.file.path}: {entry.module} has rank {rank}, {CONFIG} says {declared_rank}; the two belong to"
                " different adapters"
            )
        if groups > 1:
            b = torch.block_diag(*b.chunk(groups))
        if (name := entry.diag or entry.e) is not None:
            diagonal = finite(self.file, name).flatten()
            if diagonal.numel() != a.shape[0]:
                raise ModelError(
                    f"{self.file.path}: {name} is {by(diagonal.shape)}; one number per rank is needed, {a.shape[0]}"
                )
            a = diagonal[:, None].double() * a.double()
        return a, b, self.scaling(entry), max(eps, eps_b)

    def _groups(self, entry: Entry, a: torch.Tensor, b: torch.Tensor) -> int:
        """How many projections (or groups of a convolution) share B; ModelError where the shapes do not fit."""
        if a.shape[0] == b.shape[1]:
            return 1
        if not b.shape[1] or a.shape[0] % b.shape[1] or b.shape[0] % (a.shape[0] // b.shape[1]):
            raise ModelError(
                f"{self.file.path}: {entry.module}: lora_A is {by(a.shape)} and lora_B is {by(b.shape)}; the rows of"
                " A must be the columns of B"
            )
        if _LITGPT.match(entry.module):
            raise ModelError(
                f"{self.file.path}: {entry.module} holds query, key and value of litgpt in one matrix, whose sizes are"
                " not in the file; convert the adapter to PEFT's format first"
            )
        return int(a.shape[0] // b.shape[1])

    def _blocks(self, entry: Entry) -> tuple[int, int]:
        """Blocks of a block-diagonal A and B (BD-LoRA); 1 for a plain one."""
        bdlora = self.config.get("use_bdlora")
        if not bdlora:
            return 1, 1
        blocks = int(bdlora.get("nblocks", 1))
        in_a, in_b = bdlora.get("target_modules_bd_a") or [], bdlora.get("target_modules_bd_b") or []
        if any(part in entry.module for part in in_a):
            return blocks, 1
        return (1, blocks) if any(part in entry.module for part in in_b) else (1, 1)

    def _alpha(self, entry: Entry) -> float | None:
        """What the files say of a module's alpha: its own tensor first, which mlx and PEFT do not write."""
        if entry.alpha is not None:
            return own_alpha(self.file, entry.alpha)
        return self.declared.alpha(entry.key, len(self.file.shape(entry.a)) > 2)

    def _matrix(self, entry: Entry, of_b: bool) -> tuple[torch.Tensor, float]:
        """A or B as a matrix, (rank, in) or (out, rank), with the eps of the precision it is stored in."""
        factor_shape(self.file, entry, of_b)
        name = entry.b if of_b else entry.a
        if self._last.get(of_b, ("",))[0] != name:  # experts ask for one pair of factors many times
            self._last[of_b] = (name, finite(self.file, name), torch.finfo(self.file.tensor(name).dtype).eps)
        _, factor, eps = self._last[of_b]
        if entry.layout == "mlx":
            factor = factor.flatten(0, -2) if factor.dim() > 2 else factor
            return (factor if entry.experts > 1 else factor.T), eps
        return factor.flatten(1), eps
