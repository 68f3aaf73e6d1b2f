"""Faults of a settings file in a person's words: one line each, with the key, the value and what is allowed."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from medpipe.config.audit import Audit
from medpipe.config.network import Listener, ListenerTls, OrthancRest, Peer, PeerTls
from medpipe.config.processing import Reading, Results, Site, Worker
from medpipe.config.reporting import Alerts, Logs, Mail, Webhook
from medpipe.config.review import Review
from medpipe.config.rules import Rule
from medpipe.config.values import Section


def describe(error: ValidationError) -> list[str]:
    """One line per fault: key, what is wrong, the value given, and for an unknown key the known ones."""
    lines: dict[str, str] = {}
    for fault in error.errors():
        location = [part for part in fault["loc"] if not (isinstance(part, str) and part in _UNION_TAGS)]
        key = ".".join(str(part) for part in location) or "(whole file)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            known = _known_keys(location[:-1])
            message = "unknown key" + (f"; known here: {', '.join(known)}" if known else "")
        elif fault["type"] not in ("missing", "secret") and location and not _SECRET & {*map(str, location)}:
            message += _given(fault.get("input"))
        lines.setdefault(key, f"{key}: {message}")
    return list(lines.values())


_SECRET = {"users", "dicomweb", "review", "webhook"}
"""What is given under these keys is not repeated in messages: it may hold a password or its hash."""
_LOGIN = re.compile(r"//\S*@")
_UNION_TAGS = {"str", "int", "float", "bool", "list[union[str,int,float,bool]]", "Range", "Matches"}
_SECTIONS: dict[str, type[Section]] = {
    "site": Site,
    "listener": Listener,
    "worker": Worker,
    "reading": Reading,
    "results": Results,
    "review": Review,
    "audit": Audit,
    "logs": Logs,
    "alerts": Alerts,
    "peers": Peer,
    "rules": Rule,
}
_TABLES: dict[tuple[str, str], type[Section]] = {
    ("listener", "tls"): ListenerTls,
    ("audit", "tls"): PeerTls,
    ("peers", "tls"): PeerTls,
    ("peers", "orthanc"): OrthancRest,
    ("alerts", "webhook"): Webhook,
    ("alerts", "mail"): Mail,
}
"""Tables within them, by the last part of their place."""


def _known_keys(location: list[Any]) -> list[str]:
    if not location:
        return list(_SECTIONS)
    section = _TABLES.get((str(location[0]), str(location[-1])), _SECTIONS.get(str(location[0])))
    return list(section.model_fields) if section is not None else []


def _given(value: object) -> str:
    """What stands there, without a user and a password in an address; of a whole table nothing."""
    if isinstance(value, dict):
        return ""
    text = _LOGIN.sub("//***@", repr(value))
    return f" (given: {text if len(text) <= 60 else text[:57] + '...'})"
