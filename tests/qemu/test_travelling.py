"""A frozen guest is of use on another computer, where it is made of the same and fits, and nowhere else."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import ConfigurationError
from pytest_readonly_vm.cli import main
from pytest_readonly_vm.config.layer import GuestLayer
from pytest_readonly_vm.host.qemu_binary import find_qemu
from tests.conftest import READY
from tests.guests import bootsector
from tests.qemu import test_template_cache
from tests.qemu.test_template_cache import Run, layer_of, runner


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image ``base.img`` of another computer, and ``pushed``, where its frozen guest is shared."""
    folder = tmp_path_factory.mktemp("origin")
    image = bootsector.write_image(folder / "base.img", bootsector.writer(READY))
    assert runner(image, folder / "templates")() == ["boot", "clone"]
    push(folder / "templates", folder / "pushed")
    return folder


def push(cache: Path, target: Path, *more: str) -> None:
    assert main(["cache", "push", str(target), "--folder", str(cache), *more]) == 0


@pytest.fixture
def here(origin: Path, tmp_path: Path) -> Run:
    """Runs on this computer, which has the image somewhere else, and an empty cache."""
    shutil.copy(origin / "base.img", tmp_path / "copy.img")
    return runner(tmp_path / "copy.img", tmp_path / "cache")


def test_what_was_pulled_boots_nothing(
    origin: Path, here: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pull = ["cache", "pull", str(origin / "pushed"), "--folder", str(tmp_path / "cache")]
    assert main(pull) == 0
    assert "pulled 1 of 1 template" in capsys.readouterr().out
    assert here(machines=2) == ["clone", "clone"]
    assert main(pull) == 0
    assert "is here\npulled 0 of 1 template" in capsys.readouterr().out


def test_what_is_needed_is_taken_once(origin: Path, here: Run, tmp_path: Path) -> None:
    told: list[str] = []
    assert here(cache_from=origin / "pushed", tell=told.append) == ["clone"]
    assert [one for one in told if "came from" in one and str(origin / "pushed") in one]
    assert here() == ["clone"]
    assert here(no_cache=True) == ["boot", "clone"]


def another_build(folder: Path) -> Path:
    """The emulator with a byte more, beside which its firmware and modules are found as usual."""
    qemu = find_qemu(None, origin="the test").path
    (folder / "bin").mkdir()
    for name in ("share", "lib", "libexec"):
        (folder / name).symlink_to(qemu.parents[1] / name)
    found = folder / "bin" / qemu.name
    found.write_bytes(qemu.read_bytes() + b"\0")
    found.chmod(0o755)
    (found.parent / "qemu-img").symlink_to(shutil.which("qemu-img") or "")
    return found


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: {"cpu_model": "qemu64"}, "its CPU model is max.*, and here it is qemu64"),
        (lambda folder: {"qemu": str(another_build(folder))}, "its QEMU is another build of .* here [0-9a-f]{12}…"),
    ],
    ids=["CPU model", "QEMU"],
)
def test_what_does_not_fit_boots_and_the_reason_is_told(
    make: Callable[[Path], dict[str, object]], reason: str, origin: Path, here: Run, tmp_path: Path
) -> None:
    told: list[str] = []
    settings = make(tmp_path)
    assert here(cache_from=origin / "pushed", tell=told.append, **settings) == ["boot", "clone"]
    [said] = told
    assert re.search(reason, said), said


def test_another_base_is_another_guest(origin: Path, tmp_path: Path) -> None:
    image = Path(shutil.copy(origin / "base.img", tmp_path / "other.img"))
    with image.open("ab") as file:
        file.write(bytes(512))
    told: list[str] = []
    assert runner(image, tmp_path / "cache")(cache_from=origin / "pushed", tell=told.append) == ["boot", "clone"]
    assert told == []


def test_what_anybody_may_have_written_is_not_believed(origin: Path, here: Run, tmp_path: Path) -> None:
    shutil.copytree(origin / "pushed", tmp_path / "open")
    (tmp_path / "open").chmod(0o777)
    told: list[str] = []
    assert here(cache_from=tmp_path / "open", tell=told.append) == ["boot", "clone"]
    assert any("nobody" in one or "signed" in one for one in told), told
    shutil.rmtree(tmp_path / "cache")
    assert here(cache_from=tmp_path / "open", cache_unsigned=True) == ["clone"]


def project(folder: Path, content: str) -> GuestLayer:
    """A layer of a project in this folder, that depends on a file of it."""
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    (folder / "tests").mkdir()
    (folder / "app").write_text(content)
    return layer_of(folder / "tests" / "layers.py", "travelled", '(files=["../app"])')


def test_layers_travel_from_one_checkout_to_another(
    origin: Path, here: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(origin / "base.img", tmp_path / "there")
    assert run(layers=project(tmp_path / "one", "1")) == ["boot", "clone"]
    push(tmp_path / "there", tmp_path / "pushed")
    sent = [float(one) for one in re.findall(r"sent ([0-9.]+) MiB", capsys.readouterr().out)]
    assert sent[1] < sent[0] / 2  # what is below goes first, and is not sent again
    shutil.rmtree(tmp_path / "one")
    before = list(test_template_cache.made)
    same = project(tmp_path / "two", "1")
    assert here(layers=same, cache_from=tmp_path / "pushed") == ["clone"]
    assert here(layers=same) == ["clone"]
    assert test_template_cache.made == before
    (tmp_path / "two" / "app").write_text("2")
    assert here(layers=same, cache_from=tmp_path / "pushed") == ["clone"]  # of what is below it
    assert test_template_cache.made == [*before, "travelled"]


def test_what_is_bound_to_this_computer_stays_and_says_why(
    origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Path(shutil.copy(origin / "base.img", tmp_path / "base.img"))
    assert runner(image, tmp_path / "cache")() == ["boot", "clone"]
    with image.open("ab") as file:
        file.write(bytes(512))
    push(tmp_path / "cache", tmp_path / "pushed")
    assert f"stays here: {image}, of which it was made, changed its size" in capsys.readouterr().out


def test_a_place_that_cannot_be_is_an_error_at_once_and_one_that_does_not_answer_is_told(here: Run) -> None:
    with pytest.raises(ConfigurationError, match=r"cache_from=.*s4:// is no place for frozen guests"):
        here(cache_from="s4://frozen/here")
    told: list[str] = []
    assert here(cache_from="oci://127.0.0.1:1/frozen", tell=told.append) == ["boot", "clone"]
    [said] = told
    assert said.startswith("no frozen guest is taken from oci://127.0.0.1:1/frozen")
