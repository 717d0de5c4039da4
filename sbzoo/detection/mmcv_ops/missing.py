"""The error of an operator that is not here."""


def unavailable(operator: str) -> NotImplementedError:
    """Names the operator and where a compiled one is had."""
    return NotImplementedError(
        f'mmcv operator {operator!r} has no torchvision equivalent in sbzoo; install an mmcv with '
        'compiled operators: a wheel listed at https://mmcv.readthedocs.io/en/latest/get_started/'
        'installation.html, or a source build with MMCV_WITH_OPS=1'
    )
