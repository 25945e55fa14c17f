"""What operators install in addition to the code."""

import hashlib
import ipaddress
import json
import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from superres.paths import PROJECT_DIR
from superres.sources.public_networks import is_allowed

UNITS = sorted(path.name for path in (PROJECT_DIR / "deploy").glob("super-resolution*"))


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with the paths of this checkout, where the programs exist."""
    for name in UNITS:
        text = (PROJECT_DIR / "deploy" / name).read_text()
        (tmp_path / name).write_text(text.replace("/srv/super-resolution", str(PROJECT_DIR)))
    return tmp_path


def verify(units: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "verify", *(str(units / name) for name in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    assert len(UNITS) == 4
    done = verify(units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_find_what_is_wrong(units: Path) -> None:
    service = units / "super-resolution.service"
    service.write_text(service.read_text().replace("gunicorn app:app", "no-such-program"))
    assert "no-such-program" in verify(units).stderr


def read_denied_networks() -> list[str]:
    text = (PROJECT_DIR / "deploy" / "systemd-sources.conf").read_text()
    return " ".join(re.findall(r"^IPAddressDeny=(.*)$", text, re.M)).split()


def test_service_that_fetches_is_kept_from_private_networks_by_systemd(units: Path) -> None:
    folder = units / "super-resolution.service.d"
    folder.mkdir()
    shutil.copy(PROJECT_DIR / "deploy" / "systemd-sources.conf", folder / "sources.conf")
    done = verify(units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    (folder / "sources.conf").write_text("[Service]\nIPAddressDeny=10.0.0.0/99\n")
    assert "10.0.0.0/99" in verify(units).stderr
    denied = [ipaddress.ip_network(each) for each in read_denied_networks()]
    # What is closed there is closed in the service, and what is public is open.
    assert not any(is_allowed(each[0]) or is_allowed(each[-1]) for each in denied)
    needed = (
        "10.1.2.3 127.0.0.1 169.254.169.254 172.31.0.1 192.168.1.1 100.100.100.200 192.0.0.192 "
        "168.63.129.16 224.0.0.1 255.255.255.255 fd00:ec2::254 fe80::1 ff02::1 2002:a00:1::"
    )
    for text in needed.split():
        address = ipaddress.ip_address(text)
        assert not is_allowed(address)
        assert any(address in network for network in denied), text


@pytest.fixture
def manifests() -> dict[str, Any]:
    """What deploy/kubernetes*.yaml creates, one of a kind."""
    files = sorted((PROJECT_DIR / "deploy").glob("kubernetes*.yaml"))
    found = [each for file in files for each in yaml.safe_load_all(file.read_text())]
    by_kind = {each["kind"]: each for each in found}
    assert len(by_kind) == len(found) == 7
    return by_kind


def test_pods_meet_the_restricted_standard_that_their_namespace_enforces(
    manifests: dict[str, Any],
) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, as of 1.30."""
    labels = manifests["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    assert {kind for volume in pod["volumes"] for kind in set(volume) - {"name"}} == {"emptyDir"}
    context = pod["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"] > 0) == (True, True)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"sysctls", "seLinuxOptions", "windowsOptions", "appArmorProfile"} & set(context)
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not [port for port in container["ports"] if "hostPort" in port]


def test_manifests_speak_of_each_other(manifests: dict[str, Any]) -> None:
    name = manifests.pop("Namespace")["metadata"]["name"]
    assert {each["metadata"].get("namespace") for each in manifests.values()} == {name}
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, selector in (
        ("Deployment", manifests["Deployment"]["spec"]["selector"]["matchLabels"]),
        ("Service", manifests["Service"]["spec"]["selector"]),
        (
            "PodDisruptionBudget",
            manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        ),
        ("NetworkPolicy", manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]),
    ):
        assert selector.items() <= labels.items(), kind
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == (
        "Deployment",
        manifests["Deployment"]["metadata"]["name"],
    )


def test_cluster_pulls_what_its_manifest_says_to_push(manifests: dict[str, Any]) -> None:
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    text = (PROJECT_DIR / "deploy" / "kubernetes.yaml").read_text()
    commands = re.findall(r"^#   podman (build|push) .*?(\S+/super-resolution\S*)", text, re.M)
    assert commands == [("build", container["image"]), ("push", container["image"])]


def test_what_the_cluster_scales_by_is_recorded(manifests: dict[str, Any]) -> None:
    text = (PROJECT_DIR / "deploy" / "kubernetes-autoscaling.yaml").read_text()
    adapter = yaml.safe_load("\n".join(re.findall(r"^#   (.*)$", text, re.M)))
    (rule,) = adapter["externalRules"]
    groups = yaml.safe_load((PROJECT_DIR / "deploy" / "alerts.yaml").read_text())["groups"]
    recorded = [each["record"] for group in groups for each in group["rules"] if "record" in each]
    assert recorded == [rule["seriesQuery"]] == [rule["metricsQuery"]]
    (scaled,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert scaled["external"]["metric"]["name"] == rule["name"]["as"]


def test_only_ingress_and_monitoring_reach_the_service_in_kubernetes(
    manifests: dict[str, Any],
) -> None:
    (rule,) = manifests["NetworkPolicy"]["spec"]["ingress"]
    (peer,) = rule["from"]
    (expression,) = peer["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["ingress-nginx", "monitoring"]
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert [port["port"] for port in rule["ports"]] == [each["name"] for each in container["ports"]]


def test_service_that_fetches_is_kept_from_private_networks_in_kubernetes(
    manifests: dict[str, Any],
) -> None:
    policy = manifests["NetworkPolicy"]
    blocks = [
        to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule["to"] if "ipBlock" in to
    ]
    assert [each["cidr"] for each in blocks] == ["0.0.0.0/0", "::/0"]
    assert [text for each in blocks for text in each["except"]] == read_denied_networks()


def test_compose_overrides_nothing_of_its_env_file_with_an_empty_value() -> None:
    compose = yaml.safe_load((PROJECT_DIR / "deploy" / "compose.yaml").read_text())
    app = compose["services"]["app"]
    assert [each["path"] for each in app["env_file"]] == ["super-resolution.env"]
    # Unset variables become the default after the ":-".
    values = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in app["environment"].items()
    }
    assert values["SR_TRUSTED_PROXIES"] == "1"
    assert all(values.values()), values


def test_one_command_changes_the_name_wherever_compose_has_it(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for name in ("nginx.conf", "deploy/compose.yaml", "deploy/compose.replicas.yaml"):
        shutil.copy(PROJECT_DIR / name, tmp_path / name)
    command = re.search(
        r"^#   (sed .*)$", (PROJECT_DIR / "deploy" / "compose.yaml").read_text(), re.M
    )
    assert command is not None
    subprocess.run(command[1].replace("NAME", "a.test"), shell=True, cwd=tmp_path, check=True)
    texts = [path.read_text() for path in (tmp_path / "deploy").iterdir()]
    (certificates,) = re.findall(r"ssl_certificate (\S+)/", (tmp_path / "nginx.conf").read_text())
    assert f"./certificates:{certificates}:ro" in "".join(texts)
    assert all(":-a.test}" in text for text in texts)


def test_replicas_differ_by_their_ports_and_volumes_alone() -> None:
    files = ("compose.yaml", "compose.replicas.yaml")
    base, replicas = (
        yaml.safe_load((PROJECT_DIR / "deploy" / name).read_text())["services"] for name in files
    )
    first = base["app"] | replicas["app"]
    first["environment"] = base["app"]["environment"] | replicas["app"]["environment"]
    second = replicas["app2"]
    assert {name for name in first if first[name] != second.get(name)} == {
        *("build", "depends_on", "environment", "volumes")
    }
    assert first["environment"] | {"SR_BIND": "127.0.0.1:7861"} == second["environment"]


def test_image_is_built_from_a_pinned_base_and_says_what_it_is_made_of() -> None:
    text = (PROJECT_DIR / "Containerfile").read_text()
    bases = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", text, re.M)
    stages = {name for _, name in bases}
    pulled = [base for base, _ in bases if base not in stages]
    assert len(pulled) == 1
    assert re.fullmatch(r"docker\.io/library/debian:12-slim@sha256:[0-9a-f]{64}", pulled[0])
    assert "superres.cdx.json" in text.rpartition("FROM")[2]


def test_bill_of_materials_has_what_the_wheel_brings_along() -> None:
    bill = json.loads((PROJECT_DIR / "deploy" / "bundled.cdx.json").read_text())
    hashes = {each["name"]: each["hashes"][0]["content"] for each in bill["components"]}
    vendor = PROJECT_DIR / "superres" / "web" / "page" / "vendor"
    files = [*vendor.glob("*.js"), *(PROJECT_DIR / "superres" / "models").glob("EDSR_*")]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == {
        name if name.startswith("EDSR_") else f"{name}.js": digest
        for name, digest in hashes.items()
    }
    versions = [
        f"{each['name']}@{each['version']}" for each in bill["components"] if "purl" in each
    ]
    vendored = re.search(r"^VENDORED := (.*)$", (PROJECT_DIR / "Makefile").read_text(), re.M)
    assert vendored and vendored[1].split() == versions


def is_in_context(name: str) -> bool:
    """Tell whether a file is in the build context: the last line matching it or its folder wins."""
    result = True
    places = [name, *(str(folder) for folder in PurePosixPath(name).parents)]
    for line in (PROJECT_DIR / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        # A star does not match a slash there.
        if any(fnmatch(each, pattern) and each.count("/") == pattern.count("/") for each in places):
            result = line.startswith("!")
    return result


def test_image_has_what_the_wheel_is_built_from() -> None:
    copied = re.findall(
        r"^COPY (?!--from)(.*) \S+$", (PROJECT_DIR / "Containerfile").read_text(), re.M
    )
    patterns = " ".join(copied).split()
    needed = ["pyproject.toml", "uv.lock", "superres", "LICENSE", "docs/package.md"]
    needed += [path.name for path in PROJECT_DIR.glob("*.py")]
    for name in needed:
        assert is_in_context(name), name
        assert any(fnmatch(name, pattern) for pattern in patterns), name
    assert is_in_context("superres/models/EDSR_x3.pb")
    assert not is_in_context("testkit/service.py")
    assert not is_in_context(".git")


def test_every_extra_that_is_named_exists() -> None:
    project = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]
    texts = [PROJECT_DIR / "Containerfile", PROJECT_DIR / "Makefile"]
    texts += [*(PROJECT_DIR / "docs").glob("*.md"), *(PROJECT_DIR / "deploy").glob("*.yaml")]
    texts += (PROJECT_DIR / "superres").rglob("*.py")
    pattern = r"EXTRAS=\"?([a-z][a-z0-9 ]*)|'\.\[([a-z0-9,]+)\]'|the extra `?([a-z0-9]+)"
    named = {
        extra
        for text in texts
        for found in re.findall(pattern, text.read_text())
        for extra in re.findall(r"[a-z0-9]+", " ".join(found))
    }
    assert named == set(project["optional-dependencies"])
