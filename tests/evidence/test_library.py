"""The library of published results: every row follows the schema, printed cells are what the papers print, flags say
what is wrong, and known summaries come out of it."""

from __future__ import annotations

import math
import time

import pytest

from lorabench.errors import LorabenchError
from lorabench.evidence import library
from lorabench.evidence.schema import FLAGS, LEARNING_RATES, RANK_RATE_SWEEP, RESULTS, TASK_KINDS, UNUSABLE

FILES = {
    "results": (library.results, RESULTS, 2231),
    "learning_rates": (library.learning_rates, LEARNING_RATES, 172),
    "rank_rate_sweep": (library.rank_rate_sweep, RANK_RATE_SWEEP, 460),
}


@pytest.fixture(scope="module")
def results():
    return library.results()


@pytest.mark.parametrize("name", FILES)
def test_every_row_follows_the_schema(name):
    read, columns, rows = FILES[name]
    frame = read()
    assert len(frame) == rows
    assert list(frame.columns)[: len(columns)] == [c.name for c in columns]
    for column in columns:
        values = frame[column.name]
        if column.allowed:
            assert set(values.astype(str)) <= set(column.allowed), column.name
        if column.kind == "flag":
            assert values.dtype == bool, column.name
        if column.kind in ("number", "whole"):
            assert (values.dropna().astype("float64").map(math.isfinite)).all(), column.name
        assert len(column.meaning) > 5, column.name
    assert set(frame.source) <= {s.id for s in library.sources()}
    assert (frame["where"].str.len() > 5).all(), "every row has its place"
    assert frame.model.astype(str).str.strip().ne("").all()


def test_what_is_shipped_is_small_and_read_quickly():
    assert sum(p.stat().st_size for p in library.DATA.iterdir()) < 2e6
    for cached in (library._results, library._learning_rates, library._rank_rate_sweep, library.sources):
        cached.cache_clear()
    began = time.process_time()
    library.results(), library.learning_rates(), library.rank_rate_sweep(), library.sources()
    assert time.process_time() - began < 0.5


def test_a_frame_may_be_changed_without_changing_the_next_one(results):
    changed = library.results()
    changed.loc[0, "value"] = -1.0
    assert library.results().loc[0, "value"] == results.loc[0, "value"] != -1.0


def test_numbers_are_possible(results):
    points = results[(results.unit == "points") & (results.metric != "accuracy, difference to full")]
    assert points.value.between(0, 100).all() and points.full_value.dropna().between(0, 100).all()
    assert (points.value > 1).mean() > 0.99, "percent, not shares"
    assert results[results.unit == "nats"].value.between(-1, 5).all()
    assert not results[results.unit.isin(["nats", "perplexity"])].higher_is_better.any()
    assert results[results.unit.isin(["points", "score"])].higher_is_better.all()
    assert results["rank"].dropna().ge(1).all() and results[results.method == "full"]["rank"].isna().all()
    assert results.parameters.dropna().between(5e7, 2e12).all()
    rates = library.learning_rates()
    assert rates.learning_rate.dropna().between(1e-6, 1e-1).all()
    assert (rates.rank_low.dropna() <= rates.rank_high.dropna()).all()


def test_a_table_holds_what_may_be_pooled(results):
    same = results.groupby("table", observed=True)[["source", "model", "task", "metric", "unit", "aspect"]]
    assert (same.nunique() == 1).all().all()
    compared = results.dropna(subset=["full_value"])
    assert (compared.groupby("table", observed=True).full_value.nunique() == 1).all(), "one full fine-tuning a table"


@pytest.mark.parametrize(
    ("source", "where", "model", "task", "method", "rank", "quantization", "value"),
    [
        ("hu-2021", "Table 2", "RoBERTa-base", "GLUE CoLA", "lora", 8, "none", 63.4),
        ("hu-2021", "Table 3", "GPT-2 medium", "E2E NLG", "lora", 4, "none", 70.4),
        ("dettmers-2023", "Table 4", "LLaMA-65B", "FLAN v2 -> MMLU", "lora", None, "nf4", 63.9),
        ("dettmers-2023", "Table 4", "LLaMA-7B", "Alpaca -> MMLU", "lora", None, "none", 38.4),
        ("dettmers-2023", "Table 3", "T5-11B", "Super-NaturalInstructions", "full", None, "none", 62.0),
        ("meng-2024", "Table 2", "Llama-2-7B", "MetaMathQA-100K -> GSM8K", "full", None, "none", 49.13),
        ("meng-2024", "Table 3", "DeBERTaV3-base", "GLUE CoLA", "full", None, "none", 69.19),
        ("liu-2024", "table", "Llama-3-8B", "commonsense_170k -> mean of 8 tasks", "dora", 32, "none", 85.2),
        ("peft-conversion", "lora_conversion.md", "Llama-3.2-3B", "MetaMathQA -> GSM8K", "rslora", 32, "none", 51.48),
        ("li-2023", "Main Results", "Llama-3-8B", "GSM8K", "full", None, "none", 70.4),
    ],
)
def test_printed_cells(results, source, where, model, task, method, rank, quantization, value):
    rows = results[
        (results.source == source)
        & results["where"].str.contains(where, regex=False)
        & (results.model == model)
        & (results.task == task)
        & (results.method == method)
        & (results.quantization == quantization)
    ]
    rows = rows if rank is None else rows[rows["rank"] == rank]
    assert value in rows.value.tolist()


@pytest.mark.parametrize(
    ("task", "tokens", "by_rank", "full"),
    [  # Tables S1 and S3 of the second version
        ("StarCoder-Python -> HumanEval", 20e9, {16: 16.2, 64: 19.6, 256: 22.4}, 26.3),
        ("OpenWebMath -> GSM8K", 20e9, {16: 15.8, 64: 16.3, 256: 20.2}, 29.3),
    ],
)
def test_continued_pretraining_is_the_second_version_of_biderman(results, task, tokens, by_rank, full):
    rows = results[(results.source == "biderman-2024") & (results.task == task) & (results.train_tokens == tokens)]
    rows = rows[rows.aspect == "task"]
    assert dict(zip(rows["rank"].dropna(), rows[rows.method == "lora"].value, strict=True)) == by_rank
    assert rows[rows.method == "full"].value.tolist() == [full]
    assert {s.arxiv for s in library.sources() if s.id == "biderman-2024"} == {"2405.09673v2"}


def test_the_sweep_and_its_best_rates_agree(results):
    """results.csv has the best rate of each rank, read from another column of the same page."""
    sweep, best = library.rank_rate_sweep(), results[results.source == "tinker-cookbook"]
    lowest = sweep.groupby(["model", "rank"], observed=True).test_loss.min()
    assert 100 <= len(best) <= len(lowest)
    for row in best.itertuples():
        assert row.value == pytest.approx(lowest[row.model, row.rank], abs=1e-9)
    assert sweep.model.nunique() == 29
    assert (sweep.alpha == 32).all()


def test_simple_means_are_those_that_are_known(results):
    """Of adapters on an unquantized base whose rates are not known to be untuned, against full fine-tuning that their
    source ran itself: classification +0.1, instruction -1.4, math -3.5, code -4.6, continued pretraining -4.2 points;
    what was pooled to the last row is not recorded, so half a point is allowed."""
    rows = results[
        results.gap.notna()
        & (results.unit == "points")
        & (results.aspect == "task")
        & (results.quantization == "none")
        & (results.rate_tuned != "no")
        & ~results[[*UNUSABLE, "copied_reference"]].any(axis=1)
    ]
    known = {"classification": 0.1, "instruction": -1.4, "math": -3.5, "code": -4.6, "continued-pretraining": -4.2}
    means = rows.groupby("task_kind", observed=True).gap.mean()
    for kind, value in known.items():
        assert means[kind] == pytest.approx(value, abs=0.55), kind
    tuned_kinds = ["classification", "instruction", "math", "code"]
    assert means[tuned_kinds].is_monotonic_decreasing, "the harder the task, the larger the gap"


def test_gaps_to_full_shrink_with_the_rank_as_biderman_prints(results):
    known = {"code": {16: -13, 64: -7, 256: -1}, "math": {16: -8, 64: -3, 256: -2}}
    rows = library.select(results, source="biderman-2024", aspect="task", method="lora")
    for kind, by_rank in known.items():
        means = rows[rows.task_kind == kind].groupby("rank").gap.mean()
        for rank, gap in by_rank.items():
            assert means[rank] == pytest.approx(gap, abs=0.6), (kind, rank)


def test_storage_costs_what_its_papers_say(results):
    """nf4 against LoRA in 16 bit: QLoRA's Table 3 +0.1, LoftQ on GSM8K -2.0; int8 -0.1 to -0.2; fp4 at most -2.4."""

    def against_16_bit(rows, quantization):
        lora = rows[rows.method == "lora"]
        twin = lora[lora.quantization == "none"].set_index("table").value
        other = lora[lora.quantization == quantization]
        pairs = other.assign(twin=other.table.map(twin.groupby(level=0, observed=True).mean()).astype(float))
        return (pairs.value - pairs.twin).dropna()

    usable = library.select(results, aspect="task")
    qlora = usable[(usable.source == "dettmers-2023") & (usable.task == "Super-NaturalInstructions")]
    assert against_16_bit(qlora, "nf4").mean() == pytest.approx(0.1, abs=0.1)
    assert against_16_bit(qlora, "int8").mean() == pytest.approx(-0.15, abs=0.1)
    loftq = usable[(usable.source == "li-2023") & (usable.metric == "GSM8K accuracy")]
    assert against_16_bit(loftq, "nf4").mean() == pytest.approx(-2.0, abs=1.3)
    assert -2.4 <= against_16_bit(usable[usable.source == "qlora-table-3-rerun"], "fp4").mean() <= -0.1


def test_flags_say_what_is_known_to_be_wrong(results):
    def all_of(flag, **wanted):
        rows = results
        for column, value in wanted.items():
            rows = rows[rows[column] == value]
        assert len(rows)
        return bool(rows[flag].all())

    assert all_of("untuned_rate", source="litgpt-config-hub") and all_of("unequal_length", source="litgpt-config-hub")
    assert all_of("untuned_rate", source="peft-comparison")
    assert all_of("untuned_rate", source="meng-2024", task="MetaMathQA-100K -> GSM8K")
    assert all_of("scaling_moves_with_rank", source="tinker-cookbook")
    assert not results[results.source == "biderman-2024"].scaling_moves_with_rank.any(), "alpha is 2 r: scaling 2"
    assert (results[(results.source == "biderman-2024") & (results.method == "lora")].scaling == 2).all()
    assert all_of("copied", source="qin-2024", task="FLAN v2 -> MMLU", method="lora")
    assert all_of("double", source="qin-2024", task="FLAN v2 -> MMLU", method="qa-lora", model="LLaMA-7B")
    assert all_of("copied", source="vb-lora-2024", task="MetaMathQA -> GSM8K", method="full")
    assert all_of("failed", source="qlora-table-3-rerun", method="full")
    assert all_of("copied", source="hu-2021", task="E2E NLG", method="full")
    assert all_of("copied_reference", source="paischer-2025", task="GLUE RTE", method="eva")
    collapsed = results[(results.source == "liu-2024") & (results.model == "LLaMA-7B") & (results.method == "lora")]
    assert sorted(collapsed[collapsed.failed]["rank"]) == [4, 8, 64]
    swapped = results[(results.source == "paischer-2025") & results.misprint]
    assert {"GLUE MNLI", "GLUE QQP", "GLUE RTE", "Code-Feedback -> HumanEval"} == set(swapped.task)
    assert results[results.storage_detail.str.contains("merged")].converted.all()
    assert results[results.copied & (results.method == "full")].copied_reference.all()


def test_full_fine_tuning_that_equals_an_earlier_papers_to_the_last_digit_is_a_copy(results):
    """Si et al. print full fine-tuning of RoBERTa and DeBERTa: task by task it is that of earlier papers."""
    full = results[(results.method == "full") & results.task.str.startswith("GLUE")]
    for model, earlier in (("RoBERTa-large", "hu-2021"), ("DeBERTaV3-base", "meng-2024")):
        theirs = full[(full.source == "si-2024") & (full.model == model)].set_index("task")
        older = full[(full.source == earlier) & (full.model == model)].drop_duplicates("task").set_index("task")
        assert (theirs.value - older.value[theirs.index]).abs().max() < 0.1, "the earlier one printed a digit less"
        assert theirs.copied.all() and theirs.double.all()


def test_doubles_are_there_once(results):
    """A row that is flagged as double has its measurement in another row, of the same value, that is not."""
    kept = results[~results.double]
    for row in results[results.double & (results.source != "qin-2024")].itertuples():
        twins = kept[(kept.model == row.model) & (kept.method == row.method) & (kept.task_kind == row.task_kind)]
        assert (twins.value - row.value).abs().min() <= 0.2, (row.source, row.where, row.task)


def test_no_column_of_ranks_lacks_one_that_its_own_source_prints_twice(results):
    """A source prints its best rank in a first table and all of them in another: the double is the one that stands
    alone, since a column without its best rank says that ranks matter less than they do."""
    twice = results[results.double & results["rank"].notna()]
    for row in twice.itertuples():
        elsewhere = results[(results.source == row.source) & (results.table != row.table) & ~results.double]
        alike = elsewhere[(elsewhere.model == row.model) & (elsewhere.task == row.task)]
        if ((alike["rank"] == row.rank) & (alike.value == row.value)).any():
            beside = results[(results.table == row.table) & (results.method == row.method) & ~results.double]
            assert beside["rank"].dropna().empty, (row.where, row.task)


def test_rates_of_lora_are_about_ten_times_those_of_full_fine_tuning():
    ratios = library.learning_rates().ratio_to_full.dropna()
    assert len(ratios) >= 10
    assert ratios.median() == pytest.approx(10, rel=0.5)
    assert ratios.between(1, 40).all()


def test_sizes_are_near_within_a_factor_of_two(results):
    near = library.select(results, model_parameters=8e9, exclude=())
    assert set(near.parameters) <= {p for p in results.parameters.dropna() if 4e9 <= p <= 16e9}
    assert {"Llama-2-7B", "Llama-2-13B", "Llama-3.1-8B"} <= set(near.model)
    assert not {"LLaMA-33B", "Llama-3.2-3B"} & set(near.model)


def test_other_words_for_a_task_are_understood(results):
    assert library.task_kind_of("chat") == library.task_kind_of("instruction") == "instruction"
    assert library.task_kind_of("Continued Pretraining") == "continued-pretraining"
    kinds = {kind: len(library.select(results, task_kind=kind, exclude=())) for kind in TASK_KINDS}
    assert sum(kinds.values()) == len(results)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"source": "biderman"}, ["biderman-2024"]),
        ({"task_kind": "poetry"}, ["classification", "chat"]),
        ({"method": "lroa"}, ["did you mean 'lora'"]),
        ({"quantization": "nf5"}, ["nf4"]),
        ({"exclude": ["broken"]}, list(FLAGS)),
        ({"model_parameters": 0}, ["8B"]),
        ({"model_parameters": math.nan}, ["8B"]),
    ],
)
def test_what_no_row_has_is_one_sentence_with_what_is_allowed(results, asked, words):
    with pytest.raises(LorabenchError) as error:
        library.select(results, **asked)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_ranks_and_storages_of_one_replication_stand_in_one_table(results):
    rows = results[(results.source == "raschka-rerun") & results.task.str.endswith("truthfulqa_mc2")]
    assert rows.table.nunique() == 1
    assert set(rows["rank"]) == {8, 16, 128, 256} and set(rows.quantization) == {"none", "nf4", "fp4"}
