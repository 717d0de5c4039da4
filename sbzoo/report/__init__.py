"""The report: results of all models as Markdown tables and one self-contained HTML page."""
