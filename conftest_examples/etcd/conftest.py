"""What tests ask the cluster."""

import json

import pytest
from formed import CTL, LONG


class Etcd:
    """etcd as its client sees it, from the machine that is asked."""

    def __init__(self, cluster):
        self.nodes = dict(zip(cluster.names, cluster, strict=True))
        self.lan = cluster.network("lan")
        status = json.loads(cluster[0].run(f"{CTL} endpoint status --cluster -w json").stdout)
        at = {f"http://{name}:2379": name for name in self.nodes}
        self._ids = {one["Status"]["header"]["member_id"]: at[one["Endpoint"]] for one in status}
        leader = self._ids[status[0]["Status"]["leader"]]
        self.leader = self.nodes[leader]
        """The machine that leads at the beginning."""
        self.followers = tuple(vm for name, vm in self.nodes.items() if name != leader)

    def put(self, vm, key, value):
        """Write, as soon as there is a majority that takes it."""
        vm.wait_until_succeeds(f"{CTL} put {key} {value}", timeout=LONG)

    def refuses(self, vm, key, value):
        """Whether it does not take what is to be written."""
        return not vm.run(f"{CTL} put {key} {value}", check=False).ok

    def get(self, vm, key):
        """What the majority has, as soon as there is one."""
        return vm.wait_until_succeeds(f"{CTL} get --print-value-only {key}", timeout=LONG).stdout.strip()

    def has(self, vm, key):
        """What this machine has, whether it is the latest or not; as all members do, it may lag behind."""
        return vm.run(f"{CTL} get --consistency=s --print-value-only {key}").stdout.strip()

    def wait_until_has(self, vm, key, value):
        """Wait until this machine has it, whatever others have."""
        found = f"{CTL} get --consistency=s --print-value-only {key}"
        vm.wait_until_succeeds(f'[ "$({found})" = {value} ]', timeout=LONG)

    def leader_now(self, asked):
        """The machine that leads, as the one that is asked knows it, as soon as there is one."""
        asked.wait_until_succeeds(f"{CTL} endpoint health", timeout=LONG)
        [status] = json.loads(asked.run(f"{CTL} endpoint status -w json").stdout)
        return self.nodes[self._ids[status["Status"]["leader"]]]

    def wait_until_alone(self, vm):
        """Wait until this machine knows that nobody leads it."""
        vm.wait_until_succeeds(f"{CTL} endpoint status | grep 'no leader'", timeout=LONG)


@pytest.fixture
def etcd(readonly_vm_cluster):
    return Etcd(readonly_vm_cluster)
