"""One cell's way: load, adapt, train, save, evaluate, decompose, each in its own phase; or phases of it again, from what it saved."""

from __future__ import annotations

import contextlib
import datetime
import math
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lorabench import plugins
from lorabench.config.study import Cell
from lorabench.engine.adapt import linear_modules, peft_targets, resolve_targets
from lorabench.engine.answers import task_readings
from lorabench.engine.cell_record import Adapted, CellRecord, Report, sentence
from lorabench.engine.checkpoint import Checkpoints, Step
from lorabench.engine.data import Example, TaskData, task_data
from lorabench.engine.distill import distilled
from lorabench.engine.domain import Domain, Ground, base_domain, is_kept
from lorabench.engine.evaluate import (
    SAMPLE_TOKENS,
    SAMPLES,
    Losses,
    forgetting_reading,
    losses,
    per_parameter,
    validation_reading,
)
from lorabench.engine.evaluate_truncated import truncations
from lorabench.engine.events import Event
from lorabench.engine.events import Phase as Entered
from lorabench.engine.experts import unreached
from lorabench.engine.lm_eval_runner import LmEvalRunner, fetch_tasks, further_tasks
from lorabench.engine.measure import LiveBytes, held_tensors, is_out_of_memory
from lorabench.engine.measure import Phase as Probe
from lorabench.engine.model import (
    load_base,
    load_tokenizer,
    quiet,
    weight_bytes,
)
from lorabench.engine.outlook import Ahead, outlook, rows_evaluated
from lorabench.engine.precision import evaluated
from lorabench.engine.resolved import resolved
from lorabench.engine.saved import restored, save_adapter, save_model
from lorabench.engine.train import Diverged, Loss, collate, peak_of_two_steps, token_loss, train
from lorabench.engine.weight_deltas import adapted_layers, adapter_deltas, full_deltas, keep, own_of, start_factors
from lorabench.record.cell_files import write_trained
from lorabench.record.items import FILE, Items, save_items
from lorabench.record.result import CellResult, Fault, Phase, Reading
from lorabench.record.truncations import save_truncations

_DOMAINS: dict[Ground, Domain] = {}


def run_cell(cell: Cell, folder: Path, report: Report = lambda event: None) -> CellResult:
    """Runs a cell, writes its files into a folder and returns its result, whatever became of it."""
    run = _Run(cell, Path(folder), report, started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    def way() -> None:
        data = run.load()
        run.train(data)
        run.save()
        run.evaluate(data)
        run.analyse(data, ("decompose", "truncate", "measure"))

    return run.through(way)


def repeat_cell(
    cell: Cell, folder: Path, before: CellResult, phases: Sequence[Phase], report: Report = lambda event: None
) -> CellResult:
    """Runs phases of a trained cell again, from the weights that lie in its folder, and returns its result with their readings in place of the former ones.

    The trained model is put together as training left it, so that the readings are those of a run which was never disturbed.
    ModelError is the result's error where the weights are not there.
    """
    run = _Run(cell, Path(folder), report, started_at=before.started_at)
    run.take(before, phases)

    def way() -> None:
        data = run.load()
        if "evaluate" in phases:
            run.evaluate(data)
        run.analyse(data, phases)

    return run.through(way)


class _Run(CellRecord):
    """The phases of one cell."""

    def through(self, way: Callable[[], None]) -> CellResult:
        """The result of going a way, wherever it ends."""
        try:
            way()
        except Diverged as e:
            return self.ended("diverged", e, e.step)
        except (MemoryError, RuntimeError) as e:
            traceback.print_exc()
            return self.ended("out_of_memory" if is_out_of_memory(e) else "failed", e)
        except Exception as e:
            traceback.print_exc()
            return self.ended("failed", e)
        return self.ended("finished")

    def load(self) -> TaskData:
        """Data, base and adapters; the base's own sample is drawn before anything is attached."""
        cell = self.cell
        self._enter("load")
        tokenizer = load_tokenizer(cell.model)
        data = task_data(cell, tokenizer)
        if self.before is None or "evaluate" in self.repeated:
            fetch_tasks(further_tasks(cell), cell.evaluation)
        data, self.teacher = distilled(cell, data, tokenizer, self.device)
        method = plugins.load("methods", cell.method.name)
        with Probe(self.device) as phase:
            base = load_base(cell, self.device)
        if self.before is None:
            self.read("weight_bytes", weight_bytes(base))
        left = unreached(base)
        if not self._base_stays() and (self.before is None or "evaluate" in self.repeated):
            self.domain, self.domain_loss = self._domain(base, tokenizer)
            self._enter("load")
        wanted = cell.method.target_modules
        targets = resolve_targets(base, wanted) if wanted is not None else ()
        named = peft_targets(base, targets) if targets else []
        if self.before is not None:
            with quiet():
                self.adapted = Adapted(*restored(cell, base, named, self.folder), tokenizer, targets)
            return data
        torch.manual_seed(cell.seed)
        with Probe(self.device) as attaching, quiet():
            model = method.attach(base, cell.method, named)
        self.adapted = Adapted(model, start_factors(model), tokenizer, targets)
        self.read("load_seconds", phase.seconds + attaching.seconds)
        self._count(model)
        self.resolved = resolved(cell, model, targets, data, self.autocast, left)
        return data

    def train(self, data: TaskData) -> None:
        """The steps, timed alone."""
        cell, spec = self.cell, self.cell.training.over(len(data.train))
        steps = spec.steps
        if not steps:
            return
        self._enter("train", ahead=self._outlook(data))
        if self.adapted.start:  # pissa: its start is part of what is saved
            self.adapted.model.save_pretrained(self.folder / "start")
        torch.manual_seed(cell.seed)  # dropout draws the same, however much attaching drew

        def on_step(step: Step, tokens: int) -> None:
            self.step = step.step
            self.report(
                Event(cell.id, "train", step.step, steps, step.loss, tokens / step.seconds if step.seconds else None)
            )

        kept = Checkpoints(self.folder, cell.id, cell.training.checkpoint_every, steps, self.device, self.report)
        self.curve = kept.progress.curve
        with Probe(self.device) as phase:
            done = train(
                self.adapted.model,
                data.train,
                spec,
                seed=cell.seed,
                padding=self.adapted.tokenizer.pad_token_id,
                where=self.device,
                autocast=self.autocast,
                on_step=on_step,
                checkpoints=kept,
                loss_of=self._loss(),
            )
        kept.peaks(phase)
        self.step = done.step
        last = self.curve[-max(1, steps // 10) :]
        self.read("train_seconds", done.seconds)
        self.read("train_tokens", done.tokens)
        self.read("padding_percent", 100 * (1 - done.tokens / done.positions))
        self.read("tokens_per_second", done.tokens / done.seconds)
        self.read("train_loss", math.fsum(s.loss for s in last) / len(last))
        self._read_cuda("train", phase)

    def evaluate(self, data: TaskData) -> None:
        """Held-out loss, lm-eval, forgetting."""
        self.phase = "evaluate"
        cell, adapted = self.cell, self.adapted
        spec, padding = cell.evaluation, adapted.tokenizer.pad_token_id
        if self._base_stays():
            with adapted.model.disable_adapter():  # after training, so that no first step waits for it; on no clock
                self.domain, self.domain_loss = self._domain(adapted.model.get_base_model(), adapted.tokenizer)
        self._enter("prepare")
        self.lm_eval_runner = self.lm_eval_runner or self._make_lm_eval_runner(data)  # its imports take seconds, once
        self._enter("evaluate", rows_evaluated(cell, data, len(self.domain)))
        with Probe(self.device) as phase, self.phases.rows(adapted.model):
            self.accuracy, items = self._accuracy(data)
            if cell.training.steps and not any(
                r.metric == "eval_loss" for r in self.accuracy
            ):  # left out, it would leave the mean to the other seeds
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
        """What training left, before anything else can go wrong: the adapter, whole weights where they are to be kept, and what was read until now."""
        self._enter("save")
        cell = self.cell
        if not cell.training.steps:
            return
        if cell.method.target_modules is None and cell.save.full != "none":
            save_model(self.adapted.model, self.adapted.tokenizer, self.folder)
        self.read("adapter_bytes", save_adapter(self.adapted.model, self.folder))
        self._write_curve()
        with contextlib.suppress(OSError):  # a full disk: only a death in the evaluation would ask for it
            write_trained(self.folder, self.result("failed"))

    def analyse(self, data: TaskData, phases: Sequence[Phase]) -> None:
        """What comes after the evaluation: a fault there leaves its readings absent and is recorded, the cell has finished all the same."""
        parts: dict[Phase, Callable[[], None]] = {
            "decompose": self.decompose,
            "truncate": lambda: self.truncate(data),
            "measure": lambda: self.measure_memory(data),
        }
        for phase in (p for p in parts if p in phases):
            self.phase = phase
            try:
                parts[phase]()
            except Exception as e:
                traceback.print_exc()
                self.faults.append(Fault(kind=type(e).__name__, message=sentence(e), phase=phase))
                traceback.clear_frames(e.__traceback__)  # they hold tensors that the next phase has no room for
                if phase != "measure":  # whose steps have changed them
                    self._keep_weights()

    def decompose(self) -> None:
        """The singular values and first directions of every learned change, as far as the study wants them."""
        model, cell = self.adapted.model, self.cell
        adapted = [name for name, _ in adapted_layers(model)]
        if cell.analysis.spectra == "none" or not (adapted or cell.training.steps):
            return
        self._enter("decompose", len(adapted or linear_modules(model)))
        deltas = adapter_deltas(model, self.adapted.start) if adapted else full_deltas(model, cell)
        keep(deltas, model, cell, self.folder, own_of(cell, self.folder), self.phases.heard)

    def truncate(self, data: TaskData) -> None:
        """The accuracy that is left at the lower ranks which the study asks for."""
        cell = self.cell
        if cell.analysis.truncation and cell.training.steps:
            rows = rows_evaluated(cell, data, 0)
            self._enter(
                "truncate", len(cell.analysis.truncation) * (1 + cell.analysis.per_module) * rows if rows else None
            )
            with self.phases.rows(self.adapted.model):
                cuts = truncations(
                    self.adapted.model, cell, self.adapted.start, lambda: self._accuracy(data)[0], self.accuracy
                )
                save_truncations(self.folder / "truncation.csv", cuts)

    def _accuracy(self, data: TaskData) -> tuple[list[Reading], dict[str, Items]]:
        """Held-out loss and lm-eval of the model as it is now, and what they are means of."""
        adapted, spec = self.adapted, self.cell.evaluation
        with evaluated(adapted.model, self.cell):
            own, own_items = task_readings(adapted.model, adapted.tokenizer, data, spec, self.device)
            self.lm_eval_runner = self.lm_eval_runner or self._make_lm_eval_runner(data)
            readings, items = self.lm_eval_runner.score(adapted.model, adapted.tokenizer)
            if self.teacher is not None:
                left, left_items = self.teacher.readings(
                    adapted.model,
                    data.test[: spec.max_sequences],
                    spec.batch_size,
                    adapted.tokenizer.pad_token_id,
                    self.device,
                )
                readings, items = left + readings, left_items | items
        return own + readings, own_items | items

    def _loss(self) -> Loss:
        return self.teacher.divergence if self.teacher is not None else token_loss

    def measure_memory(self, data: TaskData) -> None:
        """On a CPU: the peak of live tensors in two training steps and in one evaluation batch; last, since the steps change weights."""
        if self.device.type == "cuda":
            return
        self._enter("measure")
        model, padding, spec = self.adapted.model, self.adapted.tokenizer.pad_token_id, self.cell.training
        longest = sorted(data.test[: self.cell.evaluation.max_sequences], key=lambda e: -len(e.ids))[
            : self.cell.evaluation.batch_size
        ]
        with evaluated(model, self.cell) as wide, torch.no_grad(), LiveBytes([*held_tensors(model), *wide]) as live:
            token_loss(model, collate(longest, padding, self.device), "none")
        self.read("eval_peak_bytes", live.peak)
        if not spec.steps:
            return
        longest = sorted(data.train, key=lambda e: -len(e.ids))
        longest = [
            longest[i % len(longest)] for i in range(spec.batch_size)
        ]  # few rows come several times, as in training
        micro = [collate(longest, padding, self.device) for _ in range(spec.gradient_accumulation)]
        self.read("train_peak_bytes", peak_of_two_steps(model, micro, spec, self.autocast))

    def _make_lm_eval_runner(self, data: TaskData) -> LmEvalRunner:
        """lm-eval with its tasks; its imports take seconds, once: on no clock."""
        return LmEvalRunner(data.choice_sets, self.cell.evaluation, self.folder.parent.parent / "lm-eval")

    def _enter(self, phase: Entered, total: int | None = None, ahead: Ahead | None = None) -> None:
        self.phases.enter(phase, total, ahead)
        if phase != "sample" and phase != "prepare":  # parts of loading or of the evaluation
            self.phase = phase

    def _outlook(self, data: TaskData) -> Ahead:
        """What comes after the steps and how long it should take."""
        samples = self._base_stays() and not is_kept(
            self.cell, self.adapted.model.get_base_model(), self.device, _DOMAINS
        )
        return outlook(self.cell, data, self.adapted.model, samples, own_of(self.cell, self.folder).is_known)

    def _base_stays(self) -> bool:
        """Whether the base can be had back from the trained model by switching its adapters off: not in full, not in pissa."""
        method = plugins.load("methods", self.cell.method.name)
        return method.TRAINS and not method.UNQUANTIZED_ONLY  # what cannot have a quantised base is what changes it

    def _domain(self, base: Any, tokenizer: Any) -> tuple[tuple[Example, ...], Losses | None]:
        """Text of the base's domain and the base's own loss on it."""
        if is_kept(self.cell, base, self.device, _DOMAINS):
            return base_domain(self.cell, base, tokenizer, self.device, _DOMAINS) or ((), None)
        self._enter("sample", SAMPLES * min(SAMPLE_TOKENS, self.cell.training.sequence_length))
        with self.phases.rows(base):
            return base_domain(self.cell, base, tokenizer, self.device, _DOMAINS) or ((), None)

    def _read_cuda(self, name: str, phase: Probe) -> None:
        if (
            phase.peak_bytes is not None and phase.reserved_bytes is not None and self.teacher is None
        ):  # which is no part of fine-tuning
            self.read(f"{name}_peak_bytes", phase.peak_bytes)
            self.read(f"{name}_reserved_bytes", phase.reserved_bytes)
