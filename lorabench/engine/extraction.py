"""The answer in a text: what a pattern's group finds first, or the whole text. No torch here.

numeric    commas, dollar signs and a last full stop are taken out, as lm-eval's gsm8k does, and nothing after that is
           read as a number: 18.0 is not 18
"""

from __future__ import annotations

import re

from lorabench.engine.data import Generation


def extracted(text: str, how: Generation) -> str | None:
    """The answer, without blanks around it; None where the pattern finds none."""
    if how.pattern is None:
        return text.strip()
    match = re.search(how.pattern, text)
    if match is None or match[1] is None:
        return None
    answer = match[1].strip()
    return re.sub(r"[,$]", "", answer).removesuffix(".").lower() if how.numeric else answer
