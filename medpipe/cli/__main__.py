"""`python -m medpipe.cli` is the `medpipe` command."""

from medpipe.cli import main

main()
