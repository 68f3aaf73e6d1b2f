"""The Orthanc settings of deploy/compose.yaml, read by an Orthanc: the password comes from its environment."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from local_orthanc import HERE, LocalOrthanc, RestError


def test_the_password_comes_from_the_environment(
    start_orthanc: Callable[..., LocalOrthanc], monkeypatch: pytest.MonkeyPatch
) -> None:
    composed: dict[str, Any] = json.loads((HERE / "orthanc" / "compose.json").read_text())
    monkeypatch.setenv("ORTHANC_PASSWORD", "from the environment")
    monkeypatch.setattr(LocalOrthanc, "_answers", lambda self: _status(self, "from the environment") == 200)
    kept = ("RegisteredUsers", "DicomModalities", "RemoteAccessAllowed")
    orthanc = start_orthanc(settings={key: composed[key] for key in kept})
    assert _status(orthanc, "${ORTHANC_PASSWORD}") == 401
    with pytest.raises(RestError):
        orthanc.get("/system")  # nor is any other password let in
    orthanc.password = "from the environment"
    assert orthanc.get("/modalities/medpipe/configuration")["Host"] == "listener"


def _status(orthanc: LocalOrthanc, password: str) -> int:
    token = base64.b64encode(f"medpipe:{password}".encode()).decode()
    request = urllib.request.Request(orthanc.url + "/system", headers={"Authorization": f"Basic {token}"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0
