"""The plugin Helm of clusters."""

from devenv.testing.plugins.helm import Helm as Helm
