"""The processes and what they share: listener, spool, registry, jobs, supervisor."""
