"""The zoo: cards as models that are ready to use, measured, published and listed."""
