"""A TorchScript file, read and checked before torch sees it.

Such a file is a zip archive: code in torch's own small language, and tensors. The language knows no imports, but a few
of torch's operators reach files and networks (`from_file` maps any file for writing, `save` writes one), and code may
run as soon as a file is loaded (`__setstate__`). So the code is searched for every way to name such an operator, and
torch is handed an archive made anew of what was searched, not the file: the two cannot read it differently.

What is left to a hostile file are endless loops, much memory, and whatever flaw torch's own operators have.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from medpipe.errors import BundleError

_LARGEST_CODE = 32 * 2**20
_SMALL = 64 * 2**20
_TIMES = 4
"""Tensors hardly shrink: what unpacks to more than four times its size, and is not small, was made to fill memory."""

_OUTSIDE = re.compile(r"\b(from_file|save|load|rpc_\w+|PythonOp|IgnoredPythonOp)\b")
"""Operators that reach outside, by name: wherever the word stands, since a string can name an attribute."""
_OPERATORS = re.compile(r"(?<![\w.])ops\b(?!\s*:)(?!\s*\.\s*(?:aten|prim|quantized)\s*\.\s*[A-Za-z_])")
"""`ops` that is not followed by a namespace known to compute and nothing else."""
_CLASSES = re.compile(
    r"__torch__(?!\s*\.\s*\w)|__torch__\s*\.\s*torch(?!\s*\.\s*\w|\w)|torch\s*\.\s*classes\b"
)
"""Classes written in C++ (torch.classes), and whatever could stand for them."""
_GETATTR = re.compile(r'\bgetattr\s*\(\s*(?!ops\b|torch\b|__torch__\b)[A-Za-z_][\w.]*\s*,\s*"[^"\\\n]*"\s*\)')
"""The only way in which torch writes `getattr`: of a plain name, with one plain string."""


def check_unpacked_size(path: Path) -> None:
    """Raises BundleError where a zip archive would unpack to much more than its size, zipfile.BadZipFile for none."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > _TIMES * path.stat().st_size + _SMALL:
        raise BundleError(
            f"{path}: {path.stat().st_size} bytes that would unpack to {unpacked}: not a file of weights"
        )


def read_torchscript(path: Path) -> io.BytesIO:
    """A TorchScript file as a new archive in memory, its code checked. Raises BundleError."""
    try:
        check_unpacked_size(path)
        with zipfile.ZipFile(path) as archive:
            members = dict(_members(archive, path))
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: not a TorchScript file: {error}") from error
    code = {name for name in members if "/code/" in name}
    if not code or not any(name.endswith("/constants.pkl") for name in members):
        raise BundleError(f"{path}: not a TorchScript file: holds no code")
    if sum(len(members[name]) for name in code) > _LARGEST_CODE:
        raise BundleError(f"{path}: more than {_LARGEST_CODE} bytes of code")
    for name, content in members.items():
        named = _pickled_names(content, path) if name.endswith(".pkl") else ""
        if name in code or named:
            _check_code(named or content.decode("latin-1"), path)
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    new.seek(0)
    return new


def _members(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member but the positions in the author's source, which nothing here asks for."""
    seen: set[str] = set()
    for member in archive.infolist():
        name = member.filename
        if name.lower() in seen or name.lower().endswith("/model.json"):
            raise BundleError(f"{path}: {name}: held twice, or of a format that torch has given up")
        seen.add(name.lower())
        if not name.endswith(".debug_pkl") and not member.is_dir():
            # no compressed bytes are believed: what unpacks to more than it says ends in BadZipFile
            yield name, archive.read(member)


def _pickled_names(content: bytes, path: Path) -> str:
    """Names of the classes that a pickle asks for, one per line."""
    try:
        found = [
            str(value).replace(" ", ".")
            for code, value, _ in pickletools.genops(content)
            if "GLOBAL" in code.name
        ]
    except Exception as error:  # whatever an unsound pickle makes of the reader
        raise BundleError(f"{path}: not a TorchScript file: its data cannot be read") from error
    return "\n".join(found)


def _check_code(code: str, path: Path) -> None:
    """Raises BundleError where TorchScript code names what reaches outside, or hides what it names."""
    rest = code
    while "getattr" in rest:
        shorter = _GETATTR.sub(" self._ ", rest)
        if shorter == rest:
            raise BundleError(f"{path}: its code asks for an attribute by a made-up name, which is not run")
        rest = shorter
    for forbidden in (_OUTSIDE, _OPERATORS, _CLASSES):
        found = forbidden.search(code)
        if found:
            line = " ".join(code[max(0, found.start() - 10) : found.end() + 30].split())
            raise BundleError(
                f"{path}: its code uses an operator that could reach files or the network ({line[:60]!r}), "
                "which is not run"
            )
