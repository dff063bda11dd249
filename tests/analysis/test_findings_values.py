"""Findings about measured values and training: each appears where it is planted, with its cells and numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorabench.analysis.findings.training import fall
from lorabench.analysis.findings.values import choices
from lorabench.config import expand
from lorabench.record.result import CellResult, Reading
from lorabench.record.unreached import Unreached
from lorabench.report.view import make_view
from tests import synthetic
from tests.analysis.planted import ACC, FIXED, Change, ids, quick, seen, text, with_values  # noqa: F401  (a fixture of every test)
from tests.report.stores import ONLY_FULL, filled, study_of, unsealed
from tests.synthetic_spectra import uniform

# values


def test_a_base_that_is_better_than_what_was_trained(tmp_path: Path) -> None:
    view, found = seen(
        tmp_path, text(*FIXED), lambda r: with_values(r, eval_loss=3.5) if r.cell.method.rank == 4 else r
    )
    noisy = seen(
        tmp_path / "noisy", text(*FIXED), lambda r: with_values(r, eval_loss=3.2003) if r.cell.method.rank == 4 else r
    )[1]
    assert "base_better" not in noisy, "a worse mean alone is no harm"
    finding = found["base_better"]
    assert finding.sentence.startswith("1 of 3 trained conditions")
    assert "held-out loss of LoRA r=4" in finding.sentence
    assert "3.500 nats, of base 3.200 nats" in finding.sentence
    assert set(finding.cells) == ids(view, lambda r: r.cell.method.name == "base" or r.cell.method.rank == 4)


def test_a_better_base_is_seen_in_accuracies_and_only_at_its_own_quantization(tmp_path: Path) -> None:
    both = (
        "  - {method: base}",
        (
            "  - {method: base}\n  - {method: base, quantization: nf4}\n  - {method: {name: lora, rank: 4, alpha: 8},"
            " quantization: nf4}"
        ),
    )

    def planted(r: CellResult) -> CellResult:
        return (
            with_values(r, acc=0.6 if r.cell.method.name == "base" else 0.5)
            if r.cell.quantization.name == "nf4"
            else with_values(r, acc=0.3 if r.cell.method.name == "base" else 0.55)
        )

    _, found = seen(tmp_path, text(*FIXED, both), planted)
    assert found["base_better"].sentence.startswith("1 of 4 trained conditions")
    assert "python-docs-cloze accuracy of LoRA r=4 nf4" in found["base_better"].sentence
    assert "50.0 %, of base nf4 60.0 %" in found["base_better"].sentence


def test_an_accuracy_of_guessing(tmp_path: Path) -> None:
    def planted(r: CellResult) -> CellResult:
        if r.cell.method.rank != 4:
            return r
        return r.model_copy(
            update={
                "readings": (
                    *(x for x in r.readings if x.metric != ACC),
                    Reading(metric=ACC, value=0.3, stderr=0.03, count=200),
                )
            }
        )

    view, found = seen(tmp_path, text(*FIXED), planted)
    assert (
        "30.0 % (95 % interval over items 24.1 to 35.9 %), of guessing among 4 choices 25.0 %"
        in found["at_chance"].sentence
    )
    assert found["at_chance"].sentence.startswith("1 of 3 conditions")
    assert set(found["at_chance"].cells) == ids(view, lambda r: r.cell.method.rank == 4)


def test_without_a_number_of_choices_the_base_is_what_an_accuracy_must_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ("lm_eval: [python-docs-cloze]", "lm_eval: [hellaswag]")
    assert "at_chance" not in seen(tmp_path / "a", text(*FIXED, other))[1]
    monkeypatch.setattr(synthetic, "BASE_GAP", 0.33)  # LoRA of rank 4 gains 0.06 nats on it
    view, found = seen(tmp_path / "b", text(*FIXED, other))
    finding = found["at_chance"]
    assert "hellaswag accuracy of LoRA r=4" in finding.sentence
    assert "of the untrained base" in finding.sentence
    assert "guessing" not in finding.sentence
    assert ids(view, lambda r: r.cell.method.rank == 4) <= set(finding.cells)


def test_the_number_of_choices_is_the_plug_ins_own(tmp_path: Path) -> None:
    from lorabench.tasks import python_docs
    from lorabench.tasks._cloze import cloze_items

    split = python_docs.split_topics(python_docs._topics())
    cell = expand(study_of(tmp_path, ONLY_FULL))[0]
    assert {len(i.choices) for i in cloze_items(tuple(split.train.values()), tuple(split.test.values())[:1])} == {
        choices(ACC, cell)
    }
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"row {i},{i % 3}\n" for i in range(60)), encoding="utf-8"
    )
    task = (
        f'{{name: classify, train: {tmp_path}/rows.csv, prompt: "{{text}}", choices: {{"0": " a", "1": " b", "2": "'
        ' c"}}'
    )
    labelled = expand(study_of(tmp_path, ONLY_FULL.replace("{name: python-docs}", task)))[0]
    assert choices("classify/acc", labelled) == 3
    assert choices("hellaswag/acc", labelled) is None


def test_too_few_items_say_how_many_are_needed(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(*FIXED, ("accuracy_margin: 0.1", "accuracy_margin: 0.01")))
    sentence = found["few_items"].sentence
    errors = [
        max(d.item_errors)
        for c in view.analysis.comparisons
        if c.metric == ACC and (d := view.analysis.pairing.difference(ACC, c.condition, c.reference)) and d.item_errors
    ]
    needed = 200 * (1.96 * min(errors) / 0.01) ** 2
    said = int(sentence.partition("about ")[2].partition(" ")[0].replace(",", ""))
    assert said == pytest.approx(needed, rel=0.06)
    assert "200 items leave a difference uncertain by" in sentence
    assert "within 1 point of accuracy" in sentence
    assert set(found["few_items"].cells) == ids(view, lambda r: r.cell.method.name != "base")


def test_a_pair_that_is_told_well_enough_silences_no_other(tmp_path: Path) -> None:
    """LoRA r=16 answers as full does but for one item of 200, LoRA r=4 at random."""
    import numpy as np

    from lorabench.record.items import FILE, Items, save_items

    store = unsealed(filled(tmp_path, text(*FIXED, ("accuracy_margin: 0.1", "accuracy_margin: 0.02"), seeds="[0, 1]")))
    draw = np.random.default_rng(0)
    right = (draw.random(200) < 0.6).astype(float)
    for cell in store.plan():
        own = (draw.random(200) < 0.6).astype(float) if cell.method.rank == 4 else right.copy()
        own[0] = cell.method.rank == 16
        save_items(store.cells_folder / cell.id / FILE, {ACC: Items(own)})
    found = {f.kind: f for f in make_view(store).findings}
    assert found["few_items"].sentence.startswith(
        "In 1 of 2 comparisons the two conditions cannot be called equivalent within 2 points"
    )
    assert "LoRA r=4" in found["few_items"].sentence
    assert "LoRA r=16" not in found["few_items"].sentence


def test_ten_items_that_all_agree_are_too_few(tmp_path: Path) -> None:
    from lorabench.record.items import FILE, Items, save_items

    store = unsealed(filled(tmp_path, text(*FIXED, seeds="[0, 1]")))
    for cell in store.plan():
        save_items(store.cells_folder / cell.id / FILE, {ACC: Items([1.0] * 10)})
    found = {f.kind: f for f in make_view(store).findings}
    assert "10 items leave a difference uncertain by" in found["few_items"].sentence


def test_few_right_answers_are_held_against_guessing_by_the_binomial_distribution(tmp_path: Path) -> None:
    """All right, which the normal interval takes for certain: by guessing among four 6 % of two items are, 1.6 % of
    three."""
    from scipy import stats

    def planted(n: int) -> Change:
        return lambda r: r.model_copy(
            update={
                "readings": (
                    *(x for x in r.readings if x.metric != ACC),
                    Reading(metric=ACC, value=1.0, stderr=0.0, count=n),
                )
            }
        )

    for n in (2, 3):
        told = "at_chance" in seen(tmp_path / str(n), text(*FIXED), planted(n))[1]
        assert told is bool(stats.binomtest(n, n, 0.25, alternative="greater").pvalue > 0.025)
    assert told is False


def test_the_needed_items_follow_the_formula_of_paired_proportions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 p (1 - p) (1 - rho) / n, with p and rho read from the answers themselves."""
    import numpy as np

    from lorabench.record.items import FILE, load_items

    monkeypatch.setattr(synthetic, "ITEMS", 2000)
    view, found = seen(
        tmp_path,
        text(
            *FIXED,
            ("accuracy_margin: 0.1", "accuracy_margin: 0.005"),
            ("  - {method: {name: lora, rank: 16, alpha: 32}}\n", ""),
        ),
    )
    a, b = (
        load_items(view.analysis.file(i, FILE))[ACC].sums for i in ids(view, lambda r: r.cell.method.name != "base")
    )
    p, rho = (a.mean() + b.mean()) / 2, np.corrcoef(a, b)[0, 1]
    said = int(found["few_items"].sentence.partition("about ")[2].partition(" ")[0].replace(",", ""))
    assert said == pytest.approx(1.96**2 * 2 * p * (1 - p) * (1 - rho) / 0.005**2, rel=0.1)


def test_a_prediction_that_missed_has_its_sign(tmp_path: Path) -> None:
    def planted(r: CellResult) -> CellResult:
        peak = r.value("train_peak_bytes")
        factor = {4: 1.2, 16: 0.9}.get(r.cell.method.rank or 0)
        return r if peak is None or factor is None else with_values(r, predicted_train_peak_bytes=round(peak * factor))

    view, found = seen(tmp_path, text(*FIXED), planted)
    sentence = found["prediction_off"].sentence
    assert "off by more than 5 % in 2 of 3 conditions" in sentence
    assert "+20.0 %" in sentence
    assert "−10.0 %" in sentence
    assert set(found["prediction_off"].cells) == ids(view, lambda r: r.cell.method.name == "lora")


def test_a_checkpoint_that_was_quantized_already_is_told(tmp_path: Path) -> None:
    def planted(r: CellResult) -> CellResult:
        assert r.resolved is not None
        return (
            r
            if r.cell.method.rank != 4
            else r.model_copy(update={"resolved": r.resolved.model_copy(update={"stored_quantised": True})})
        )

    view, found = seen(tmp_path, text(*FIXED), planted)
    assert "lorabench/tiny-300k (none) is stored quantized and was loaded as such" in found["stored_quantised"].sentence
    assert set(found["stored_quantised"].cells) == ids(view, lambda r: r.cell.method.rank == 4)


def test_weights_that_are_neither_quantized_nor_adapted_are_told_once_for_all_that_asked(tmp_path: Path) -> None:
    left = Unreached(names=("layers.*.experts.gate_up_proj", "layers.*.experts.down_proj"), parameters=900, of=1000)

    def planted(r: CellResult) -> CellResult:
        assert r.resolved is not None
        return r.model_copy(update={"resolved": r.resolved.model_copy(update={"unreached": left})})

    view, found = seen(tmp_path, text(*FIXED), planted)
    sentence = found["unreached"].sentence
    assert (
        sentence.count(
            "its experts are not adapted (layers.*.experts.gate_up_proj, layers.*.experts.down_proj: 900 of 1,000"
            " parameters, 90 %)"
        )
        == 1
    )
    assert set(found["unreached"].cells) == ids(view, lambda r: r.cell.method.name == "lora")


def test_predictions_that_miss_on_both_sides_do_not_cancel(tmp_path: Path) -> None:
    def planted(r: CellResult) -> CellResult:
        peak = r.value("train_peak_bytes")
        return (
            r
            if peak is None or r.cell.method.rank != 4
            else with_values(r, predicted_train_peak_bytes=round(peak * (1.2 if r.cell.seed else 0.8)))
        )

    _, found = seen(tmp_path, text(*FIXED, seeds="[0, 1]"), planted)
    assert "off by more than 5 % in 1 of 3 conditions" in found["prediction_off"].sentence


def test_a_loss_that_still_falls(tmp_path: Path) -> None:
    store = unsealed(filled(tmp_path, text(*FIXED)))
    hit = next(c.id for c in store.plan() if c.method.rank == 4)
    lines = ["step,loss", *(f"{step},{4 - 0.05 * step + 0.001 * (step % 2)}" for step in range(1, 41))]
    (store.cells_folder / hit / "curve.csv").write_text("\n".join(lines), encoding="utf-8")
    found = {f.kind: f for f in make_view(store).findings}
    assert "more than the margin of 0.02 nats in 1 of 3 trained conditions" in found["still_falling"].sentence
    assert "by 0.45" in found["still_falling"].sentence
    assert found["still_falling"].cells == (hit,)


def test_a_fall_that_noise_explains_is_not_told(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text(
        "step,loss\n" + "".join(f"{s},{3 + 0.3 * uniform(str(s))}\n" for s in range(1, 41)), encoding="utf-8"
    )
    found = fall(curve)
    assert found is not None
    assert found[1] > 0.1
    assert fall(tmp_path / "absent.csv") is None
    curve.write_text("step,loss\n1,3.0\n2,2.0\n", encoding="utf-8")
    assert fall(curve) is None
