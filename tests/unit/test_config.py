"""Settings are read, refused with a sentence that names the origin, and looked at together."""

import ast
from pathlib import Path

import pytest

import pytest_readonly_vm
from pytest_readonly_vm import ConfigurationError, VmConfig
from pytest_readonly_vm.config.setting import Given, Part
from pytest_readonly_vm.config.settings import SETTINGS, parse, settings_in
from pytest_readonly_vm.config.table import OPTIONS
from pytest_readonly_vm.config.values import path, secret


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("memory", "512M", 512 << 20),
        ("memory", "2G", 2 << 30),
        ("memory", "2GiB", 2 << 30),
        ("memory", "16m", 16 << 20),
        ("memory", 1 << 30, 1 << 30),
        ("cpus", "4", 4),
        ("cpus", 2, 2),
        ("boot_timeout", "2.5", 2.5),
        ("boot_timeout", 60, 60.0),
        ("image", "a b.qcow2", Path("a b.qcow2")),
        ("image", "~/x", Path.home() / "x"),
        ("qemu_args", "-device 'a b' -x", ("-device", "a b", "-x")),
        ("qemu_args", ["-device", "x"], ("-device", "x")),
        ("monitor", "on", True),
        ("monitor", "0", False),
        ("monitor", True, True),
        ("ready", "console:login: $", "console:login: $"),
        ("ready", "event:NIC_RX_FILTER_CHANGED", "event:NIC_RX_FILTER_CHANGED"),
        ("ready", "none", "none"),
        ("format", None, None),
    ],
)
def test_a_value_is_read_as_text_or_as_itself(name: str, given: object, read: object) -> None:
    assert parse(name, Given(given, "here")) == read


@pytest.mark.parametrize(
    ("name", "given", "complaint"),
    [
        ("memory", "512", "'512' is not a size; write it like 512M or 2G"),
        ("memory", "lots", "'lots' is not a size"),
        ("memory", "0G", "less than the smallest"),
        ("memory", 512, "512 is 512 bytes, less than the smallest"),
        ("memory", True, "True is not a size"),
        ("cpus", "0", "'0' is not a whole number of at least 1"),
        ("cpus", "two", "'two' is not a whole number"),
        ("boot_timeout", "-1", "'-1' is not a positive number of seconds"),
        ("boot_timeout", "inf", "'inf' is not a positive number of seconds"),
        ("boot_timeout", "soon", "'soon' is not a number of seconds"),
        ("accel", "kmv", "'kmv' is not one of auto, kvm, tcg (did you mean 'kvm'?)"),
        ("format", "qcow", "did you mean 'qcow2'?"),
        (
            "ready",
            "login:",
            "'login:' is none of auto, channel, agent, shell, ssh, systemd, none, console:PATTERN, event:",
        ),
        ("ready", "console:(", "'(' is not a regular expression"),
        ("ready", "event:lower", "is none of"),
        ("qemu_args", "-x 'unclosed", "cannot be split into arguments"),
        ("qemu_args", 3, "3 is not a list of texts"),
        ("monitor", "maybe", "'maybe' is neither on nor off"),
        ("image", "", "'' is not a path"),
        ("image", "a\0b", r"'a\x00b' has a NUL character"),
        ("image", Path("a\0b"), r"'a\x00b' has a NUL character"),
        ("append", "a\0b", r"'a\x00b' has a NUL character"),
        ("qemu_args", ["-x\0"], r"'-x\x00' has a NUL character"),
        ("tmpdir", "\udcff\ud800", "has half a character"),
        ("memroy", "1G", "there is no setting 'memroy' (did you mean 'memory'?)"),
    ],
)
def test_an_impossible_value_is_refused_in_one_line_that_begins_with_its_origin(
    name: str, given: object, complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse(name, Given(given, "pytest.ini: vm_x"))
    assert str(refusal.value).startswith("pytest.ini: vm_x: ")
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


PATHS = [name for name, setting in SETTINGS.items() if setting.parse is path]


@pytest.mark.parametrize("name", PATHS)
def test_a_home_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(written: str) -> str:
        with pytest.raises(ConfigurationError) as error:
            parse(name, Given(written, "marker on test_x.py", Path("/nowhere")))
        return str(error.value).removeprefix(f"marker on test_x.py: {name}: {written!r} is in no home: ")

    assert (
        refusal("~nosuchuser/x") == "there is no user 'nosuchuser'; if it is the name of a file, write ./~nosuchuser/x"
    )
    assert refusal("~nosuchuser/").startswith("there is no user 'nosuchuser';")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 3_000_000_000)  # who has no entry among the users
    assert refusal("~/x").startswith("this user has no home directory, as HOME is not set;")


def test_a_path_has_no_detours_but_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "images" / "inner").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    for name in ("base.img", "missing.img"):
        given = Given(f"../images/./{name}", "x", tmp_path / "tests")
        (tmp_path / "images" / "base.img").touch()
        assert str(parse("image", given)) == f"{tmp_path}/images/{name}"
    (tmp_path / "tests" / "link").symlink_to(tmp_path / "images" / "inner")
    behind_a_link = f"{tmp_path}/tests/link/../base.img"
    assert str(parse("image", Given(behind_a_link, "x"))) == behind_a_link


def test_a_name_that_begins_with_a_tilde_is_a_name_as_in_a_shell(tmp_path: Path) -> None:
    assert parse("image", Given("./~base.img", "x", tmp_path)) == tmp_path / "~base.img"
    (tmp_path / "~base.img").touch()
    assert parse("image", Given("~base.img", "x", tmp_path)) == tmp_path / "~base.img"
    assert parse("qemu", Given("~/bin/qemu", "x")) == str(Path.home() / "bin/qemu")


def test_a_relative_path_is_joined_to_its_givers_folder() -> None:
    assert parse("kernel", Given("boot/vmlinuz", "x", Path("/project"))) == Path("/project/boot/vmlinuz")
    assert parse("kernel", Given("/vmlinuz", "x", Path("/project"))) == Path("/vmlinuz")


def test_replace_reads_values_and_remembers_where_they_came_from() -> None:
    config = VmConfig().replace(memory="256M", cpus=3)
    assert (config.memory, config.cpus) == (256 << 20, 3)
    assert config.origin("memory") == "replace(memory=…)"
    assert config.origin("accel") == "the default"


def test_where_a_value_came_from_does_not_make_a_configuration_different() -> None:
    here, there = (VmConfig().with_settings({"cpus": Given(2, origin)}) for origin in ("here", "there"))
    assert here == there


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "no base image: give one with --vm-image=PATH"),
        ({"image": "x", "keep": "always"}, "keep=always needs snapshot=overlay"),
        ({"image": "x", "append": "quiet"}, "append needs kernel"),
        ({"image": "x", "initrd": "i"}, "initrd needs kernel"),
        ({"kernel": "k", "format": "raw"}, "format needs image"),
        ({"kernel": "k", "keep": "always", "snapshot": "overlay"}, "keep=always needs an image"),
        ({"image": "x", "qemu_args": "-m 4G"}, "-m is decided by the setting 'memory'"),
        ({"image": "x", "cache_from": "shared", "no_cache": True}, "what cache_from brings goes into the cache"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint.replace("(", r"\(")):
        VmConfig().replace(**settings).check()


def test_every_setting_explains_itself_and_its_default_can_be_had() -> None:
    assert list(OPTIONS) == list(SETTINGS)
    for name, option in OPTIONS.items():
        assert option.help, name
        assert not option.help.endswith("."), name
        default = getattr(VmConfig(), name)
        if default is not None:
            assert parse(name, Given(default, "default")) == default


def test_no_secret_leaves_this_computer() -> None:
    assert not [name for name in settings_in(Part.CAPSULE) if SETTINGS[name].parse is secret]


def test_what_a_guest_is_booted_by_is_what_a_shell_is_had_by_as_well() -> None:
    assert set(settings_in(Part.BOOT)) < set(settings_in(Part.SHELL))
    assert set(settings_in(Part.RESUME)) < set(settings_in(Part.BOOT))


def test_settings_are_listed_only_where_they_are_declared() -> None:
    """Elsewhere what concerns some of them asks their declarations; three names together are taken for a list."""
    package = Path(pytest_readonly_vm.__file__).parent
    found = []
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                names = {word.value for word in node.elts if isinstance(word, ast.Constant)}
                if len(names) == len(node.elts) >= 3 and names <= SETTINGS.keys():
                    found.append(f"{file}:{node.lineno}")
    assert not found
