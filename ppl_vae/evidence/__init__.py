"""Estimators of log p(x): each takes a Program and data and returns an `Evidence`."""

from ppl_vae.evidence.bounds import Sandwich
from ppl_vae.evidence.importance import importance
from ppl_vae.evidence.result import Curve, Evidence, Mean, concatenate

__all__ = ["Curve", "Evidence", "Mean", "Sandwich", "concatenate", "importance"]
