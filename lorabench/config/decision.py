"""Which metric a study is answered by.

    auto          that of its tasks (accuracy, exact_match, eval_loss); eval_loss where tasks of one study differ in it
    a name        that; classify/acc, as lm-eval called a classification's accuracy, means accuracy where that alone was
                  measured

Learning rates are chosen by validation loss whatever it is: on some hundred rows a loss tells two learning rates
apart that an accuracy does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lorabench.config.settings import ComparisonSpec, TaskSpec

_FORMER = {"classify/acc": "accuracy"}


def deciding_metric(rules: ComparisonSpec, tasks: Iterable[TaskSpec], measured: Collection[str] = ()) -> str:
    """The metric that a study asks for, by name; `measured` are those that its cells have."""
    if rules.metric != "auto":
        former = _FORMER.get(rules.metric)
        return former if former is not None and former in measured and rules.metric not in measured else rules.metric
    own = {task.decided_by for task in tasks}
    return own.pop() if len(own) == 1 else "eval_loss"
