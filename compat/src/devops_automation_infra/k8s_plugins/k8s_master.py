"""The plugin K8SMaster of clusters."""

from devenv.testing.plugins.kubectl import K8SMaster as K8SMaster
