"""A fixture that runs playbooks on the machine of the test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def ansible(readonly_vm, tmp_path):
    """A function that runs a playbook and returns the numbers of its recap: ``{"ok": 2, "changed": 1, ...}``."""
    config = readonly_vm.ssh_config(tmp_path / "ssh_config")
    environment = {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_PIPELINING": "1",
        # Not the default, which leaves an ssh behind for a minute. The guest is called "guest" in this file.
        "ANSIBLE_SSH_ARGS": f"-F {config} -o ControlMaster=no",
    }

    def run(playbook):
        argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", HERE / "inventory.ini", HERE / playbook]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", done.stdout.rpartition("RECAP")[2])}

    return run
