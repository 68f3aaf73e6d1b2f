"""Backup and restore of a whole site in one tar file, while the line is running.

settings/medpipe.toml         the settings in force, secrets hidden: to read, not to restore
reconcile/, audit/, spool/,
outbox/, commitments/         files as they lie under `site.root`
database/medpipe.sqlite       (or medpipe.pgdump, pg_dump's custom format) the registry and the engine's queue
manifest.json                 versions, bundles, what the files belong to
SHA256SUMS                    of all of these, as `sha256sum --check` reads it
SHA256SUMS.sha256             the last member: a backup without it was not finished
"""

from workers.backup.archive import Backup, Manifest, verify
from workers.backup.restoring import restore
from workers.backup.taking import take

__all__ = ["Backup", "Manifest", "restore", "take", "verify"]
