"""Passages that answer a question: by meaning, by words or both, behind filters, tenant by tenant."""

from llmjobs.embeddings.search.hits import Hit, Mode, Plan
from llmjobs.embeddings.search.question import search, search_with_plan
from llmjobs.embeddings.search.statistics import open_to_search, refresh_statistics

__all__ = ["Hit", "Mode", "Plan", "open_to_search", "refresh_statistics", "search", "search_with_plan"]
