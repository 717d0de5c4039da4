"""Tests leave the caches of whoever runs them as they are."""

import os
import pwd
import subprocess
import sys

CACHES = """
import huggingface_hub.constants, matplotlib, torch.hub, sbzoo.paths
print(sbzoo.paths.cache_dir())
print(torch.hub.get_dir())
print(huggingface_hub.constants.HF_HUB_CACHE)
print(matplotlib.get_cachedir())
"""


def test_caches_are_in_a_home_of_the_session():
    command = [sys.executable, '-c', CACHES]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(found) == 4
    assert all(path.startswith(os.environ['HOME']) for path in found)
    assert os.environ['HOME'] != pwd.getpwuid(os.getuid()).pw_dir
