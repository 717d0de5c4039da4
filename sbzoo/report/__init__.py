"""What is known of all models: tables in Markdown, and one page of HTML that needs nothing else."""
