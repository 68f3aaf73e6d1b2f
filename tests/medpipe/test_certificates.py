"""Until when certificates are valid: of real ones as openssl says, and of no file that is none."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from local_authority import LocalAuthority

from medpipe.certificates import validities
from medpipe.errors import ConfigError


def says_openssl(path: Path) -> tuple[datetime, datetime]:
    done = subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-startdate", "-enddate"],
        capture_output=True,
        text=True,
        check=True,
    )
    dates = [line.partition("=")[2] for line in done.stdout.splitlines()]
    begins, ends = (datetime.strptime(text, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC) for text in dates)
    return begins, ends


@pytest.mark.parametrize("days", [2, 29, -1, 3650, 20_000], ids="{} days".format)
def test_as_openssl_says(authority: LocalAuthority, days: int) -> None:
    """20,000 days end after 2049, where the form of the time is another one (RFC 5280 section 4.1.2.5)."""
    path = authority.issue(f"days{days}", days=days).certificate
    (found,) = validities("key", path)
    assert (found.begins, found.ends) == says_openssl(path)


def test_a_file_with_the_authorities_above(authority: LocalAuthority, tmp_path: Path) -> None:
    path, own = tmp_path / "chain.pem", authority.issue("chained", days=5).certificate
    path.write_text("some words that openssl prints\n" + own.read_text() + authority.ca.read_text())
    assert [one.ends for one in validities("key", path)] == [
        says_openssl(own)[1],
        says_openssl(authority.ca)[1],
    ]


def test_what_is_no_certificate(authority: LocalAuthority, tmp_path: Path) -> None:
    key, path = authority.issue("keyed").private_key, tmp_path / "bad.pem"
    with pytest.raises(ConfigError, match=r"listener.tls.certificate: .* holds no certificate"):
        validities("listener.tls.certificate", key)
    with pytest.raises(ConfigError, match="cannot be read"):
        validities("x", tmp_path / "absent.pem")
    sound = authority.ca.read_text().splitlines()
    for body in (["AAAA"], sound[1:3], ["MIIB" + "A" * 20], [""], ["####"]):
        path.write_text("\n".join([sound[0], *body, sound[-1]]))
        with pytest.raises(ConfigError, match="holds a certificate that cannot be read"):
            validities("x", path)
