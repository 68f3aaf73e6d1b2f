"""What `medpipe doctor` looks at: everything that a site needs to work, each thing in one line with what to do.

Nothing is changed by looking: no table is made, no file is left, no object is sent; a test alert only if asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from medpipe.config import Config
from medpipe.errors import PeerUnreachable
from medpipe.routing import check_rules as check_keywords
from workers.selftest.alerting import check_alerts
from workers.selftest.check import Check, State
from workers.selftest.credentials import check_certificates, check_secrets
from workers.selftest.machine import check_bundles, check_device, check_disk, check_memory, check_programs
from workers.selftest.network import check_listener, check_peer, check_repository
from workers.selftest.tables import check_database

__all__ = ["Check", "State", "check_site", "exit_code"]


def check_site(config: Config, *, quick: bool = False, send_test_alert: bool = False) -> Iterator[Check]:
    """All checks, each as it is done; `quick` leaves out the bundles' golden cases, `send_test_alert` tells somebody.

    Raises ConfigError where a rule asks for what cannot be.
    """
    yield from check_rules(config)
    yield from check_programs()
    yield from check_disk(config)
    yield from check_memory(config)
    yield from check_secrets(config)
    yield from check_certificates(config)
    yield from check_database(config)
    yield from check_listener(config)
    for name, peer in config.peers.items():
        yield from check_peer(config, name, peer)
    yield from check_repository(config)
    yield from check_alerts(config, send=send_test_alert)
    yield from check_device(config)
    yield from check_bundles(config, quick)


def exit_code(checks: list[Check]) -> int:
    """0 all well (notes included), 4 something does not answer, 1 anything else is wrong."""
    states = {check.state for check in checks}
    if State.FAILED in states:
        return 1
    return PeerUnreachable.exit_code if State.AWAY in states else 0


def check_rules(config: Config) -> Iterator[Check]:
    check_keywords(config.rules)
    if not config.rules:
        yield Check("rules", State.NOTE, "none: every series is ignored", "add [[rules]] (docs/rules.md)")
        return
    silent = [rule.name for rule in config.rules if not rule.send]
    if silent:
        yield Check(
            "rules", State.NOTE, f"send nothing anywhere: {', '.join(silent)}", 'add send = ["PEER"] to them'
        )
    else:
        yield Check("rules", State.OK, f"{len(config.rules)} in the settings")
