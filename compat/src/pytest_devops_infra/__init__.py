"""The plugin ``-p pytest_devops_infra``. devenv itself runs the installer of each host and cluster, and calls the hook
``pytest_after_devops_installer``; only the settings of pytest_automation_infra are added.
"""

from __future__ import annotations

pytest_plugins = ["pytest_automation_infra"]
