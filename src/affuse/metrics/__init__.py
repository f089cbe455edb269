"""Metrics, each named with its rule: `classification`, `regression`, and the `decisions` behind the answers.

Nothing is dropped in silence: a sample without an answer counts as wrong wherever right and wrong are counted, and its number
stands beside every metric that must leave it out.
"""

from affuse.metrics.classification import (
    UNANSWERED,
    bootstrap_classification,
    confusion_matrix,
    expected_calibration_error,
    macro_scores,
    per_class_recall,
    reliability_bins,
    unweighted_average_recall,
    weighted_average_recall,
)
from affuse.metrics.decisions import modality_importance, modality_weights
from affuse.metrics.intervals import bootstrap, ranks, spearman
from affuse.metrics.regression import bootstrap_regression, measured, regression_scores
from affuse.metrics.summary import scores, summarise

__all__ = [
    "UNANSWERED",
    "bootstrap",
    "bootstrap_classification",
    "bootstrap_regression",
    "confusion_matrix",
    "expected_calibration_error",
    "macro_scores",
    "measured",
    "modality_importance",
    "modality_weights",
    "per_class_recall",
    "ranks",
    "regression_scores",
    "reliability_bins",
    "scores",
    "spearman",
    "summarise",
    "unweighted_average_recall",
    "weighted_average_recall",
]
