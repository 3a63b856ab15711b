"""What deploy/kubernetes says of a fleet, of the operator and of the inference gateway: valid, and of one piece."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stepserve.operator.rollout import GROUP, PLURAL
from tests.integration.programs import REPOSITORY
from tests.integration.test_deploy import DEPLOY, assert_settings, run

KUBERNETES = DEPLOY / "kubernetes"
PAGE = (REPOSITORY / "docs" / "how-to" / "kubernetes.md").read_text()

Object = dict[str, Any]
Objects = dict[tuple[str, str], Object]


def built(folder: Path, scratch: Path) -> Objects:
    """What kustomize makes of it, once the API's schema took it."""
    made = run("kubectl", "kustomize", folder)
    assert made.returncode == 0, made.stderr
    file = scratch / "objects.yaml"
    file.write_text(made.stdout)
    valid = run("kubernetes-validate", "--strict", "-k", "1.34", file)
    assert valid.returncode == 0, valid.stdout + valid.stderr
    objects = list(yaml.safe_load_all(made.stdout))
    named = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    assert len(named) == len(objects)
    return named


def labels_of(workload: Object) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def ports_of(workload: Object) -> set[str | int]:
    """By name and by number."""
    containers = workload["spec"]["template"]["spec"]["containers"]
    ports = [port for container in containers for port in container.get("ports", [])]
    return {port["name"] for port in ports} | {port["containerPort"] for port in ports}


def chosen(objects: Objects, selector: dict[str, str]) -> Object:
    """The one workload whose pods a selector takes."""
    workloads = [one for (kind, _), one in objects.items() if kind in {"Deployment", "StatefulSet"}]
    (found,) = [one for one in workloads if selector.items() <= labels_of(one).items()]
    return found


def secrets_of(value: object) -> Iterator[tuple[str, str]]:
    """Name and key of each secret that is named anywhere; a whole one has the key `*`."""
    if isinstance(value, dict):
        for name, one in value.items():
            if name in {"secretKeyRef", "credentials"}:
                yield one["name"], one["key"]
            elif name == "secretRef":
                yield one["name"], "*"
            else:
                yield from secrets_of(one)
    elif isinstance(value, list):
        for one in value:
            yield from secrets_of(one)


def environment_of(container: Object, objects: Objects) -> dict[str, str]:
    """As the kubelet makes it, with `x…` for each secret."""
    (settings,) = [one["data"] for (kind, _), one in objects.items() if kind == "ConfigMap"]
    environment = dict(settings)
    for each in container.get("env", []):
        value = each.get("value", "x" * 32)
        for name, known in environment.items():
            value = value.replace(f"$({name})", known)
        environment[each["name"]] = value
    assert not any("$(" in value for value in environment.values()), "one that is defined after its use"
    return environment


def test_a_fleet_is_of_one_piece(tmp_path: Path) -> None:
    objects = built(KUBERNETES / "overlays" / "fleet", tmp_path)
    member = objects["StatefulSet", "stepserve-member"]
    for (kind, name), one in objects.items():
        spec = one.get("spec", {})
        match kind:
            case "Service":
                workload = chosen(objects, spec["selector"])
                assert {port.get("targetPort", port["port"]) for port in spec["ports"]} <= ports_of(workload)
            case "NetworkPolicy":
                chosen(objects, spec["podSelector"]["matchLabels"])
                rules = [rule for way in ("ingress", "egress") for rule in spec.get(way, [])]
                peers = [peer for rule in rules for peer in (*rule.get("from", ()), *rule.get("to", ()))]
                for peer in peers:
                    if labels := peer.get("podSelector", {}).get("matchLabels"):
                        chosen(objects, labels)
            case "PodDisruptionBudget":
                assert chosen(objects, spec["selector"]["matchLabels"]) is member
            case "HorizontalPodAutoscaler":
                assert spec["scaleTargetRef"]["name"] == member["metadata"]["name"]
            case "ServiceMonitor":
                services = [one for (kind, _), one in objects.items() if kind == "Service"]
                wanted = spec["selector"]["matchLabels"].items()
                assert sum(wanted <= one["metadata"].get("labels", {}).items() for one in services) == 1, name
            case "StatefulSet":
                assert ("Service", spec["serviceName"]) in objects
                mounted = {mount["name"] for one in containers(objects, name) for mount in one["volumeMounts"]}
                claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
                assert mounted <= claims | {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


def containers(objects: Objects, name: str) -> list[Object]:
    (found,) = [
        one for (kind, there), one in objects.items() if there == name and kind in {"Deployment", "StatefulSet"}
    ]
    listed: list[Object] = found["spec"]["template"]["spec"]["containers"]
    return listed


def test_the_pods_of_a_fleet_have_settings_that_there_are(tmp_path: Path) -> None:
    objects = built(KUBERNETES / "overlays" / "fleet", tmp_path)
    for number, container in enumerate(containers(objects, "stepserve")):
        environment = environment_of(container, objects)
        assert (
            environment["INFERENCE_DATABASE_URL"]
            == f"postgresql+asyncpg://stepserve:{'x' * 32}@stepserve-postgres/stepserve"
        )
        (tmp_path / f"head-{number}").mkdir()
        assert_settings(environment, tmp_path / f"head-{number}")
    (member,) = containers(objects, "stepserve-member")
    environment = environment_of(member, objects) | {"INFERENCE_FLEET__CONTROL": member["command"][-1]}
    assert member["command"][:4] == ["tini", "--", "stepserve", "join"]
    assert environment["INFERENCE_FLEET__ADVERTISE"].endswith(".stepserve-member:8765")
    (tmp_path / "member").mkdir()
    assert_settings(environment, tmp_path / "member")
    pod = objects["StatefulSet", "stepserve-member"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 5 + int(environment["INFERENCE_DRAIN_TIMEOUT_S"])


def test_members_reach_a_head_whose_own_gateway_is_not_ready(tmp_path: Path) -> None:
    """And control reaches members that are not: neither would ever become ready otherwise."""
    objects = built(KUBERNETES / "overlays" / "fleet", tmp_path)
    (member,) = containers(objects, "stepserve-member")
    control = member["command"][-1].removeprefix("http://").partition(":")[0]
    assert objects["Service", control]["spec"]["publishNotReadyAddresses"]
    assert objects["Service", "stepserve-member"]["spec"]["publishNotReadyAddresses"]
    assert "publishNotReadyAddresses" not in objects["Service", "stepserve"]["spec"], "clients wait for one that is"


@pytest.mark.parametrize("folder", ["overlays/fleet", "operator"])
def test_the_page_says_how_each_secret_is_made(folder: str, tmp_path: Path) -> None:
    for name, key in set(secrets_of(list(built(KUBERNETES / folder, tmp_path).values()))):
        (command,) = [line for line in PAGE.splitlines() if line.startswith(f"kubectl create secret generic {name} ")]
        assert key == "*" or f"--from-literal={key}=" in command


def test_the_autoscaler_asks_for_what_the_adapter_offers() -> None:
    scaler = yaml.safe_load((KUBERNETES / "overlays" / "fleet" / "autoscaler.yaml").read_text())
    (metric,) = scaler["spec"]["metrics"]
    (rule,) = yaml.safe_load((KUBERNETES / "monitoring" / "adapter-values.yaml").read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    series = rule["seriesQuery"].partition("{")[0]
    assert f"`{series}`" in (REPOSITORY / "docs" / "telemetry.md").read_text()


def test_the_inference_gateway_takes_the_members_of_a_fleet(tmp_path: Path) -> None:
    """The schemas of these two kinds are not at hand, so what they refer to is checked."""
    objects = built(KUBERNETES / "overlays" / "fleet", tmp_path)
    folder = KUBERNETES / "inference-gateway"
    pool = yaml.safe_load((folder / "inferencepool.yaml").read_text())
    route = yaml.safe_load((folder / "httproute.yaml").read_text())
    assert (pool["apiVersion"], route["apiVersion"]) == (
        "inference.networking.k8s.io/v1",
        "gateway.networking.k8s.io/v1",
    )
    members = chosen(objects, pool["spec"]["selector"]["matchLabels"])
    assert members is objects["StatefulSet", "stepserve-member"]
    assert {port["number"] for port in pool["spec"]["targetPorts"]} <= ports_of(members)
    inference, rest = route["spec"]["rules"]
    assert [one["name"] for one in inference["backendRefs"]] == [pool["metadata"]["name"]]
    (head,) = rest["backendRefs"]
    assert head["port"] in {port["port"] for port in objects["Service", head["name"]]["spec"]["ports"]}


def test_the_operator_has_the_rights_that_it_needs_and_no_more(tmp_path: Path) -> None:
    """That these are enough is what test_operator.py finds, whose API server holds it to this Role."""
    objects = built(KUBERNETES / "operator", tmp_path)
    rights = {
        (resource, verb)
        for rule in objects["Role", "stepserve-operator"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rights == {
        *((PLURAL, verb) for verb in ("get", "list", "watch", "patch")),
        (f"{PLURAL}/status", "patch"),
        ("events", "create"),
    }
    assert not any(kind.startswith("Cluster") for kind, _ in objects)
    pod = objects["Deployment", "stepserve-operator"]["spec"]["template"]["spec"]
    (binding,) = objects["RoleBinding", "stepserve-operator"]["subjects"]
    assert (
        pod["serviceAccountName"]
        == binding["name"]
        == objects["ServiceAccount", "stepserve-operator"]["metadata"]["name"]
    )
    definition = objects["CustomResourceDefinition", f"{PLURAL}.{GROUP}"]
    assert definition["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_hadolint_has_nothing_to_say_of_the_operators_image() -> None:
    ended = run("hadolint", DEPLOY / "docker" / "operator.Dockerfile")
    assert (ended.returncode, ended.stdout) == (0, "")
