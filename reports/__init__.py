"""Reports: what MLflow holds of a suite, as a PDF with the paper's tables and figures, and as files to reuse."""
