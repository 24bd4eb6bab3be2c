"""The plugin Kubectl of clusters."""

from devenv.testing.plugins.kubectl import Kubectl as Kubectl
