"""Estimators from Markov chains between the guide (or the prior) and the posterior, and bounds from both sides."""
