"""The command-line tools, a module each: a docstring, `EXAMPLES`, `add_arguments` and `main`.

`sbzoo TOOL`, `python -m sbzoo TOOL` and, in a clone, `python tools/TOOL.py` are the same.
"""
