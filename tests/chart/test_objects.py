"""Objects around the pods: selectors, budgets, accounts, and the flows that network policies let through."""

from __future__ import annotations

from typing import Any

from services.state import lease
from tests.chart.conftest import component_of, containers, kinds, pod_specs, processes_in
from tools import chart

OBJECTS = dict[str, list[dict[str, Any]]]
Flows = set[tuple[str, str, int]]

FLOWS: Flows = {
    ("gateway", "worker", 50071),
    ("worker", "orchestrator", 50061),
    ("gateway", "redis", 6379),
    ("worker", "redis", 6379),
    ("orchestrator", "redis", 6379),
    ("worker", "worker", 50071),
    ("fleet", "worker", 50071),
    ("fleet", "redis", 6379),
    ("render", "worker", 50071),
    ("render", "redis", 6379),
    ("test", "gateway", 50051),
}
"""Who calls whom: the arrows of docs/architecture.md, and the test of the release."""


def _selects(selector: dict[str, str], pod: dict[str, Any]) -> bool:
    return selector.items() <= pod["metadata"]["labels"].items()


def test_selectors_find_their_pods_and_no_others(objects: OBJECTS) -> None:
    """Deployments, StatefulSets, Services, budgets and policies select the pods of their component."""
    for found in objects.values():
        pods = pod_specs(found)
        for each in found:
            spec, component = each.get("spec", {}), component_of(each["metadata"])
            if each["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
                # The controller's mark of busy pods is in no template.
                selector = {key: value for key, value in spec["selector"]["matchLabels"].items() if "busy" not in key}
            elif each["kind"] == "Service":
                selector = spec["selector"]
            elif each["kind"] == "NetworkPolicy" and component:
                selector = spec["podSelector"]["matchLabels"]
            else:
                continue
            assert [name for name, pod in pods.items() if _selects(selector, pod)] == [component]


def test_services_lead_to_ports_that_exist(objects: OBJECTS) -> None:
    """A service's target is a named port of the pod with the same number."""
    for found in objects.values():
        for service in kinds(found, "Service"):
            pod = pod_specs(found)[component_of(service["metadata"])]
            ports = {port["name"]: port["containerPort"] for port in containers(pod)[-1]["ports"]}
            assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])


def test_every_component_has_a_budget_and_an_account_without_rights(objects: OBJECTS) -> None:
    """One pod of a component may be away at a time; each has an account, and only the controller's has rights."""
    for found in objects.values():
        budgets = {component_of(each["metadata"]): each["spec"] for each in kinds(found, "PodDisruptionBudget")}
        accounts = {each["metadata"]["name"]: each for each in kinds(found, "ServiceAccount")}
        parts = processes_in(found)
        assert sorted(budgets) == sorted(parts) and len(accounts) == len(parts)
        assert all(budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for budget in budgets.values())
        assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
        used = [pod_specs(found)[part]["spec"]["serviceAccountName"] for part in parts]
        assert sorted(used) == sorted(accounts)
        granted = [each for each in found if each["kind"].endswith("Binding")]
        assert all(
            who["name"] == accounts[who["name"]]["metadata"]["name"] for each in granted for who in each["subjects"]
        )
        assert {component_of(each["metadata"]) for each in granted} == ({"fleet"} & set(parts))


def test_everything_is_of_the_release(objects: OBJECTS) -> None:
    """Each object carries the release's labels, and those that the values add."""
    for name, found in objects.items():
        for each in found:
            labels = each["metadata"]["labels"]
            assert labels["app.kubernetes.io/instance"] == chart.RELEASE
            assert name != "everything" or labels["team"] == "theatre"


def _components(peers: list[dict[str, Any]]) -> list[str]:
    selectors = [
        peer.get("podSelector", {}).get("matchLabels", {}) for peer in peers if "namespaceSelector" not in peer
    ]
    return [labels["app.kubernetes.io/component"] for labels in selectors if "app.kubernetes.io/component" in labels]


def _flows(policies: list[dict[str, Any]], direction: str) -> Flows:
    """Flows between components that one side's policies allow."""
    found: Flows = set()
    side = {"ingress": "from", "egress": "to"}[direction]
    for policy in policies:
        own = component_of(policy["metadata"])
        for rule in policy["spec"].get(direction, []):
            for other in _components(rule.get(side, [])):
                ends = (other, own) if direction == "ingress" else (own, other)
                found |= {(*ends, port["port"]) for port in rule["ports"]}
    return found


def test_policies_allow_exactly_the_flows_that_exist(objects: OBJECTS) -> None:
    """Between components both ends allow the same flows, and these are those of the architecture."""
    for name, found in objects.items():
        policies = kinds(found, "NetworkPolicy")
        if name == "no network policies":
            assert not policies
            continue
        expected = {flow for flow in FLOWS if {flow[0], flow[1]} <= {*pod_specs(found), "test"}}
        ingress, egress = _flows(policies, "ingress"), _flows(policies, "egress")
        assert egress == expected, name
        # Where anyone may be a client, the test of the release is one.
        assert ingress | {("test", "gateway", 50051)} == expected | {("test", "gateway", 8080)} & ingress, name


def test_all_else_is_denied(objects: OBJECTS) -> None:
    """One policy denies everything to all pods of the release, and every pod has one of its own for both directions."""
    for name, found in objects.items():
        policies = kinds(found, "NetworkPolicy")
        if name == "no network policies":
            continue
        (deny,) = [each for each in policies if not component_of(each["metadata"])]
        assert not {"ingress", "egress"} & set(deny["spec"])
        assert all(each["spec"]["policyTypes"] == ["Ingress", "Egress"] for each in policies)
        for component, pod in pod_specs(found).items():
            assert _selects(deny["spec"]["podSelector"]["matchLabels"], pod)
            assert [each for each in policies if component_of(each["metadata"]) == component]


def test_ports_are_open_to_somebody_and_nothing_else_is(objects: OBJECTS) -> None:
    """Policies let in at every port of a container but that of health, which the kubelet asks, and at no other."""
    for name, found in objects.items():
        for policy in kinds(found, "NetworkPolicy"):
            component = component_of(policy["metadata"])
            if not component or name == "no network policies":
                continue
            ports = containers(pod_specs(found)[component])[-1].get("ports", [])
            served = {port["containerPort"] for port in ports if port["name"] != "health"}
            let_in = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
            assert let_in == served, f"{name}: {component}"


def test_egress_beyond_the_release_is_what_was_asked_for(objects: OBJECTS) -> None:
    """Names for whoever resolves some; an external Redis, keys of JWTs, planners, traces only where there are any."""
    outward: dict[str, dict[str, set[int]]] = {}
    for name, found in objects.items():
        for policy in kinds(found, "NetworkPolicy"):
            rules = [rule for rule in policy["spec"].get("egress", []) if not _components(rule.get("to", []))]
            ports = {port["port"] for rule in rules for port in rule["ports"]}
            outward.setdefault(name, {})[component_of(policy["metadata"])] = ports
    none: set[int] = set()
    assert outward["laptop"] == {
        "": none,
        "gateway": {53},
        "worker": {53},
        "orchestrator": {53},
        "redis": none,
        "test": {53},
    }
    assert outward["external Redis"]["gateway"] == outward["external Redis"]["worker"] == {53, 6390}
    assert outward["Sentinels"]["worker"] == outward["Sentinels"]["orchestrator"] == {53, 6379, 26379}
    cluster = outward["a cluster"]
    assert cluster["worker"] == {53, 7000, 7001, 7002}
    assert cluster["gateway"] == cluster["render"] == {53, 7000, 7001, 7002, 6390}  # and the queue of renders
    many = outward["multi-node"]
    assert many["gateway"] == {53, 6380, 443, 4317} and many["worker"] == {53, 6380, 4317}
    assert outward["everything"]["orchestrator"] == {53, 8000, 443, 4317}
    assert 4317 not in outward["everything"]["fleet"] | outward["everything"]["render"]


def test_certificates_carry_the_names_that_are_called(objects: OBJECTS) -> None:
    """cert-manager's certificates name the host that callers use, and land in the Secret that is mounted."""
    found = objects["TLS from cert-manager"]
    pods = pod_specs(found)
    certificates = {component_of(each["metadata"]): each["spec"] for each in kinds(found, "Certificate")}
    for component, certificate in certificates.items():
        mounted = [
            volume["secret"]["secretName"] for volume in pods[component]["spec"]["volumes"] if "secret" in volume
        ]
        assert mounted == [certificate["secretName"]]
    env = {variable["name"]: variable.get("value", "") for variable in containers(pods["worker"])[-1]["env"]}
    assert env["CUELIGHT_ORCHESTRATOR_ADDRESS"].partition(":")[0] in certificates["orchestrator"]["dnsNames"]
    advertised = env["CUELIGHT_WORKER_ADVERTISE"].partition(":")[0]
    assert f"*.{advertised.partition('.')[2]}" in certificates["worker"]["dnsNames"]


def test_probes_are_quicker_than_a_lease(objects: OBJECTS) -> None:
    """A pod that takes nothing new leaves its service before a lost session's lease has run out."""
    for found in objects.values():
        for component in processes_in(found):
            probe = containers(pod_specs(found)[component])[-1]["readinessProbe"]
            assert probe["periodSeconds"] * probe["failureThreshold"] < lease.LEASE_S


def test_the_controller_may_do_what_it_does_and_no_more(objects: OBJECTS) -> None:
    """Its rules name the one StatefulSet, Deployment and Lease, and follow what it is asked to do."""
    rules = {name: [rule for each in kinds(found, "Role") for rule in each["rules"]] for name, found in objects.items()}
    assert not rules["laptop"]
    told = {(kind, *rule["verbs"]) for rule in rules["multi-node"] for kind in rule["resources"]}
    assert told == {
        ("pods", "list", "patch"),
        ("statefulsets", "get"),
        ("statefulsets/scale", "get", "patch"),
        ("deployments", "get"),
        ("deployments/scale", "get", "patch"),
        ("leases", "create"),
        ("leases", "get", "update"),
    }
    named = [rule["resourceNames"] for rule in rules["multi-node"] if "resourceNames" in rule]
    assert sorted({name for names in named for name in names}) == [
        "cuelight-fleet",
        "cuelight-orchestrator-4b227777s1",
        "cuelight-worker-4b227777s1",
    ]
    for name in ("a fleet that scales nothing", "an autoscaler"):
        assert not [kind for rule in rules[name] for kind in rule["resources"] if kind.endswith("/scale")]
    nodes = {name for name, found in objects.items() if kinds(found, "ClusterRole")}
    assert {"multi-node", "everything"} <= nodes and "a fleet that scales nothing" not in nodes


def test_who_scales_sets_the_number_and_nobody_else(objects: OBJECTS) -> None:
    """Where the controller scales, an upgrade renders no number that would undo it; workers with sessions are kept."""
    for name, found in objects.items():
        (stateful,) = kinds(found, "StatefulSet")
        fleet = [each for each in kinds(found, "Deployment") if component_of(each["metadata"]) == "fleet"]
        is_scaled = bool(fleet) and name != "a fleet that scales nothing"
        assert ("replicas" in stateful["spec"]) is not is_scaled, name
        followed = [each["spec"]["scaleTargetRef"]["name"] for each in kinds(found, "HorizontalPodAutoscaler")]
        assert followed == ([stateful["metadata"]["name"]] if name == "an autoscaler" else [])
        (budget,) = [
            each["spec"] for each in kinds(found, "PodDisruptionBudget") if component_of(each["metadata"]) == "worker"
        ]
        kept = budget["selector"]["matchLabels"].get("cuelight.dev/busy")
        assert (budget["maxUnavailable"], kept) == ((0, "true") if fleet else (1, None))
