"""Whether the hub answers, asked once and briefly: its libraries try a dead network six times over 25 s, for each file.

One request to the hub's own address (HF_ENDPOINT where a mirror is set), through huggingface_hub's own session, which
takes proxies from the environment. Any answer counts, a refusal as well: what it means is told by the request that
wanted something. Resolving a name has no time limit of its own, so the request runs in a thread that is left behind.
"""

from __future__ import annotations

import difflib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lorabench.config.architectures import find_architecture, near_names
from lorabench.config.checkpoint import local_folder
from lorabench.config.paths import find_model, model_directory, shipped_models
from lorabench.errors import ModelError

SECONDS = 5.0  # until a hub that does not answer counts as absent
ANSWER_SECONDS = 60.0  # that an answer is taken for the present one: a worker lives for days, a network comes back
_ANSWER: list[tuple[float, bool]] = []
_LOCK = threading.Lock()


def switched_off() -> bool:
    """Whether the user asked for no network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def answers() -> bool:
    """Whether the hub can be reached; False at once where it is switched off."""
    if switched_off():
        return False
    with _LOCK:
        if not _ANSWER or time.monotonic() - _ANSWER[-1][0] > ANSWER_SECONDS:
            _ANSWER[:] = [(time.monotonic(), _ask())]
        return _ANSWER[-1][1]


def _ask() -> bool:
    answered: list[bool] = []

    def ask() -> None:
        from huggingface_hub import constants, get_session

        try:
            get_session().head(constants.ENDPOINT, timeout=SECONDS)
        except Exception:  # the client's own classes, which differ between its versions
            return
        answered.append(True)

    one = threading.Thread(target=ask, daemon=True)
    one.start()
    one.join(SECONDS)
    return bool(answered)


@contextmanager
def offline(disconnected: bool = True) -> Iterator[None]:
    """Tells the hub's libraries, where `disconnected`, that there is no network: they look into the cache alone and
    try nothing again."""
    from huggingface_hub import constants

    places = [constants, *([sys.modules["datasets"].config] if "datasets" in sys.modules else [])]
    before = [place.HF_HUB_OFFLINE for place in places]
    if disconnected:
        for place in places:
            place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextmanager
def hub_access(model: str) -> Iterator[None]:
    """Around the loading of a model: nothing where it is a directory, offline where the hub does not answer."""
    if model_directory(model) is not None:
        yield
        return
    with offline(not answers()):
        yield


def why_not() -> str:
    """Why nothing is fetched from the hub: the clause for a sentence that says what is missing."""
    return (
        "HF_HUB_OFFLINE is set" if switched_off() else "the hub cannot be reached (no network, or it does not answer)"
    )


def require(model: str, revision: str | None = None) -> None:
    """ModelError where a hub id is neither on this machine nor to be had, with what is like it and what to do."""
    if local_folder(model, revision) is None and not answers():
        raise ModelError(absent(model, revision))


def require_named(name: str) -> None:
    """The same for a name as it is typed, before anything slow is imported: nothing for presets, directories and what
    is no name of a model at all."""
    try:
        path = find_model(name, {})
    except ValueError:  # which is told where the setting is read
        return
    if model_directory(path) is None and find_architecture(path) is None:
        require(path)


def absent(model: str, revision: str | None = None) -> str:
    """The sentence for a model that is not on this machine while the hub does not answer."""
    at = f" at revision {revision}" if revision else ""
    preset = find_architecture(model)
    near = near_names(model) or difflib.get_close_matches(model.lower(), shipped_models(), n=1)
    if preset:
        shape = f"estimate, plan, recommend and parameters know it as the preset {preset.name} and need no file"
    else:
        stored = model.lower().endswith("-bnb-4bit")
        shape = (
            ("only its config.json says which of its layers are stored in 4 bits; " if stored else "")
            + "for estimate, plan, recommend and parameters a folder with its config.json alone is enough, and presets"
            " need no file" + (f", such as {', '.join(near)}" if near else "")
        )
    return (
        f"{model}{at} cannot be loaded: it is not a shipped model, not a directory and not in the local cache, and"
        f" {why_not()}; give the path of a local copy as the model (in a study: --set model=/path/to/directory);"
        f" {shape} (lorabench models SEARCH lists them)"
    )
