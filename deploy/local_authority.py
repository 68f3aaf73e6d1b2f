"""A certificate authority in a folder, made with the openssl command: for tests and trials, not for a hospital."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files."""

    certificate: Path
    private_key: Path

    def settings(self) -> dict[str, str]:
        """As keys of a table in medpipe.toml."""
        return {"certificate": str(self.certificate), "private_key": str(self.private_key)}


def openssl_program() -> str | None:
    return shutil.which("openssl")


class LocalAuthority:
    """Signs certificates. `ca` is its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = self.self_signed(name)
        self.ca = self._own.certificate

    def issue(
        self, name: str, alternative: str = "IP:127.0.0.1,DNS:localhost", *, days: int = 2, usage: str = ""
    ) -> Identity:
        """A certificate that ends `days` from now (negative: it has expired), for these alternative names.

        `usage` is its extended key usage, such as serverAuth; without one it is good for both sides.
        """
        made, request = self._place(name), self._folder / f"{name}.csr"
        extensions = ["-addext", f"subjectAltName={alternative}"]
        extensions += ["-addext", f"extendedKeyUsage={usage}"] if usage else []
        self._openssl(
            "req", *_NEW_KEY, made.private_key, "-out", request, "-subj", f"/CN={name}", *extensions
        )
        signed = ["-CA", self._own.certificate, "-CAkey", self._own.private_key, "-CAcreateserial"]
        self._openssl("x509", "-req", "-in", request, *signed, "-copy_extensions", "copyall", "-days", days,
                      "-out", made.certificate)  # fmt: skip
        return made

    def self_signed(self, name: str) -> Identity:
        """A certificate that nobody else has signed."""
        made = self._place(name)
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        self._openssl("req", "-x509", *_NEW_KEY, made.private_key, "-out", made.certificate, "-days", 2,
                      "-subj", f"/CN={name}", *names)  # fmt: skip
        return made

    def locked(self, identity: Identity, word: str) -> Identity:
        """The same certificate, its key under a passphrase in a file of its own."""
        key = identity.private_key.with_suffix(".locked.key")
        self._openssl("pkey", "-in", identity.private_key, "-aes256", "-passout", f"pass:{word}", "-out", key)
        return Identity(identity.certificate, key)

    def _place(self, name: str) -> Identity:
        return Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def _openssl(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, text=True)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout")
