"""python -m lorabench: the same as the command lorabench."""

from lorabench.commands.main import entry

if __name__ == "__main__":
    entry()
