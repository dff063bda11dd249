"""Results of other programs as a results directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from lorabench import plugins
from lorabench.api.results import RunAnalysis, StudyResults, write_outputs
from lorabench.errors import DataError, LorabenchError, unknown


def import_results(
    importer: str,
    paths: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    metric: str | None = None,
    reference: Mapping[str, str] | None = None,
    unit: Literal["auto", "percent", "fraction"] = "auto",
    higher_is_better: Sequence[str] = (),
    lower_is_better: Sequence[str] = (),
    refused: Callable[[str], object] | None = None,
) -> StudyResults:
    """Reads results of other programs into a results directory, with its tables and report.

    Args:
        importer: peft (result files of its method comparison), lm-eval (its results_*.json), csv (any table).
        paths: files, and folders that hold them (csv: files).
        out: results directory to be made: new or empty.
        name: of the study; the directory's, where absent.
        columns: csv only: column of the table to lorabench's field, where they are not called the same.
        metric: that answers the study; accuracy of peft, else the first that has a better and worse.
        reference: settings of the condition that others are compared with, as {"method": "lora", "method.rank": "8"};
            full fine-tuning where absent.
        unit: csv only: of shares such as accuracy; auto takes values above 1 for percent.
        higher_is_better: csv only: metrics that lorabench does not know, of which more is better.
        lower_is_better: csv only: the same of which less is better.
        refused: called with a sentence for each file or row that cannot be read; the others are imported.
    Returns:
        StudyResults over the directory.
    Raises:
        LorabenchError: nothing could be read, the directory is in use, or, where `refused` is absent, a file or row
            cannot be read; nothing is written then.
    Example:
        >>> import tempfile, pathlib, lorabench as lb
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "mine.csv").write_text("method,rank,score,items\\nlora,8,61.5,400\\nfull,,63.0,400\\n")
        >>> results = lb.import_results("csv", folder / "mine.csv", folder / "out", columns={"score": "accuracy"})
        >>> [round(r.value("accuracy"), 3) for r in results.results]
        [0.615, 0.63]
    """
    from lorabench.record.frames import write_csv
    from lorabench.record.imported_run import Request, write_import

    if importer not in plugins.names("importers"):
        raise LorabenchError(unknown("importer", importer, plugins.names("importers")))
    of_tables = {
        "columns (--map)": columns, "unit": unit != "auto", "higher_is_better": higher_is_better,
        "lower_is_better": lower_is_better,
    }  # fmt: skip
    if importer != "csv" and (given := [option for option, value in of_tables.items() if value]):
        raise LorabenchError(f"{', '.join(given)}: only csv takes that; leave it out for {importer}")
    if both := sorted({*higher_is_better} & {*lower_is_better}):
        raise LorabenchError(f"{both[0]} is given as better both when higher and when lower; give one of them")
    sources = tuple(map(Path, (paths,) if isinstance(paths, str | Path) else paths))
    request = Request(sources, columns, metric, unit, tuple(higher_is_better), tuple(lower_is_better))
    readout = plugins.load("importers", importer).read(request)
    if not readout.runs or (refused is None and readout.refused):
        more = f" ({len(readout.refused) - 1:,} more like it)" if len(readout.refused) > 1 else ""
        raise DataError(f"{readout.refused[0]}{more}")
    for sentence in readout.refused:
        assert refused is not None
        refused(sentence)
    store = write_import(readout, out, sources, name, reference)
    analysis = RunAnalysis().of(store)
    write_csv(analysis.cells, store.folder / "cells.csv")
    write_outputs(store, analysis)
    return StudyResults(store, store.study())
