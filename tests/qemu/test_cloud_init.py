"""A Debian that takes its root shell, and what else it is told, from a seed for cloud-init."""

import json
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, VmConfig
from tests.accelerator import ACCEL
from tests.guests.debian import debian

A_LONG_TIME = 1200


@pytest.mark.timeout(A_LONG_TIME)
def test_debian_from_a_seed_for_cloud_init(tmp_path: Path) -> None:
    user_data = tmp_path / "user-data"
    user_data.write_text(
        "#cloud-config\nbootcmd: [[touch, /run/early]]\nruncmd: [[touch, /run/late]]\n"
        "chpasswd: {expire: false, users: [{name: root, password: very-secret, type: text}]}\n"
    )
    config = VmConfig().replace(image=debian(), accel=ACCEL, channel="shell", start="cold")
    with Lab() as lab:
        vm = lab.start(
            config.replace(provision="cloud-init", user_data=user_data, boot_timeout=A_LONG_TIME), name="debian"
        )
        # What `cloud-init status --wait` looks at, by a Python that takes an emulated processor seconds to start.
        result = json.loads(vm.read_text("/run/cloud-init/result.json"))["v1"]
        assert (result["datasource"][:19], result["errors"]) == ("DataSourceNoCloud [", [])
        assert vm.run("ls /run/early /run/late").stdout == "/run/early\n/run/late\n"
        assert "very-secret" not in vm.command_line
        assert (vm.folder / "seed.iso").stat().st_mode & 0o777 == 0o600
