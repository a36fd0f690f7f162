"""What a test did to a network ends with the test; its report, evidence and page tell of it. On real guests."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP
from scapy.utils import PcapNgReader

from tests.accelerator import ACCEL
from tests.forked import PLAIN
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

MODULE = """
import os, signal, threading, time

import pytest

@pytest.fixture
def lan(vm_private_network_module):
    return vm_private_network_module("lan")

@pytest.fixture
def pair(readonly_vm_factory, lan):
    return [readonly_vm_factory(name=name, networks=[lan]) for name in ("one", "two")]

def reaches(vm, name, within=60):
    return vm.run(f"ping -c1 -W{within} {name}", check=False).exit_code == 0

def test_leaves_all_on(pair, lan):
    one, two = pair
    link = lan.link(two)
    with link.down():
        assert not link.is_up
        assert two.run("cat /sys/class/net/" + two.interface(lan) + "/carrier").stdout.strip() == "0"
    assert reaches(one, "two")
    lan.capture("left.pcapng")
    lan.partition([one], [two])
    one.run("ping -c2 -W1 two", check=False)
    link.down()

def test_has_a_healthy_network(pair, lan):
    assert os.path.getsize("left.pcapng") > 500
    assert reaches(pair[0], "two")

def test_leaves_on_what_meets_nothing(pair, lan):
    lan.drop(protocol="tcp", port=2379, to="two")
    assert reaches(pair[0], "two")

def test_fails(pair, lan):
    one, two = pair
    with lan.faults(loss=1, seed=3, source=one, protocol="icmp"), lan.capture("seen.pcapng"):
        assert reaches(one, "two", within=5)

def test_hears_of_the_death(pair, lan):
    threading.Timer(0.5, os.kill, (lan.pid, signal.SIGKILL)).start()
    pair[0].run("sleep 100")

@pytest.fixture
def own(vm_private_network):
    return vm_private_network("own")

def test_does_not_hear_of_the_death(own):
    os.kill(own.pid, signal.SIGKILL)
    while own.death is None:
        time.sleep(0.01)

def test_has_a_network_that_lives(own):
    assert own.talk() == ()
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """A run of it."""

    folder: Path
    output: str

    def section(self, test: str, title: str) -> str:
        """What the report of a failure has under a heading."""
        report = self.output.partition(f" {test} __")[2]
        return re.split(r"^[-_=]{3,} ", report.partition(f"- {title} -")[2].partition("\n")[2], flags=re.MULTILINE)[0]

    def evidence(self, test: str) -> Path:
        """The folder of a test's evidence."""
        [folder] = self.folder.glob(f"test-results/test_it.py-{test}-*")
        return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All tests here look at the same run."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "test_it.py").write_text(MODULE)
    tiny = tiny_linux()
    machine = [f"--vm-image={tiny.disk}", f"--vm-kernel={tiny.kernel}", f"--vm-initrd={tiny.initrd}"]
    machine += [f"--vm-append={tiny.append}", "--vm-memory=128M", f"--vm-accel={ACCEL}", f"--vm-cache={templates()}"]
    machine += ["--vm-budget=off", "--vm-start=clone", f"--vm-boot-timeout={5 * GENEROUS}", "--vm-timeout-factor=1"]
    command = [sys.executable, "-m", "pytest", *PLAIN, *machine, "--vm-report=page.html", "--junit-xml=junit.xml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    print(done.stdout)
    assert not done.stderr
    return Ran(folder, done.stdout)


def test_each_test_has_a_healthy_network_whatever_another_left_on(ran: Ran) -> None:
    *_, last = ran.output.splitlines()
    assert "2 failed, 5 passed, 2 errors" in last
    for line in (
        "FAILED test_it.py::test_fails - AssertionError: assert False",
        "FAILED test_it.py::test_hears_of_the_death - SwitchDied: network lan of test_",
        "ERROR test_it.py::test_leaves_on_what_meets_nothing - FaultUnused: network la",
        "ERROR test_it.py::test_does_not_hear_of_the_death - SwitchDied: network own o",
    ):
        assert line in ran.output
    # Of the death each test tells that heard of it first, and no other.
    assert ran.output.count("ERROR at teardown") == 2


def test_a_report_tells_what_was_done_and_who_talked_to_whom(ran: Ran) -> None:
    told = ran.section("test_fails", "Network lan").splitlines()
    assert told[:2] == ["network lan: 10.77.0.0/24, fd77::/64: one, two", "loss 100 %, icmp from one: 1 frame, 1 lost"]
    assert re.fullmatch(r"captured to seen.pcapng: \d+ frames", told[2])
    assert re.fullmatch("from  to +frames +bytes  protocols", told[3])
    assert re.search(r"^one   two .*icmp 1\b", "\n".join(told), flags=re.MULTILINE)
    assert "Network own" not in ran.output.partition("FAILURES")[2]
    unused = ran.section("test_leaves_on_what_meets_nothing", "Network lan")
    assert "drop, tcp, port 2379 to two: no frame\n" in unused
    properties = {
        case.attrib["name"]: [one.attrib["value"] for one in case.iter("property") if one.get("name") == "vm_network"]
        for case in ET.parse(ran.folder / "junit.xml").iter("testcase")
    }
    assert properties["test_has_a_healthy_network"] == []
    cable, capture, cut, again = properties["test_leaves_all_on"]
    assert cable == again == "lan: cable of two pulled"
    assert re.fullmatch(r"lan: captured to left.pcapng: \d+ frames", capture)
    assert (hits := re.fullmatch(r"lan: partition one \| two: (\d+) frames, (\d+) lost", cut))
    assert hits[1] == hits[2] != "0"


def test_the_evidence_has_the_last_frames(ran: Ran) -> None:
    for test, lost in (("test_fails", 1), ("test_leaves_on_what_meets_nothing", 0)):
        folder = ran.evidence(test)
        assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {
            "one",
            "two",
            "network-lan.pcapng",
            "network-lan.txt",
        }
        assert "network lan: 10.77.0.0/24" in (folder / "network-lan.txt").read_text()
        overview = (folder / "one" / "overview.txt").read_text()
        assert re.search(r"^networks: +lan as one \(10.77.0.\d+\), its frames in network-lan.pcapng$", overview, re.M)
        with PcapNgReader(str(folder / "network-lan.pcapng")) as reader:
            packets = list(reader)
        assert folder.name in ran.section(test, "Evidence folder")
        *_, ping = (packet for packet in packets if ICMP in packet)
        assert ping.sniffed_on == ("one" if lost else "two")
        assert ping.comments == ([b"loss 100 %, icmp from one: lost on the way to two"] if lost else None)
    told = ran.section("test_hears_of_the_death", "Evidence folder")
    [complaint] = re.findall(r"^no frames of lan are saved: .*", told, re.M)
    assert complaint.endswith("its switch was killed by SIGKILL; every connection over it is gone")


def test_the_page_has_a_lane_of_each_network(ran: Ran) -> None:
    page = (ran.folder / "page.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script")[0])
    lanes = [(lane["name"], lane["test"]) for lane in data["lanes"] if lane["manner"] == "network"]
    owners = [f"test_it.py::test_{name}" for name in ("does_not_hear_of_the_death", "has_a_network_that_lives")]
    assert sorted(lanes) == [("network lan", "test_it.py"), *(("network own", owner) for owner in owners)]
    lan = next(lane for lane in data["lanes"] if lane["name"] == "network lan")
    kinds = [data["kinds"][number] for number in lan["entries"]["kind"]]
    assert kinds == ["cable", "capture", "partition", "cable", "fault", "fault", "capture"]
    words = [data["texts"][number] for number in lan["entries"]["what"]]
    assert re.fullmatch(r"partition one \| two: \d+ frames, \d+ lost", words[2])
    assert all(duration > 0 for duration in lan["entries"]["duration"])
    bad = [data["texts"][number] for number in lan["entries"]["outcome"] if number >= 0]
    assert bad == ["network lan of test_it.py: drop, tcp, port 2379 to two: it has met no frame"]
