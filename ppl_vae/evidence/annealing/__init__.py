"""Estimators from Markov chains between the guide (or the prior) and the posterior, with lower and upper bounds."""
