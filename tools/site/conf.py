"""Settings of Sphinx for the documentation site (tools/build_site.py)."""

project = "devenv"
extensions = ["myst_parser"]
myst_enable_extensions: list[str] = []
myst_heading_anchors = 4
html_theme = "furo"
html_title = "devenv"
html_copy_source = False
html_show_copyright = False
