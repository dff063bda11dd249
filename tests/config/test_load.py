"""A study file that can be run is read as it is meant; one that cannot ends in one sentence."""

import copy
import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lorabench.config import expand, load_study
from lorabench.config.load import read_study
from lorabench.config.published_tables import is_paper
from lorabench.config.source import override, parse_source, read_source
from lorabench.errors import LorabenchError, StudyError

QUICKSTART = Path(__file__).parents[2] / "studies" / "quickstart.yaml"
TEXT = QUICKSTART.read_text(encoding="utf-8").replace("tiny-1m", "tiny-300k")


def study_of(text, *settings):
    return read_study(override(parse_source(text, "study.yaml", Path.cwd()), settings))


def changed(*changes):
    """The quickstart as data, with (dotted path, value) laid over it; None deletes."""
    data = yaml.safe_load(TEXT)
    for dotted, value in changes:
        place = data
        *route, last = dotted.split("/")
        for part in route:
            place = place[int(part) if isinstance(place, list) else part]
        if value is None:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return yaml.safe_dump(data, sort_keys=False)


def sentence_of(text, *settings):
    with pytest.raises(StudyError) as caught:
        study_of(text, *settings)
    words = str(caught.value)
    assert "\n" not in words
    assert words.startswith(("study.yaml", "--set"))
    return words


def test_the_quickstart_is_two_quantizations_by_three_ranks_and_two_beside_them():
    cells = expand(study_of(TEXT))
    conditions = {c.condition_id: c for c in cells}.values()
    made = [(c.method.name, c.method.rank, c.quantization.name, c.training.learning_rate) for c in conditions]
    assert made == [("lora", r, q, 3e-3) for r in (1, 4, 16) for q in ("none", "nf4")] + [
        ("full", None, "none", 1e-3),
        ("base", None, "none", 2e-4),
    ]
    assert len(cells) == 7 * 2 + 1, "two seeds each, but one for the base, which no seed changes"


def test_numbers_that_yaml_reads_as_text_are_numbers():
    for written in ("1e-3", "0.1e-2", "1E-3", ".001", "'0.001'"):
        study = study_of(TEXT.replace("learning_rate: 3.0e-3", f"learning_rate: {written}"))
        assert study.training.learning_rate == 0.001


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_key():
    words = sentence_of(TEXT.replace("batch_size: 8", "batchsize: 8"))
    line = next(i for i, row in enumerate(TEXT.splitlines(), 1) if "batch_size" in row)
    assert words.startswith(f"study.yaml:{line}: ")
    assert "did you mean 'training.batch_size'" in words
    assert "training.gradient_accumulation" in words, "what is allowed is listed"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ([("schema", 2)], ["schema"]),
        ([("schema", None)], ["'schema' is missing"]),
        ([("name", "../evil")], ["name", "allowed"]),
        ([("name", "")], ["name"]),
        ([("model", None)], ["'model' is missing"]),
        ([("task", None)], ["'task' is missing"]),
        ([("model", "lorabench/tiny-1mm")], ["unknown shipped model", "did you mean"]),
        ([("model", "./no/such/directory")], ["there is no directory"]),
        ([("model", 7)], ["model"]),
        ([("task", {"name": "python-dogs"})], ["did you mean 'python-docs'", "text"]),
        ([("task/topics", 3)], ["unknown option of python-docs", "topics"]),
        ([("task/max_train", 3)], ["unknown option of python-docs 'max_train'; allowed"]),
        ([("task", {"name": "text", "train": "pyproject.toml", "eval": "pyproject.toml"})], ["in train and in eval"]),
        ([("task", {"name": "instruct", "train": "README.md", "eval": "LICENSE"})], ["does not say its format"]),
        ([("model", "tiny-1m")], ["called lorabench/tiny-1m"]),
        ([("method/target_modules", [])], ["target_modules: the list is empty"]),
        (
            [("method/target_modules", ["all-linear"]), ("grid/method.target_modules", [["attention", "q_proj"]])],
            ["attention stands for many modules"],
        ),
        ([("grid/method", [{"name": "lora", "rank": 8}])], ["method.rank is also set by method"]),
        (
            [("include/0/method.rank", 2), ("include/0/method", {"name": "lora", "rank": 3})],
            ["method.rank is also set by method"],
        ),
        ([("grid/seeds", [0, 1])], ["seeds are not an axis"]),
        ([("grid/training.steps", list(range(1, 20_001)))], ["120,000 conditions", "100,000"]),
        ([("exclude", [{"method.rank": "four"}])], ["exclude", "matches no condition"]),
        ([("reference", {"method.rank": 99})], ["method/quantization/method.rank", "lora/nf4/16"]),
        ([("seeds", [-1])], ["seeds", "at least 0"]),
        ([("seeds", [0, 1, 0])], ["seeds", "seed 0 appears 2 times", "write it once"]),
        ([("seeds", [10**23])], ["seeds", "below"]),
        ([("training/steps", 10**26)], ["training.steps", "at most"]),
        ([("quantization", 5)], ["a name or a mapping"]),
        ([("evaluation/forgetting", ".")], ["is a folder"]),
        ([("evaluation/include_path", "README.md")], ["is a file"]),
        ([("task", {"name": "text", "train": "no-such-file.txt"})], ["no-such-file.txt"]),
        ([("method/name", "lroa")], ["did you mean 'lora'", "dora"]),
        ([("method/rnak", 4)], ["did you mean 'method.rank'"]),
        ([("method/alpha", "much")], ["method.alpha", "'much'", "a number"]),
        ([("method/alpha", 0)], ["method.alpha", "above 0"]),
        ([("method/dropout", 1.0)], ["method.dropout", "below 1"]),
        ([("training/steps", "many")], ["training.steps", "a whole number"]),
        ([("training/steps", -1)], ["training.steps", "at least 0"]),
        ([("training/steps", 1.5)], ["training.steps", "a whole number"]),
        ([("training/steps", True)], ["training.steps", "number"]),
        ([("training/batch_size", 0)], ["training.batch_size", "at least 1"]),
        ([("training/learning_rate", ".nan")], ["training.learning_rate"]),
        ([("training/learning_rate", -1)], ["training.learning_rate", "above 0"]),
        ([("training/schedule", "cosin")], ["did you mean 'cosine'", "linear"]),
        ([("training/optimizer", "adam")], ["did you mean 'adamw'"]),
        ([("training", [1, 2])], ["training", "a mapping"]),
        ([("training", "fast")], ["training", "a mapping"]),
        ([("quantization", "int4")], ["int8", "nf4"]),
        ([("grid", {})], ["grid is empty"]),
        ([("grid/method.rank", [])], ["grid.method.rank", "empty"]),
        ([("grid/method.rank", 4)], ["grid.method.rank", "a list"]),
        ([("grid/method.rank", [1, 0])], ["method.rank", "at least 1"]),
        ([("grid/method.rank", ["one"])], ["method.rank", "'one'", "a whole number"]),
        ([("grid/method.rang", [1])], ["unknown axis", "did you mean 'method.rank'"]),
        ([("grid/quantization", ["none", "nf5"])], ["did you mean 'nf4'"]),
        ([("grid", [1])], ["grid", "a mapping"]),
        ([("include", {"a": 1})], ["include", "a list"]),
        ([("include/0/methods", {"name": "full"})], ["include", "did you mean 'method'"]),
        ([("include/0/quantization", "nf4")], ["full", "nf4", "cannot be combined"]),
        ([("include/0/model", {"name": "lorabench/tiny-300k", "dtype": "float16"})], ["full", "float16", "float32"]),
        ([("seeds", [])], ["seeds", "empty"]),
        ([("seeds", [0, "x"])], ["seeds", "'x'", "a whole number"]),
        ([("seeds", 3)], ["seeds", "a list"]),
        ([("reference", {"method": {"name": "dora"}})], ["reference", "matches no condition", "lora/nf4"]),
        (
            [("reference", {"method": {"name": "ful"}})],
            ["the reference method.name: ful matches no condition; did you mean method.name: full? the study has"],
        ),
        (
            [("reference", {"method": "ful"})],
            ["the reference method: ful matches no condition; did you mean method: full?"],
        ),
        ([("reference", {"methd": "full"})], ["did you mean 'method'"]),
        ([("reference", {"method": "lora"})], ["reference", "several conditions", "say in the reference which value"]),
        ([("exclude", [{"method": {"name": "lora"}}]), ("include", [])], ["exclude", "every condition of the grid"]),
        ([("evaluation/limit", 0)], ["evaluation.limit", "at least 1"]),
        ([("evaluation/lm_evl", [])], ["did you mean 'evaluation.lm_eval'"]),
        ([("evaluation/forgetting", "nowhere.txt")], ["nowhere.txt"]),
    ],
)
def test_each_fault_is_one_sentence_that_says_what_is_allowed(changes, parts):
    words = sentence_of(changed(*changes))
    for part in parts:
        assert part in words


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "just words",
        "a: [1",
        "a: b: c",
        "\tschema: 1",
        "schema: 1\nschema: 1",
        "1: 2",
        "? [a]\n: 1",
        "&a [*a]",
        "a: !!python/object/apply:os.system [ls]",
        "schema: 2026-13-45",
        "\x00",
        "[" * 500,
        "a: &x {b: *x}",
    ],
)
def test_text_that_is_no_study_is_one_sentence(text):
    words = sentence_of(text)
    assert "Traceback" not in words


def test_a_line_is_that_of_the_value_in_the_grid():
    text = TEXT.replace("method.rank: [1, 4, 16]", "method.rank:\n    - 1\n    - 0\n    - 16")
    line = next(i for i, row in enumerate(text.splitlines(), 1) if row.strip() == "- 0")
    assert sentence_of(text).startswith(f"study.yaml:{line}: ")


def test_settings_from_the_command_line_win_and_name_themselves_in_errors():
    study = study_of(TEXT, "training.steps=7", "seeds=[3]", "method.alpha=8", "grid.method.rank=[2]")
    assert study.training.steps == 7
    assert study.seeds == (3,)
    assert study.grid["method.rank"] == (2,)
    assert sentence_of(TEXT, "training.steps=few").startswith("--set training.steps: ")
    assert "KEY=VALUE" in sentence_of(TEXT, "training.steps")
    assert "an axis of the grid" in sentence_of(TEXT, "method.rank=3")


def test_a_missing_file_is_one_sentence():
    with pytest.raises(StudyError, match="there is no such study file"):
        load_study("nowhere/none.yaml")


def mutated(seed):
    """A study file damaged in one random place: a key or value dropped, renamed, retyped or moved."""
    chance = random.Random(seed)
    data = yaml.safe_load(TEXT)
    places = []

    def walk(value, route):
        if isinstance(value, dict):
            for key in value:
                places.append((value, key))
                walk(value[key], (*route, key))
        elif isinstance(value, list):
            for i, item in enumerate(value):
                places.append((value, i))
                walk(item, (*route, i))

    walk(data, ())
    place, key = chance.choice(places)
    kind = chance.randrange(4)
    if kind == 0 and isinstance(place, dict):
        place[str(key) + "x"] = place.pop(key)
    elif kind == 1:
        place[key] = chance.choice([None, -1, 0, 1e400, "x", [], {}, True, [[]], {"name": None}, "\u202e<script>"])
    elif kind == 2:
        del place[key]
    else:
        place[key] = copy.deepcopy(chance.choice(places)[0])
    return yaml.safe_dump(data, allow_unicode=True)


@given(st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_a_damaged_study_loads_or_ends_in_one_sentence_but_never_crashes(seed):
    try:
        study_of(mutated(seed))
        words = "it loads"
    except LorabenchError as e:
        words = str(e)
    assert words
    assert "\n" not in words


STUDIES = sorted(p for p in (Path(__file__).parents[2] / "studies").rglob("*.yaml") if not is_paper(read_source(p)))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_study_that_ships_opens_with_its_question_and_makes_its_cells(path):
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert all(any(line.startswith(f"# {word}") for line in head) for word in ("Question:", "Cost:", "Expected:"))
    text = path.read_text(encoding="utf-8")
    if "build/real" in text and not any((Path(__file__).parents[2] / "build" / "real").glob("*.gguf")):
        with pytest.raises(StudyError, match="there is no GGUF file"):  # `make real` fetches it
            load_study(path)
        return
    if "shared/data" in text and not (Path(__file__).parents[3] / "shared" / "data").exists():
        with pytest.raises(
            StudyError, match=r"\.\./shared/data"
        ):  # the data is not part of the project: one sentence names it
            load_study(path)
        return
    cells = expand(load_study(path))
    assert len({c.id for c in cells}) == len(cells) > 1


def test_a_misspelt_key_is_told_and_not_the_one_that_it_leaves_missing():
    study = (
        "schema: 1\nname: s\nmodel: lorabench/tiny-300k\ntask: python-docs\ntraining: {learning_rate: {tunes: [1e-4,"
        " 1e-3]}}\n"
    )
    with pytest.raises(
        StudyError, match=r"unknown key 'training\.learning_rate\.tunes'; did you mean 'training\.learning_rate\.tune'"
    ):
        read_study(parse_source(study, "s.yaml", Path.cwd()))
    with pytest.raises(StudyError, match=r"unknown key 'nmae'; did you mean 'name'"):
        read_study(parse_source(study.replace("name: s", "nmae: s").replace("tunes", "tune"), "s.yaml", Path.cwd()))
