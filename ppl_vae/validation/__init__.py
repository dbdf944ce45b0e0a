"""Estimators tried on models whose log evidence is known: do they find it, and do they know when they have not?"""

from ppl_vae.validation.estimators import ESTIMATORS, Estimator
from ppl_vae.validation.exact_model import Builder, ExactModel
from ppl_vae.validation.models import MODELS
from ppl_vae.validation.report import Report
from ppl_vae.validation.row import Row
from ppl_vae.validation.run import validate

__all__ = ["ESTIMATORS", "MODELS", "Builder", "Estimator", "ExactModel", "Report", "Row", "validate"]
