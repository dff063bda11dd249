"""Each rule finds what is planted in matrices whose answer is known by construction."""

import numpy as np
import pytest
import torch

from lorabench import plugins
from lorabench.engine.module_statistics import ModuleStatistics

OUT, IN = 48, 32


def ranks(probe, modules, mean_rank=4):
    return plugins.load("probes", probe).ranks(modules, mean_rank)


def orthogonal(n, k, generator):
    return torch.linalg.qr(torch.randn(n, k, generator=generator))[0]


def module(rank, *, signal=1.0, noise=0.002, weight=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    change = signal * orthogonal(OUT, rank, g) @ orthogonal(IN, rank, g).T if rank else torch.zeros(OUT, IN)
    halves = tuple(change + noise * torch.randn(OUT, IN, generator=g) for _ in range(2))
    made = ModuleStatistics((OUT, IN), lambda: torch.full((OUT, IN), weight), halves)
    made.squared_norm = float(change.square().sum()) + noise**2 * OUT * IN
    return made


@pytest.mark.parametrize("rank", [0, 1, 3, 8])
def test_the_spectrum_of_the_gradient_counts_directions_above_the_noise(rank):
    assert ranks("gradient-spectrum", {"m": module(rank)}) == {"m": rank}


def test_a_direction_below_the_noise_is_not_counted():
    """sigma_1 of a Gaussian (48, 32) matrix is about sqrt(48) + sqrt(32) = 12.6 times its standard deviation."""
    faint = module(3, signal=0.05, noise=0.05)
    assert ranks("gradient-spectrum", {"m": faint})["m"] <= 1


def test_the_natural_gradient_sees_through_the_shape_of_the_data():
    """G = S_d dW S_x with badly scaled S: the plain spectrum misses directions, the whitened one has them all."""
    g = torch.Generator().manual_seed(1)
    x, d = (torch.diag(torch.logspace(0, -2, n)) for n in (IN, OUT))
    change = orthogonal(OUT, 4, g) @ orthogonal(IN, 4, g).T
    noisy = [d @ change @ x + 0.02 * d.sqrt() @ torch.randn(OUT, IN, generator=g) @ x.sqrt() for _ in range(2)]
    made = ModuleStatistics((OUT, IN), lambda: change, tuple(noisy), activations=x, output_gradients=d)
    assert ranks("natural-gradient", {"m": made})["m"] >= ranks("gradient-spectrum", {"m": made})["m"]
    assert 3 <= ranks("natural-gradient", {"m": made})["m"] <= 5


def test_gora_gives_each_module_its_share_of_the_budget():
    """Importances 3 and 1 of the same shape: shares 3/4 and 1/4 of a budget of 2 x 4."""
    one = module(1, noise=0.0)
    modules = {"a": one, "b": ModuleStatistics((OUT, IN), lambda: torch.full((OUT, IN), 3.0), one.halves)}
    assert ranks("gora", modules) == {"a": 2, "b": 6}


def test_fisher_follows_the_squared_gradients():
    """Squared norms 1 and 7: of a budget of 2 x 4 ranks 1 and 7."""
    modules = {"a": module(1, noise=0.0), "b": module(1, noise=0.0)}
    modules["a"].squared_norm, modules["b"].squared_norm = 1.0, 7.0
    assert ranks("fisher", modules) == {"a": 1, "b": 7}


def test_eva_takes_the_components_that_explain_most():
    """Inputs that vary in one direction need one rank; those that vary in all take the rest, at most twice the mean."""
    one, many = module(1), module(1)
    for m, values in ((one, [1.0] + [0.0] * (IN - 1)), (many, [1.0] * IN)):
        m.activations, m.activation_sum, m.tokens = torch.diag(torch.tensor(values)), torch.zeros(IN), 100
    assert ranks("eva", {"one": one, "many": many}, 2) == {"one": 1, "many": 3}
    assert ranks("eva", {"many": many}, 2) == {"many": 2}


def test_short_training_is_read_by_its_singular_values():
    m = module(1)
    m.learned = np.array([2.0, 2.0, 2.0, 0.1])
    assert ranks("stable-rank", {"m": m}) == {"m": 4}  # (12 + 0.01) / 4 = 3.0025
    assert ranks("energy-rank", {"m": m}) == {"m": 3}  # 12 of 12.01
    m.learned = np.zeros(4)
    assert ranks("stable-rank", {"m": m}) == ranks("energy-rank", {"m": m}) == {"m": 0}
