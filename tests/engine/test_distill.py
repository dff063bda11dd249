"""A planted change has exactly the rank, the norm and the place that were asked for, and students are held to the
teacher's distribution.
"""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from lorabench.engine.batches import IGNORED, Layout, collate
from lorabench.engine.cell import run_cell
from lorabench.engine.check import check_cells
from lorabench.engine.data import Planted, task_data
from lorabench.engine.distill import Teacher, distilled, plant
from lorabench.engine.evaluate import losses
from lorabench.engine.loss import token_loss
from lorabench.engine.model import load_base, load_tokenizer
from lorabench.errors import LorabenchError, ModelError
from tests.engine.conftest import cell_of

CPU = torch.device("cpu")
TASK = "task={name: planted, rank: 3, sequences: 16, scale: 0.3}"


@pytest.fixture(scope="module")
def base():
    return load_base(cell_of(), CPU)


def changes(planted):
    before, after = load_base(cell_of(), CPU), load_base(cell_of(), CPU)
    ranks = plant(after, planted)
    found = {
        n: (p.detach().double() - before.get_parameter(n).detach().double(), before.get_parameter(n))
        for n, p in after.named_parameters()
    }
    return ranks, {n: pair for n, pair in found.items() if float(pair[0].abs().max()) > 0}


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_each_change_has_the_rank_equal_singular_values_and_the_norm_that_were_asked_for(rank):
    ranks, found = changes(Planted((("q_proj", rank), ("v_proj", rank)), 0.3, 0))
    assert len(ranks) == len(found) > 2
    assert all(n.removesuffix(".weight").endswith(("q_proj", "v_proj")) for n in found)
    for delta, weight in found.values():
        values = np.linalg.svd(delta.numpy(), compute_uv=False)
        assert np.allclose(values[:rank], values[0], rtol=1e-4)
        assert values[rank] < 1e-5 * values[0]  # what adding to float32 weights leaves
        assert float(delta.norm()) == pytest.approx(0.3 * float(weight.double().norm()), rel=1e-4)


def test_kinds_of_modules_can_have_ranks_of_their_own_and_a_full_one():
    ranks, found = changes(Planted((("q_proj", 2), ("v_proj", None)), 0.3, 0))
    for name, (delta, weight) in found.items():
        rank = int(np.linalg.matrix_rank(delta.numpy(), tol=1e-4 * float(delta.norm())))
        assert rank == (2 if "q_proj" in name else min(weight.shape))
        assert ranks[name.removesuffix(".weight")] == rank


def test_the_seed_alone_decides_the_change():
    same, again, other = (changes(Planted((("q_proj", 2),), 0.3, seed))[1] for seed in (0, 0, 1))
    name = next(iter(same))
    assert torch.equal(same[name][0], again[name][0])
    assert not torch.equal(same[name][0], other[name][0])


def test_a_rank_above_a_matrix_is_one_sentence(base):
    with pytest.raises(ModelError, match=r"task\.rank 5000 is more than .*q_proj .*; at most \d+, or full"):
        plant(base, Planted((("q_proj", 5000),), 0.3, 0))


@pytest.mark.parametrize(
    ("task", "place", "words"),
    [
        ("{name: planted, rank: 5000}", "task.rank", "rank 5000 is more than"),
        ("{name: planted, targets: [nowhere]}", "task", "nowhere"),
        (
            "{name: planted, targets: [q_proj, attention]}",
            "task.rank",
            "is named twice; give each module a single rank",
        ),
    ],
)
def test_what_cannot_be_planted_is_told_before_the_first_cell(task, place, words):
    (problem,) = check_cells([cell_of(f"task={task}")])
    assert problem.field == place
    assert words in problem.message and "\n" not in problem.message


def test_ranks_by_module_and_targets_exclude_each_other():
    with pytest.raises(LorabenchError, match="remove targets"):
        cell_of("task={name: planted, rank: {q_proj: 2}, targets: [v_proj]}")


def test_the_divergence_is_torchs_own_and_zero_from_itself(base):
    cell = cell_of(TASK)
    data, teacher = distilled(cell, task_data(cell, load_tokenizer(cell.model)), load_tokenizer(cell.model), CPU)
    batch = collate(data.test[:3], Layout(0), CPU)
    batch.labels[0, 10:] = IGNORED
    with torch.no_grad():
        table = teacher.divergence(base, batch, "none")
        ours, theirs = (Categorical(logits=m(input_ids=batch.ids).logits.double()) for m in (teacher.model, base))
        expected = kl_divergence(ours, theirs)
        assert torch.allclose(table[:, :-1].double()[1:], expected[1:, :-1], atol=1e-5)
        assert float(table[0, 10:].abs().max()) == 0 and float(table[:, -1].abs().max()) == 0
        assert float(teacher.divergence(teacher.model, batch)) == pytest.approx(0, abs=1e-4)
        assert float(teacher.divergence(base, batch)) == pytest.approx(float(table.sum()), rel=1e-5)


def test_its_gradient_reaches_the_student_alone(base):
    student = load_base(cell_of(), CPU).requires_grad_(True)
    teacher = Teacher(base)
    cell = cell_of(TASK)
    data, _ = distilled(cell, task_data(cell, load_tokenizer(cell.model)), load_tokenizer(cell.model), CPU)
    Teacher(teacher.model).divergence(student, collate(data.train[:2], Layout(0), CPU)).backward()
    assert all(p.grad is None for p in teacher.model.parameters())
    assert any(p.grad is not None for p in student.parameters())


def test_the_text_is_the_bases_own_and_no_part_of_it_is_shared_between_splits(base):
    cell = cell_of(TASK)
    data, _ = distilled(cell, task_data(cell, load_tokenizer(cell.model)), load_tokenizer(cell.model), CPU)
    parts = [{e.ids.tobytes() for e in part} for part in (data.train, data.validation, data.test)]
    assert [len(p) for p in parts] == [16, 4, 4]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    mean = losses(base, data.test, 4, 0, CPU, token_loss).mean
    assert mean < 0.8 * np.log(base.config.vocab_size)  # the base's entropy, far from that of random tokens


def test_a_quantized_student_learns_from_the_same_unquantized_teacher():
    plain, small = cell_of(TASK), cell_of(TASK, "quantization=nf4")
    tokenizer = load_tokenizer(plain.model)
    one, two = (distilled(c, task_data(c, tokenizer), tokenizer, CPU)[1].model.state_dict() for c in (plain, small))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_an_untrained_base_reads_what_was_planted_and_training_takes_most_of_it_away(tmp_path):
    training = "training={steps: 60, batch_size: 8, sequence_length: 32, learning_rate: 2.0e-2}"
    base = run_cell(cell_of(TASK, "method=base"), tmp_path)
    tuned = run_cell(
        cell_of(TASK, training, "method={name: lora, rank: 3, target_modules: [q_proj, v_proj]}"), tmp_path
    )
    assert base.value("divergence") > 0.01
    assert tuned.value("divergence") < 0.5 * base.value("divergence")
    assert tuned.value("eval_loss") > 0
