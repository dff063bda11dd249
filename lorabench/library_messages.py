"""Messages that a library prints whenever it is imported, whatever the command, and that advise what lorabench has no use for: dropped.

What they mean on this machine is said once, by `lorabench doctor`.
"""

from __future__ import annotations

import logging

MESSAGES = {
    # on processors with AVX-512 BF16, whose 4-bit kernel lorabench switches off (engine/bitsandbytes_cpu.py)
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",
}
"""the beginning of a message, by its logger"""


class _Dropped(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(MESSAGES[record.name])


def drop() -> None:
    """Keeps them from being printed by this process; called by commands and workers, whose process is their own."""
    for name in MESSAGES:
        logger = logging.getLogger(name)
        if not any(isinstance(f, _Dropped) for f in logger.filters):
            logger.addFilter(_Dropped())
