"""Results of estimators: numbers for each datum with errors, diagnostics and a verdict, and a table."""
