"""Claims about data sets of the hub: read like files, one sentence where they, a split or the network are missing."""

import pytest

from lorabench.config import hub
from lorabench.errors import DataError
from lorabench.tasks import instruct


def test_an_absent_hub_data_set_says_what_to_do(words, monkeypatch):
    import datasets

    def refused(*_, **__):
        raise ConnectionError("access is gated\nmore")

    monkeypatch.setattr(hub, "answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", refused)
    with pytest.raises(
        DataError, match=r"data set x/y \(split train\) cannot be loaded: access is gated; save it as JSON lines"
    ):
        instruct.load(instruct.Options(dataset="x/y"), words, 8)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "Unknown split \"test\". Should be one of ['train', 'dev'].",
            r"x/y has no split test: .*'dev'.*; name one of them as task\.eval_split",
        ),
        (
            "Config name is missing.\nPlease pick one among ['main', 'socratic']",
            r"several configurations: .*'socratic'.*; name one as task\.subset",
        ),
    ],
)
def test_a_split_or_configuration_that_is_not_there_is_named(words, monkeypatch, error, message):
    import datasets

    def load(name, subset, *, split, revision):
        if split == "test" or "Config" in error:
            raise ValueError(error)
        return [{"question": "a", "answer": "b"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=message):
        instruct.load(instruct.Options(dataset="x/y"), words, 8)


def test_without_a_network_the_hub_is_asked_once_and_then_the_cache_alone(words, monkeypatch):
    import datasets
    from huggingface_hub import constants

    asked, told_offline = [], []

    def load(*_, **__):
        told_offline.append((constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        raise ConnectionError("refused")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    for there, why in ((False, "it is not in the local cache, and the hub cannot be reached"), (True, "refused")):
        monkeypatch.setattr(hub, "_ANSWER", [])
        monkeypatch.setattr(hub, "_ask", lambda there=there: asked.append(there) or there)
        for _ in range(2):
            with pytest.raises(
                DataError,
                match=rf"data set x/y \(split train\) cannot be loaded: {why}.*; save it as JSON lines or Parquet",
            ):
                instruct.load(instruct.Options(dataset="x/y"), words, 8)
    assert told_offline == [(True, True)] * 2 + [(False, False)] * 2
    assert asked == [False, True], "once, not once a data set"
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_data_set_is_read_like_a_file(words, monkeypatch):
    import datasets

    seen = []

    def fake(name, subset, *, split, revision):
        seen.append((name, subset, split, revision))
        return [{"question": "a " * i, "answer": "b"} for i in range(1, 9)]

    monkeypatch.setattr(datasets, "load_dataset", fake)
    data = instruct.load(instruct.Options(dataset="x/y", revision="abc", eval_split="dev"), words, 64)
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 1, 8)
    assert seen == [("x/y", None, "train", "abc"), ("x/y", None, "dev", "abc")]
