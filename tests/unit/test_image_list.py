"""Names of images: what a list says, where it is looked for, and what is wrong with one."""

import re
from pathlib import Path

import pytest

from pytest_readonly_vm.config.disk import Disk
from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.sources.image_list import ImageList, listed
from pytest_readonly_vm.sources.list_editor import ListEditor

SHA256 = "0123456789abcdef" * 4
LIST = f"""\
# Reviewed by all.
[debian-12]
url = "https://me:hunter2@example.org/debian-12.qcow2"  # the generic one
digest = "sha256:{SHA256}"
size = 1048576
memory = "2G"
login = "root"

[debian-13]
url = "oci://example.org/disks/debian:13"
digest = "sha256:{SHA256}"

[mine]
url = "images/mine.qcow2"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "vm-images.toml").write_text(LIST)
    (tmp_path / "tests").mkdir()
    return tmp_path


def named(image: object, folder: Path, **given: object) -> VmConfig:
    settings = {"image": Given(image, "--vm-image", folder)}
    return listed(VmConfig().with_settings(settings | {key: Given(value, key, folder) for key, value in given.items()}))


def test_a_name_is_found_in_the_nearest_list_above_and_brings_its_settings(project: Path) -> None:
    config = named("debian-12", project / "tests")
    assert isinstance(config.image, ImageReference)
    assert config.image.place == ImageUrl.parse(f"https://me:hunter2@example.org/debian-12.qcow2#sha256={SHA256}")
    assert str(config.image) == "debian-12"
    assert (config.memory, config.login) == (2 << 30, "root")
    assert config.origin("memory") == "vm-images.toml: debian-12"


def test_what_somebody_says_himself_counts_more_than_the_list(project: Path) -> None:
    assert named("debian-12", project, memory="1G", login="admin").memory == 1 << 30


def test_a_digest_goes_to_where_registries_have_it(project: Path) -> None:
    image = named("debian-13", project).image
    assert isinstance(image, ImageReference)
    assert str(image.place) == f"oci://example.org/disks/debian:13@sha256:{SHA256}"


def test_a_path_of_a_list_is_relative_to_it(project: Path) -> None:
    assert named("mine", project / "tests").image == project / "images/mine.qcow2"


def test_a_further_disk_is_found_by_a_name_as_well(project: Path) -> None:
    found = named("debian-12", project, disks=["data:mine,serial=S-1", "more:1M"]).disks
    assert found == (Disk("data", image=project / "images/mine.qcow2", serial="S-1"), Disk("more", size="1M"))
    with pytest.raises(ConfigurationError, match=r"disks: .*lists no 'none-such'"):
        named("debian-12", project, disks="data:none-such")


def test_a_file_of_that_name_counts_more_than_the_list(project: Path) -> None:
    (project / "debian-12").touch()
    assert named("debian-12", project).image == project / "debian-12"


def test_secrets_of_a_url_are_not_shown(project: Path) -> None:
    image = named("https://me:hunter2@example.org/x.qcow2", project).image
    assert isinstance(image, ImageReference)
    for shown in (str(image), repr(image), image.describe(), image.name, repr(named("debian-12", project))):
        assert "hunter2" not in shown


def test_a_missing_name_has_the_nearest_ones(project: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"debian12: No such file .*lists no 'debian12'; it has .*debian-12"):
        named("debian12", project)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[a", "is not TOML"),
        ("a = 1", "a: it is not a table"),
        ("[a]", "a: it has no url"),
        ("[a]\nurl = 1", "a: it has no url"),
        ('[a]\nurl = "https://example.org/a"\ndigest = 1', "a: the digest 1 is not a text"),
        ('[a]\nurl = "https://example.org/a"\ndigest = "sha256:12"', "sha256"),
        ('[a]\nurl = "x"\ndigest = "sha256:12"', "a: a path has no digest"),
        ('[a]\nurl = "https://example.org/a"\nsize = "1G"', "a: the size '1G' is not a number"),
        (
            '[a]\nurl = "https://example.org/a"\nmemroy = "1G"',
            "there is no setting 'memroy'.*memory",
        ),
        ('[a]\nurl = "https://example.org/a"\nimage = "x"', "a: it has an image"),
        ('[a]\nurl = "ftp://example.org/a"', "vm-images.toml: a: ftp:// is none of https://"),
    ],
)
def test_a_wrong_list_is_told_with_its_place(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "vm-images.toml").write_text(content)
    with pytest.raises(ConfigurationError, match=complaint):
        named("a", tmp_path)


@pytest.mark.parametrize("url", ["file:///x.qcow2", "ftp://me:hunter2@example.org/x", "htps://example.org/x"])
def test_other_urls_are_refused_at_once(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--vm-image: image: ") as caught:
        named(url, tmp_path)
    assert "hunter2" not in str(caught.value)


def test_a_change_leaves_all_else_as_people_wrote_it(project: Path) -> None:
    path = project / "vm-images.toml"
    editor = ListEditor(path)
    editor.set("debian-12", {"digest": f"sha512:{SHA256 * 2}", "size": 7})
    editor.set("new", {"url": "new.qcow2", "digest": None})
    editor.remove("debian-13")
    editor.save()
    text = path.read_text()
    assert text.startswith("# Reviewed by all.\n[debian-12]\n")
    assert "# the generic one" in text
    assert re.search(r"size = 7\nmemory = \"2G\"", text)
    images = ImageList.read(path).images
    assert list(images) == ["debian-12", "mine", "new"]
    assert images["debian-12"].digest == f"sha512:{SHA256 * 2}"


def test_a_list_that_is_not_there_is_made(tmp_path: Path) -> None:
    editor = ListEditor(tmp_path / "vm-images.toml")
    editor.set("a", {"url": "a.qcow2", "memory": "1G"})
    editor.save()
    assert (tmp_path / "vm-images.toml").read_text() == '[a]\nurl = "a.qcow2"\nmemory = "1G"\n'
