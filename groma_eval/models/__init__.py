"""Model adapters: everything the harness can put a question to.

:func:`load` turns a name into an adapter, :func:`available` lists the names, :func:`register` adds one for this
process; packages add theirs with an entry point in the group ``groma_eval.models``. An adapter may have one method
beside :meth:`groma_eval.core.Model.answer`: ``prepare(samples)``, which the run loop calls once a benchmark with *all*
its samples (also those already answered, when a run is continued) before the first batch.
"""

from __future__ import annotations

from groma_eval.models.registry import available, load, register

__all__ = ["available", "load", "register"]
