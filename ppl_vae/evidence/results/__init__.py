"""What an estimator returns: numbers for each datum, with errors, diagnostics, a verdict and a table."""
