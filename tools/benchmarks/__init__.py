"""What is on record comes from a module here; `tools/bench.py NAME` measures it again.

A module has a docstring (its help), `add_arguments(parser)` and `run(args)`; it prints its table
and writes its lines to `model_cards/results/`.
"""

BENCHES = {  # and how long each takes on two cores, as it is called by default
    'digits': '45 runs, an hour',
    'transfer': '82 runs, 70 minutes',
    'conversion': '15 minutes',
    'fine_tuning': '48 runs, an hour',
    'gan': '54 runs, 4 hours',
    'labels': '5 minutes',
    'droplets': '6 runs, 20 minutes',
    'configs': '20 minutes',
    'config_runs': '693 configs, seconds each',
    'compatibility': '300 models, seconds each',
    'norm': '2 minutes; 15 with --compile',
    'padding': 'a minute',
    'memory': '5 minutes',
    'train': '25 minutes',
    'ranks': '12 minutes',
    'ap': '2 minutes',
    'batch': '174 runs, 4 hours',
    'fid': '6 minutes',
    'gpu': 'eight sections of less than 8 minutes on a GPU; a minute with --smoke',
    'classifier': 'a minute',
    'light': '150 runs, 5 hours',
    'light_scenes': 'seconds',
    'stack': '2 minutes',
    'tables': 'seconds',
}
