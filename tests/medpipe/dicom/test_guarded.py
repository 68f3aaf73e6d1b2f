"""Foreign bytes are parsed in a limited child: whatever they are, neighbours and parent live on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from medpipe.config import Reading
from medpipe.dicom import GuardedReader
from medpipe.errors import DiskFull, Refused
from medpipe.samples import wrap_photo, write_study

EXPLICIT, DEFLATED = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"


@pytest.fixture(scope="module")
def reader() -> Iterator[GuardedReader]:
    with GuardedReader(Reading(memory=700_000_000, seconds=20)) as made:
        yield made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return write_study("fundus", folder, seed=1, width=320, height=256).files[0]


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    if vr in (b"OB", b"OW", b"SQ", b"UN"):
        return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def part10(syntax: bytes, body: bytes) -> bytes:
    meta = element(2, 0x10, b"UI", syntax)
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + body


def identified(extra: bytes) -> bytes:
    return (
        element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0") + element(8, 0x18, b"UI", b"1.2.3\0") + extra
    )


def nested(depth: int) -> bytes:
    start = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return start * depth + end * depth


def bomb() -> bytes:
    """2 GB of zeros: after a full flush a megabyte of them is the same bytes each time, so one is squeezed."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    out = squeeze.compress(identified(b"")[:20]) + squeeze.flush(zlib.Z_FULL_FLUSH)
    megabyte = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return out + 2000 * megabyte + squeeze.flush()


HOSTILE = {
    "nested 300": lambda: part10(EXPLICIT, identified(nested(300))),
    "nested 10000": lambda: part10(EXPLICIT, identified(nested(10_000))),
    "deflate bomb": lambda: part10(DEFLATED, bomb()),
    "garbage": lambda: bytes(range(256)) * 40,
    "nothing": lambda: b"",
    "executable": lambda: b"MZ" + bytes(126) + b"DICM" + bytes(64),
    "lying length": lambda: part10(
        EXPLICIT, identified(struct.pack("<HH2sHI", 0x10, 0x1001, b"UN", 0, 0xFFFFFFF0))
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_its_neighbours_are_read(
    name: str, reader: GuardedReader, good: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(HOSTILE[name]())
    scan = reader.scan([good, bad, good])
    assert [header.path for header in scan.instances] == [good, good]
    assert scan.unreadable_paths == (bad,)
    assert scan.unreadable[0].code.value in {
        "UNREADABLE",
        "NOT_DICOM",
        "BAD_HEADER",
        "MEMORY_LIMIT",
        "TIME_LIMIT",
    }


def test_a_file_cut_anywhere_is_read_or_refused_with_a_reason(
    reader: GuardedReader, good: Path, tmp_path: Path
) -> None:
    whole = good.read_bytes()
    for sixteenth in range(16):
        cut = tmp_path / f"{sixteenth}.dcm"
        cut.write_bytes(whole[: len(whole) * sixteenth // 16])
        scan = reader.scan([cut])
        if scan.instances:
            assembly = reader.assemble([cut], tmp_path / f"scratch-{sixteenth}")
            assert assembly.images or assembly.refused


def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(good: Path, tmp_path: Path) -> None:
    with GuardedReader(Reading(maximum_pixels=1000)) as strict:
        assembly = strict.assemble([good], tmp_path)
    assert [quarantine.code.value for quarantine in assembly.refused] == ["TOO_LARGE"]


def test_the_child_is_started_again_when_somebody_kills_it(good: Path) -> None:
    with GuardedReader(Reading()) as reader:
        reader.warm_up()
        first = reader._child
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert len(reader.scan([good]).instances) == 1
        second = reader._child
        assert second is not None and second.pid != first.pid
    assert second.poll() is not None  # it ends with its parent's end of the pipe


def test_the_child_of_a_parent_that_was_killed_ends_without_a_word() -> None:
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "medpipe.dicom.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.close()  # nobody will read that it is ready
    _, said = child.communicate(timeout=60)
    assert said == b"" and child.returncode != 0


def test_a_full_disk_is_not_the_files_fault(reader: GuardedReader, tmp_path: Path) -> None:
    """Neither the picture nor the volume is refused for it: the whole study is to be read again."""
    small = tmp_path / "small"
    small.mkdir()
    with small_disk(small, 64):
        for kind, size in (("fundus", {"width": 320, "height": 256}), ("ct", {})):
            files = write_study(kind, tmp_path / kind, seed=1, **size).files
            with pytest.raises(DiskFull, match="the reader could not read or write"):
                reader.assemble(files, small / kind)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of so many kB, where we may make one."""
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "medpipe-test", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(["mount", *options]).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_the_time_limit_ends_a_reader_that_hangs(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.dcm"
    os.mkfifo(pipe)  # opening it for reading waits for ever
    with GuardedReader(Reading(seconds=1)) as reader:
        (refusal,) = reader.scan([pipe]).unreadable
    assert refusal.code.value == "TIME_LIMIT"


def test_a_drawn_photograph_is_read_as_it_was_drawn(
    reader: GuardedReader, good: Path, tmp_path: Path
) -> None:
    (image,) = reader.assemble([good], tmp_path).images
    assert image.array.shape == (3, 1, 256, 320) and image.array.dtype == np.uint8
    assert not image.grid.spatial and not image.calibrated and image.laterality in ("L", "R")


def test_a_camera_picture_is_turned_as_its_exif_says(reader: GuardedReader, tmp_path: Path) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 30:, 0] = 255  # red on the right
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    PillowImage.fromarray(picture).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    image = reader.picture(tmp_path / "turned.jpg", tmp_path / "scratch")
    assert image.array.shape == (3, 1, 40, 20)
    assert image.array[0, 0, 35, 10] > 200 > image.array[0, 0, 5, 10]  # red at the bottom


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_is_transparent_is_black(reader: GuardedReader, tmp_path: Path, mode: str) -> None:
    """Beneath it files hold white, or anything: the ground of a photograph that somebody cut out."""
    picture = np.full((20, 40, 4), 255, np.uint8)
    picture[:, 20:] = (200, 90, 30, 255)
    picture[:, :20, 3] = 0
    PillowImage.fromarray(picture).convert(mode).save(tmp_path / "cut.png")
    if mode == "P":
        PillowImage.fromarray(picture[..., :3]).quantize(2).save(tmp_path / "cut.png", transparency=0)
        with PillowImage.open(tmp_path / "cut.png") as saved:
            white = int(np.asarray(saved)[0, 0])
            saved.save(tmp_path / "cut.png", transparency=white)
    array = reader.picture(tmp_path / "cut.png", tmp_path / "scratch").array[:, 0]
    assert (array[:, :, :20] == 0).all()
    assert np.abs(array[:, 10, 30].astype(int) - (200, 90, 30)).max() <= 2


def jpeg_of_two(path: Path, kind: int) -> Path:
    """A JPEG with a smaller second picture of a type of the Multi-Picture Format (CIPA DC-007)."""
    first = PillowImage.new("RGB", (96, 64), (200, 90, 30))
    first.save(path, "MPO", save_all=True, append_images=[first.resize((48, 32))])
    raw = path.read_bytes()
    segment = raw.index(b"MPF\0") - 2
    length = int.from_bytes(raw[segment : segment + 2], "big")
    second = len(raw[: segment + length].rstrip(b" ")) - 16  # its last entry, before spaces that fill it up
    path.write_bytes(raw[:second] + struct.pack("<L", kind) + raw[second + 4 :])
    return path


def tiff_of_two(path: Path, subfile_type: int) -> Path:
    first = PillowImage.new("RGB", (96, 64), (200, 90, 30))
    second = first.resize((48, 32))
    second.encoderinfo = {"tiffinfo": {254: subfile_type}}
    first.save(path, save_all=True, append_images=[second])
    return path


def test_smaller_copies_for_a_cameras_display_are_passed_over(reader: GuardedReader, tmp_path: Path) -> None:
    for file in (
        jpeg_of_two(tmp_path / "vga.jpg", 0x010001),
        jpeg_of_two(tmp_path / "hd.jpg", 0x010002),
        tiff_of_two(tmp_path / "copy.tif", 1),
    ):
        array = reader.picture(file, tmp_path / "scratch").array
        assert array.shape == (3, 1, 64, 96) and abs(int(array[0].mean()) - 200) <= 3
        assert wrap_photo(file, tmp_path / "photo.dcm").is_file()


def test_several_pictures_in_one_file_are_refused(reader: GuardedReader, tmp_path: Path) -> None:
    for file in (
        jpeg_of_two(tmp_path / "stereo.jpg", 0x020002),
        jpeg_of_two(tmp_path / "undefined.jpg", 0),
        tiff_of_two(tmp_path / "pages.tif", 0),
    ):
        for read in (
            lambda file=file: reader.picture(file, tmp_path / "scratch"),
            lambda file=file: wrap_photo(file, tmp_path / "photo.dcm"),
        ):
            with pytest.raises(Refused, match="several pictures") as refusal:
                read()
            assert refusal.value.code == "MULTIFRAME"


def test_what_is_no_picture_is_refused(reader: GuardedReader, tmp_path: Path) -> None:
    (tmp_path / "not.png").write_bytes(b"not a picture")
    with pytest.raises(Refused, match="does not decode"):
        reader.picture(tmp_path / "not.png", tmp_path / "scratch")


NOISY = """
import os
from medpipe.dicom import child

def noisy(request, tell):
    os.write(1, b"a decoder's own words\\n")  # as C libraries do, past sys.stdout
    tell({"answer": 1})

child.OPERATIONS["noisy"] = noisy
child.main()
"""


def test_what_a_decoder_prints_does_not_get_between_the_answers() -> None:
    request = {"operation": "noisy", "limits": Reading().model_dump(mode="json")}
    told = subprocess.run(
        [sys.executable, "-c", NOISY],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    assert answers[1:] == [{"answer": 1}, {"end": True}]
