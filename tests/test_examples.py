"""Every project in conftest_examples/ works as it is: copied to an empty folder and run there.

Those that run commands do so on Debian, of which one boot is for all, or on a tiny Linux; the others on boot sectors.
"""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import parse
from tests.conftest import SMALL
from tests.guests import archive, bootsector
from tests.guests.debian import debian
from tests.guests.etcd_packages import etcd_packages
from tests.guests.tiny_databases import tiny_with_databases
from tests.hosts.ssh_hosts import pair_of_hosts
from tests.templates import templates

EXAMPLES = Path(__file__).parent.parent / "conftest_examples"
LOGIN = "somewhere login: "

# Generous, as other guests may be booting beside.
BOOT_SECONDS = 600
A_LONG_TIME = 2400


class Example:
    """A copy of an example project, in the folder of the test."""

    def __init__(self, pytester: pytest.Pytester, name: str) -> None:
        left_out = shutil.ignore_patterns("__pycache__", ".pytest_cache", "test-results")
        shutil.copytree(EXAMPLES / name, pytester.path, dirs_exist_ok=True, ignore=left_out)
        self._pytester = pytester

    def run(self, *arguments: str) -> pytest.RunResult:
        return self._pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=A_LONG_TIME)

    def run_on_debian(self) -> pytest.RunResult:
        return self.run(f"--vm-image={debian()}", f"--vm-boot-timeout={BOOT_SECONDS}", f"--vm-cache={templates()}")

    def run_on_databases(self, *arguments: str) -> pytest.RunResult:
        guest = tiny_with_databases()
        direct = (f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}", f"--vm-append={guest.append}")
        return self.run(
            f"--vm-image={guest.disk}", *direct, "--vm-memory=256M", f"--vm-cache={templates()}", *arguments
        )

    def run_on_a_boot_sector(self, *arguments: str) -> pytest.RunResult:
        image = bootsector.write_image(self._pytester.path / "base.img", bootsector.hello(LOGIN))
        return self.run(*SMALL, "--vm-ready=console:login: *$", f"--vm-image={image}", *arguments)


@pytest.fixture
def example(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> Example:
    """The example for which a test function is named."""
    return Example(pytester, request.node.originalname.removeprefix("test_"))


def test_every_example_has_a_test_here() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert names <= {name.removeprefix("test_") for name in globals()}
    assert all((EXAMPLES / name / "README.md").exists() for name in names)


@pytest.mark.timeout(A_LONG_TIME)
def test_basic(example: Example) -> None:
    example.run_on_debian().assert_outcomes(passed=3)


@pytest.mark.timeout(A_LONG_TIME)
def test_per_module(example: Example) -> None:
    result = example.run_on_debian()
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["2 machines cloned*"])


@pytest.mark.timeout(A_LONG_TIME)
def test_async_guest(example: Example) -> None:
    example.run_on_debian().assert_outcomes(passed=2)


@pytest.mark.timeout(A_LONG_TIME)
def test_testinfra_host(example: Example) -> None:
    example.run_on_debian().assert_outcomes(passed=11)


@pytest.mark.timeout(A_LONG_TIME)
def test_ansible_inventory(example: Example) -> None:
    example.run_on_debian().assert_outcomes(passed=1)


@pytest.mark.timeout(A_LONG_TIME)
def test_prepared_states(example: Example) -> None:
    example.run_on_debian().assert_outcomes(passed=8)


@pytest.mark.timeout(A_LONG_TIME)
def test_when_things_go_wrong(example: Example) -> None:
    example.run_on_debian().assert_outcomes(passed=4)


@pytest.mark.timeout(A_LONG_TIME)
def test_ssh_hosts(example: Example, pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pair_of_hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        for host in hosts:
            host.put({path.name: path.read_bytes() for path in pytester.path.iterdir() if path.is_file()})
        result = example.run_on_databases("--dist=load", *(word for host in hosts for word in ("--tx", host.spec())))
        result.assert_outcomes(passed=5)
        result.stdout.fnmatch_lines(["hostA: 1 worker, * machines: * cloned", "hostB: 1 worker, * machines: * cloned"])


@pytest.mark.timeout(A_LONG_TIME)
def test_private_networks(example: Example, pytester: pytest.Pytester, tmp_path: Path) -> None:
    scratch, folder = tmp_path / "fetched", pytester.mkdir("packages")
    for package in archive.download(archive.host_archive(), ["nginx", "nginx-common"], along=(), into=scratch):
        shutil.copy(package, folder)
    example.run_on_debian().assert_outcomes(passed=2)


@pytest.mark.timeout(A_LONG_TIME)
def test_etcd(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_PACKAGES", str(etcd_packages()))
    example.run_on_debian().assert_outcomes(passed=10)


@pytest.mark.timeout(A_LONG_TIME)
def test_power_cuts(example: Example) -> None:
    example.run_on_databases().assert_outcomes(passed=14)


def test_image_matrix(example: Example, pytester: pytest.Pytester) -> None:
    images = pytester.mkdir("images")
    raw = bootsector.write_image(images / "old-server.img", bootsector.hello(LOGIN))
    pytester.run("qemu-img", "convert", "-O", "qcow2", raw, images / "server.qcow2")
    result = example.run("-v", *SMALL, "--vm-ready=console:login: *$")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(["*test_boots?server?*", "*test_boots?old-server?*"])


def test_custom_machine(example: Example) -> None:
    example.run_on_a_boot_sector().assert_outcomes(passed=5)


def test_async_qmp(example: Example) -> None:
    example.run_on_a_boot_sector().assert_outcomes(passed=4)


def test_kubernetes(example: Example) -> None:
    """What the pods are told is what there is to tell, and their command is one."""
    [job] = yaml.safe_load_all((EXAMPLES / "kubernetes/job.yaml").read_text())
    [container] = job["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        if variable["name"].startswith("PYTEST_VM_"):
            name = variable["name"].removeprefix("PYTEST_VM_").lower()
            parse(name, Given(variable["value"], variable["name"]))
    [script] = container["args"]
    [shard] = re.findall(r'--vm-shard="(.*?)"', script)
    assert shard == f"$((JOB_COMPLETION_INDEX + 1))/{job['spec']['completions']}"
    example.run_on_a_boot_sector("--vm-shard=1/8").assert_outcomes(passed=1)


def test_ci(example: Example, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = (EXAMPLES / "ci/.github/workflows/vm-tests.yml").read_text()
    environment = dict(re.findall(r'^ +(PYTEST_VM_\w+): "?([^"\n]*)', workflow, re.MULTILINE))
    assert "PYTEST_VM_IMAGE" in environment
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
        parse(variable.removeprefix("PYTEST_VM_").lower(), Given(value, variable))
    example.run_on_a_boot_sector().assert_outcomes(passed=1)
    assert "test_boots" in (pytester.path / "test-results/report.html").read_text()
