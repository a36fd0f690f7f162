"""nginx inside, its visitors outside, and nothing between them but the router."""

from conftest import serve

PROXY = """
    server {{
        listen 80;
        location / {{
            proxy_pass http://{web};
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
"""


def test_the_router_is_the_only_way(site):
    web, client = site.web.address(site.inside), site.client.address(site.outside)
    assert site.visit(web, patience=3) is None  # as the router does not forward so far
    site.router.run("sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    assert site.visit(web) == f"from {client} for"
    web6, client6 = (vm.address(lan, version=6) for vm, lan in ((site.web, site.inside), (site.client, site.outside)))
    assert site.visit(f"[{web6}]") == f"from {client6} for"
    with site.inside.link(site.router).down():
        assert site.visit(web, patience=3) is None
    assert site.visit(web) == f"from {client} for"


def test_behind_a_proxy(site):
    serve(site.router, PROXY.format(web=site.web.address(site.inside)))
    proxy, client = site.router.address(site.inside), site.client.address(site.outside)
    assert site.visit("router") == f"from {proxy} for {client}"
    assert site.visit(site.web.address(site.inside), patience=3) is None
