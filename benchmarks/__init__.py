"""Timed work: what scoring, selection and the whole prefill cost. Never part of the tests."""
