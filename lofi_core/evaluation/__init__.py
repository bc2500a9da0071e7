"""Asking a model under many pruners, and what its answers say."""
