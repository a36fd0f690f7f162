def test_system(host):
    assert host.system_info.type == "linux"
    assert host.system_info.distribution in ("debian", "ubuntu")
    assert host.system_info.arch == host.check_output("uname -m")


def test_package(host):
    assert host.package("openssh-server").is_installed
    assert host.package("openssh-server").version.startswith("1:")
    assert not host.package("apache2").is_installed


def test_service(host):
    ssh = host.service("ssh")
    assert ssh.is_running
    assert ssh.is_enabled
    assert not host.service("no-such").is_running


def test_file(host):
    passwd = host.file("/etc/passwd")
    assert passwd.is_file
    assert (passwd.user, passwd.group, passwd.mode) == ("root", "root", 0o644)
    assert passwd.contains("^root:")
    assert not host.file("/etc/no such file").exists
    assert "tmp" in host.file("/").listdir()


def test_file_content(host):
    host.check_output("printf %s > /tmp/%s", "naïve\n", "a name with 'quotes'")
    assert host.file("/tmp/a name with 'quotes'").content_string == "naïve\n"


def test_process(host):
    init = host.process.get(pid=1)
    assert init.user == "root"
    assert init.comm == "systemd"
    assert host.process.filter(comm="sshd")


def test_socket(host):
    assert host.socket("tcp://0.0.0.0:22").is_listening
    assert not host.socket("tcp://0.0.0.0:80").is_listening


def test_user(host):
    root = host.user("root")
    assert (root.uid, root.gid, root.home) == (0, 0, "/root")
    assert not host.user("nobody-here").exists
    assert host.group("root").exists


def test_commands(host):
    done = host.run("echo out; echo err >&2; exit 3")
    assert (done.rc, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert host.run("printf %s", "it's; $HOME").stdout == "it's; $HOME"


def test_another_user(host):
    with host.sudo("nobody"):
        assert host.check_output("id -un") == "nobody"
    assert host.check_output("id -un") == "root"


def test_network(host):
    assert host.interface("lo").exists
    assert host.addr("localhost").is_resolvable
    assert host.mount_point("/").filesystem == "ext4"
    assert host.sysctl("kernel.ostype") == "Linux"
