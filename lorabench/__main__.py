"""python -m lorabench: the same as the command lorabench."""

from lorabench.cli import entry

if __name__ == "__main__":
    entry()
