"""What people and other tools read of a finished run: traces, exports, reports, explanations."""
