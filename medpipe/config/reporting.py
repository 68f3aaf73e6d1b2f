"""What the processes say of themselves: how the log is written."""

from __future__ import annotations

from typing import Literal

from medpipe.config.values import Section


class Logs(Section):
    """`auto`: lines for a person where stderr is a terminal, else one JSON object per line."""

    format: Literal["auto", "json", "text"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    uids: Literal["hashed", "plain"] = "hashed"
