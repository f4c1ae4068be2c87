"""Results as rich tables for a terminal, and as text and Markdown."""

from fastconv.tables.alternatives import alternatives
from fastconv.tables.common import as_markdown, as_text
from fastconv.tables.compare import comparison, report, speedups
from fastconv.tables.cost import costs, layer_costs
from fastconv.tables.demo import predictions, verdict
from fastconv.tables.doctor import findings
from fastconv.tables.explain import explanation
from fastconv.tables.models import models
from fastconv.tables.receipt import receipt
from fastconv.tables.recipes import evaluation, predicted, training
from fastconv.tables.scaling import advice, recommendation
from fastconv.tables.tuning import tuning

__all__ = [
    "advice",
    "alternatives",
    "as_markdown",
    "as_text",
    "comparison",
    "costs",
    "evaluation",
    "explanation",
    "findings",
    "layer_costs",
    "models",
    "predicted",
    "predictions",
    "receipt",
    "recommendation",
    "report",
    "speedups",
    "training",
    "tuning",
    "verdict",
]
