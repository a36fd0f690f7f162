"""The state from which all machines start."""

from pathlib import Path

from pytest_readonly_vm import layer

PACKAGES = Path(__file__).parent / "packages"


@layer
def nginx(vm):
    """nginx is installed, and does not run."""
    vm.push(PACKAGES, "/root/packages")
    vm.run("dpkg --install /root/packages/*.deb")
    vm.run("systemctl disable --now nginx && rm /etc/nginx/sites-enabled/default")
