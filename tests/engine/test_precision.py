"""All conditions of a model are evaluated in one precision: what learned nothing has its base's loss to the last digit,
in any order of cells.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

from lorabench.engine import answers, domain
from lorabench.engine import cell_evaluate as engine
from lorabench.engine.cell import repeat_cell, run_cell
from lorabench.engine.check import check_cells
from lorabench.engine.domain import ground
from lorabench.engine.model import load_base, resolve_dtype
from lorabench.engine.precision import evaluated, resolve_eval_dtype
from lorabench.memory.predict_cell import predict_memory
from lorabench.runner.changes import other_dtypes
from tests.engine.conftest import cell_of, small_config

CPU = torch.device("cpu")
STILL = "training.learning_rate=1e-30"  # below what float32 weights can change by
ALL = ("evaluation.forgetting=self", "evaluation.lm_eval=[python-docs-cloze]", "evaluation.limit=12")


@pytest.fixture
def large(monkeypatch):
    """The shipped model counts as one of 100M parameters on a CPU with bfloat16: adapters stand on that, full
    fine-tuning trains float32."""
    monkeypatch.setattr("lorabench.config.precision.FLOAT32_BELOW", 1000)
    monkeypatch.setattr("lorabench.engine.model.cpu_has_bfloat16", lambda *_: True)
    domain._DOMAINS.clear()
    yield
    domain._DOMAINS.clear()


def readings(cell, folder):
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    return result, {r.metric: r.value for r in result.readings}


def test_a_model_that_learned_nothing_has_its_bases_loss_whatever_was_trained(large, folder):
    """In float32 and bfloat16, each as it is stored, the two would be 0.0015 nats apart, though no weight has moved."""
    (full, ours), (lora, theirs), (base, start) = (
        readings(cell_of(STILL, *ALL, f"method={m}"), folder) for m in ("full", "lora", "base")
    )
    assert (full.resolved.dtype, lora.resolved.dtype, base.resolved.dtype) == ("float32", "bfloat16", "bfloat16")
    assert {r.resolved.eval_dtype for r in (full, lora, base)} == {"bfloat16"}
    for metric in ("eval_loss", "perplexity", "bits_per_byte", "python-docs-cloze/acc", "python-docs-cloze/acc_norm"):
        assert ours[metric] == theirs[metric] == start[metric], metric
    assert ours["forgetting"] == theirs["forgetting"] == 0.0


def test_every_evaluation_is_in_that_precision(large, folder, monkeypatch):
    """Held-out, validation and base text by the loss, lm-eval by its scorer, and cuts by both: no weight of the model
    is float32 then.
    """
    seen = []

    def watched(inner):
        def wrapper(model, *args, **kwargs):
            seen.append({p.dtype for p in model.parameters()})
            return inner(model, *args, **kwargs)

        return wrapper

    monkeypatch.setattr(engine, "losses", watched(engine.losses))
    monkeypatch.setattr(answers, "packed_losses", watched(answers.packed_losses))
    monkeypatch.setattr(domain, "losses", watched(domain.losses))
    monkeypatch.setattr(domain, "base_text", watched(domain.base_text))
    score = engine.LmEvalRunner.score
    monkeypatch.setattr(
        engine.LmEvalRunner,
        "score",
        lambda self, model, tokenizer: (
            seen.append({p.dtype for p in model.parameters()}),
            score(self, model, tokenizer),
        )[1],
    )
    cell = cell_of("method=full", "training.learning_rate=1e-3", *ALL, "analysis.truncation=[1]").model_copy(
        update={"tuned_over": (1e-3, 1e-2)}
    )
    result, values = readings(cell, folder)
    assert {"validation_loss", "forgetting", "python-docs-cloze/acc"} <= values.keys()
    assert (folder / "truncation.csv").exists()
    assert len(seen) == 8, (
        "base's text and loss; held-out, lm-eval, validation, forgetting; held-out and lm-eval of the cut"
    )
    assert all(dtypes == {torch.bfloat16} for dtypes in seen)
    assert result.resolved.dtype == "float32"


def test_forgetting_does_not_hang_on_the_order_of_cells(large, folder):
    cells = [
        cell_of("evaluation.forgetting=self", "training.learning_rate=1e-3", f"method={m}") for m in ("full", "lora")
    ]
    first = [readings(c, folder)[1]["forgetting"] for c in cells]  # each is the first of one order, and so alone
    domain._DOMAINS.clear()
    again = [readings(c, folder)[1]["forgetting"] for c in reversed(cells)][::-1]
    assert first == again


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ((), ("method=full",), True),  # both are evaluated in one precision
        ((), ("method.rank=8", "training.learning_rate=1e-4"), True),
        ((), ("model.dtype=float32",), False),
        ((), ("quantization=nf4",), False),
        (("quantization=nf4",), ("quantization=nf4", "quantization.double_quant=true"), False),
        (("quantization=nf4",), ("quantization=nf4", "quantization.compute_dtype=float32"), False),
        (
            ("quantization=nf4", "model.dtype=float32", "training.autocast=none"),
            ("quantization=nf4", "model.dtype=float32", "training.autocast=bfloat16"),
            False,
        ),
        ((), ("training.sequence_length=32",), False),
        ((), ("evaluation.batch_size=4",), False),
    ],
)
def test_cells_share_a_base_exactly_where_its_numbers_are_the_same(large, one, other, shared):
    class Base:
        class config:
            _attn_implementation = "sdpa"

    keys = [ground(cell_of(*settings), Base, CPU) for settings in (one, other)]
    assert (keys[0] == keys[1]) is shared
    assert keys[0] != ground(cell_of(*one), Base, torch.device("cuda:0"))


def test_small_and_declared_models_are_evaluated_as_they_are_stored(folder):
    for settings in (
        (),
        ("method=full",),
        ("model.dtype=bfloat16", "method=full"),
        ("model.dtype=float16",),
        ("model.dtype=bfloat16", "quantization=int8"),
    ):
        cell = cell_of(*settings)
        assert resolve_eval_dtype(cell) == resolve_dtype(cell)
        with evaluated(load_base(cell_of(), CPU), cell) as wide:
            assert wide == ()


def test_the_weights_are_the_same_tensors_afterwards_whatever_happens(large):
    cell = cell_of("method=full")
    model = load_base(cell, CPU)
    before = {n: (t.data_ptr(), t.clone()) for n, t in model.state_dict().items()}

    def stopped():
        with evaluated(model, cell) as wide:
            assert sum(t.numel() for t in wide) == sum(p.numel() for p in model.parameters())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    for name, now in model.state_dict().items():
        assert now.data_ptr() == before[name][0]
        assert torch.equal(now, before[name][1])


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mixtral", "phi", "falcon", "bloom", "gpt2", "gpt_neox", "opt"])
def test_rounded_weights_are_those_that_a_bfloat16_base_is_loaded_with(kind, large, tmp_path, folder):
    """Of every architecture, tied weights and buffers included, as transformers itself loads them."""
    torch.manual_seed(0)
    config = small_config(kind)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.bfloat16)
    cell = cell_of("method=full")
    cell = cell.model_copy(update={"model": cell.model.model_copy(update={"name": str(tmp_path / "m")})})
    model = load_base(cell, CPU)
    ids = torch.arange(2, 42).reshape(2, 20)
    with evaluated(model, cell), torch.no_grad():
        assert list(model.state_dict()) == list(wanted.state_dict())
        for name, theirs in wanted.state_dict().items():
            ours = model.state_dict()[name]
            assert ours.dtype == theirs.dtype, name
            assert torch.equal(ours, theirs), name
        assert torch.equal(model(input_ids=ids).logits, wanted.eval()(input_ids=ids).logits)
    assert all(t.dtype == torch.float32 for t in model.parameters())


def test_a_cell_that_ends_without_a_finite_loss_has_diverged(folder):
    """Its last step blew it up: left out of the mean without a word, it would leave the other seeds to speak for the
    condition.
    """
    result = run_cell(cell_of("method=full", "training.steps=1", "training.learning_rate=1e38"), folder)
    assert result.outcome == "diverged"
    assert "the held-out loss was not finite at step 1" in result.error.message
    assert result.value("eval_loss") is None


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_on_a_cpu_without_bfloat16_a_large_model_is_float32_and_its_memory_predicted_so(
    large, quantization, folder, monkeypatch
):
    monkeypatch.setattr("lorabench.engine.model.cpu_has_bfloat16", lambda *_: False)
    cell = cell_of("training.steps=2", f"quantization={quantization}", "analysis.spectra=none")
    result, values = readings(cell, folder)
    own = result.resolved
    assert (own.dtype, own.eval_dtype, own.autocast) == ("float32", "float32", None)
    assert own.compute_dtype == {"none": None, "nf4": "float32", "int8": "float16"}[quantization]
    assert predict_memory(cell).train_peak_bytes == pytest.approx(values["train_peak_bytes"], rel=0.02)


def test_a_cell_is_not_measured_again_in_another_dtype(large, folder, monkeypatch):
    cell = cell_of("training.steps=1", "analysis.spectra=none")
    first, values = readings(cell, folder)
    monkeypatch.setattr("lorabench.engine.model.cpu_has_bfloat16", lambda *_: False)
    again = repeat_cell(cell, folder, first, ("evaluate",))
    assert (again.outcome, again.readings, again.resolved) == ("finished", first.readings, first.resolved)
    (fault,) = again.faults
    assert "was measured with weights in bfloat16, which model.dtype: auto is not on this machine" in fault.message
    monkeypatch.setattr("lorabench.engine.model.cpu_has_bfloat16", lambda *_: True)
    back = repeat_cell(cell, folder, again, ("evaluate",))
    assert not back.faults and back.value("eval_loss") == values["eval_loss"]


def test_what_a_cpu_emulates_is_told_where_it_is_asked_for(monkeypatch):
    asked = (cell_of("training.autocast=bfloat16"), cell_of("model.dtype=bfloat16"), cell_of())
    for quick in (True, False):
        monkeypatch.setattr("lorabench.engine.model.cpu_has_bfloat16", lambda _, quick=quick: quick)
        told = [p.message for p in check_cells(asked) if "emulates" in p.message]
        assert len(told) == (not quick)
        assert (
            quick or "emulates model.dtype and training.autocast: bfloat16 in 2 to 5 times the time of auto" in told[0]
        )
        assert not any("emulates" in p.message for p in check_cells(asked[2:]))


def test_results_of_another_dtype_are_told_of_before_more_are_put_beside_them(large, folder, monkeypatch):
    settings = ("training.steps=1", "analysis.spectra=none")
    trained, whole = (readings(cell_of(*settings, own), folder)[0] for own in ("method.rank=2", "method=full"))
    declared = readings(cell_of(*settings, "model.dtype=bfloat16"), folder)[0]
    for quick, told in ((True, False), (False, True)):
        monkeypatch.setattr("lorabench.runner.changes.cpu_has_bfloat16", lambda quick=quick: quick)
        words = other_dtypes([trained, whole, declared])
        assert (words is not None) == told
        assert not told or words.startswith("1 cell of this folder had weights in bfloat16, which model.dtype: auto is")
    on_gpu = trained.environment.model_copy(update={"device": "NVIDIA H100"})
    assert other_dtypes([trained.model_copy(update={"environment": on_gpu})]) is None
