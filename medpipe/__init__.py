"""What is done with one study, as a library: no queue, no daemon, no global state."""

__version__ = "0.1.0"
