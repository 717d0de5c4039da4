"""What `import sbzoo` adds to OpenMMLab's libraries: as soon as they are imported, not before.

So `sbzoo.norm` needs torch alone, and `import sbzoo` costs nothing where none of them is used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions
from importlib.util import find_spec, spec_from_loader
from types import ModuleType

from sbzoo.errors import UserError
from sbzoo.paths import ROOT

HOST = 'mmengine', 'mmcv', 'mmdet'
REGISTRY = 'mmengine.registry.registry'
OPERATORS = 'mmcv._ext'
MISSING = 'requires mmcv to be compiled with ops'  # says what MMDetection has in place of one
IS_CLONE = (ROOT / 'setup.cfg').is_file()
INSTALL = 'pip install -e ".[{}]"' if IS_CLONE else 'pip install "sbzoo[{}]"'


def install() -> None:
    """Register everything if a host is there already, else at its first lookup of a type."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    if loaded := sys.modules.get(REGISTRY):
        _extend(loaded)
        register()
        _replace_missing()


def require_host() -> None:
    """Check that mmengine, mmcv and MMDetection are installed.

    Raises:
        UserError: One is not; the message names the extra to install.
    """
    missing = [name for name in HOST if not find_spec(name)]
    if missing:
        raise UserError(f'{", ".join(missing)} not installed; run: {INSTALL.format(_extra())}')


def _extra() -> str:
    """The extra that goes with what is installed: the lines would overwrite each other's files."""
    owners = packages_distributions()
    installed = [owner for name in HOST for owner in owners.get(name, ())]
    return 'onedl' if not installed or 'onedl' in ''.join(installed) else 'classic'


def register() -> None:
    """Register everything; see `sbzoo.registry`. Without MMDetection there is nothing to do."""
    if all(map(find_spec, HOST)):
        importlib.import_module('sbzoo.registry')


def _replace_missing() -> None:
    """Give operators to the modules of MMDetection that were imported when there were none."""
    for name in [name for name in sys.modules if name.startswith('mmdet.')]:
        loaded = vars(sys.modules[name])
        for key, value in list(loaded.items()):
            if MISSING in str(getattr(getattr(value, '__code__', None), 'co_consts', '')):
                loaded[key] = getattr(importlib.import_module('mmcv.ops'), key)


class _Finder(MetaPathFinder):
    """Watches for mmengine's registries, and finds mmcv's operators where none are compiled."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == OPERATORS:
            return PathFinder.find_spec(name, path) or spec_from_loader(name, _Operators())
        if name == REGISTRY:
            spec = PathFinder.find_spec(name, path)
            spec.loader.exec_module = _followed(spec.loader.exec_module, _extend)
            return spec
        return None


class _Operators(Loader):
    """Loads `sbzoo.detection.mmcv_ops` as mmcv's extension."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module('sbzoo.detection.mmcv_ops')

    def exec_module(self, module: ModuleType) -> None:
        """It has run."""


def _followed(
    execute: Callable[[ModuleType], None], follow: Callable[[ModuleType], None]
) -> Callable[[ModuleType], None]:
    def both(module: ModuleType) -> None:
        execute(module)
        follow(module)

    return both


def _extend(module: ModuleType) -> None:
    """A registry imports what it has to know at its first lookup; the first of all adds ours.

    Configs of the package are known as `sbzoo::FOLDER/FILE.py`, as those of OpenMMLab are.
    """
    module.MODULE2PACKAGE['sbzoo'] = 'sbzoo'
    import_own = module.Registry.import_from_location

    def import_from_location(self: object) -> None:
        module.Registry.import_from_location = import_own
        import_own(self)
        register()

    module.Registry.import_from_location = import_from_location
