"""The claims, what each is tested by, and the verdicts."""
