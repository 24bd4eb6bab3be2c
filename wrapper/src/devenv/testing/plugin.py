"""The pytest plugin of devenv, loaded by every pytest of an environment where devenv is installed.

It therefore imports nothing but the standard library, and changes nothing. Fixtures that bring up environments will be
defined here; until then tests use the Python API: docs/use-in-tests.md.
"""
