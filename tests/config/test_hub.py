"""A hub that does not answer is known at once, one that refuses is one that answers, and a cached model needs none."""

import socket
import threading
import time
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from lorabench.config import hub
from lorabench.config.load import read_study
from lorabench.config.source import read_source
from lorabench.errors import ModelError, StudyError
from lorabench.runner.plan import make_plan
from lorabench.runner.run import check


@pytest.fixture(autouse=True)
def unasked(monkeypatch):
    monkeypatch.setattr(hub, "_ANSWER", [])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_mirror_that_refuses_is_one_that_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse():
            one, _ = server.accept()
            with one:
                one.recv(4096)
                one.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.answers()


def test_a_dead_one_is_one_sentence_at_once(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(ModelError) as told:
        hub.require("mistralai/Mistral-7B-v0.9")
    assert time.monotonic() - begun < hub.SECONDS + 1
    assert "config.json alone is enough" in str(told.value)
    assert "mistralai/Mistral-7B-v0.3" in str(told.value)


def test_one_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        begun = time.monotonic()
        assert not hub.answers()
        assert time.monotonic() - begun < 3


def test_switched_off_is_told_as_such_and_asks_nobody(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_ask", lambda: pytest.fail("asked"))
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        hub.require("org/name")


def test_the_runner_tells_it_with_its_place_and_asks_no_worker(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "answers", lambda: False)
    (tmp_path / "far.yaml").write_text(
        "schema: 1\nname: far\nquestion: q\nmodel: org/name\ntask: python-docs\ntraining: {steps: 1}\nreference: {}\n"
    )
    source = read_source(tmp_path / "far.yaml")
    unasked = SimpleNamespace(check=lambda cells: pytest.fail("a worker was asked"))
    with pytest.raises(StudyError, match=r"far.yaml:4: org/name cannot be loaded: .*the hub cannot be reached"):
        check(make_plan(read_study(source), tmp_path / "out"), SimpleNamespace(executor="local", first=unasked), source)


def test_a_cached_model_is_asked_for_nowhere(monkeypatch, tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_ask", lambda: pytest.fail("asked"))
    hub.require("org/name")
