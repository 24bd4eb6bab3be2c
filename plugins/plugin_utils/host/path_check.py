"""Refuse paths of the state, the cache and the collection that other programs misread."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

# Special in lists of paths and volumes (:), in options of ssh ("\$), in templates of Ansible ({}), or no text.
_UNUSABLE = re.compile(r"""[\x00-\x1f\x7f:"\\${}\ud800-\udfff]""")
# The longest name of a file that devenv creates below its directories, and the kernel's limit of a path.
_LONGEST_BELOW, _LIMIT = 400, 4096


def require_usable(env: Mapping[str, str] | None = None) -> None:
    """Raise DevenvError ``path_unusable`` if the path of the state, the cache or the collection has a character that
    another program interprets. All others work: blanks, quotes, letters of any language.
    """
    used = {"DEVENV_HOME": paths.home(env), "XDG_CACHE_HOME": paths.cache(env), "": paths.COLLECTION}
    for variable, path in used.items():
        found = _UNUSABLE.search(str(path))
        if found:
            what = f"the path has the character {found[0]!r}"
        elif len(os.fsencode(path)) > _LIMIT - _LONGEST_BELOW:
            what = f"the path has more than {_LIMIT - _LONGEST_BELOW} bytes"
        else:
            continue
        advice = f"Set {variable} to another directory." if variable else "Move the collection to another directory."
        raise DevenvError("path_unusable", what, where=repr(str(path)), advice=advice)
