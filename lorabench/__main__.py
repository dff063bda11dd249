"""python -m lorabench: the same as the command lorabench."""

import sys

from lorabench.cli import main

if __name__ == "__main__":
    sys.exit(main())
