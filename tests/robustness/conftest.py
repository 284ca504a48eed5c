"""How much hypothesis tries: ``HYPOTHESIS_PROFILE=nightly`` for the long way, else what `make test` has time for."""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile(
    "robustness",
    max_examples=200,
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    phases=set(Phase) - {Phase.explain},  # it traces every line, which takes minutes here
)
settings.register_profile("nightly", settings.get_profile("robustness"), max_examples=10_000, print_blob=True)
