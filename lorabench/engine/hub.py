"""Whether the hub can be reached, asked once and for seconds at most: datasets by itself tries for half a minute before it says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

HUB_SECONDS = 5  # until a hub that does not answer counts as absent


def hub_answers(dataset: str, revision: str | None = None) -> bool:
    """Whether the hub answers when it is asked for a data set; one that refuses is one that answers."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if switched_off():
        return False
    try:
        HfApi().dataset_info(dataset, revision=revision, timeout=HUB_SECONDS)
    except HfHubHTTPError:
        return True
    except Exception:  # the client's own classes, which differ between its versions
        return False
    return True


def switched_off() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def told_offline(wanted: bool) -> Iterator[None]:
    """The hub's libraries told that there is no network, so that they look into the cache alone."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if wanted:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
