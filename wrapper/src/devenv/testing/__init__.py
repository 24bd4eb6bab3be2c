"""devenv in other projects' tests."""
