"""Hypothesis profiles: a few examples every day; all of them with HYPOTHESIS_PROFILE=thorough (or the option)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Read when torch is first imported: threads that wait by spinning cost tiny layers four times the CPU time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Drawing a network is slow by nature, and a first call pays for torch's warm-up: neither is a fault of the test.
_SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("everyday", max_examples=25, **_SLOW)
settings.register_profile("thorough", max_examples=1000, **_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "everyday"))
