"""TLS of DICOM connections, in and out (RFC 9325, which is BCP 195; PS3.15 annex B): contexts, and what went wrong.

TLS 1.2 and 1.3, forward secrecy and authenticated encryption only. Whom to trust is what the settings name, never
the system's list: a hospital's DICOM network has its own authority.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from pydantic import SecretStr

from medpipe.certificates import validities
from medpipe.errors import ConfigError

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all sound."""
_CERTIFICATE, _PRIVATE_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


class _Encrypted(Exception):
    """OpenSSL would ask the terminal for a password."""


def listening_context(
    place: str, certificate: Path, private_key: Path, ca: Path | None, passphrase: SecretStr | None = None
) -> ssl.SSLContext:
    """For who is called. With `ca`, a caller must show a certificate that it has signed.

    `place` is the table in the settings, for messages; `passphrase` opens the key. Raises ConfigError
    where a file cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    _identify(context, place, certificate, private_key, passphrase)
    context.num_tickets = 0  # associations are long: resuming sessions gains nothing
    if ca is not None:
        _trust(context, place, ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def calling_context(
    place: str,
    ca: Path,
    certificate: Path | None = None,
    private_key: Path | None = None,
    passphrase: SecretStr | None = None,
) -> ssl.SSLContext:
    """For who calls: the other side's certificate and its name are checked. Raises ConfigError like the above."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)  # which requires a certificate, and the right name in it
    _trust(context, place, ca)
    if certificate is not None and private_key is not None:
        _identify(context, place, certificate, private_key, passphrase)
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    # what `ca` names is trusted as it stands, be it an authority below another one or a single certificate
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _trust(context: ssl.SSLContext, place: str, ca: Path) -> None:
    _look(f"{place}.ca", ca, _CERTIFICATE, "certificate")
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ConfigError(f"{place}.ca: {ca} cannot be used ({_reason(error)})") from error


def _identify(
    context: ssl.SSLContext, place: str, certificate: Path, private_key: Path, passphrase: SecretStr | None
) -> None:
    _look(f"{place}.certificate", certificate, _CERTIFICATE, "certificate")
    _look(f"{place}.private_key", private_key, _PRIVATE_KEY, "private key")

    def password() -> str:
        if passphrase is None:
            raise _Encrypted
        return passphrase.get_secret_value()

    try:
        context.load_cert_chain(certificate, private_key, password)
    except _Encrypted:
        raise ConfigError(
            f"{place}.private_key: {private_key} asks for a password: name its file with passphrase_file"
        ) from None
    except ssl.SSLError as error:
        if passphrase is not None and not error.reason:  # OpenSSL does not say which file: ours to find out
            validities(f"{place}.certificate", certificate)
            raise ConfigError(f"{place}.passphrase: it does not open {private_key}") from None
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise ConfigError(
                f"{place}.private_key: {private_key} is not the key of {place}.certificate ({certificate})"
            ) from error
        raise ConfigError(
            f"{place}.certificate, {place}.private_key: cannot be used ({_reason(error)})"
        ) from error


def _look(key: str, path: Path, mark: bytes, what: str) -> None:
    """OpenSSL says neither which file it means nor what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror})") from error
    if mark not in content:
        raise ConfigError(f"{key}: {path} holds no {what} in PEM form")


def trouble(error: OSError) -> str:
    """What is wrong with the other side, as a sentence that follows "it". Nothing that it sent is repeated."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"shows a certificate that is not trusted: {_verification(error)}"
    if isinstance(error, ssl.SSLEOFError):
        return "broke off the TLS handshake"
    if isinstance(error, TimeoutError):
        return "does not answer the TLS handshake"
    if not isinstance(error, ssl.SSLError):
        return f"broke off the TLS handshake ({error.strerror or 'connection lost'})"
    reason = error.reason or ""
    if reason in _SENTENCES:
        return _SENTENCES[reason]
    if distrusts_us(error):
        return f"does not accept our certificate ({_reason(error)})"
    return f"cannot agree with us on TLS ({_reason(error)})"


def distrusts_us(error: OSError) -> bool:
    """Whether it is our certificate, or that we have none, that the other side complains about."""
    reason = error.reason or "" if isinstance(error, ssl.SSLError) else ""
    return "_ALERT_" in reason and any(word in reason for word in ("CERT", "UNKNOWN_CA"))


_SENTENCES = {
    "WRONG_VERSION_NUMBER": "does not speak TLS",
    "PACKET_LENGTH_TOO_LONG": "does not speak TLS",
    "RECORD_LAYER_FAILURE": "does not speak TLS",
    "HTTP_REQUEST": "speaks HTTP, not TLS",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "shows no certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "refuses the TLS handshake: it may ask for a certificate, or know no sound cipher",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "asks for a certificate, and we have none for it",
    "UNSUPPORTED_PROTOCOL": "speaks only TLS older than 1.2",
    "NO_SHARED_CIPHER": "has no cipher that is sound",
}


def _verification(error: ssl.SSLCertVerificationError) -> str:
    message = str(error.verify_message).rstrip(".")
    return message[:1].lower() + message[1:] if message[1:2].islower() else message


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "no reason given").replace("_", " ").lower()
