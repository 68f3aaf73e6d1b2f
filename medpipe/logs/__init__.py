"""The log: one line per event, without patient data; what every process says of itself on stderr."""

from medpipe.logs.begin import begin, catch_all
from medpipe.logs.discretion import pseudonym
from medpipe.logs.events import Event, about, concerning

__all__ = ["Event", "about", "begin", "catch_all", "concerning", "pseudonym"]
