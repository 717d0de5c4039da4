"""`sbzoo TOOL`, `python -m sbzoo TOOL` and tools/TOOL.py are the same."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sbzoo import __main__ as sbzoo_main
from sbzoo import paths
from sbzoo.__main__ import TOOLS, main, parser_of
from sbzoo.errors import UserError
from sbzoo.tools import cli, run

ROOT = Path(__file__).parent.parent


def test_every_tool_has_a_front_in_tools():
    fronts = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    assert fronts == {*TOOLS, 'bench'}
    modules = {path.stem for path in (ROOT / 'sbzoo/tools').glob('*.py')}
    assert modules == {*TOOLS, '__init__', 'cli'}


def test_list_of_tools(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['sbzoo', '--help'])
    with pytest.raises(SystemExit, match='0'):
        main()
    printed = capsys.readouterr().out
    assert all(f'\n    {tool} ' in printed for tool in TOOLS)


def test_an_unknown_tool_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['sbzoo', 'trian'])
    with pytest.raises(SystemExit, match='2'):
        main()
    assert "'trian' (choose from" in capsys.readouterr().err


def test_arguments_go_to_the_tool(monkeypatch):
    called = []
    monkeypatch.setattr(sbzoo_main, 'run', lambda *args: called.append(args))
    monkeypatch.setattr(sys, 'argv', ['sbzoo', 'test', 'a.py', '--card', 'x', '--debug'])
    main()
    assert called == [('test', ['a.py', '--card', 'x', '--debug'])]


@pytest.mark.parametrize('tool', TOOLS)
def test_help_speaks_as_the_tool_was_started(tool, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [f'tools/{tool}.py'])
    clone = parser_of(tool).format_help()
    assert f'usage: python tools/{tool}.py' in clone
    assert f'python tools/{tool}.py' in clone.split('options:')[1]
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/sbzoo'])
    installed = parser_of(tool).format_help()
    assert f'usage: sbzoo {tool}' in installed
    assert f'  sbzoo {tool}' in installed.split('options:')[1]
    assert 'python tools/' not in installed
    assert ' configs/' not in installed.split('options:')[1]


def test_the_next_command_is_in_the_way_of_this_one(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['/opt/sbzoo/tools/train.py', 'x'])
    assert paths.command('test') == 'python /opt/sbzoo/tools/test.py'
    monkeypatch.setattr(sys, 'argv', ['/venv/bin/sbzoo', 'train'])
    assert paths.command('test') == 'sbzoo test'


@pytest.mark.parametrize(
    'tool', [tool for tool in TOOLS if '--seed ' in parser_of(tool).format_help()]
)
@pytest.mark.parametrize('wrong', ['-1', str(2**31), str(2**63), str(2**64), '1.5', 'x'])
def test_seeds_are_of_the_bits_that_every_generator_takes(tool, wrong, capsys):
    parser = parser_of(tool)
    assert parser.parse_args(['config', '--seed', str(2**31 - 1)]).seed == 2**31 - 1
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args(['config', '--seed', wrong])
    said = capsys.readouterr().err.splitlines()[-1]
    cure = 'give 0 to 2147483647' if wrong.lstrip('-').isdigit() else 'invalid seed value'
    assert 'argument --seed: ' in said
    assert cure in said
    assert wrong in said


@pytest.mark.parametrize(
    ('option', 'wrong', 'cure'),
    [('batch-size', '0', '1 or more'), ('num-workers', '-1', '0 or more')],
)
def test_counts_are_not_negative(option, wrong, cure, capsys):
    with pytest.raises(SystemExit, match='2'):
        parser_of('fid').parse_args(['real', 'fake', f'--{option}', wrong])
    assert f'argument --{option}: {wrong}: give {cure}' in capsys.readouterr().err


def failing(error: Exception, capsys) -> str:
    """What a tool says of an error."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit, match='1'):
        cli.run(main, debug=False)
    return capsys.readouterr().err.removesuffix('\n')


def test_errors_do_not_command_the_terminal(capsys):
    name = 'a\x1b[31m\x00\r\x9b\u202e\udc80é 図.png'
    shown = r'a\x1b[31m\x00\r\x9b\u202e\udc80é 図.png'
    assert failing(UserError(f'{name}: no image'), capsys) == f'error: {shown}: no image'
    assert failing(OSError(2, 'No such file', name), capsys) == f'error: {shown}: No such file'
    said = failing(RuntimeError(f'in {name}\nmore'), capsys)
    assert said == f'error: RuntimeError: in {shown} (--debug shows where)'


def test_errors_are_of_bounded_length(capsys):
    lines = failing(UserError('x' * 10**6 + ': why\n' + 'fault\n' * 10**5), capsys).split('\n')
    assert len(lines[0]) <= cli.WIDTH
    assert lines[0].endswith('xxx: why')
    assert lines[1] == '  fault'  # never at the place where an error of its own would start
    assert len(lines) == cli.LINES + 1
    assert lines[-1] == f'  ... and {10**5 + 1 - cli.LINES} lines more'


def test_messages_of_several_lines_are_kept(capsys):
    message = 'unknown norm; known are\n  gn\n    more'
    assert failing(UserError(message), capsys) == f'error: {message}'


def test_a_reader_may_leave_early():
    calls = 'cards', 'train --help'
    piped = ' & '.join(f'{sys.executable} -m sbzoo {call} | true' for call in calls)
    done = subprocess.run(f'{piped} & wait', shell=True, capture_output=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == (b'', b'')


def test_a_pipe_that_breaks_elsewhere_is_an_error(capsys):
    assert 'Broken pipe' in failing(BrokenPipeError(32, 'Broken pipe'), capsys)


@pytest.mark.parametrize('started_as', ["/my projects/it's/tools/train.py", '/venv/bin/sbzoo'])
def test_a_command_survives_the_shell(monkeypatch, started_as):
    monkeypatch.setattr(sys, 'argv', [started_as])
    arguments = 'a b', "it's", '$HOME', '*', 'hybrid(bn,ln)', '--norm', ''
    typed = paths.command('test', *arguments, Path('-x/a b'), Path('-'))
    told = subprocess.run(
        ['sh', '-c', f"printf '%s\\n' {typed}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    start = ['sbzoo', 'test']
    if 'tools' in started_as:
        start = ['python', "/my projects/it's/tools/test.py"]
    assert told == [*start, *arguments, './-x/a b', './-']


@pytest.mark.parametrize('start', [['-m', 'sbzoo', 'cards'], ['tools/cards.py']])
def test_each_start_does_the_same(start):
    done = subprocess.run(
        [sys.executable, *start, 'dcgan_in_b2'], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert '# dcgan_in_b2' in done.stdout


def test_a_script_runs_with_its_arguments(tmp_path, monkeypatch, capsys):
    (tmp_path / 'beside.py').write_text('VALUE = 3')
    script = tmp_path / 'script.py'
    script.write_text('import sys, beside\nprint(__name__, sys.argv[1:], beside.VALUE)')
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setattr(sys, 'argv', ['sbzoo'])
    run.main(parser_of('run').parse_args([str(script), 'a', '--work-dir', 'b', '--debug']))
    assert capsys.readouterr().out == "__main__ ['a', '--work-dir', 'b', '--debug'] 3\n"
    for absent in ('mmdet::tools/absent.py', 'absent::tools/test.py', str(tmp_path)):
        with pytest.raises(UserError, match=f'{absent}: no such script'):
            run.find(absent)


def test_own_tools_of_mmdetection_start():
    """They import mmcv's operators before anything that names sbzoo."""
    done = subprocess.run(
        [sys.executable, '-m', 'sbzoo', 'run', 'mmdet::tools/test.py', '--help'],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert 'MMDet test (and eval) a model' in done.stdout


@pytest.fixture
def handlers():
    """What signals do, as it was before."""
    before = {number: signal.getsignal(number) for number in (*cli.STOPS, signal.SIGCHLD)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize('times', [1, 2])
def test_signals_end_a_tool_with_one_line(handlers, capsys, number, times):
    done = []

    def tool() -> None:
        try:
            os.kill(os.getpid(), number)
            done.append('not stopped')
        finally:
            if times == 2:  # while it ends
                os.kill(os.getpid(), number)
            done.append('ended')

    with pytest.raises(SystemExit) as stop:
        cli.run(tool, debug=False, interrupted=lambda: 'stopped, and how to go on')
    assert stop.value.code == 128 + number
    assert (done, capsys.readouterr().err) == (['ended'], 'stopped, and how to go on\n')


def test_an_error_of_a_data_worker_that_the_signal_ended_is_not_shown(handlers, capsys):
    def tool() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise RuntimeError('DataLoader worker is killed by signal: Terminated.')

    with pytest.raises(SystemExit) as stop:
        cli.run(tool, debug=False)
    assert (stop.value.code, capsys.readouterr().err) == (143, 'stopped\n')


def test_an_interruption_that_a_library_makes_an_error_of_is_one(handlers, capsys):
    def tool() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException as error:
            raise SyntaxError('Failed to format the config file') from error

    with pytest.raises(SystemExit) as stop:
        cli.run(tool, debug=False)
    assert (stop.value.code, capsys.readouterr().err) == (130, 'stopped\n')


def test_a_lost_rank_is_said_though_the_launcher_ends_this_one_too(handlers, capsys):
    def tool() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise UserError('rank 1 has ended') from error

    with pytest.raises(SystemExit) as stop:
        cli.run(tool, debug=False)
    assert (stop.value.code, capsys.readouterr().err) == (1, 'error: rank 1 has ended\n')


def test_ignored_signals_stay_ignored(handlers):
    """As `nohup` starts a tool."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: os.kill(os.getpid(), signal.SIGHUP) or sys.exit(0), debug=False)
    assert stop.value.code == 0
