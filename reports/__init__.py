"""Reports: a suite's tracked runs as a PDF with the paper's tables and figures, and as files to reuse."""
