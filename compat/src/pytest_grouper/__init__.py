"""The plugin ``-p pytest_grouper``: tests of one folder with equal hardware and grouping share machines."""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_can_run_together(item1: pytest.Item, item2: pytest.Item) -> bool:
    """Return whether both tests are in the same folder; devenv has compared what they request."""
    return item1.path.parent == item2.path.parent
