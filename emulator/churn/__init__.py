"""Churn: nodes and links that fail, come back and change, how that is noticed, and what is done about it."""
