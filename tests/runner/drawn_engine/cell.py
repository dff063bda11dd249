"""run_cell that draws its result, in the time that DRAWN_SECONDS says."""

from __future__ import annotations

import os
import time

from lorabench.engine.events import Event
from lorabench.record.result import Environment
from tests import synthetic


def run_cell(cell, folder, report):
    seconds = float(os.environ.get("DRAWN_SECONDS", "0.02"))

    def slowly(event: Event) -> None:
        time.sleep(seconds / 8)
        report(event)

    result = synthetic.open_worker().run(cell, folder, slowly)
    return result.model_copy(update={"environment": Environment(device="cpu")})  # as if it had been measured


def repeat_cell(cell, folder, before, phases, report):
    return before
