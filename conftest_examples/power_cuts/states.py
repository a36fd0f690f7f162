"""What is made once, for all machines that want it."""

from pytest_readonly_vm import layer

PACKAGE = "/root/shop.deb"


@layer
def packaged(vm):
    """A package of dpkg's, with some files and their digests."""
    control = "Package: shop\nVersion: 1\nArchitecture: all\nMaintainer: me <me@example.org>\nDescription: a shop\n"
    vm.write_text("/root/shop/DEBIAN/control", control, parents=True)
    vm.run(
        f"""
        set -e
        cd /root/shop && mkdir -p usr/share/shop
        for article in $(seq 20); do yes $article | head -c 20000 >usr/share/shop/$article; done
        md5sum usr/share/shop/* >DEBIAN/md5sums
        /usr/bin/dpkg-deb --root-owner-group --build . {PACKAGE}
        """
    )
