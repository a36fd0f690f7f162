"""Ten things that can happen to a cluster. Each test begins with the same one, in which nothing has happened yet."""

from formed import CTL, LONG, configure, installed


def test_leader_killed(etcd):
    """The machine that leads is gone from one moment to the next: the others elect one of themselves."""
    one, other = etcd.followers
    etcd.put(one, "before", 1)
    etcd.leader.kill()
    etcd.put(one, "after", 2)
    assert etcd.leader_now(one) in (one, other)
    assert (etcd.get(other, "before"), etcd.get(other, "after")) == ("1", "2")


def test_leader_cut_off_and_healed(etcd):
    """It runs on, but what others have overtaken it does not give out as the latest; then it follows them."""
    one, other = etcd.followers
    etcd.put(one, "key", "old")
    etcd.wait_until_has(etcd.leader, "key", "old")
    with etcd.lan.partition(etcd.leader, [one, other]):
        etcd.put(one, "key", "new")
        assert etcd.leader_now(one) in (one, other)
        assert etcd.has(etcd.leader, "key") == "old"
        assert not etcd.leader.run(f"{CTL} --command-timeout=2s get key", check=False).ok
    assert etcd.get(etcd.leader, "key") == "new"


def test_minority_refuses_writes(etcd):
    """One of three is too few; what it has refused has not happened, also later."""
    lonely, other = etcd.followers
    with etcd.lan.partition(lonely, [other, etcd.leader]):
        etcd.wait_until_alone(lonely)
        assert not lonely.run(f"{CTL} --command-timeout=2s put key minority", check=False).ok
        etcd.put(other, "other", "majority")
    assert etcd.get(lonely, "other") == "majority"
    assert etcd.get(lonely, "key") == ""


def test_slow_follower(etcd):
    """The others do not wait for it, and it gets everything in the end."""
    slow, quick = etcd.followers
    with etcd.lan.faults(delay="400ms", jitter="100ms", source=slow), etcd.lan.faults(delay="400ms", to=slow):
        for number in range(5):
            etcd.put(quick, "key", number)
        etcd.wait_until_has(slow, "key", 4)
    assert etcd.get(slow, "key") == "4"


def test_a_fifth_of_all_frames_lost(etcd):
    """Slower, but right."""
    with etcd.lan.faults(loss="20%", seed=7):
        for name, vm in etcd.nodes.items():
            etcd.put(vm, name, f"by-{name}")
    for vm in etcd.nodes.values():
        assert [etcd.get(vm, name) for name in etcd.nodes] == [f"by-{name}" for name in etcd.nodes]


def test_member_replaced(etcd, readonly_vm_factory):
    """A machine is gone for good; a new one, which knows nothing, takes its place and gets all data."""
    asked, gone = etcd.followers
    etcd.put(asked, "key", "value")
    gone.kill()
    [name] = [name for name, vm in etcd.nodes.items() if vm is gone]
    members = asked.run(f"{CTL} member list").stdout.splitlines()
    [member] = [line.split(", ")[0] for line in members if f", {name}, " in line]
    asked.run(f"{CTL} member remove {member}")
    asked.run(f"{CTL} member add n3 --peer-urls=http://n3:2380")
    new = readonly_vm_factory(name="n3", networks=[etcd.lan], layers=[installed])
    configure(new, "n3", members=[*(other for other in etcd.nodes if other != name), "n3"], state="existing")
    new.run("systemctl start --no-block etcd")
    new.wait_for_unit("etcd", timeout=LONG)
    etcd.wait_until_has(new, "key", "value")


def test_power_cut(etcd):
    """A machine loses what it had not yet written to its disk; it boots, and goes on as the member that it was."""
    cut, asked = etcd.followers
    etcd.put(cut, "before", 1)
    boot = cut.boot_id()
    cut.reboot(hard=True, wait=False)
    etcd.put(asked, "meanwhile", 2)
    cut.wait_for_boot(boot, timeout=LONG)
    cut.wait_for_unit("etcd", timeout=LONG)
    assert (etcd.get(cut, "before"), etcd.get(cut, "meanwhile")) == ("1", "2")
    assert cut.run("journalctl --boot --unit=etcd | grep -i 'restarting.*member'").ok


def test_clock_set_off(etcd):
    """The clock of the leader, which ends leases, is a day ahead all at once: none ends too early."""
    asked = etcd.followers[0]
    lease = asked.run(f"{CTL} lease grant 36000").stdout.split()[1]
    asked.run(f"{CTL} put --lease={lease} key value")
    etcd.leader.run("date --set='+1 day'")
    etcd.put(etcd.leader, "other", 1)
    assert "remaining(" in etcd.leader.run(f"{CTL} lease timetolive {lease}").stdout
    assert etcd.get(asked, "key") == "value"
    ahead, right = (int(vm.run("date +%s").stdout) for vm in (etcd.leader, asked))
    assert ahead - right > 80000


def test_all_restarted(etcd):
    """For a moment nobody has anything in memory."""
    etcd.put(etcd.leader, "key", "value")
    for vm in etcd.nodes.values():
        vm.run("systemctl stop etcd")
    for vm in etcd.nodes.values():
        vm.run("systemctl start --no-block etcd")
    assert [etcd.get(vm, "key") for vm in etcd.nodes.values()] == ["value"] * 3


def test_no_data_lost(etcd):
    """Somebody writes while the leader crashes: whatever was acknowledged is there afterwards, for everybody."""
    client = etcd.followers[0]
    endpoints = ",".join(f"http://{name}:2379" for name in etcd.nodes)
    client.write_text(
        "/root/write",
        f"""
        for number in $(seq 12); do
            {CTL} --endpoints={endpoints} put /$number written && echo /$number >>/root/acknowledged
        done
        """,
    )
    client.run("systemd-run --unit=writer sh /root/write")
    client.wait_until_succeeds("[ $(wc -l </root/acknowledged) -ge 3 ]", timeout=LONG)
    etcd.leader.run("systemctl kill --signal=KILL etcd")  # and systemd starts it again
    client.wait_until_succeeds("! systemctl is-active writer", timeout=LONG)
    acknowledged = set(client.read_text("/root/acknowledged").split())
    for vm in etcd.nodes.values():
        vm.wait_until_succeeds(f"{CTL} endpoint health", timeout=LONG)
        assert acknowledged <= set(vm.run(f"{CTL} get --prefix --keys-only /").stdout.split())
