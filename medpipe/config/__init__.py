"""A site's settings: one TOML file, typed and checked (medpipe.config.settings), table by table."""

from medpipe.config.audit import Audit
from medpipe.config.faults import describe
from medpipe.config.network import Listener, ListenerTls, OrthancRest, Peer, PeerTls
from medpipe.config.processing import Reading, Results, Site, Worker
from medpipe.config.reporting import Alerts, Logs, Mail, Webhook
from medpipe.config.review import SCRYPT_FORM, Review
from medpipe.config.rules import Condition, Matches, Range, Rule, Scalar
from medpipe.config.secrets import files_of, is_open_to_others, secret, secrets_of
from medpipe.config.settings import Config, find_config, load_config, masked, parse_config
from medpipe.config.values import AETitle, Name, Port, Section, Size, is_loopback, parse_size

__all__ = [
    "SCRYPT_FORM",
    "AETitle",
    "Alerts",
    "Audit",
    "Condition",
    "Config",
    "Listener",
    "ListenerTls",
    "Logs",
    "Mail",
    "Matches",
    "Name",
    "OrthancRest",
    "Peer",
    "PeerTls",
    "Port",
    "Range",
    "Reading",
    "Results",
    "Review",
    "Rule",
    "Scalar",
    "Section",
    "Site",
    "Size",
    "Webhook",
    "Worker",
    "describe",
    "files_of",
    "find_config",
    "is_loopback",
    "is_open_to_others",
    "load_config",
    "masked",
    "parse_config",
    "parse_size",
    "secret",
    "secrets_of",
]
