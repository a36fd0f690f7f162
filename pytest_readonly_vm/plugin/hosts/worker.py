"""Owns the end of a worker whose controller has gone: at once, in the midst of a test, with nothing left on its host.

execnet would wait for the test, then interrupt it, and end the process after 15 seconds, whatever is left.
"""

import faulthandler
import os
import sys

import pytest

from pytest_readonly_vm.plugin.hosts.line import FarLine
from pytest_readonly_vm.plugin.hosts.remembered import REMEMBERED, remember
from pytest_readonly_vm.plugin.hosts.same_bases import SameBases
from pytest_readonly_vm.plugin.run import Run

_PATIENCE = 10.0
"""Seconds for machines to end and files to go. QEMU ends with this process in any case."""


class FarWorker:
    """In each worker of a run that has workers on other hosts."""

    def __init__(self, run: Run, config: pytest.Config) -> None:
        self._run = run
        self._is_over = False
        line = FarLine.of(config)
        assert line is not None
        run.compare = SameBases(config, line)
        if line.here is not None:
            line.on_end.append(self._end)
            remember(config, getattr(config, "workerinput", {}).get(REMEMBERED, "{}"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._is_over = True  # from now on it ends by itself

    def _end(self) -> None:
        if self._is_over:
            return
        faulthandler.dump_traceback_later(_PATIENCE, exit=True, file=os.open(os.devnull, os.O_WRONLY))
        try:
            if self._run.has_lab:
                self._run.lab.close()
            self._run.evidence.abandon()
        finally:
            sys.stderr.flush()
            os._exit(1)
