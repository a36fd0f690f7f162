"""The cluster from which tests start. It is formed once, kept, and formed anew when it would be another."""

import os

from pytest_readonly_vm import cluster, layer

MEMBERS = ("n0", "n1", "n2")
CTL = "ETCDCTL_API=3 etcdctl"
LONG = 600
"""Seconds that something may take on a slow computer; no wait takes longer than what it waits for."""

# An emulated processor may be late: as the manual has it, an election takes ten times a heartbeat.
TIMING = "ETCD_HEARTBEAT_INTERVAL=300\nETCD_ELECTION_TIMEOUT=3000\n"


@layer
def installed(vm):
    """Debian's etcd, of packages that are on the host, so that the guest needs no network. It does not run yet."""
    vm.push(os.environ.get("ETCD_PACKAGES", "packages"), "/root/packages")
    vm.write_text("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode=0o755)  # by which Debian starts no service
    vm.run("dpkg --install --force-unsafe-io --path-exclude='/usr/share/doc/*' /root/packages/*.deb", timeout=LONG)
    vm.run("rm /usr/sbin/policy-rc.d")


@cluster
def etcd(new):
    """Three members that have elected a leader."""
    lan = new.network("lan")
    nodes = {name: new.machine(name, networks=[lan], layers=[installed]) for name in MEMBERS}
    for name, vm in nodes.items():
        configure(vm, name, members=MEMBERS)
        vm.run("systemctl start --no-block etcd")  # which is not done before there are others
    for vm in nodes.values():
        vm.wait_for_unit("etcd", timeout=LONG)
        vm.wait_until_succeeds(f"{CTL} endpoint health", timeout=LONG)
        vm.run("sync")


def configure(vm, name, *, members, state="new"):
    """Tell a machine which member of which cluster it is."""
    peers = ",".join(f"{member}=http://{member}:2380" for member in members)
    settings = f"""\
ETCD_NAME={name}
ETCD_INITIAL_CLUSTER={peers}
ETCD_INITIAL_CLUSTER_STATE={state}
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{name}:2380
ETCD_ADVERTISE_CLIENT_URLS=http://{name}:2379
ETCD_LISTEN_PEER_URLS=http://0.0.0.0:2380
ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379
{TIMING}"""
    vm.write_text("/etc/default/etcd", settings)
