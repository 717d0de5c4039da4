"""The README of the norms says what is so."""

import re
from pathlib import Path

import sbzoo.norm
from sbzoo.norm import NORMS, Norm

FOLDER = Path(sbzoo.norm.__file__).parent
README = (FOLDER / 'README.md').read_text()


def test_readme_shows_the_table_of_the_norms():
    rows = [f'| `{e.spec}` | {e.statistics} | {e.use} |' for e in NORMS]
    assert '\n'.join(rows) in README


def test_readme_names_every_file():
    files = {path.stem for path in FOLDER.rglob('*.py')} - {'__init__'}
    assert [name for name in files if not re.search(rf'`{name}(\.py)?`', README)] == []


def test_examples_run():
    namespace = {}
    for block in re.findall(r'```python\n(.*?)```', README, re.DOTALL):
        exec(block, namespace)
    assert {n.spec for n in namespace['converted'].modules() if isinstance(n, Norm)} == {'gn'}
