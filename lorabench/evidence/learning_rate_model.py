"""The best learning rate, from published searches and one sweep over ranks and rates.

    log rate = b0 + b1 log2(hidden / 4096) + b2 log2(alpha / 16) + b3 log2(rank / 16) + b4 log2(batch / 32)
               + lion + continued pretraining + full fine-tuning + family + source + model + rest

Sources and models are random effects (random_effects). Each exponent lies between two theories, and its prior has the
middle of them for its mean and a quarter of their distance for its standard deviation:

    hidden   0 (the rate carries over) to -1 (Yang et al. 2022, arXiv:2203.03466, for Adam)
    alpha    0 to -1 (the step is alpha / rank x rate x B, so twice the alpha wants half the rate)
    rank     0 (Schulman et al. 2025: alpha fixed, the rate carries over) to 1/2 (Kalajdzievski 2023, arXiv:2312.03732)
    batch    0 to 1/2 (Malladi et al. 2022, arXiv:2205.10287, the square-root rule of Adam)

What is told is the mean, in logarithms, of three forecasts: the model's and those of the two rules that circulate (2e-4
for all; by the hidden size). Forecasts that err differently are better together than each alone, and with few cases
equal weights are better than fitted ones (Bates and Granger 1969; Clemen 1989). The interval is as wide as the model's.

Lion wants 1/3 to 1/10 of Adam's rate (Chen et al. 2023, arXiv:2302.06675). Where a width is not known, it is that of a
Llama of the size: parameters grow with its cube, 4096 at 7e9. Rates that were merely used are no optima and are left
out. A rate at the end of the grid that was tried may lie beyond it: it has a grid step's variance more.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from lorabench.evidence.gaps import number
from lorabench.evidence.library import DATA
from lorabench.evidence.meta_analysis import quantile
from lorabench.evidence.random_effects import Array, Fit, Prior, Rows, Variances, fit

FITTED = DATA / "fitted_rates.json"
_OCTAVE = math.log(2)
_GRID_STEP = math.log(3)
"""of the grids that are printed (1e-4, 3e-4, 1e-3): half of them step by 2.5 to 3.3"""


@dataclass(frozen=True)
class RateSetting:
    """What a rate is asked for, or was printed for; absent: not known."""

    method: str
    parameters: float | None = None
    hidden_size: float | None = None
    family: str = ""
    rank: float | None = None
    alpha: float | None = None
    batch: float | None = None
    lion: bool = False
    continued: bool = False


@dataclass(frozen=True)
class PublishedRate:
    """A best rate, as it was found."""

    source: str
    model: str
    setting: RateSetting
    rate: float
    noise: float
    """variance of its logarithm, from the grid"""


@dataclass(frozen=True)
class RatePrediction:
    """A rate with the interval that a new source's best rate lies in; of three forecasts (see above)."""

    rate: float
    low: float
    high: float
    """of the 80 % prediction interval"""
    grid: tuple[float, float, float]
    """three to try: the rate, and those a third of the probability away on each side"""
    weights: tuple[tuple[str, float], ...]
    """of the rules, and of the model's sources, largest first"""


@dataclass(frozen=True)
class RateModel:
    """The fit."""

    fit: Fit

    def predict(self, setting: RateSetting) -> RatePrediction:
        """Of one setting in a new source."""
        x = design(setting)
        mean, sd, degrees = self.fit.predict(x[None], np.zeros(1, dtype=np.int64), np.ones(1), np.zeros(1), np.zeros(1))
        ruled = [math.log(rule(setting)) for rule in RULES.values()]
        part = 1 / (1 + len(ruled))
        m, s, d = part * (float(mean[0]) + sum(ruled)), float(sd[0]), float(degrees[0])
        half, step = s * quantile(d, 0.9), s * quantile(d, 5 / 6)
        shares = {k: v for k, v in self.fit.shares(x).items() if k}
        total = sum(shares.values()) or 1.0
        of_model = ((k, part * v / total) for k, v in sorted(shares.items(), key=lambda item: -item[1]))
        named = (*((rule, part) for rule in RULES), *of_model)
        low, middle, high = (_rounded(math.exp(m + by)) for by in (-step, 0.0, step))
        return RatePrediction(math.exp(m), math.exp(m - half), math.exp(m + half), (low, middle, high), named)


def _rounded(rate: float) -> float:
    """To two digits, since nobody can tell more."""
    return float(f"{rate:.1e}")


_FAMILIES = ("llama", "qwen")


def design(s: RateSetting) -> Array:
    """The row of moderators of a setting."""
    width = s.hidden_size or (4096 * (s.parameters / 7e9) ** (1 / 3) if s.parameters else 4096)
    whole = s.method == "full"
    alpha = 0.0 if whole or not s.alpha else math.log2(_as_of_lora(s) / 16)
    rank = 0.0 if whole or not s.rank else math.log2(s.rank / 16)
    batch = math.log2(s.batch / 32) if s.batch else 0.0
    switches = (s.lion, s.continued, whole, *(s.family == f for f in _FAMILIES))
    return np.array([1.0, math.log2(width / 4096), alpha, rank, batch, *map(float, switches)])


def _as_of_lora(s: RateSetting) -> float:
    """The alpha that gives LoRA this scaling: that of rsLoRA is alpha / sqrt(rank) (Kalajdzievski 2023)."""
    assert s.alpha is not None
    return s.alpha * math.sqrt(s.rank) if s.method == "rslora" and s.rank else s.alpha


def prior() -> Prior:
    """The middle of two theories each; the level within a factor of two of 2e-4, where most recipes lie; full
    fine-tuning a tenth (Schulman et al. 2025), a family or a long training within a factor of two."""
    mean = [math.log(2e-4), -0.5 * _OCTAVE, -0.5 * _OCTAVE, 0.25 * _OCTAVE, 0.25 * _OCTAVE, math.log(1 / 5.5)]
    sd = [_OCTAVE, 0.25 * _OCTAVE, 0.25 * _OCTAVE, 0.125 * _OCTAVE, 0.125 * _OCTAVE, 0.5]
    rest = [(0.0, _OCTAVE), (math.log(0.1), 0.5), *((0.0, 0.3) for _ in _FAMILIES)]
    return Prior(np.array(mean + [m for m, _ in rest]), np.array(sd + [s for _, s in rest]))


def rate_model(rates: Sequence[PublishedRate], variances: Variances | None = None) -> RateModel:
    """Fitted to rates; at the variances given, else at the most probable."""
    sources, source = np.unique([r.source for r in rates], return_inverse=True)
    setting = np.unique([f"{r.source}\t{r.model}\t{r.setting.method}" for r in rates], return_inverse=True)[1]
    n = len(rates)
    rows = Rows(
        np.log([r.rate for r in rates]),
        np.array([design(r.setting) for r in rates]),
        np.array([r.noise for r in rates]),
        np.ones(n),
        np.zeros(n),
        np.zeros(n, dtype=np.int64),
        setting,
        source,
        tuple(str(s) for s in sources),
        ("",),
    )
    return RateModel(fit(rows.of(np.ones(n, dtype=bool)), prior(), variances))


@cache
def published_rate_model() -> RateModel:
    """Fitted to the library, at the variances that benchmarks/evidence.py found."""
    stored = json.loads(FITTED.read_text(encoding="utf-8"))
    return rate_model(published_rates(), Variances(**{**stored, "scales": tuple(stored["scales"])}))


def stored_form(model: RateModel) -> Mapping[str, object]:
    """What `published_rate_model` reads."""
    return asdict(model.fit.variances)


@cache
def published_rates() -> tuple[PublishedRate, ...]:
    """The library's best rates; the cells of the sweep as the optimum of each model and rank."""
    with (DATA / "learning_rates.csv").open(newline="", encoding="utf-8") as stream:
        printed = [r for r in csv.DictReader(stream) if not (r["source"] == SWEEP and r["choice"] == "tuned")]
    with (DATA / "rank_rate_sweep.csv").open(newline="", encoding="utf-8") as stream:
        swept = list(csv.DictReader(stream))
    return (*rates_of(printed), *optima_of(swept))


SWEEP = "tinker-cookbook"


def rates_of(rows: Iterable[Mapping[str, str]]) -> list[PublishedRate]:
    """Rates of rows that have the columns of schema.LEARNING_RATES as text, full fine-tuning's beside them."""
    found = []
    for r in rows:
        if r["choice"] not in ("tuned", "chosen"):
            continue
        noise = _GRID_STEP**2 / 12 + (_GRID_STEP**2 if r["at_edge"] else 0.0)
        rank = _middle(r["rank_low"], r["rank_high"])
        alpha = number(r["alpha"]) or (2 * rank if rank and r["scaling_policy"] == "constant-scaling" else None)
        common = {
            "parameters": number(r["parameters"]),
            "hidden_size": number(r["hidden_size"]),
            "family": r["family"],
            "batch": _middle(r["batch_low"], r["batch_high"]),
            "lion": r["optimizer"] == "lion",
            "continued": r["task_kind"] == "continued-pretraining",
        }
        if rate := number(r["learning_rate"]):
            setting = RateSetting(r["method"], rank=rank, alpha=alpha, **common)  # type: ignore[arg-type]
            found.append(PublishedRate(r["source"], r["model"], setting, rate, noise))
        if whole := number(r["full_learning_rate"]):
            again = PublishedRate(r["source"], r["model"], RateSetting("full", **common), whole, noise)  # type: ignore[arg-type]
            found += [] if again in found else [again]  # one full fine-tuning is printed beside several ranks
    return found


def _middle(low: str, high: str) -> float | None:
    ends = [n for n in (number(low), number(high)) if n]
    return math.exp(sum(map(math.log, ends)) / len(ends)) if ends else None


def optima_of(cells: Iterable[Mapping[str, str]]) -> list[PublishedRate]:
    """The best rate of each model and rank: the vertex of the parabola in log rate through the best cell and its two
    neighbours, kept within a grid step of the best cell; where the best cell is at an end, that cell."""
    groups: dict[tuple[str, float], dict[float, tuple[float, Mapping[str, str]]]] = defaultdict(dict)
    for c in cells:
        loss, rate, rank = number(c["test_loss"]), number(c["learning_rate"]), number(c["rank"])
        if loss is not None and rate and rank:
            best = groups[c["model"], rank].get(rate)
            groups[c["model"], rank][rate] = min(best, (loss, c), key=lambda b: b[0]) if best else (loss, c)
    found = []
    for (model, rank), of in groups.items():
        if len(of) < 2:
            continue
        x, y = np.log(sorted(of)), np.array([of[r][0] for r in sorted(of)])
        i = int(np.argmin(y))
        inside = 0 < i < len(x) - 1
        at, noise = float(x[i]), _GRID_STEP**2 / 12 + _GRID_STEP**2
        if inside:
            at, noise = _vertex(x[i - 1 : i + 2], y[i - 1 : i + 2]), _GRID_STEP**2 / 12
        c = next(iter(of.values()))[1]
        setting = RateSetting(
            "lora", number(c["parameters"]), number(c["hidden_size"]), c["family"], rank, number(c["alpha"]),
            number(c["batch"]),
        )  # fmt: skip
        found.append(PublishedRate(c["source"], model, setting, math.exp(at), noise))
    return found


def _vertex(x: Array, y: Array) -> float:
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    bend = (right - left) / (x[2] - x[0])
    if bend <= 0:
        return float(x[1])
    return float(min(max((x[0] + x[1]) / 2 - left / (2 * bend), x[0]), x[2]))


def flat(setting: RateSetting) -> float:
    """The rule 2e-4, and a tenth of it for full fine-tuning."""
    return 2e-5 if setting.method == "full" else 2e-4


def by_hidden_size(setting: RateSetting) -> float:
    """Tinker's rule: 5e-5 x 10 x (2000 / hidden)^p, p 0.0775 for Qwen and 0.781 for Llama and what it does not name;
    without the 10 for full fine-tuning."""
    width = 4096 * 2 ** design(setting)[1]
    power = 0.0775 if setting.family == "qwen" else 0.781
    return float(5e-5 * (1 if setting.method == "full" else 10) * (2000 / width) ** power)


RULES: Mapping[str, Callable[[RateSetting], float]] = {"2e-4 for all": flat, "by hidden size": by_hidden_size}
"""that circulate"""
