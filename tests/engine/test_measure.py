"""Memory is counted as a person with a pencil would count it."""

import torch

from lorabench.engine.cell import run_cell
from lorabench.engine.measure import Clock, LiveBytes, PhaseMeter, held_tensors
from lorabench.engine.model import load_base
from lorabench.engine.quantized_weights import quantization_state, weight_bytes
from tests.engine.conftest import cell_of

CPU = torch.device("cpu")


def test_live_bytes_follow_every_storage_to_its_end():
    with LiveBytes() as live:
        a = torch.zeros(1000)  # 4,000 bytes
        b = a + 1  # 8,000
        view = b.view(10, 100)  # shares b's storage
        c = b * 2  # 12,000
        assert live.now == 12_000
        del a, c
        assert live.now == 4_000
        del b
        assert live.now == 4_000, "the view still holds it"
        del view
        assert live.now == 0
    assert live.peak == 12_000


def test_a_training_step_of_two_layers_has_the_peak_worked_out_by_hand():
    n, rows = 100, 10
    w1, w2 = torch.nn.Parameter(torch.randn(n, n)), torch.nn.Parameter(torch.randn(n, n))
    x = torch.randn(rows, n)
    model = torch.nn.Module()
    model.w1, model.w2 = w1, w2
    with LiveBytes([*held_tensors(model), x]) as live:
        loss = ((x @ w1) @ w2).sum()
        loss.backward()
    matrix, activation = 4 * n * n, 4 * rows * n
    # when the last gradient is made there are both weights, both gradients, x and the gradient of the hidden
    # activation (which itself has just been freed), and two scalars: the loss and the gradient that it began with
    assert live.peak == 4 * matrix + 2 * activation + 2 * 4
    assert live.now == 4 * matrix + activation + 4


def test_tensors_that_exist_already_are_counted_once():
    model = torch.nn.Linear(10, 10)
    with LiveBytes(held_tensors(model)) as live:
        model(torch.zeros(1, 10))
    assert live.peak >= 4 * (100 + 10)
    assert live.peak < 2 * 4 * (100 + 10)


def test_nf4_takes_half_a_byte_and_a_float_per_block_of_64():
    plain, packed = load_base(cell_of("method=base"), CPU), load_base(cell_of("method=base", "quantization=nf4"), CPU)
    n = p = constants = 0
    for name, parameter in packed.named_parameters():
        if state := quantization_state(parameter):
            p += parameter.numel()
            n += plain.get_parameter(name).numel()
            constants += sum(t.numel() * t.element_size() for t in state if t.numel() != 16)
    assert 8 * (p + constants) / n == 4.5, "QLoRA: 4 bits and 32 / 64 for the block constant"
    assert weight_bytes(packed) < 0.5 * weight_bytes(plain)
    assert weight_bytes(plain) == sum(q.numel() * 4 for q in plain.parameters())


def test_double_quantization_takes_8_bits_and_a_float_per_256_blocks_for_the_constants():
    packed = load_base(cell_of("method=base", "quantization={name: nf4, double_quant: true}"), CPU)
    layer = packed.get_submodule("model.layers.0.mlp.up_proj").weight
    state = layer.quant_state
    blocks = 64 * 192 // 64
    assert state.absmax.dtype == torch.uint8
    assert state.absmax.numel() == blocks
    assert state.state2.absmax.numel() == -(-blocks // 256)
    assert 4 + 8 / 64 + 32 / (64 * 256) == 4.126953125, "what the paper rounds to 4.127 bits"


def test_memory_grows_with_rank_and_batch(folder):
    def peak(*settings):
        return run_cell(cell_of("training.steps=1", *settings), folder).value("train_peak_bytes")

    base = peak()
    more_rank = peak("method.rank=32")
    # 28 more columns and rows on each of 28 modules, as weight, gradient and two moments: at least 16 bytes each
    extra = 28 * 4 * (4 * (64 + 64) + 3 * (64 + 192))
    assert more_rank - base >= 12 * extra
    assert peak("training.batch_size=8") > 1.5 * base - 1.2e6


def test_phases_are_disjoint_and_clocks_go_on():
    clock = Clock(CPU)
    with PhaseMeter(CPU) as first:
        sum(range(100_000))
    with PhaseMeter(CPU) as second:
        sum(range(100_000))
    assert 0 < first.seconds + second.seconds <= clock.seconds()
    assert first.peak_bytes is None, "a CPU's peak comes from its own probe"
