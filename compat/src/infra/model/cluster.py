"""Clusters of tests."""

from devenv.testing.objects import Cluster as Cluster
