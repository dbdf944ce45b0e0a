"""Validation of estimators, their errors and their verdicts on models whose log evidence is known."""

from ppl_vae.validation.estimators import ESTIMATORS, Estimator
from ppl_vae.validation.exact_model import Builder, ExactModel
from ppl_vae.validation.models import MODELS
from ppl_vae.validation.report import Report
from ppl_vae.validation.row import Row
from ppl_vae.validation.run import validate

__all__ = ["ESTIMATORS", "MODELS", "Builder", "Estimator", "ExactModel", "Report", "Row", "validate"]
