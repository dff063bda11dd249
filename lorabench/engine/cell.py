"""One cell's way: load, adapt, train, evaluate, decompose, each in its own phase; then what it saved and read."""

from __future__ import annotations

import contextlib
import csv
import datetime
import math
import shutil
import traceback
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from lorabench import plugins
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.answers import task_readings
from lorabench.engine.data import Example, TaskData, task_data
from lorabench.engine.distill import Teacher, distilled
from lorabench.engine.domain import Domain, Ground, base_domain
from lorabench.engine.environment import environment
from lorabench.engine.evaluate import (
    Losses,
    forgetting_reading,
    losses,
    per_parameter,
    validation_reading,
)
from lorabench.engine.events import Event, Phase
from lorabench.engine.experts import unreached
from lorabench.engine.harness import Harness
from lorabench.engine.learned import Factors, adapter_deltas, full_deltas, keep, start_factors
from lorabench.engine.model import (
    device,
    load_base,
    load_tokenizer,
    logical_numel,
    quiet,
    resolve_autocast,
    weight_bytes,
)
from lorabench.engine.precision import evaluated
from lorabench.engine.probe import LiveBytes, held_tensors, is_out_of_memory
from lorabench.engine.probe import Phase as Probe
from lorabench.engine.resolved import resolved
from lorabench.engine.train import Diverged, Loss, Step, collate, peak_of_two_steps, token_loss, train
from lorabench.engine.truncation import truncations
from lorabench.errors import LorabenchError
from lorabench.record.items import FILE, Items, save_items
from lorabench.record.learned import save_truncations
from lorabench.record.result import CellResult, Fault, Outcome, Reading, Resolved
from lorabench.spec.study import Cell

Report = Callable[[Event], None]
_DOMAINS: dict[Ground, Domain] = {}


def run_cell(cell: Cell, folder: Path, report: Report = lambda event: None) -> CellResult:
    """Runs a cell, writes its files into a folder and returns its result, whatever became of it."""
    run = _Run(cell, Path(folder), report, started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    try:
        data = run.load()
        run.train(data)
        run.evaluate(data)
        run.save()
        run.attempt(run.decompose)
        run.attempt(lambda: run.truncate(data))
        run.attempt(lambda: run.measure_memory(data))
    except Diverged as e:
        return run.ended("diverged", e, e.step)
    except (MemoryError, RuntimeError) as e:
        traceback.print_exc()
        return run.ended("out_of_memory" if is_out_of_memory(e) else "failed", e)
    except Exception as e:
        traceback.print_exc()
        return run.ended("failed", e)
    return run.ended("finished")


@dataclass(frozen=True)
class _Adapted:
    """A model with its method attached, and what is needed to say later what it learned."""

    model: Any
    tokenizer: Any
    targets: tuple[str, ...]
    start: Factors


class _Run:
    """The state of one cell while it runs; what was read before a fault is kept."""

    def __init__(self, cell: Cell, folder: Path, report: Report, started_at: str) -> None:
        self.cell, self.folder, self.report, self.started_at = cell, folder, report, started_at
        self.device = device()
        self.autocast = resolve_autocast(cell.training, self.device)
        if self.device.type == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=True)  # same seed, same machine: same numbers
        self.readings: list[Reading] = []
        self.curve: list[Step] = []
        self.resolved: Resolved | None = None
        self.step: int | None = None
        self.domain: tuple[Example, ...] = ()
        self.domain_loss: Losses | None = None
        self.accuracy: list[Reading] = []
        self.teacher: Teacher | None = None

    def load(self) -> TaskData:
        """Data, base and adapters; the base's own sample is drawn before anything is attached."""
        cell = self.cell
        self._enter("load")
        tokenizer = load_tokenizer(cell.model)
        data = task_data(cell, tokenizer)
        data, self.teacher = distilled(cell, data, tokenizer, self.device)
        method = plugins.load("methods", cell.method.name)
        with Probe(self.device) as phase:
            base = load_base(cell, self.device)
        self.read("weight_bytes", weight_bytes(base))
        left = unreached(base)
        if not self._base_stays():
            self.domain, self.domain_loss = self._domain(base, tokenizer)
        torch.manual_seed(cell.seed)
        with Probe(self.device) as attaching:
            wanted = cell.method.target_modules
            targets = resolve_targets(base, wanted) if wanted is not None else ()
            with quiet():
                model = method.attach(base, cell.method, peft_targets(base, targets) if targets else [])
        self.adapted = _Adapted(model, tokenizer, targets, start_factors(model))
        self.read("load_seconds", phase.seconds + attaching.seconds)
        self._count(model)
        self.resolved = resolved(cell, model, targets, data, self.autocast, left)
        return data

    def train(self, data: TaskData) -> None:
        """The steps, timed alone."""
        cell, steps = self.cell, self.cell.training.steps
        self._enter("train")
        if not steps:
            return
        if self.adapted.start:  # pissa: its start is part of what is saved
            self.adapted.model.save_pretrained(self.folder / "start")
        torch.manual_seed(cell.seed)  # dropout draws the same, however much attaching drew

        def on_step(step: Step, tokens: int) -> None:
            self.curve.append(step)
            self.step = step.step
            self.report(Event(cell.id, "train", step.step, steps, step.loss, tokens / step.seconds if step.seconds else None))

        with Probe(self.device) as phase:
            _, tokens, positions = train(
                self.adapted.model, data.train, cell.training, seed=cell.seed, padding=self.adapted.tokenizer.pad_token_id,
                where=self.device, autocast=self.autocast, on_step=on_step, loss_of=self._loss(),
            )  # fmt: skip
        last = self.curve[-max(1, steps // 10) :]
        self.read("train_seconds", phase.seconds)
        self.read("train_tokens", tokens)
        self.read("padding_percent", 100 * (1 - tokens / positions))
        self.read("tokens_per_second", tokens / phase.seconds)
        self.read("train_loss", math.fsum(s.loss for s in last) / len(last))
        self._read_cuda("train", phase)

    def evaluate(self, data: TaskData) -> None:
        """Held-out loss, lm-eval, forgetting."""
        cell, adapted = self.cell, self.adapted
        self._enter("evaluate")
        spec, padding = cell.evaluation, adapted.tokenizer.pad_token_id
        if self._base_stays():
            with adapted.model.disable_adapter():  # after training, so that no first step waits for it; on no clock
                self.domain, self.domain_loss = self._domain(adapted.model.get_base_model(), adapted.tokenizer)
        self.harness = Harness(data.choice_sets, spec, self.folder.parent.parent / "lm-eval")  # its imports take seconds, once: on no clock
        with Probe(self.device) as phase:
            self.accuracy, items = self._accuracy(data)
            if cell.training.steps and not any(r.metric == "eval_loss" for r in self.accuracy):  # left out, it would leave the mean to the other seeds
                raise Diverged(self.step or 0, "held-out loss")
            self.readings += self.accuracy + per_parameter(self.readings + self.accuracy)
            if cell.tuned_over:
                split = data.validation[: spec.max_sequences]
                with evaluated(adapted.model, cell):
                    seen = losses(adapted.model, split, spec.batch_size, padding, self.device, self._loss())
                if not math.isfinite(seen.mean):
                    raise Diverged(self.step or 0, "validation loss")
                self.readings.append(validation_reading(seen))
            if self.domain and self.domain_loss is not None:
                with evaluated(adapted.model, cell):
                    after = losses(adapted.model, self.domain, spec.batch_size, padding, self.device)
                reading, items["forgetting"] = forgetting_reading(self.domain_loss, after)
                self.readings.append(reading)
        save_items(self.folder / FILE, items)
        self.read("eval_seconds", phase.seconds)
        self._read_cuda("eval", phase)

    def save(self) -> None:
        """The adapter in PEFT's own format; for full fine-tuning the size alone of what it would write."""
        model, start = self.adapted.model, self.folder / "start"
        if not hasattr(model, "peft_config"):
            trains = self.cell.training.steps > 0
            if trains:
                self.read("adapter_bytes", sum(p.numel() * p.element_size() for p in model.parameters()))
            return
        target = self.folder / "adapter"
        with quiet():
            if start.exists():  # W + s (B A - B0 A0), so that it loads onto the unchanged base (PEFT's conversion)
                model.save_pretrained(target, path_initial_model_for_weight_conversion=str(start))
                shutil.rmtree(start)
            else:
                model.save_pretrained(target)
        (target / "README.md").unlink(missing_ok=True)  # PEFT's empty model card says nothing
        self.read("adapter_bytes", (target / "adapter_model.safetensors").stat().st_size)

    def attempt(self, part: Callable[[], None]) -> None:
        """Runs what comes after the evaluation: a fault there is in the log and leaves its readings absent, the cell has finished all the same."""
        try:
            part()
        except Exception:
            traceback.print_exc()

    def decompose(self) -> None:
        """The singular values and first directions of every learned change."""
        self._enter("decompose")
        model, cell = self.adapted.model, self.cell
        if hasattr(model, "peft_config"):
            keep(adapter_deltas(model, self.adapted.start), model, cell, self.folder)
        elif cell.training.steps:
            keep(full_deltas(model, cell), model, cell, self.folder)

    def truncate(self, data: TaskData) -> None:
        """The accuracy that is left at the lower ranks which the study asks for."""
        cell = self.cell
        if cell.analysis.truncation and cell.training.steps:
            self._enter("truncate")
            cuts = truncations(self.adapted.model, cell, self.adapted.start, lambda: self._accuracy(data)[0], self.accuracy)
            save_truncations(self.folder / "truncation.csv", cuts)

    def _accuracy(self, data: TaskData) -> tuple[list[Reading], dict[str, Items]]:
        """Held-out loss and lm-eval of the model as it is now, and what they are means of."""
        adapted, spec = self.adapted, self.cell.evaluation
        with evaluated(adapted.model, self.cell):
            own, own_items = task_readings(adapted.model, adapted.tokenizer, data, spec, self.device)
            readings, items = self.harness.score(adapted.model, adapted.tokenizer)
            if self.teacher is not None:
                left, left_items = self.teacher.readings(adapted.model, data.test[: spec.max_sequences], spec.batch_size, adapted.tokenizer.pad_token_id, self.device)
                readings, items = left + readings, left_items | items
        return own + readings, own_items | items

    def _loss(self) -> Loss:
        return self.teacher.divergence if self.teacher is not None else token_loss

    def measure_memory(self, data: TaskData) -> None:
        """On a CPU: the peak of live tensors in two training steps and in one evaluation batch; last, since the steps change weights."""
        if self.device.type == "cuda":
            return
        model, padding, spec = self.adapted.model, self.adapted.tokenizer.pad_token_id, self.cell.training
        longest = sorted(data.test[: self.cell.evaluation.max_sequences], key=lambda e: -len(e.ids))[: self.cell.evaluation.batch_size]
        with evaluated(model, self.cell) as wide, torch.no_grad(), LiveBytes([*held_tensors(model), *wide]) as live:
            token_loss(model, collate(longest, padding, self.device), "none")
        self.read("eval_peak_bytes", live.peak)
        if not spec.steps:
            return
        longest = sorted(data.train, key=lambda e: -len(e.ids))
        longest = [longest[i % len(longest)] for i in range(spec.batch_size)]  # few rows come several times, as in training
        micro = [collate(longest, padding, self.device) for _ in range(spec.gradient_accumulation)]
        self.read("train_peak_bytes", peak_of_two_steps(model, micro, spec, self.autocast))

    def ended(self, outcome: Outcome, error: BaseException | None = None, step: int | None = None) -> CellResult:
        """The result, with everything that was read until now."""
        shutil.rmtree(self.folder / "start", ignore_errors=True)
        if self.curve:
            with (self.folder / "curve.csv").open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(f.name for f in fields(Step))
                writer.writerows(astuple(s) for s in self.curve)
        fault = None
        if error is not None:
            fault = Fault(kind=type(error).__name__, message=_sentence(error), step=step if step is not None else self.step)
        self.__dict__.pop("adapted", None)  # frees the model before the next cell of this worker
        if error is not None and error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__)  # they hold the model, too
        if self.device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # after some faults the device answers nothing any more
                torch.cuda.empty_cache()
        return CellResult(
            cell=self.cell, outcome=outcome, resolved=self.resolved, readings=tuple(self.readings),
            environment=environment(self.device), started_at=self.started_at, error=fault,
        )  # fmt: skip

    def read(self, metric: str, value: float) -> None:
        if math.isfinite(value):
            self.readings.append(Reading(metric=metric, value=value))

    def _enter(self, phase: Phase) -> None:
        self.report(Event(self.cell.id, phase))

    def _base_stays(self) -> bool:
        """Whether the base can be had back from the trained model by switching its adapters off: not in full, not in pissa."""
        method = plugins.load("methods", self.cell.method.name)
        return method.TRAINS and not method.UNQUANTIZED_ONLY  # what cannot have a quantised base is what changes it

    def _domain(self, base: Any, tokenizer: Any) -> tuple[tuple[Example, ...], Losses | None]:
        """Text of the base's domain and the base's own loss on it."""
        return base_domain(self.cell, base, tokenizer, self.device, _DOMAINS) or ((), None)

    def _read_cuda(self, name: str, phase: Probe) -> None:
        if phase.peak_bytes is not None and phase.reserved_bytes is not None and self.teacher is None:  # which is no part of fine-tuning
            self.read(f"{name}_peak_bytes", phase.peak_bytes)
            self.read(f"{name}_reserved_bytes", phase.reserved_bytes)

    def _count(self, model: Any) -> None:
        total = sum(logical_numel(p) for p in model.parameters())
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.read("total_parameters", total)
        self.read("trainable_parameters", trainable)
        self.read("trainable_percent", 100 * trainable / total)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, LorabenchError | Diverged):
        return text
    return text[:500] or type(error).__name__
