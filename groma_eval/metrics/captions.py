"""Caption metrics: CIDEr and METEOR (exact + stem), both x100 over ``{id: text}`` and ``{id: [reference, ...]}``."""

from groma_eval.metrics.cider import cider
from groma_eval.metrics.meteor import meteor
from groma_eval.metrics.ptb import ptb_tokens

__all__ = ["cider", "meteor", "ptb_tokens"]
