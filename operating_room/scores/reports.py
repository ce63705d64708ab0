"""Classification reports as scikit-learn prints them, from a confusion matrix.

The scene-graph metric and the downstream tasks report through this (data specification, sections 6 and 10). Equal to
`sklearn.metrics.classification_report(labels=all names, zero_division=0)`, which is the oracle of its tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

Scores = dict[str, float | int]  # precision, recall, f1-score, support, as in scikit-learn


@dataclass(frozen=True)
class Report:
    """How well one closed set of names was predicted; everything divided by zero is 0."""

    names: tuple[str, ...]
    confusion: Int64[
        np.ndarray, "names predicted"
    ]  # truth by prediction; the last column counts predictions of no name

    @classmethod
    def from_labels(cls, names: Sequence[str], truths: Sequence[int], predictions: Sequence[int]) -> Report:
        """Count pairs of indices into `names`; -1 is a prediction that is none of them."""
        size = len(names) + 1
        predicted = np.asarray(predictions, np.int64) % size
        codes = np.asarray(truths, np.int64) * size + predicted
        return cls(tuple(names), np.bincount(codes, minlength=size * len(names)).reshape(len(names), size))

    def __add__(self, other: Report) -> Report:
        """Both sets of predictions pooled."""
        return Report(self.names, self.confusion + other.confusion)

    @cached_property
    def support(self) -> Int64[np.ndarray, " names"]:
        """How often each name is the truth."""
        return self.confusion.sum(axis=1)

    @property
    def supported(self) -> list[str]:
        """The names that occur in the truth."""
        return [name for name, support in zip(self.names, self.support) if support]

    @property
    def total(self) -> int:
        """Number of predictions that were scored."""
        return int(self.confusion.sum())

    @cached_property
    def precision(self) -> Float64[np.ndarray, " names"]:
        """Correct predictions of a name / all its predictions."""
        return _divide(self._correct, self.confusion[:, :-1].sum(axis=0))

    @cached_property
    def recall(self) -> Float64[np.ndarray, " names"]:
        """Correct predictions of a name / its support."""
        return _divide(self._correct, self.support)

    @cached_property
    def f1(self) -> Float64[np.ndarray, " names"]:
        """Harmonic mean of precision and recall."""
        return _divide(2 * self._correct, self.confusion[:, :-1].sum(axis=0) + self.support)

    @property
    def accuracy(self) -> float:
        """Correct predictions / all."""
        return float(_divide(self._correct.sum(), np.int64(self.total)))

    @property
    def macro(self) -> Scores:
        """Unweighted mean over the names that occur in the truth: the "real macro" of section 6."""
        return self._average((self.support > 0).astype(np.float64))

    @property
    def macro_all_names(self) -> Scores:
        """Unweighted mean over all names, those without support included: scikit-learn's `macro avg`."""
        return self._average(np.ones(len(self.names)))

    def to_json(self) -> dict[str, Any]:
        """scikit-learn's dictionary: scores of each name, `accuracy` or `micro avg`, `macro avg`, `weighted avg`.

        `accuracy` where every prediction is one of the names, else `micro avg`, whose precision leaves the others out.
        """
        columns = zip(self.precision, self.recall, self.f1, self.support)
        report: dict[str, Any] = {name: _scores(*row) for name, row in zip(self.names, columns)}
        if self.confusion[:, -1].any():
            correct, predicted = self._correct.sum(), self.confusion[:, :-1].sum()
            recall, f1 = self.accuracy, _divide(2 * correct, predicted + self.total)
            report["micro avg"] = _scores(_divide(correct, predicted), recall, f1, self.total)
        else:
            report["accuracy"] = self.accuracy
        report["macro avg"] = self.macro_all_names
        report["weighted avg"] = self._average(self.support.astype(np.float64))
        return report

    @property
    def confused(self) -> dict[str, dict[str, int]]:
        """How often each name that occurs in the truth was predicted as which one; what is no name is `""`."""
        predicted = (*self.names, "")
        return {
            name: {said: int(count) for said, count in zip(predicted, row) if count}
            for name, row in zip(self.names, self.confusion)
            if row.any()
        }

    def table(self) -> str:
        """The text that scikit-learn prints, four digits."""
        report = self.to_json()
        width = max(len("weighted avg"), *map(len, self.names))
        lines = [
            " " * width + " " + "".join(f" {title:>9}" for title in ("precision", "recall", "f1-score", "support")),
            "",
        ]
        for name, scores in report.items():
            if name in ("accuracy", "micro avg"):
                lines.append("")
            if name == "accuracy":
                lines.append(f"{name:>{width}}  {'':>9} {'':>9} {scores:>9.4f} {self.total:>9}")
            else:
                numbers = "".join(f" {scores[key]:>9.4f}" for key in ("precision", "recall", "f1-score"))
                lines.append(f"{name:>{width}} {numbers} {scores['support']:>9}")
        return "\n".join(lines) + "\n"

    @cached_property
    def _correct(self) -> Int64[np.ndarray, " names"]:
        return np.diagonal(self.confusion)

    def _average(self, weights: Float64[np.ndarray, " names"]) -> Scores:
        means = (float(_divide((column * weights).sum(), weights.sum())) for column in self._columns())
        return _scores(*means, self.total)

    def _columns(self) -> tuple[Float64[np.ndarray, " names"], ...]:
        return self.precision, self.recall, self.f1


def _scores(precision: Any, recall: Any, f1: Any, support: Any) -> Scores:
    return {"precision": float(precision), "recall": float(recall), "f1-score": float(f1), "support": int(support)}


def _divide(numerator: Any, denominator: Any) -> Any:
    """Quotient as float64; 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) != 0)
