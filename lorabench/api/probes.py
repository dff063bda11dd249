"""Ranks before training: what rules say from a few passes over the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench.workflows.probe_defaults import BATCHES, MEAN_RANK, STEPS

if TYPE_CHECKING:
    from lorabench.config import Study
    from lorabench.workflows.probe import Probes


def probe(
    study: Study | str | Path,
    *,
    names: Sequence[str] | None = None,
    batches: int = BATCHES,
    steps: int = STEPS,
    mean_rank: int = MEAN_RANK,
) -> Probes:
    """The rank that each of several published rules names, for every setting of a study and without training it.

    Args:
        study: whose base, data and batches are taken, or its file.
        names: of probes, as `lorabench probes` lists them; all where absent.
        batches: forward and backward passes, an even number.
        steps: of a short training that two of the probes need; 0 leaves these out.
        mean_rank: of the budget that some probes spread over the modules.
    Returns:
        Probes: `.frame()` has a row per setting and probe; `.settings` holds ranks by module.
    Raises:
        LorabenchError: the study cannot be run, trains no adapter, or a value is none that is allowed.
    Example:
        >>> import lorabench as lb
        >>> settings = ["training.batch_size=2", "training.sequence_length=32"]
        >>> study = lb.load_study("studies/quickstart.yaml", settings)
        >>> lb.probe(study, names=["gora"], batches=2, mean_rank=4).frame().probe.unique().tolist()
        ['gora']
    """
    from lorabench.config import load_study
    from lorabench.workflows import probe as workflow

    loaded = load_study(study) if isinstance(study, str | Path) else study
    return workflow.probe(loaded, names=names, batches=batches, steps=steps, mean_rank=mean_rank)
