"""Files of rows that tests write and read."""

from pathlib import Path

from lorabench.tasks._formats import read_table
from lorabench.tasks._rows import file_format


def copy_of(file):
    """The same rows under another name: one file for both sides is refused."""
    copy = Path(file).with_stem("copy")
    copy.write_bytes(Path(file).read_bytes())
    return str(copy)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def read_file(options, file):
    """All rows of a file, as a task reads them."""
    return read_table(file, file_format(options, file), options.separator, options.columns).rows
