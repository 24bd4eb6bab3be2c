"""Authors and attributes of most modules."""

from __future__ import annotations


class ModuleDocFragment:
    """A module that differs documents its own attribute, which takes precedence."""

    DOCUMENTATION = r"""
author:
  - devenv maintainers (@devenv)
attributes:
  check_mode: {description: Reports what would change and changes nothing., support: full}
  diff_mode: {description: Has no content to show., support: none}
"""
