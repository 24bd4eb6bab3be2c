"""Change keys of an existing environment's profile.

The state directory stores the resolved profile. To change it, write it as a document again, merge the overrides into
that, and resolve the result with the usual checks and defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import migrations
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve_document
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile


def amend(resolved: Profile, overrides: Mapping[str, Any]) -> Profile:
    """Return ``resolved`` with ``overrides`` (by path, as resolve takes them) applied.

    Raises DevenvError as resolve does, and profile_invalid if the stored profile does not resolve to itself: another
    version of devenv wrote it.
    """
    document, name = migrations.from_resolved(resolved), resolved["name"]
    again = resolve_document(document, name, stored=True)
    before, after = (json.loads(json.dumps(profile)) for profile in (resolved, again))
    if after != before:
        different = sorted(key for key in {*after, *before} if after.get(key) != before.get(key))
        raise DevenvError(
            "profile_invalid",
            f"{', '.join(different)} of this environment's profile cannot be kept",
            advice="Name its profile: devenv up --profile PROFILE --set ...",
        )
    return resolve_document(document, name, overrides=overrides, stored=True) if overrides else again
