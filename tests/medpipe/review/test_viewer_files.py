"""OHIF's files: only what was fetched whole and as pinned, served so that a page can run offline and confined."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile

import pytest

from medpipe.config import Review
from medpipe.errors import IntegrityError
from medpipe.review import viewer_package
from medpipe.review.viewer_package import fetch, is_fetched, viewer_folder


def package(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """A small package, pinned for this test, and the folder that it was unpacked to."""
    script = b"let x = 1;\n" * 500
    content = package(
        {
            "package/LICENSE": b"MIT",
            "package/package.json": b"{}",
            "package/dist/index.html": b"<html>",
            "package/dist/app.bundle.js": script,
            "package/dist/app.bundle.js.map": b"map",
            "package/dist/ort/model.wasm": b"large",
            "package/dist/sw.js": b"importScripts('https://elsewhere')",
            "package/dist/../../escaped.js": b"out",
            "package/dist/assets/icon.png": b"png",
        }
    )
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setattr(viewer_package, "INTEGRITY", f"sha512-{digest}")
    file = tmp_path / "package.tgz"
    file.write_bytes(content)
    folder = fetch(tmp_path / "here" / "ohif", file)
    return folder, file, script


def test_only_what_is_used_is_unpacked(fetched, tmp_path):
    folder, _, _ = fetched
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "LICENSE",
        "index.html",
        "app.bundle.js",
        "app.bundle.js.gz",
        "assets/icon.png",
        ".complete",
    }
    assert not list(tmp_path.rglob("escaped.js"))


def test_once_fetched_nothing_is_done_again(fetched):
    folder, file, _ = fetched
    file.unlink()
    assert is_fetched(folder) and fetch(folder, file) == folder


def test_another_content_than_pinned_is_refused(fetched, tmp_path):
    _, file, _ = fetched
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match=r"package\.tgz: not @ohif/app .* as pinned"):
        fetch(tmp_path / "elsewhere", file)
    assert not (tmp_path / "elsewhere").exists()


def test_an_unpacking_that_was_cut_off_does_not_count(fetched):
    folder, file, _ = fetched
    (folder / ".complete").unlink()
    (folder / "index.html").write_bytes(b"half")
    assert not is_fetched(folder)
    assert (fetch(folder, file) / "index.html").read_bytes() == b"<html>"


def test_the_settings_name_another_folder(tmp_path):
    assert viewer_folder(Review(viewer=tmp_path)) == tmp_path
    assert viewer_package.VERSION in str(viewer_folder(Review()))


def test_the_root_is_the_worklist(browser):
    assert browser().get("/").headers["location"] == "/app"


def test_addresses_of_the_viewer_get_its_page_with_a_policy_for_its_own_scripts(browser):
    answer = browser().get("/viewer?StudyInstanceUIDs=1.2.3")
    digest = base64.b64encode(hashlib.sha256(b"window.PUBLIC_URL='/'").digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert (
        f"'sha256-{digest}'" in policy
        and "connect-src 'self' data: blob:;" in policy
        and "http" not in policy
    )
    assert answer.headers["cache-control"] == "no-cache"


def test_a_script_is_kept_for_good_and_sent_packed(browser):
    answer = browser().get("/app.bundle.0123456789abcdef.js", headers={"accept-encoding": "identity"})
    assert answer.headers["content-type"].startswith("text/javascript") and len(answer.content) == 6000
    assert "immutable" in answer.headers["cache-control"]
    with browser().stream(
        "GET", "/app.bundle.0123456789abcdef.js", headers={"accept-encoding": "gzip"}
    ) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        assert b"".join(packed.iter_raw()) == b"\x1f\x8b packed"


def test_a_codec_has_the_type_that_browsers_want(browser):
    assert browser().get("/fedcba9876543210.wasm").headers["content-type"] == "application/wasm"


def test_the_viewers_settings_are_ours(browser):
    text = browser().get("/app-config.js").text
    assert "wadoRoot: '/dicom-web'" in text and "showStudyList: false" in text


@pytest.mark.parametrize(
    "path",
    ["/app/nothing", "/api/nothing", "/missing.js", "/.complete", "/../medpipe.toml", "/%2e%2e/medpipe.toml"],
)
def test_what_was_not_fetched_is_not_there(browser, path):
    assert browser().get(path).status_code == 404


def test_without_the_viewer_the_worklist_says_how_to_get_it(browser, case, viewer_files):
    (viewer_files / ".complete").unlink()
    case().save()
    client = browser()
    assert "medpipe fetch-viewer" in client.get("/app").text and 'class="open"' not in client.get("/app").text
    assert "medpipe fetch-viewer" in client.get("/viewer").text
