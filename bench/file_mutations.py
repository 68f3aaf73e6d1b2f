"""Mutations of drawn studies through the guarded reader: each is read or refused with a reason, and nothing else.

    .venv/bin/python bench/file_mutations.py [--mutations 2000] [--seed 0]

Studies of several kinds and transfer syntaxes are broken by a seeded random choice of faults in the bytes (bits,
blocks, ends, lengths) and in the structure (attributes, sequences, meta header, pixel data, parts of other files). The
broken instance is scanned beside a sound one, which must be read whatever comes before and after it; then its study is
assembled. Prints one Markdown table of outcomes, and the largest memory of the reader's processes.
"""

from __future__ import annotations

import argparse
import collections
import io
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medpipe.config import Reading
from medpipe.dicom import GuardedReader
from medpipe.errors import Refused
from medpipe.samples import write_study

LIMITS = Reading(memory=1_000_000_000, seconds=20)
_TOGETHER = 50
"""So many broken files are scanned in one go, each with a sound one behind it."""
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
)


@dataclass(frozen=True)
class Sound:
    """A drawn study in one transfer syntax: its files' bytes, the first of which will be broken."""

    name: str
    files: tuple[bytes, ...]


def sound_studies(folder: Path) -> list[Sound]:
    """A fundus photograph as it is drawn (JPEG), and photographs, ultrasound, CT and MR in every other syntax."""
    fundus = write_study("fundus", folder / "fundus", seed=1, width=256, height=192).files
    ultrasound = write_study("ultrasound", folder / "ultrasound", seed=1, width=128, height=128).files
    ct = write_study("ct", folder / "ct", seed=1, shape=(16, 48, 56)).files[:4]
    mr = write_study("mr", folder / "mr", seed=1, shape=(16, 48, 56)).files[:3]
    made = [Sound("fundus, JPEG", tuple(path.read_bytes() for path in fundus))]
    for kind, paths in (("fundus", fundus), ("ultrasound", ultrasound), ("ct", ct), ("mr", mr)):
        for syntax in SYNTAXES:
            files = tuple(rewritten(pydicom.dcmread(path), syntax) for path in paths)
            made.append(Sound(f"{kind}, {syntax.name}", files))
    return made


def rewritten(dataset: Dataset, syntax: UID) -> bytes:
    """The instance in another transfer syntax."""
    if dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit:
        dataset.decompress(generate_instance_uid=False)
    if syntax.is_encapsulated and syntax != DeflatedExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    return saved(dataset, syntax)


def saved(dataset: Dataset, syntax: UID) -> bytes:
    """The file's bytes, written so that nothing of the data set is corrected."""
    file = io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = syntax
    plain = {ImplicitVRLittleEndian: (True, True), ExplicitVRBigEndian: (False, False)}
    implicit, little = plain.get(syntax, (False, True))
    if syntax == ExplicitVRBigEndian:
        dataset["PixelData"].VR = "OW"
    copy = Dataset(dataset)
    copy.file_meta, copy.preamble = dataset.file_meta, bytes(128)
    pydicom.dcmwrite(file, copy, implicit_vr=implicit, little_endian=little, force_encoding=True)
    return file.getvalue()


# --- faults in the bytes ------------------------------------------------------------------------------------------


def flip(rng: random.Random, raw: bytearray, others: Sequence[bytes]) -> None:
    for _ in range(rng.randint(1, 12)):
        raw[_place(rng, raw)] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, raw: bytearray, others: Sequence[bytes]) -> None:
    at, length = _place(rng, raw), rng.choice((1, 2, 4, 8, 64))
    block = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length))
    raw[at : at + length] = block[: len(raw) - at]


def remove(rng: random.Random, raw: bytearray, others: Sequence[bytes]) -> None:
    at = _place(rng, raw)
    del raw[at : at + rng.choice((1, 2, 3, 8, 100))]


def insert(rng: random.Random, raw: bytearray, others: Sequence[bytes]) -> None:
    at = _place(rng, raw)
    raw[at:at] = rng.randbytes(rng.choice((1, 2, 3, 8, 100)))


def cut(rng: random.Random, raw: bytearray, others: Sequence[bytes]) -> None:
    del raw[rng.randrange(len(raw) + 1) :]


def misstate_length(rng: random.Random, raw: bytearray, others: Sequence[bytes]) -> None:
    """A length field, or what looks like one, says something else."""
    at = _place(rng, raw)
    for vr in rng.sample((b"UI", b"CS", b"LO", b"DS", b"IS", b"US", b"OW", b"OB", b"SQ", b"UN"), 10):
        found = raw.find(vr, at)
        if found > 0:
            at = found + (4 if vr in (b"OW", b"OB", b"SQ", b"UN") else 2)
            break
    length = rng.choice((0, 1, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 2**31, len(raw), rng.randrange(2**16)))
    raw[at : at + 4] = length.to_bytes(4, "little")


def splice(rng: random.Random, raw: bytearray, others: Sequence[bytes]) -> None:
    """The end of another file behind the beginning of this one."""
    other = rng.choice(others)
    raw[rng.randrange(len(raw) + 1) :] = other[rng.randrange(len(other)) :]


def _place(rng: random.Random, raw: bytearray) -> int:
    """Somewhere in the file, more often in its header than in its pixels."""
    return rng.randrange(min(len(raw), rng.choice((400, 1500, len(raw))))) if raw else 0


BYTE_FAULTS = (flip, flip, overwrite, remove, insert, cut, misstate_length, misstate_length, splice)

# --- faults in the structure --------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 3, 7, 12, 16, 17, 32, 255, 4096, 65535)
TEXTS = (
    "",
    "0",
    "-1",
    "1e9",
    "1e300",
    "NaN",
    "inf",
    "x",
    "1\\2",
    "\\" * 40,
    "A" * 70_000,
    "\0",
    "é%s\n",
    "9" * 400,
)
COUNTS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
)
STRINGS = (
    "NumberOfFrames",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "ImageType",
    "Modality",
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SOPClassUID",
    "Laterality",
)
NO_TEXT = (
    "SequenceOfUltrasoundRegions",
    "ContributingEquipmentSequence",
    "ModalityLUTSequence",
    "PixelPaddingValue",
)


def miscount(rng: random.Random, dataset: Dataset) -> None:
    dataset.add_new(rng.choice(COUNTS), "US", rng.choice(NUMBERS))


def misspell(rng: random.Random, dataset: Dataset) -> None:
    dataset.add_new(rng.choice(STRINGS), rng.choice(("LO", "CS", "UT")), rng.choice(TEXTS))


def mistype(rng: random.Random, dataset: Dataset) -> None:
    """Text where a sequence or a number belongs, a number where text belongs."""
    if rng.random() < 0.5:
        dataset.add_new(rng.choice(NO_TEXT), "LO", rng.choice(TEXTS))
    else:
        dataset.add_new(rng.choice(STRINGS), "FD", rng.choice((float("nan"), float("inf"), 1e300, 0.0)))


def leave_out(rng: random.Random, dataset: Dataset) -> None:
    del dataset[rng.choice(list(dataset.keys()))]


def nest(rng: random.Random, dataset: Dataset) -> None:
    inner = Dataset()
    for _ in range(rng.choice((1, 20, 90))):
        outer = Dataset()
        outer.ReferencedImageSequence = [inner]
        inner = outer
    dataset.ReferencedImageSequence = [inner]


def pollute(rng: random.Random, dataset: Dataset) -> None:
    for number in range(rng.choice((10, 1000))):
        dataset.add_new(0x00110000 + 0x1000 + number, "LO", rng.choice(TEXTS[:9]))


def break_pixels(rng: random.Random, dataset: Dataset) -> None:
    if "PixelData" in dataset:
        kept = dataset.PixelData[: rng.randrange(len(dataset.PixelData) + 1)]
        dataset.PixelData = kept + rng.randbytes(rng.choice((0, 0, 8, 200)))


def reclass(rng: random.Random, dataset: Dataset) -> None:
    image = "1.2.840.10008.5.1.4.1.1."
    dataset.SOPClassUID = image + rng.choice(
        ("7", "2", "4", "1.2", "2.1", "3.1", "66.4", "88.33", "77.1.5.1", "999")
    )


STRUCTURE_FAULTS: tuple[Callable[[random.Random, Dataset], None], ...] = (
    miscount,
    miscount,
    misspell,
    misspell,
    mistype,
    leave_out,
    nest,
    pollute,
    break_pixels,
    reclass,
)


def mutated(rng: random.Random, studies: Sequence[Sound]) -> tuple[Sound, bytes]:
    """A sound study and its first instance with one to four faults."""
    study = rng.choice(studies)
    raw = study.files[0]
    if rng.random() < 0.5:
        raw = _restructured(rng, raw)
    if rng.random() < 0.6 or raw == study.files[0]:
        broken, others = bytearray(raw), [other.files[0] for other in studies]
        for _ in range(rng.randint(1, 3)):
            rng.choice(BYTE_FAULTS)(rng, broken, others)
        raw = bytes(broken)
    return study, raw


def _restructured(rng: random.Random, raw: bytes) -> bytes:
    """Parsed, changed and written, at times under another transfer syntax; as it was where that cannot be written."""
    dataset = pydicom.dcmread(io.BytesIO(raw))
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    try:
        with warnings.catch_warnings(action="ignore"):
            for _ in range(rng.randint(1, 3)):
                rng.choice(STRUCTURE_FAULTS)(rng, dataset)
            written = saved(dataset, syntax)
    except Exception:  # pydicom does not write it so
        return raw
    if rng.random() < 0.1:
        named = rng.choice([s for s in SYNTAXES if len(s) <= len(syntax)] or [syntax])
        written = written.replace(syntax.encode(), named.encode().ljust(len(syntax), b"\0"), 1)
    return written


# --- the reader ---------------------------------------------------------------------------------------------------


def outcomes(
    reader: GuardedReader, studies: Sequence[Sound], seeds: range, folder: Path
) -> Iterator[tuple[int, str]]:
    """Seed and outcome of every mutation: `image`, `ignored`, or the reason codes.

    Raises AssertionError where a sound neighbour is not read.
    """
    neighbour, scratch = folder / "neighbour.dcm", folder / "scratch"
    neighbour.write_bytes(studies[0].files[0])
    for start in range(seeds.start, seeds.stop, _TOGETHER):
        broken: dict[Path, tuple[int, Sound]] = {}
        for seed in range(start, min(start + _TOGETHER, seeds.stop)):
            study, raw = mutated(random.Random(seed), studies)
            path = folder / f"{seed}.dcm"
            path.write_bytes(raw)
            broken[path] = seed, study
        scan = reader.scan([path for pair in broken for path in (pair, neighbour)])
        read = {header.path for header in scan.instances} - {neighbour}
        if len(scan.instances) - len(read) != len(broken) or len(read) + len(scan.unreadable) != len(broken):
            raise AssertionError(f"a mutation from seed {start} on harmed its neighbours")
        for path, refusal in zip(scan.unreadable_paths, scan.unreadable, strict=True):
            yield broken[path][0], f"{refusal.code.value} (header)"
        for path in sorted(read):
            seed, study = broken[path]
            others = [folder / f"other-{number}.dcm" for number in range(1, len(study.files))]
            for other, content in zip(others, study.files[1:], strict=True):
                other.write_bytes(content)
            yield seed, _assembled(reader, [path, *others], scratch)
            for left in scratch.glob("*"):
                left.unlink()
        for path in broken:
            path.unlink()


def _assembled(reader: GuardedReader, paths: Sequence[Path], scratch: Path) -> str:
    try:
        assembly = reader.assemble(paths, scratch)
    except Refused as reason:
        return f"{reason.code} (study)"
    for image in assembly.images:
        float(np.asarray(image.array).max())  # what was written can be read
    codes = sorted({refusal.code.value for refusal in assembly.refused})
    return ", ".join(codes) or ("image" if assembly.images else "ignored" if assembly.ignored else "nothing")


def main() -> None:
    """Reads all mutations with one reader and counts what became of them; a scan's time counts to its first outcome."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts, slowest = collections.Counter[str](), (0.0, 0)
    with tempfile.TemporaryDirectory(prefix="medpipe-files-") as name, GuardedReader(LIMITS) as reader:
        folder = Path(name)
        studies = sound_studies(folder)
        reader.warm_up()
        began = last = time.monotonic()
        for seed, outcome in outcomes(
            reader, studies, range(options.seed, options.seed + options.mutations), folder
        ):
            counts[outcome] += 1
            now = time.monotonic()
            slowest, last = max(slowest, (now - last, seed)), now
            if sum(counts.values()) % 200 == 0:
                print(f"{sum(counts.values())}: {counts.most_common(4)}", file=sys.stderr)
        seconds = last - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print("| outcome | mutations |\n| --- | ---: |")
    for outcome, count in counts.most_common():
        print(f"| {outcome} | {count} |")
    print(
        f"\n{options.mutations} mutations of {len(studies)} studies, seed {options.seed}: {seconds:.0f} s, slowest"
        f" {slowest[0]:.1f} s (seed {slowest[1]}), largest process of the reader {peak:.0f} MiB; {os.cpu_count()} cores"
    )
    if counts["nothing"] or peak > LIMITS.memory / 2**20 + 300:
        sys.exit("a mutation got through without an outcome, or the reader took too much memory")


if __name__ == "__main__":
    main()
