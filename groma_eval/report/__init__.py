"""A browsable report of finished runs: a folder with ``index.html`` that needs no server and no network.

Everything comes from the store, and from the pictures at the paths it recorded. What a model answered and what files
are called is untrusted: it reaches the page as data alone (:mod:`groma_eval.report.escape`).
"""

from groma_eval.report.site import Written, write_report

__all__ = ["Written", "write_report"]
