"""What the READMEs say is there, and their figures are those of the runs."""

import json
import re
import statistics
from pathlib import Path

import pytest
from mmengine.config import Config

from sbzoo.__main__ import TOOLS, parser_of

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
PAGES = [
    path
    for path in sorted(ROOT.rglob('README.md'))
    if not {'.mim', 'work_dirs'} & set(path.parts) and path.parent.parent.name != 'model_cards'
]
BLOCK = re.compile(r'^```bash\n(.+?)^```', re.M | re.S)


def results(name: str) -> list[dict]:
    lines = (ROOT / f'model_cards/results/{name}.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def cell(values: list[float], decimals: int) -> str:
    assert len(values) == 3  # seeds
    return f'{statistics.mean(values):.{decimals}f} ± {statistics.stdev(values):.{decimals}f}'


@pytest.mark.parametrize('norm', ['bn', 'in', 'gn', 'ln', 'hybrid'])
def test_results_are_those_of_the_runs(norm):
    detectors = [r for r in results('retinanet_digits') if f'_{norm}_' in r['config']]
    by_batch = (
        [r['metrics']['coco/bbox_mAP'] for r in detectors if r['images_a_step'] == batch]
        for batch in (1, 2)
    )
    own_light = (
        figures_of('light', 'bbox_mAP', study='own light', arm=norm, condition=f'batch {batch}')
        for batch in (1, 2, 8)
    )
    distances = figures_of('gan', 'FD-digits', arm=norm, condition='batch 2')
    aps = (cell(values, 3) for values in (*by_batch, *own_light))
    assert f'| {" | ".join([norm, *aps, cell(distances, 2)])} |\n' in README


def figures_of(name: str, figure: str, **row: str) -> list[float]:
    return [m['figures'][figure] for m in results(name) if row.items() <= m['row'].items()]


def test_it_is_read_in_three_minutes():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize('heading', ['Install and train', 'Tests'])
def test_commands_that_continuous_integration_reads(heading):
    section = README.split(f'\n## {heading}\n')[1]
    assert BLOCK.search(section)[1].startswith('pip install -e ')


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)#\s]+)', page.read_text()):
        if '://' not in target:
            assert (page.parent / target).exists(), target


def commands() -> list[str]:
    """Every command of a tool in a README, with placeholders as they stand there."""
    blocks = (block for page in PAGES for block in BLOCK.findall(page.read_text()))
    lines = (line for block in blocks for line in block.replace('\\\n', ' ').splitlines())
    found = (c.strip() for line in lines for c in line.split('#')[0].split('&&'))
    return sorted({c for c in found if c.startswith(('python tools/', 'sbzoo '))})


@pytest.mark.parametrize('command', commands())
def test_commands_are_understood(command):
    words = command.removeprefix('python ').split()
    tool = words[0].removeprefix('tools/').removesuffix('.py')
    if tool == 'bench' or 'TOOL' in command:
        return
    assert tool in TOOLS
    args = parser_of(tool).parse_args(words[1:])
    config = getattr(args, 'config', None) or ''
    if config.startswith('configs/'):
        assert Config.fromfile(ROOT / config).model


def test_files_that_are_named_exist():
    path = re.compile(r'`((?:configs|sbzoo|tests|tools)/[\w/.]+)`')
    names = {name for page in PAGES for name in path.findall(page.read_text())}
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
