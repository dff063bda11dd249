"""What a data file is, by its first bytes and not by its name, and its text.

    compressed    gzip, bzip2 and xz are unpacked; of Zstandard, zip and archives a sentence says what to do
    tables        Parquet and Arrow are left to their reader (tasks._formats)
    text          UTF-8 with or without a byte-order mark; UTF-16 and UTF-32 where a mark, or the zero bytes of UTF-16,
                  tell
    anything else a DataError that says what it is: a Git LFS pointer, a workbook, a saved web page, a pickle

Files are read whole: the rows that are made of them take more memory than their text.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from lorabench.errors import DataError

HEAD = 4096  # bytes that an encoding is guessed from
UNPACK: dict[bytes, Callable[[bytes], bytes]] = {b"\x1f\x8b\x08": gzip.decompress, b"\xfd7zXZ\x00": lzma.decompress}
UNPACK |= {b"BZh%d1AY&SY" % level: bz2.decompress for level in range(1, 10)}
TABLES: dict[bytes, Literal["parquet", "arrow"]] = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
}
LFS = b"version https://git-lfs.github.com/spec/"
MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
FOREIGN = (  # first bytes: what it is, and what to do
    (LFS, "a Git LFS pointer in place of the data", "fetch the file itself: git lfs pull"),
    (
        b"\x28\xb5\x2f\xfd",
        "compressed by Zstandard, which is not unpacked here",
        "unpack it (zstd -d), or compress it with gzip",
    ),
    (
        b"PK\x03\x04",
        "a zip archive, as Excel workbooks are",
        "unpack it, or save the sheet as CSV, and give that file",
    ),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV and give that file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the data file"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it and give the data file"),
    (
        b"SQLite format 3\x00",
        "an SQLite database",
        "export the table as CSV: sqlite3 -header -csv FILE 'select * from TABLE'",
    ),
    (b"%PDF-", "a PDF", "give its rows as JSON lines or CSV"),
    (b"\x93NUMPY", "a NumPy array", "give its rows as JSON lines or CSV"),
    (b"\x89HDF", "an HDF5 file", "give its rows as JSON lines, CSV or Parquet"),
    (b"Obj\x01", "an Avro file", "give its rows as JSON lines, CSV or Parquet"),
    (b"\x89PNG", "a picture", "give rows as JSON lines, CSV or Parquet"),
    (b"\xff\xd8\xff", "a picture", "give rows as JSON lines, CSV or Parquet"),
)
WEB_PAGE = re.compile(
    r"[\ufeff\s]*(<!--.*?-->\s*)*<(!doctype|html|head|body|script|\?xml)\b", re.IGNORECASE | re.DOTALL
)
TAR_AT, TAR = 257, b"ustar"
PICKLE = tuple(bytes((0x80, protocol)) for protocol in (2, 3, 4, 5))


class Content(NamedTuple):
    """What a file holds: the bytes of a table, or text."""

    kind: Literal["text", "parquet", "arrow"]
    data: bytes = b""
    text: str = ""
    encoding: str = "utf-8"


def read_content(path: str | Path) -> Content:
    """A file's content, unpacked and decoded; DataError where it is nothing that rows or text can be read from."""
    data = unpacked(path)
    for magic, kind in TABLES.items():
        if data.startswith(magic):
            return Content(kind, data)
    refuse(path, data)
    text, encoding = _decoded(path, data)
    return Content("text", text=text, encoding=encoding)


def read_text(path: str | Path) -> str:
    """The text of a file; DataError where it is none."""
    content = read_content(path)
    if content.kind != "text":
        raise DataError(
            f"{path} is a table ({content.kind}), not text; give a text file, or read its rows with the task instruct"
        )
    return content.text


def table_kind(path: str | Path) -> Literal["parquet", "arrow"] | None:
    """parquet or arrow where a file's first bytes say so; None for all others, and for a file that is not there."""
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(8)
    except OSError:
        return None
    return next((kind for magic, kind in TABLES.items() if head.startswith(magic)), None)


def unpacked(path: str | Path) -> bytes:
    """The bytes of a file, unpacked where it is compressed."""
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise DataError(
            f"{path} cannot be read: {e.strerror}; point task.train and task.eval to readable files"
        ) from None
    for magic, unpack in UNPACK.items():
        if data.startswith(magic):
            try:
                return unpack(data)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as e:
                raise DataError(
                    f"{path} is compressed, but cannot be unpacked ({e}); it is truncated or damaged, download it again"
                ) from None
    return data


def refuse(path: str | Path, data: bytes) -> None:
    """DataError where bytes are nothing to read rows or text from."""
    if not data.strip(b"\x00 \t\r\n\xef\xbb\xbf"):
        kind = "is empty" if not data else "holds nothing but whitespace"
        raise DataError(f"{path} {kind}; was it saved, and its download complete? Give a file with rows or text")
    if sentence := foreign(path, data):
        raise DataError(sentence)


def foreign(path: str | Path, data: bytes | None = None) -> str | None:
    """What first bytes say where they are those of no data file, and what to do; None for all others, and for a file
    that is not there.
    """
    if data is None:
        try:
            data = unpacked(path) if Path(path).is_file() else b""
        except DataError as e:
            return str(e)
    for magic, what, do in FOREIGN:
        if data.startswith(magic):
            return f"{path} is {what}; {do}"
    if data.startswith(b"ORC") and data[-4:-1] == b"ORC":
        return f"{path} is an ORC file; give its rows as JSON lines, CSV or Parquet"
    if data[TAR_AT : TAR_AT + len(TAR)] == TAR:
        return f"{path} is a tar archive; unpack it and give the data file"
    if data.startswith(PICKLE) and data.rstrip(b"\n").endswith(b"."):
        return (
            f"{path} is a Python pickle, which could run code when it is read; save its rows as JSON lines, "
            "CSV or Parquet"
        )
    return None


def is_web_page(text: str) -> bool:
    """Whether a text opens as HTML or XML does: a page that was saved in place of the data."""
    return WEB_PAGE.match(text[:HEAD]) is not None


def _decoded(path: str | Path, data: bytes) -> tuple[str, str]:
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None) or _without_mark(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        raise DataError(_undecodable(path, data, encoding, e)) from None
    if "\x00" in text:
        zero = f"{path} holds a zero byte at character {text.index(chr(0))}, which no text has"
        raise DataError(f"{zero}; {_two_bytes(path, data) or 'it is damaged or not a text file, download it again'}")
    return text, encoding


def _without_mark(data: bytes) -> str:
    """UTF-16 writes most letters of most languages' markup with one zero byte: nearly all even bytes, or all odd ones,
    tell.
    """
    head = data[:HEAD]
    n_pairs = len(head) // 2
    if n_pairs >= 2:
        if head[1::2].count(0) > 0.4 * n_pairs and not head[::2].count(0):
            return "utf-16-le"
        if head[::2].count(0) > 0.4 * n_pairs and not head[1::2].count(0):
            return "utf-16-be"
    return "utf-8"


def _two_bytes(path: str | Path, data: bytes) -> str | None:
    """What to do where the zero bytes all stand at even or all at odd places, as those of UTF-16 in any language do (of
    blanks and line ends); else None.
    """
    even, odd = data[::2].count(0), data[1::2].count(0)
    if len(data) % 2 or (even > 0) == (odd > 0) or even + odd < 2:
        return None
    order = "LE" if odd else "BE"
    return (
        f"it may be UTF-16 without its mark; convert it to UTF-8: iconv -f UTF-16{order} -t UTF-8 "
        f"{Path(path).name} > new"
    )


def _undecodable(path: str | Path, data: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    """An encoding cannot be told from one odd byte: the sentence says what was seen, and names the likeliest as
    such."""
    if encoding not in ("utf-8", "utf-8-sig"):
        return (
            f"{path} begins like {encoding.upper()}, but is invalid at byte {error.start} ({error.reason}); "
            "it is truncated or damaged, download it again"
        )
    if error.end == len(data) and error.reason == "unexpected end of data":
        return f"{path} ends within a character, at byte {error.start}; it is truncated, download it again"
    line = data.count(b"\n", 0, error.start) + 1
    fault = f"{path} is not UTF-8 at byte {error.start} (0x{data[error.start]:02x}, line {line})"
    if two := _two_bytes(path, data):
        return f"{fault}; {two}"
    odd = sum(data.count(byte) for byte in range(0x80, 0x100))
    if odd > 0.3 * len(data):
        return (
            f"{fault}, and {100 * odd / len(data):.0f} % of its bytes are not ASCII: it is not text, or text in "
            "an older encoding of its language; convert it to UTF-8"
        )
    western = not any(byte in data for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D))
    likely = (
        "CP1252 (Windows, Western European) fits its bytes; so may other encodings"
        if western
        else "it is not CP1252 (Windows, Western European) either"
    )
    return (
        f"{fault}; convert it to UTF-8 from the encoding it was saved in: iconv -f "
        f"{'CP1252' if western else 'ENCODING'} -t UTF-8 {Path(path).name} > new; {likely}"
    )
