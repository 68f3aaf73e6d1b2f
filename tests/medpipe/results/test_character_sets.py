"""Names leave as they came: byte by byte, in any character set, in SEG and SR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from medpipe.bundle import Bundle
from medpipe.results import ResultOptions, write_results

Make = Callable[..., Any]

NAMES = {
    "none": (None, b"Doe^Jane"),
    "ascii": (b"ISO_IR 6", b"Doe^Jane"),
    "latin-1": (b"ISO_IR 100", "Äneas^Rüdiger".encode("latin-1")),
    "greek": (b"ISO_IR 126", "Διονυσιος".encode("iso8859-7")),
    "arabic": (b"ISO_IR 127", "قباني^لنزار".encode("iso8859-6")),
    "cyrillic": (b"ISO_IR 144", "Люкceмбypг".encode("iso8859-5")),
    "hebrew": (b"ISO_IR 138", "שרון^דבורה".encode("iso8859-8")),
    "thai": (b"ISO_IR 166", "นามสกุล^ชื่อ".encode("tis-620")),
    "utf-8": (b"ISO_IR 192", "Wang^XiaoDong=王^小东=".encode()),
    "gb18030": (b"GB18030", "Wang^XiaoDong=王^小东=".encode("gb18030")),
    "gbk": (b"GBK", "Wang^XiaoDong=王^小东=".encode("gbk")),
    # PS3.5 annexes H and I: escape sequences switch the set in the middle of a value
    "japanese": (
        b"\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    "half-width": (
        b"ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    "korean": (
        b"\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    # what nobody should send and somebody does
    "undeclared": (None, "Müller^Jörg".encode("latin-1")),
    "unknown set": (b"ISO_IR 999", b"M\xfcller^J\xf6rg"),
    "wrong set": (b"ISO_IR 192", "Müller^Jörg".encode("latin-1")),
    "five groups": (b"ISO_IR 100", b"a^b^c^d^e^f=x=y=z=w"),
    "padded": (b"ISO_IR 100", b"  Doe ^ Jane  "),
}


def element(path: Path, tag: int) -> bytes:
    """The value as it lies in the file, its padding with it."""
    item: Any = pydicom.dcmread(path).get_item(tag)
    return bytes(item.value)


@pytest.mark.filterwarnings("ignore:Unknown encoding:UserWarning")  # of this test's own reading
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("department", ["", "Augenklinik für Kinder"])
def test_names_and_character_set_leave_as_they_came(
    name: str, department: str, picture: Make, prediction: Make, bundle: Bundle, tmp_path: Path
) -> None:
    character_set, value = NAMES[name]
    image = picture(PatientName="@" * len(value), ReferringPhysicianName="#" * len(value))
    header = image.sources[0].header
    content = header.read_bytes().replace(b"@" * len(value), value).replace(b"#" * len(value), value)
    header.write_bytes(content)
    if character_set is not None:
        _insert_character_set(header, character_set)

    options = ResultOptions(institution_department=department)
    results = write_results(image.study_uid, [prediction(image)], [], bundle, tmp_path / "out", options)
    assert len(results) == 2
    for result in results:
        assert element(result.path, 0x00100010).rstrip(b" ") == value.rstrip(b" ")
        assert element(result.path, 0x00080090).rstrip(b" ") == value.rstrip(b" ")
        if character_set is None:
            assert "SpecificCharacterSet" not in pydicom.dcmread(result.path)
        else:
            assert _character_set_element(character_set) in result.path.read_bytes()


def _character_set_element(character_set: bytes) -> bytes:
    """(0008,0005) as it is encoded; pydicom never leaves this one alone, so it is looked for in the file."""
    padded = character_set + b" " * (len(character_set) % 2)
    return b"\x08\x00\x05\x00CS" + len(padded).to_bytes(2, "little") + padded


def _insert_character_set(header: Path, character_set: bytes) -> None:
    """Puts (0008,0005) first into the data set, without anything decoding the rest."""
    content = header.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")  # after the file meta group (PS3.10 section 7.1)
    header.write_bytes(content[:start] + _character_set_element(character_set) + content[start:])
