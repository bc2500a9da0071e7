"""Prune safely: certify on your own images how often answers may change, and watch that live.

policy = calibrate((model, processor, scenes), ["deflated-lofi"], [0.11], alpha=0.01)
with safely(model, processor, policy) as report:
    model.generate(**inputs, choices=choices)
"""

from lofi_core.guarantee.calibrate import calibrate
from lofi_core.guarantee.monitor import Monitor
from lofi_core.guarantee.policy import Policy
from lofi_core.guarantee.safely import safely
from lofi_core.guarantee.samples import images_needed, images_to_certify
from lofi_core.guarantee.serving import Served

__all__ = [
    "Monitor",
    "Policy",
    "Served",
    "calibrate",
    "images_needed",
    "images_to_certify",
    "safely",
]
