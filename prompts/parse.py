"""From a model's words to a label: the rule itself lives in `store.labels`, which adapters share."""

from store.labels import parse_answer as parse_answer

__all__ = ["parse_answer"]
