"""Owns the look for what a machine takes that a computer may lack, before anything is started for it."""

import os
from pathlib import Path

from pytest_readonly_vm.config.settings import FILES, VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.sources.image_list import listed


def checked(config: VmConfig) -> VmConfig:
    """A configuration whose image has been looked up, that makes sense, and of which the computer has what it takes.

    :raises ConfigurationError: it does not, or the computer has not.
    """
    config = listed(config)
    config.check()
    refuse_what_is_not_there(config)
    return config


def refuse_what_is_not_there(config: VmConfig) -> None:
    """:raises ConfigurationError: a file that is named is missing, or more memory is asked for than there is."""
    for name in FILES:
        path = getattr(config, name)
        try:
            _ = isinstance(path, Path) and path.stat()
        except OSError as error:
            raise ConfigurationError(f"{config.origin(name)}: {name}: {path}: {error.strerror}") from None
    there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if config.memory > there_is:
        raise ConfigurationError(
            f"{config.origin('memory')}: memory: {config.memory >> 20}M is more than this computer has "
            f"({there_is >> 20}M)"
        )
