"""The plugin Gravity of clusters."""

from devenv.testing.plugins.gravity import Gravity as Gravity
