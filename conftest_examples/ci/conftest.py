"""Leave the whole console of each test's machine in a folder, for the server to keep: a report shows only its end."""

import re
from pathlib import Path

import pytest


@pytest.fixture
def readonly_vm(readonly_vm, request):
    yield readonly_vm
    folder = Path("test-results/consoles")
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.nodeid)
    (folder / f"{name}.txt").write_text(readonly_vm.console.text)
