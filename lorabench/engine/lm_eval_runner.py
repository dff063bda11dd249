"""lm-eval on the live model: the task's own multiple-choice sets, a folder of tasks, and any installed task.

A ChoiceSet becomes an lm-eval task in a scratch folder (a YAML file and its items as JSON lines), so that
one scorer serves all. Nothing is downloaded unless an installed task with a hub data set is named.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from lorabench import plugins
from lorabench.config import hub
from lorabench.config.settings import EvaluationSpec
from lorabench.config.study import Cell
from lorabench.engine.data import ChoiceSet
from lorabench.engine.positions import positions
from lorabench.errors import DataError
from lorabench.formatting import error_line
from lorabench.record.items import Items
from lorabench.record.result import Reading
from lorabench.record.whole_files import write_atomically

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.result_schema import EvalResults
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_FETCHED: set[tuple[object, ...]] = set()
"""tasks whose data this process has had, with their folder and number of examples"""


class LmEvalRunner:
    """lm-eval made ready for a cell: imported, its tasks written and found. Making it takes seconds the first time."""

    def __init__(self, sets: Sequence[ChoiceSet], spec: EvaluationSpec, scratch: Path) -> None:
        # one test set for all metrics of a condition: what the engine scores over its first rows, lm-eval does over no
        # others
        own = {s.name: replace(s, items=s.items[: spec.max_sequences]) if s.scored else s for s in sets}
        self.spec = spec
        self.names = [s.name for s in sets if not s.scored] if spec.lm_eval is None else list(spec.lm_eval)
        self.foreign = [n for n in self.names if n not in own]
        if not self.names:
            return
        import lm_eval.models.huggingface  # noqa: F401  (what is slow to import, before any clock runs)

        _quieten()
        used = [own[n] for n in self.names if n in own]
        # a folder per content: two cells never write over each other's items, and a kept manager never misses a task
        folder = scratch / hashlib.sha256(repr(used).encode()).hexdigest()[:12]
        for choices in used:
            if not (folder / f"{choices.name}.yaml").exists():
                write_task(choices, folder)
        own_only = not self.foreign or brings(self.foreign, spec.include_path)
        self.manager = _manager(str(folder) if used else None, spec.include_path, own_only)

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[Reading], dict[str, Items]]:
        """Every metric of every task as "task/metric" with lm-eval's standard error, and by item where it is a mean of
        its items.

        DataError where a task's data cannot be had.
        """
        if not self.names:
            return [], {}
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        # float32: in bfloat16 sums of log-probabilities are 0.1 apart, and ties go to the first choice
        bare = (
            tokenizer.bos_token_id is None and tokenizer.eos_token_id is None
        )  # lm-eval needs a token to stand before an empty context
        prefix = {"prefix_token_id": tokenizer.pad_token_id} if bare else {}
        scorer = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=self.spec.batch_size,
            max_length=positions(model.config),
            softmax_dtype="float32",
            **prefix,
        )
        try:
            results = simple_evaluate(
                model=scorer,
                tasks=self.names,
                num_fewshot=self.spec.num_fewshot,
                limit=self.spec.limit,
                task_manager=self.manager,
                log_samples=True,
                bootstrap_iters=1000,  # a mean has a closed form; only medians and the like are resampled
                random_seed=0,
            )
        except OSError as e:  # ConnectionError and FileNotFoundError among them
            raise DataError(
                f"lm-eval cannot get the data of {', '.join(self.foreign or self.names)}: {error_line(e, 200)}; "
                "use tasks with local data"
            ) from e
        if results is None:  # of all processes but the first, where there are several
            return [], {}
        readings = [r for task, values in results["results"].items() for r in _readings(task, values, results)]
        return readings, {r.metric: items for r in readings if (items := _items(r, results)) is not None}


def further_tasks(cell: Cell) -> list[str]:
    """The lm-eval tasks that a cell names and its own task does not bring."""
    own = own_sets(cell)
    return [name for name in cell.evaluation.lm_eval or () if name not in own]


def own_sets(cell: Cell) -> tuple[str, ...]:
    """The names of the multiple-choice sets that a cell's own task brings."""
    return tuple(getattr(plugins.load("tasks", cell.task.name), "CHOICE_SETS", ()))


def known_tasks(include_path: str | None) -> list[str]:
    """The names of all installed tasks and those of a folder; reading lm-eval's 14,000 takes some 10 s."""
    _quieten()
    return sorted(_manager(None, include_path, False).all_tasks)


def brings(names: Sequence[str], include_path: str | None) -> bool:
    """Whether a folder alone has tasks of these names: lm-eval's own need not be read."""
    return include_path is not None and set(names) <= set(_manager(None, include_path, True).all_tasks)


def unreadable(names: Sequence[str], include_path: str | None) -> str | None:
    """The first YAML file of a folder that names one of these tasks and cannot be read, in a sentence; lm-eval passes
    over it without a word.
    """
    for path in sorted(Path(include_path).rglob("*.yaml")) if include_path else ():
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            for _ in yaml.parse(text, Loader=yaml.SafeLoader):  # syntax alone: !function is lm-eval's
                pass
        except yaml.YAMLError as e:
            if path.stem in names or any(f"task: {n}" in text for n in names):
                return f"{path} is not valid YAML ({error_line(e, 200)}); fix it"
    return None


def fetch_tasks(names: Sequence[str], spec: EvaluationSpec) -> None:
    """Gets the data of tasks that are not the study's own, and makes the first question of each, before anything is
    trained.

    DataError with the task and what to do where its data cannot be had, its file is broken, or its rows lack what it
    needs.
    """
    key = (tuple(names), spec.include_path, spec.num_fewshot)
    if not names or key in _FETCHED:
        return
    _quieten()
    own_only = brings(names, spec.include_path)
    offline = "" if hub.answers() else hub.why_not()
    with hub.offline(bool(offline)):
        for name in names:
            try:
                tasks = _manager(None, spec.include_path, own_only).load([name])["tasks"]
            except Exception as e:  # YAML, datasets, the network and further packages fail in many classes
                raise DataError(f"lm-eval task {name}: {_loading_sentence(e, offline)}") from e
            for task_name, task in tasks.items():
                try:
                    _make_first_question(task, spec.num_fewshot)
                except Exception as e:
                    raise DataError(
                        f"lm-eval task {task_name}: no question can be made from its first row ({type(e).__name__}: "
                        f"{error_line(e, 200)}); fix the task's file or its data"
                    ) from e
    _FETCHED.add(key)


def _make_first_question(task: ConfigurableTask, shots: int | None) -> None:
    if not (task.has_test_docs() or task.has_validation_docs()):
        raise ValueError("it has neither a test nor a validation split")
    doc = next(iter(task.eval_docs), None)
    if doc is None:
        raise ValueError("its split has no rows")
    task.doc_to_text(doc)
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(doc)
        plain = not task.multiple_input and not callable(task.config.process_results)
        for answer in (
            (target if isinstance(target, list) else [target]) if plain else ()
        ):  # lm-eval counts a missing answer as a wrong one
            if not (answer in choices if isinstance(answer, str) else 0 <= int(answer) < len(choices)):
                raise ValueError(f"its answer {answer!r} is not one of its {len(choices)} choices")
    n_examples = shots if shots is not None else (task.config.num_fewshot or 0)
    if n_examples:
        n_rows = len(list(task.fewshot_docs() or ()))
        if n_rows < n_examples:
            raise ValueError(
                f"it has {n_rows} rows for {n_examples} worked examples; evaluation.num_fewshot may be {n_rows} at most"
            )


def _loading_sentence(error: BaseException, offline: str) -> str:
    """Why a task cannot be loaded, and what to do; `offline`: why the hub cannot be reached, empty where it can."""
    line = error_line(error, 200)
    if isinstance(error, ImportError) and "for function" in str(error):  # lm-eval's words for its !function
        return f"it cannot be loaded ({line}); fix its file"
    if isinstance(error, ImportError):
        return f"it needs a package that is not installed ({line}); install it, or leave the task out"
    if isinstance(error, FileNotFoundError) and "Unable to find '/" in str(error):  # datasets' data_files
        return f"its data cannot be found ({line}); fix its data_files"
    if isinstance(error, OSError) or "Offline" in type(error).__name__:
        reason = f"they are not in the local cache, and {offline}" if offline else line
        return (
            f"its data cannot be loaded: {reason}; download them on a machine with a network, or use a task "
            "with local data (evaluation.include_path)"
        )
    return f"it cannot be loaded ({type(error).__name__}: {line}); fix its file, or leave the task out"


def write_task(choices: ChoiceSet, folder: Path) -> None:
    """The set as lm-eval's own multiple-choice task: <name>.yaml and <name>.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    items = folder / f"{choices.name}.jsonl"
    rows = (json.dumps({"context": i.context, "choices": i.choices, "answer": i.answer}) + "\n" for i in choices.items)
    write_atomically(items, "".join(rows))  # several workers write the same file
    task = {
        "task": choices.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",  # choices bring their leading space
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
        "metadata": {"version": 1.0},
    }
    write_atomically(folder / f"{choices.name}.yaml", yaml.safe_dump(task, sort_keys=False))


@lru_cache(maxsize=4)
def _manager(scratch: str | None, include_path: str | None, own_only: bool) -> TaskManager:
    from lm_eval.tasks import TaskManager

    folders = [f for f in (scratch, include_path) if f]
    return TaskManager(include_path=folders or None, include_defaults=not own_only)


def _readings(task: str, values: Mapping[str, object], results: EvalResults) -> list[Reading]:
    count = results.get("n-samples", {}).get(task, {}).get("effective")
    readings = []
    for key, value in values.items():
        name, _, rest = key.partition(",")
        if (
            name.endswith("_stderr")
            or not isinstance(value, int | float)
            or isinstance(value, bool)
            or name in ("sample_len", "alias")
        ):
            continue
        stderr = values.get(f"{name}_stderr,{rest}")
        stderr = float(stderr) if isinstance(stderr, int | float) and math.isfinite(stderr) else None
        suffix = "" if rest in ("none", "") else f":{rest}"
        if math.isfinite(value):
            readings.append(Reading(metric=f"{task}/{name}{suffix}", value=float(value), stderr=stderr, count=count))
    return readings


def _items(reading: Reading, results: EvalResults) -> Items | None:
    """The scores of a metric's items in the data's order; None where the metric is not their plain mean (a perplexity,
    a filtered answer).
    """
    task, _, name = reading.metric.rpartition("/")
    samples = sorted(results.get("samples", {}).get(task, ()), key=lambda s: int(s["doc_id"]))
    scores = [s.get(name) for s in samples]
    if not scores or not all(isinstance(v, int | float) for v in scores):
        return None
    items = Items(np.array(scores, dtype=np.float64))
    return items if math.isclose(items.value, reading.value, rel_tol=1e-9, abs_tol=1e-12) else None


def _quieten() -> None:
    """lm-eval and datasets tell of every request at INFO and draw bars; a cell's log keeps warnings."""
    import datasets

    datasets.disable_progress_bars()
    for name in ("lm_eval", "lm-eval", "datasets", "evaluate"):
        logging.getLogger(name).setLevel(logging.ERROR)
