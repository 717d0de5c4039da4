"""Every table of the README comes from a module here; `tools/bench.py NAME` makes it again.

A module has a docstring (its help), `add_arguments(parser)` and `run(args)`.
"""

BENCHES = (
    'norm', 'memory', 'train', 'ap', 'fid',
    'digits', 'transfer', 'configs', 'classifier', 'gan', 'labels',
)  # fmt: skip
