"""The model of best learning rates: the sweep's optima, directions of its moderators, and rules beside it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lorabench.evidence.learning_rate_model import (
    FITTED,
    RateSetting,
    by_hidden_size,
    design,
    flat,
    optima_of,
    published_rate_model,
    published_rates,
    rate_model,
    stored_form,
)
from lorabench.evidence.leave_one_out import MODEL, rate_errors, rates_left_out


def cell(rate, loss):
    known = {"source": "s", "model": "M", "family": "llama", "parameters": "8e9", "hidden_size": "4096", "rank": "16"}
    return {**known, "alpha": "32", "batch": "128", "learning_rate": str(rate), "test_loss": str(loss)}


def test_the_optimum_of_a_parabola_is_found():
    best = 2.3e-4
    cells = [cell(r, 0.5 + 0.01 * math.log(r / best) ** 2) for r in (4e-5, 1e-4, 3e-4, 1e-3)]
    (found,) = optima_of(cells)
    assert found.rate == pytest.approx(best, rel=1e-6)


def test_an_optimum_at_the_end_of_the_grid_is_less_sure():
    inside = optima_of([cell(1e-4, 0.6), cell(3e-4, 0.5), cell(1e-3, 0.7)])[0]
    edge = optima_of([cell(1e-4, 0.7), cell(3e-4, 0.6), cell(1e-3, 0.5)])[0]
    assert edge.rate == pytest.approx(1e-3)
    assert edge.noise > inside.noise + 1


def test_rates_that_were_merely_used_are_left_out_and_the_sweep_enters_by_its_cells():
    rates = published_rates()
    assert not {"trl-docs", "open-instruct"} & {r.source for r in rates}
    swept = {(r.model, r.setting.rank) for r in rates if r.source == "tinker-cookbook"}
    assert len(swept) == sum(r.source == "tinker-cookbook" for r in rates)  # one a model and rank


def test_full_fine_tuning_wants_about_a_tenth_and_wider_models_and_larger_alphas_less():
    model = published_rate_model()

    def rate(method="lora", **known):
        return model.predict(RateSetting(method, 8e9, **{"hidden_size": 4096, "rank": 16, "alpha": 16, **known})).rate

    assert 5 < rate() / rate("full") < 40  # published: 5 to 40, about ten (Schulman et al. 2025)
    assert rate(hidden_size=8192) < rate()
    assert rate(alpha=64) < rate()
    assert 1 <= rate(rank=256) / rate() < 2  # with a constant alpha it varies little with the rank


def test_rslora_has_the_rate_of_lora_with_its_scaling():
    """alpha / sqrt(rank) with alpha 16 at rank 256 is 1, as alpha / rank is with alpha 256."""
    model = published_rate_model()
    rs = model.predict(RateSetting("rslora", 8e9, rank=256, alpha=16))
    assert rs.rate == pytest.approx(model.predict(RateSetting("lora", 8e9, rank=256, alpha=256)).rate)
    assert rs.rate < model.predict(RateSetting("lora", 8e9, rank=256, alpha=16)).rate


def test_an_answer_has_an_interval_and_three_to_try_in_order():
    p = published_rate_model().predict(RateSetting("lora", 8e9, 4096, "llama", 16, 16, 16))
    assert p.low < p.grid[0] < p.grid[1] < p.grid[2] < p.high
    assert p.grid[1] == pytest.approx(p.rate, rel=0.05)
    assert sum(w for _, w in p.weights) == pytest.approx(1)


def test_a_rate_is_the_geometric_mean_of_the_model_and_two_rules():
    model = published_rate_model()
    s = RateSetting("lora", 8e9, 4096, "llama", 16, 16, 16)
    one = np.zeros(1)
    alone = math.exp(model.fit.predict(design(s)[None], one.astype(int), one + 1, one, one)[0][0])
    assert model.predict(s).rate == pytest.approx((alone * 2e-4 * 2.86e-4) ** (1 / 3), rel=2e-3)


def test_the_rules_are_those_that_circulate():
    """Tinker's cookbook prints 2.86e-4 for a Llama and 4.73e-4 for a Qwen of hidden size 4096."""
    assert by_hidden_size(RateSetting("lora", hidden_size=4096, family="llama")) == pytest.approx(2.86e-4, rel=0.01)
    assert by_hidden_size(RateSetting("lora", hidden_size=4096, family="qwen")) == pytest.approx(4.73e-4, rel=0.01)
    assert flat(RateSetting("full")) == 2e-5


@pytest.mark.slow
def test_what_is_stored_is_what_a_refit_gives():
    stored = json.loads(FITTED.read_text(encoding="utf-8"))
    again = stored_form(rate_model(published_rates()))
    for name in ("between", "within", "row"):
        assert again[name] == pytest.approx(stored[name], rel=0.05)


@pytest.mark.slow
def test_without_each_source_it_errs_by_less_than_1_8_and_no_more_than_a_rule():
    found = rates_left_out(published_rates())
    errors = rate_errors(found)
    assert errors[MODEL]["rates"] <= 1.8
    for count in ("rates", "sources", "median of sources"):
        assert errors[MODEL][count] <= min(of[count] for of in errors.values()) + 1e-9
    inside = np.mean([f.prediction.low <= f.published.rate <= f.prediction.high for f in found])
    assert 0.72 <= inside <= 0.95
