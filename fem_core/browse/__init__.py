"""The rationale browser: what the model said, why it was kept, and what became of it. Read-only but for annotations."""
