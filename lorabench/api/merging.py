"""Results directories from several machines as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from lorabench.api.results import RunAnalysis, StudyResults, write_outputs


def merge(
    folders: Sequence[str | Path], out: str | Path, *, told: Callable[[str], object] | None = None
) -> StudyResults:
    """Joins results directories of one study that ran on several machines, and writes tables and report of the whole.

    Args:
        folders: results directories, or folders with an archive of one (results.json.gz); two or more. Their studies
            may differ in seeds, grid and paths.
        out: results directory to be made: new or empty.
        told: called with a sentence for each directory, on cells that ran twice, and for each damaged record, which is
            left out; where absent, a damaged record is a warning.
    Returns:
        StudyResults over the joined directory. A cell that several hold is there once: finished before diverged or out
        of memory before failed or skipped, of equal ones that of the directory named first.
    Raises:
        LorabenchError: they are no parts of one study, or `out` is in use or cannot be written.
    Example:
        >>> import shutil, tempfile, lorabench as lb
        >>> other = shutil.copytree("reports/quickstart", tempfile.mkdtemp() + "/of-another-machine")
        >>> lb.merge(["reports/quickstart", other], tempfile.mkdtemp() + "/joined").study.name
        'quickstart'
    """
    from lorabench.record.frames import write_csv
    from lorabench.workflows.merge import merge as join

    joined = join(folders, out)
    for sentence in joined.words() if told else ():
        told(sentence)  # type: ignore[misc]
    for sentence in joined.left_out:
        (told or warnings.warn)(f"left out: {sentence}")
    analysis = RunAnalysis().of(joined.store)
    write_csv(analysis.cells, joined.store.folder / "cells.csv")
    write_outputs(joined.store, analysis)
    return StudyResults(joined.store, joined.store.study())
