"""What the test run itself owes the tests."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("together")
def test_tests_of_a_group_stay_on_one_worker(request: pytest.FixtureRequest) -> None:
    """Seen before: pytest 9.2 made pytest-xdist drop groups in silence, and what a group shares was trained twice."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@together")
