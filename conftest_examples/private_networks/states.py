"""The state from which all machines start."""

from pathlib import Path

from pytest_readonly_vm import layer

PACKAGES = Path(__file__).parent / "packages"


@layer
def nginx(vm):
    """nginx is installed, and does not run."""
    vm.push(PACKAGES, "/root/packages")
    vm.write_text("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode=0o755)  # by which Debian starts no service
    vm.run("dpkg --install --force-unsafe-io /root/packages/*.deb")
    vm.run("rm /usr/sbin/policy-rc.d /etc/nginx/sites-enabled/default")
