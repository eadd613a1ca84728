"""The Helm chart, by its own tools (Helm lints and renders, kubeconform checks what comes out), and what only we know.

No cluster runs it here. What a service would read in its pod is put together from the rendered objects and loaded.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk.resources import OTELResourceDetector

from deploy.kubernetes.crds import SCHEMAS
from deploy.kubernetes.files import CHART, acls
from deploy.kubernetes.values import SETTINGS
from deploy.toolbox.unpacking import KUBERNETES
from services.gateway.ledger import load_rate_limits
from services.gateway.settings import GatewaySettings
from services.moderation.policy import load_policy
from shared.rights import consumer_rights, in_namespace, operator_rights, rights_of
from shared.settings import MeshSettings, load_settings, variable_of
from shared.telemetry.metrics import DECLARED
from shared.topics import GROUPS, REGISTRY, Service
from tests.support.chart import (
    NAMESPACE,
    RELEASE,
    SCENARIOS,
    SERVICES,
    Object,
    Rendered,
    container,
    environment_below,
    helm_template,
    mounted_files,
    plain_environment,
)
from tests.support.tools import required_tool

IMAGES = CHART.parents[1] / "images"
NOT_OURS = re.compile(r"^(OTEL_|HF_|OMP_|POD_NAME$|SSL_CERT_DIR$)")
"""Variables that others read: OpenTelemetry, huggingface_hub, us in another variable, what a scenario adds."""


@pytest.fixture(scope="module")
def helm() -> Path:
    return required_tool("helm")


@pytest.fixture(scope="module")
def charts(helm: Path) -> Mapping[str, Rendered]:
    def render(name: str) -> Rendered:
        done = helm_template(helm, SCENARIOS[name])
        assert done.returncode == 0, done.stderr
        return Rendered(name, done.stdout)

    with ThreadPoolExecutor(2) as threads:
        return dict(zip(SCENARIOS, threads.map(render, SCENARIOS), strict=True))


@pytest.fixture(params=SCENARIOS)
def rendered(request: pytest.FixtureRequest, charts: Mapping[str, Rendered]) -> Rendered:
    return charts[request.param]


# -- by their own tools --------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", SCENARIOS.values(), ids=SCENARIOS)
def test_helm_finds_no_fault(helm: Path, values: Path) -> None:
    done = subprocess.run(
        [helm, "lint", "--strict", CHART, "--values", values], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def kubeconform(*files: Path, release: str = KUBERNETES[-1]) -> "subprocess.CompletedProcess[str]":
    builtin = f"{required_tool('kubernetes-schemas')}/{release}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    custom = f"{SCHEMAS}/{{{{ .Group }}}}/{{{{ .ResourceKind }}}}_{{{{ .ResourceAPIVersion }}}}.json"
    options = ["-strict", "-output", "json", "-summary", "-schema-location", builtin, "-schema-location", custom]
    argv = [required_tool("kubeconform"), *options, *files]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("release", KUBERNETES)
def test_kubernetes_knows_every_object(charts: Mapping[str, Rendered], tmp_path: Path, release: str) -> None:
    files = []
    for name, chart in charts.items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(chart.text)
    done = kubeconform(*files, release=release)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["summary"] == {
        "valid": sum(len(chart.objects) for chart in charts.values()),
        **dict.fromkeys(("invalid", "errors", "skipped"), 0),
    }


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("Deployment", ("spec", "template", "spec", "terminationGraceSeconds"), 5),
        ("KafkaTopic", ("spec", "partitons"), 5),
        ("KafkaUser", ("spec", "authorization", "type"), "complicated"),
        ("ScaledObject", ("spec", "minReplicas"), 1),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "intervall"), "15s"),
        ("HTTPRoute", ("spec", "rules", 0, "timeout"), "0s"),
    ],
)
def test_kubeconform_would_see_a_fault(
    charts: Mapping[str, Rendered], tmp_path: Path, kind: str, path: tuple[str | int, ...], wrong: Any
) -> None:
    faulty = charts["everything"].of(kind)[0]
    spot: Any = faulty
    for step in path[:-1]:
        spot = spot[step]
    spot[path[-1]] = wrong
    (tmp_path / "faulty.yaml").write_text(yaml.safe_dump(faulty))
    try:
        done = kubeconform(tmp_path / "faulty.yaml")
    finally:
        charts["everything"].__dict__.pop("objects")  # read anew, without the fault
    assert done.returncode == 1
    assert str(path[-1]) in done.stdout


def mesh_of(chart: Rendered) -> str:
    """By which Prometheus tells its metrics from those of other meshes."""
    (monitor,) = chart.of("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (name,) = (rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "mesh")
    assert name.startswith(f"{NAMESPACE}/")
    return str(name)


def test_what_keda_asks_is_how_much_there_is_to_do(charts: Mapping[str, Rendered], tmp_path: Path) -> None:
    """Two gateways with 5 and 7 streams; an owner 40 records behind; 61 of 64 slots taken and 9 jobs waiting."""
    of = f'mesh="{mesh_of(charts["everything"])}"'
    series = {
        f'chatmesh_active_streams{{{of},job="chatmesh/gateway",pod="a",transport="sse"}}': 5,
        f'chatmesh_active_streams{{{of},job="chatmesh/gateway",pod="b",transport="websocket"}}': 7,
        'chatmesh_active_streams{mesh="chat/other",job="chatmesh/gateway",transport="sse"}': 1000,
        **{
            f'chatmesh_consumer_lag_records{{{of},job="chatmesh/{job}",messaging_destination_name="{topic}"}}': lag
            for job, topic, lag in (
                ("moderation", "responses.journal", 40),
                ("moderation", "service.heartbeats", 1000),
                ("inference", "responses.journal", 1000),
            )
        },
        **{
            f'chatmesh_engine_slots{{{of},pod="{pod}",state="{state}"}}': slots
            for pod, state, slots in (("a", "total", 32), ("b", "total", 32), ("a", "free", 3), ("b", "free", 0))
        },
        f"chatmesh_waiting_jobs{{{of}}}": 9,
    }
    asked = [
        {"expr": query, "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": value}]}
        for query, value in zip(queries(charts["everything"]), (12, 40, 70), strict=True)
    ]
    test = {"input_series": [{"series": name, "values": f"{value}x2"} for name, value in series.items()]}
    (tmp_path / "keda.yaml").write_text(
        yaml.safe_dump({"tests": [{**test, "interval": "1m", "promql_expr_test": asked}]})
    )
    argv = [required_tool("promtool"), "test", "rules", tmp_path / "keda.yaml"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- what runs -----------------------------------------------------------------------------------------------


def test_every_container_is_held_to_the_least(rendered: Rendered) -> None:
    for component, template in rendered.pods():
        pod, one = template["spec"], container(template)
        assert pod["automountServiceAccountToken"] is False, component
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(one["resources"]["requests"])
        assert "memory" in one["resources"]["limits"]


def test_every_service_is_asked_how_it_does(rendered: Rendered) -> None:
    for name in SERVICES:
        deployment = rendered.named("Deployment", name)
        one = container(deployment["spec"]["template"])
        ports = {port["name"]: port["containerPort"] for port in one["ports"]}
        assert str(ports["management"]) == plain_environment(one)["CHATMESH_MANAGEMENT_PORT"]
        paths = {probe: one[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
        assert paths == {
            "startup": {"path": "/readyz", "port": "management"},
            "liveness": {"path": "/healthz", "port": "management"},
            "readiness": {"path": "/readyz", "port": "management"},
        }


def test_a_service_may_start_and_end_in_its_own_time(rendered: Rendered) -> None:
    for component, template in rendered.pods():
        if component not in SERVICES:
            continue
        values, one = rendered.values, container(template)
        environment = plain_environment(one)
        before_s = one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        grace_s = template["spec"]["terminationGracePeriodSeconds"]
        assert grace_s >= before_s + float(environment["CHATMESH_SHUTDOWN_S"]) + 5, component
        startup = one["startupProbe"]
        loading_s = values[component].get("loadS", 30)
        assert startup["periodSeconds"] * startup["failureThreshold"] >= (
            float(environment["CHATMESH_START_TIMEOUT_S"]) + loading_s
        )


def test_images_are_those_that_are_built(charts: Mapping[str, Rendered]) -> None:
    for component, template in charts["external"].pods():
        recipe = (IMAGES / f"{component}.Dockerfile").read_text()
        one, pod = container(template), template["spec"]["securityContext"]
        assert one["image"] == f"chatmesh-{component}:0.1.0"
        assert f"USER {pod['runAsUser']}:{pod['runAsGroup']}" in recipe
        exposed = [int(port) for line in re.findall(r"^EXPOSE (.+)$", recipe, re.M) for port in line.split()]
        assert sorted(port["containerPort"] for port in one.get("ports", [])) == sorted(exposed)


def test_images_may_come_from_elsewhere(charts: Mapping[str, Rendered]) -> None:
    for component, template in charts["gpu"].pods():
        assert container(template)["image"] == f"registry.example.com/chat/chatmesh-{component}:2026-11"
        assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_an_autoscaler_alone_says_how_many_there_are(rendered: Rendered) -> None:
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in rendered.of("ScaledObject")}
    for deployment in rendered.of("Deployment"):
        name = deployment["metadata"]["name"]
        assert ("replicas" in deployment["spec"]) == (name not in scaled)
    assert scaled == {f"{RELEASE}-{name}" for name in SERVICES if rendered.values[name]["autoscaling"]["enabled"]}


def test_workers_find_their_gpus(charts: Mapping[str, Rendered]) -> None:
    template = charts["gpu"].named("Deployment", "inference")["spec"]["template"]
    pod, one = template["spec"], container(template)
    assert one["resources"]["limits"] == {"memory": "128Gi", "nvidia.com/gpu": 4}
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    environment = plain_environment(one)
    assert (environment["CHATMESH_ENGINE"], environment["CHATMESH_TENSOR_PARALLEL"]) == ("deepspeed", "4")
    assert environment["CHATMESH_CACHE_TOKENS"] == "1000000"
    for name in ("gateway", "moderation", "history"):
        other = charts["gpu"].named("Deployment", name)["spec"]["template"]["spec"]
        assert not {"runtimeClassName", "nodeSelector", "tolerations"} & set(other)


# -- settings ------------------------------------------------------------------------------------------------


def variables_of(cls: type[MeshSettings]) -> set[str]:
    """All variables that a service reads, and how its secrets come from files."""
    names = {variable_of(field, name) for name, field in cls.model_fields.items()}
    return names | {
        f"{variable_of(field, name)}_FILE" for name, field in cls.model_fields.items() if "Secret" in str(field)
    }


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for cls in SETTINGS.values():
        for variable in variables_of(cls):
            monkeypatch.delenv(variable, raising=False)
    return monkeypatch


def enter_pod(rendered: Rendered, template: Object, root: Path, patch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set what a pod's process would find; its files lie below `root`."""
    environment = environment_below(rendered, template, root)
    for name, value in environment.items():
        patch.setenv(name, value)
    return environment


@pytest.mark.parametrize("component", SERVICES)
def test_a_service_understands_what_its_pod_tells_it(
    rendered: Rendered, component: str, tmp_path: Path, nothing_set: pytest.MonkeyPatch
) -> None:
    template = rendered.named("Deployment", component)["spec"]["template"]
    environment = enter_pod(rendered, template, tmp_path, nothing_set)
    known = variables_of(SETTINGS[component])
    assert not [name for name in environment if name not in known and not NOT_OURS.match(name)]
    settings = load_settings(SETTINGS[component])
    assert settings.create_topics is False
    assert settings.management_host == rendered.values["listenAddress"]
    if isinstance(settings, GatewaySettings):
        assert settings.host == rendered.values["listenAddress"]
    assert settings.partitions == rendered.values["kafka"]["partitions"]
    assert settings.namespace == rendered.values["kafka"]["namespace"]
    if settings.uses_sasl:
        assert settings.kafka_password == "password"
    files = [
        name for name, value in plain_environment(container(template)).items() if value.startswith("/etc/chatmesh/")
    ]
    assert files or rendered.values["kafka"]["external"]["securityProtocol"] == "PLAINTEXT"
    assert [name for name in files if not Path(environment[name]).is_file()] == []


def test_operators_have_a_pod_with_their_rights(
    charts: Mapping[str, Rendered], tmp_path: Path, nothing_set: pytest.MonkeyPatch
) -> None:
    template = charts["everything"].named("Deployment", "tools")["spec"]["template"]
    enter_pod(charts["everything"], template, tmp_path, nothing_set)
    assert load_settings(MeshSettings).principal == f"User:{RELEASE}-admin"
    assert container(template)["image"].startswith("chatmesh-tools@sha256:")
    # As process 1 it would hear nothing of a signal that it does not wait for: the pod would be killed in the end.
    script = f"print('up', flush=True); {container(template)['command'][-1]}"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.2)
        waiting.terminate()
        assert waiting.wait(10) == 0


def test_the_job_that_makes_the_topics_runs_as_admin(
    charts: Mapping[str, Rendered], tmp_path: Path, nothing_set: pytest.MonkeyPatch
) -> None:
    [job] = charts["external"].of("Job")
    template = job["spec"]["template"]
    enter_pod(charts["external"], template, tmp_path, nothing_set)
    settings = load_settings(MeshSettings)
    assert (settings.principal, settings.create_topics) == ("User:admin", True)
    assert settings.replication_factor == 3
    assert container(template)["args"] == ["deploy.topics", "create"]
    assert not charts["gpu"].of("Job")
    assert not charts["strimzi"].of("Job")


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        ("external", {"name": "HF_HUB_OFFLINE", "value": "1"}),
        ("everything", {"name": "HF_TOKEN_PATH", "value": "/etc/chatmesh/hub/token"}),
    ],
)
def test_every_service_may_fetch_gated_models_or_none(
    charts: Mapping[str, Rendered], scenario: str, told: Object
) -> None:
    """Inference its model, the gateway and history that model's tokenizer, moderation the models of a policy."""
    for name in SERVICES:
        one = container(charts[scenario].named("Deployment", name)["spec"]["template"])
        assert [entry for entry in one["env"] if entry["name"] in ("HF_TOKEN_PATH", "HF_HUB_OFFLINE")] == [told], name
        assert not [entry for entry in one["env"] if "secretKeyRef" in entry.get("valueFrom", {})], "secrets are files"


def test_limits_and_policy_are_read_as_they_were_meant(charts: Mapping[str, Rendered], tmp_path: Path) -> None:
    chart = charts["everything"]
    for name, check in (("gateway", "limits/rate-limits.yaml"), ("moderation", "policy/policy.yaml")):
        template = chart.named("Deployment", name)["spec"]["template"]
        mounted_files(chart, template, tmp_path / name)
        assert (tmp_path / name / "etc/chatmesh" / check).is_file()
    limits = load_rate_limits(tmp_path / "gateway/etc/chatmesh/limits/rate-limits.yaml").of("any", "default")
    assert (limits.requests, limits.tokens) == (600, 200_000)
    policy = load_policy(tmp_path / "moderation/etc/chatmesh/policy/policy.yaml")
    assert policy.name.startswith("house-1@")


def test_new_limits_restart_gateways_and_a_new_policy_nobody(helm: Path, charts: Mapping[str, Rendered]) -> None:
    before = charts["everything"]
    options = [
        "--set",
        "gateway.rateLimits.tiers.default.requests_per_minute=601",
        "--set",
        "moderation.policy=version: x",
    ]
    after = Rendered("everything", helm_template(helm, SCENARIOS["everything"], *options).stdout)
    templates = [
        {name: chart.named("Deployment", name)["spec"]["template"] for name in SERVICES} for chart in (before, after)
    ]
    changed = [name for name in SERVICES if templates[0][name] != templates[1][name]]
    assert changed == ["gateway"]
    assert before.named("ConfigMap", "policy") != after.named("ConfigMap", "policy")


def test_another_version_of_the_chart_alone_restarts_nobody(rendered: Rendered) -> None:
    for _, template in rendered.pods():
        assert not [name for name in template["metadata"]["labels"] if name.startswith("helm.sh/")]


# -- what refers to what -------------------------------------------------------------------------------------


def test_secrets_are_only_ever_named(rendered: Rendered) -> None:
    assert not rendered.of("Secret")
    made_by_strimzi = {one["metadata"]["name"] for one in rendered.of("KafkaUser")}
    made_by_strimzi |= {f"{one['metadata']['name']}-cluster-ca-cert" for one in rendered.of("Kafka")}
    named_in_values = set(re.findall(r"'?(?:secretName|name)'?: '?([\w-]+)", str(SCENARIOS[rendered.name].read_text())))
    used = set(secrets_used(rendered.objects))
    assert used
    assert used <= made_by_strimzi | named_in_values | {"registry"}


def secrets_used(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("secretName"), str):
            yield node["secretName"]
        if isinstance(node.get("secretKeyRef"), dict):
            yield node["secretKeyRef"]["name"]
        yield from (entry["name"] for entry in node.get("secretTargetRef", []))
        for value in node.values():
            yield from secrets_used(value)
    elif isinstance(node, list):
        for value in node:
            yield from secrets_used(value)


def test_what_pods_refer_to_is_there(rendered: Rendered) -> None:
    maps = {one["metadata"]["name"] for one in rendered.of("ConfigMap")}
    accounts = {one["metadata"]["name"] for one in rendered.of("ServiceAccount")}
    claims = {one["metadata"]["name"] for one in rendered.of("PersistentVolumeClaim")}
    claims |= {"models", "unpacked-weights"}  # of the values of `gpu`
    for component, template in rendered.pods():
        pod = template["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(volumes) == {mount["name"] for mount in container(template)["volumeMounts"]}
        assert {one["configMap"]["name"] for one in volumes.values() if "configMap" in one} <= maps
        assert {
            one["persistentVolumeClaim"]["claimName"] for one in volumes.values() if "persistentVolumeClaim" in one
        } <= claims
        if component in SERVICES:
            assert pod["serviceAccountName"] in accounts
    for one in rendered.of("ServiceAccount"):
        assert one["automountServiceAccountToken"] is False


@pytest.mark.parametrize("scenario", ["everything", "strimzi", "minimal"])
@pytest.mark.parametrize("release", ["-".join(["release"] * 7)[:53].rstrip("-"), "chat.v1", f"{'x' * 39}.{'y' * 9}"])
def test_any_name_of_a_release_makes_names_that_kubernetes_takes(helm: Path, release: str, scenario: str) -> None:
    done = helm_template(helm, SCENARIOS[scenario], release=release)
    assert done.returncode == 0, done.stderr
    objects = Rendered(scenario, done.stdout).objects
    names = [one["metadata"]["name"] for one in objects if one["kind"] == "Service"]
    # Strimzi's operator makes pods and Services, and puts a pod's name into labels.
    for pool in [one for one in objects if one["kind"] == "KafkaNodePool"]:
        cluster = pool["metadata"]["labels"]["strimzi.io/cluster"]
        names += [f"{cluster}-{pool['metadata']['name']}-{number}" for number in (0, 999)]
        names += [f"{cluster}-kafka-bootstrap", f"{cluster}-entity-operator"]
    assert [name for name in names if not re.fullmatch("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name)] == []
    assert len({(one["kind"], one["metadata"]["name"]) for one in objects}) == len(objects)
    for one in objects:
        name = one["metadata"]["name"]
        # KEDA puts "keda-hpa-" in front; pods get a suffix of up to 17 characters, which Kubernetes cuts itself.
        assert len(name) <= 54 or one["kind"] in ("KafkaTopic", "TriggerAuthentication", "ConfigMap"), name
        assert re.fullmatch(r"[a-z]([a-z0-9.-]*[a-z0-9])?", name), name
        for label in one["metadata"]["labels"].values():
            assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", label), label


def test_names_that_look_like_something_else_are_names(helm: Path, tmp_path: Path) -> None:
    paths = (
        *(f"kafka.external.principals.{name}.{key}" for name in SERVICES for key in ("secretName", "passwordKey")),
        *(
            "kafka.external.ca.secretName",
            "kafka.external.ca.key",
            "gateway.apiKeys.secretName",
            "images.pullSecrets[0]",
        ),
        *(
            "history.mongodb.secretName",
            "gateway.priorityClassName",
            "inference.gpu.runtimeClassName",
            "ingress.className",
        ),
        *("model.token.secretName", "model.existingClaim", "inference.cache.existingClaim"),
    )
    more = (
        "history.autoscaling.enabled=true,inference.gpu.enabled=true,ingress.enabled=true,ingress.hosts={a.example.com}"
    )
    options = ["--set", f"{more},model.download=true", "--set-string", ",".join(f"{path}=1e3" for path in paths)]
    done = helm_template(helm, SCENARIOS["external"], *options, release="true")
    assert done.returncode == 0, done.stderr
    (tmp_path / "names.yaml").write_text(done.stdout)
    checked = kubeconform(tmp_path / "names.yaml")
    assert checked.returncode == 0, checked.stdout


def selects(selector: Mapping[str, str], template: Object) -> bool:
    return selector.items() <= template["metadata"]["labels"].items()


def test_selectors_find_the_pods_that_they_mean(rendered: Rendered) -> None:
    pods = dict(rendered.pods())
    for component in SERVICES:
        deployment = rendered.named("Deployment", component)
        budget = rendered.named("PodDisruptionBudget", component)
        for selector in (deployment["spec"]["selector"], budget["spec"]["selector"]):
            assert [name for name, pod in pods.items() if selects(selector["matchLabels"], pod)] == [component]
    service = rendered.named("Service", "")
    assert [name for name, pod in pods.items() if selects(service["spec"]["selector"], pod)] == ["gateway"]
    assert service["spec"]["ports"][0]["targetPort"] in [port["name"] for port in container(pods["gateway"])["ports"]]
    for monitor in rendered.of("PodMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        assert {name for name, pod in pods.items() if selects(selector, pod)} >= set(SERVICES)
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "management"
    for one in (*rendered.of("Ingress"), *rendered.of("HTTPRoute")):
        assert f"'name': '{service['metadata']['name']}'" in str(one["spec"]["rules"])


def test_the_network_lets_through_what_is_needed_and_no_more(rendered: Rendered) -> None:
    if not rendered.values["networkPolicy"]["enabled"]:
        assert not rendered.of("NetworkPolicy")
        return
    closed = rendered.named("NetworkPolicy", "default-deny")["spec"]
    assert set(closed) == {"podSelector", "policyTypes"}
    pods = dict(rendered.pods())
    for component, template in pods.items():
        assert selects(closed["podSelector"]["matchLabels"], template)
        kafka = {
            int(server.rpartition(":")[2])
            for server in plain_environment(container(template))["KAFKA_BOOTSTRAP_SERVERS"].split(",")
        }
        wanted = kafka | {53}
        values = rendered.values
        wanted |= {27017} if component == "history" and values["history"]["mongodb"]["secretName"] else set()
        wanted |= {4318} if values["tracing"]["endpoint"] else set()
        wanted |= {443} if values["model"]["download"] and component in SERVICES else set()
        wanted |= {8443} if values["networkPolicy"]["extraEgress"].get(component) else set()
        wanted |= {8080, 9464} if component == "tools" and values["tools"]["enabled"] else set()
        assert ports_of(rendered, template, "egress") == wanted, component
        assert ports_of(rendered, template, "ingress") == ({9464, 8080} if component == "gateway" else {9464})


@pytest.mark.parametrize("scenario", ["plain", "everything"])
def test_operators_can_chat_and_read_metrics_and_services_cannot(charts: Mapping[str, Rendered], scenario: str) -> None:
    chart = charts[scenario]
    pods = dict(chart.pods())
    for target in SERVICES:
        asked = [(source, port) for source in pods for port in (8080, 9464) if allowed(chart, source, target, port)]
        assert asked == [("tools", 8080)] * (target == "gateway") + [("tools", 9464)], target
    address = plain_environment(container(pods["tools"]))["OPENAI_BASE_URL"]
    service = chart.named("Service", "")
    assert address == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/v1"


def allowed(rendered: Rendered, source: str, target: str, port: int) -> bool:
    """Whether policies let a pod of one component reach one of another: out of the one, and into the other."""
    pods = dict(rendered.pods())

    def among(peers: list[Object] | None, pod: Object) -> bool:
        here = [peer["podSelector"]["matchLabels"] for peer in peers or () if set(peer) == {"podSelector"}]
        return peers is None or any(selects(labels, pod) for labels in here)

    def opened(direction: str, side: str, of: str, other: str) -> bool:
        return any(
            among(rule.get(side), pods[other]) and port in [one["port"] for one in rule["ports"]]
            for policy in rendered.of("NetworkPolicy")
            if selects(policy["spec"]["podSelector"]["matchLabels"], pods[of])
            for rule in policy["spec"].get(direction, [])
        )

    return opened("egress", "to", source, target) and opened("ingress", "from", target, source)


def ports_of(rendered: Rendered, template: Object, direction: str) -> set[int]:
    """What policies open for a pod, whatever the peer."""
    return {
        port["port"]
        for policy in rendered.of("NetworkPolicy")
        if selects(policy["spec"]["podSelector"]["matchLabels"], template)
        for rule in policy["spec"].get(direction, [])
        for port in rule["ports"]
    }


# -- Kafka ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["strimzi", "everything"])
def test_topics_are_those_of_the_registry(charts: Mapping[str, Rendered], scenario: str) -> None:
    chart = charts[scenario]
    kafka = chart.values["kafka"]
    made = {one["spec"]["topicName"]: one["spec"] for one in chart.of("KafkaTopic")}
    assert set(made) == {kafka["namespace"] + name for name in REGISTRY}
    for name, topic in REGISTRY.items():
        spec = made[kafka["namespace"] + name]
        assert spec["partitions"] == (topic.partitions or kafka["partitions"])
        assert spec["replicas"] == kafka["replicationFactor"]
        assert {key: str(value) for key, value in spec["config"].items()} == topic.broker_config(
            kafka["minInsyncReplicas"]
        )


@pytest.mark.parametrize("scenario", ["strimzi", "everything"])
def test_principals_have_the_rights_that_the_registry_gives(charts: Mapping[str, Rendered], scenario: str) -> None:
    chart = charts[scenario]
    namespace = chart.values["kafka"]["namespace"]
    granted = {
        one["metadata"]["name"].removeprefix(f"{RELEASE}-"): one["spec"]["authorization"]["acls"]
        for one in chart.of("KafkaUser")
    }
    wanted = {
        **{service.value: rights_of(service) for service in Service},
        "admin": operator_rights(),
        **dict.fromkeys(chart.values["kafka"]["strimzi"]["consumers"], consumer_rights()),
    }
    assert granted == {name: acls(in_namespace(namespace, rights)) for name, rights in wanted.items()}


def test_everything_of_strimzi_names_its_cluster(charts: Mapping[str, Rendered]) -> None:
    for scenario, cluster in (("strimzi", RELEASE), ("everything", "events")):
        chart = charts[scenario]
        [kafka], [nodes] = chart.of("Kafka"), chart.of("KafkaNodePool")
        assert kafka["metadata"]["name"] == cluster
        for one in (nodes, *chart.of("KafkaTopic"), *chart.of("KafkaUser")):
            assert one["metadata"]["labels"]["strimzi.io/cluster"] == cluster
        for name in SERVICES:
            template = chart.named("Deployment", name)["spec"]["template"]
            environment = plain_environment(container(template))
            assert environment["KAFKA_BOOTSTRAP_SERVERS"] == f"{cluster}-kafka-bootstrap:9093"
            assert environment["KAFKA_SASL_USERNAME"] == f"{RELEASE}-{name}"
            secrets = [volume["secret"]["secretName"] for volume in template["spec"]["volumes"] if "secret" in volume]
            assert {f"{cluster}-cluster-ca-cert", f"{RELEASE}-{name}"} <= set(secrets)
        assert nodes["spec"]["replicas"] >= chart.values["kafka"]["replicationFactor"]
        assert kafka["spec"]["kafka"]["config"]["auto.create.topics.enable"] is False
        # Where topics are kept, so is what they are kept by.
        for one in (kafka, nodes, *chart.of("KafkaTopic")):
            assert one["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_brokers_are_configured_as_was_asked(helm: Path, charts: Mapping[str, Rendered]) -> None:
    def config(chart: Rendered) -> Object:
        return dict(chart.of("Kafka")[0]["spec"]["kafka"]["config"])

    zero = ["--set", r"kafka.strimzi.config.group\.initial\.rebalance\.delay\.ms=0"]
    with_it = config(Rendered("strimzi", helm_template(helm, SCENARIOS["strimzi"], *zero).stdout))
    assert with_it == {**config(charts["strimzi"]), "group.initial.rebalance.delay.ms": 0}
    assert config(charts["everything"])["log.retention.check.interval.ms"] == 60_000


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.tracing.svc:4319", 4319),
        ("https://otlp.example.com/otlp", 443),
        ("http://[fd00::1]:4318", 4318),
        ("http://collector", 80),
    ],
)
def test_spans_get_out_to_wherever_they_are_sent(helm: Path, endpoint: str, port: int) -> None:
    done = helm_template(helm, SCENARIOS["external"], "--set", f"tracing.endpoint={endpoint}")
    rendered = Rendered("external", done.stdout)
    for name in SERVICES:
        template = rendered.named("Deployment", name)["spec"]["template"]
        assert port in ports_of(rendered, template, "egress") - {53, 9094, 27017}


def test_a_list_of_brokers_may_have_gaps(helm: Path, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    servers = ", kafka-0:9094,,kafka-1:9095 ,"
    values.write_text(yaml.safe_dump({"kafka": {"external": {"bootstrapServers": servers}}}))
    done = helm_template(helm, SCENARIOS["external"], "--values", str(values))
    assert done.returncode == 0, done.stderr
    rendered = Rendered("external", done.stdout)
    template = rendered.named("Deployment", "gateway")["spec"]["template"]
    assert plain_environment(container(template))["KAFKA_BOOTSTRAP_SERVERS"] == "kafka-0:9094,kafka-1:9095"
    assert ports_of(rendered, template, "egress") >= {9094, 9095}
    assert 0 not in ports_of(rendered, template, "egress")


def test_spans_get_out_to_pods_that_listen_elsewhere_than_their_service(helm: Path) -> None:
    """Policies count the port of the pod."""

    def opened(*options: str) -> set[int]:
        done = helm_template(helm, SCENARIOS["external"], "--set", "tracing.endpoint=http://collector", *options)
        rendered = Rendered("external", done.stdout)
        return ports_of(rendered, rendered.named("Deployment", "inference")["spec"]["template"], "egress")

    assert opened() == opened("--set", "networkPolicy.otlp.ports={80,4318}")
    assert opened() - opened("--set", "networkPolicy.otlp.ports={5318}") == {80, 4318}


def test_processes_are_described_as_was_asked(helm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whoever reads it as OpenTelemetry does; no value can name another attribute, or a variable of the pod."""
    asked = {"deployment.environment.name": "staging", "team": "chat + voice, 100 %=$(POD_NAME)", "region": "a/ü"}
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"tracing": {"endpoint": "http://collector", "resourceAttributes": asked}}))
    done = helm_template(helm, SCENARIOS["external"], "--values", str(values))
    rendered = Rendered("external", done.stdout)
    for name in SERVICES:
        environment = plain_environment(container(rendered.named("Deployment", name)["spec"]["template"]))
        told = environment["OTEL_RESOURCE_ATTRIBUTES"]
        assert told.count("$(POD_NAME)") == 1
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", told)
        read = OTELResourceDetector().detect().attributes
        assert read == {"k8s.namespace.name": NAMESPACE, "k8s.pod.name": "$(POD_NAME)", **asked}


def test_labels_of_a_services_own_come_over_those_of_all(helm: Path, tmp_path: Path) -> None:
    done = helm_template(helm, SCENARIOS["everything"], "--set", "gateway.podLabels.team=web")
    teams = {
        name: template["metadata"]["labels"]["team"] for name, template in Rendered("everything", done.stdout).pods()
    }
    assert teams == {**dict.fromkeys(teams, "chat"), "gateway": "web"}
    (tmp_path / "labels.yaml").write_text(done.stdout)
    assert kubeconform(tmp_path / "labels.yaml").returncode == 0, "a key that stands twice"


# -- what it is scaled and watched by ------------------------------------------------------------------------


def queries(rendered: Rendered) -> list[str]:
    triggers = [trigger for one in rendered.of("ScaledObject") for trigger in one["spec"]["triggers"]]
    found = [trigger["metadata"]["query"] for trigger in triggers if trigger["type"] == "prometheus"]
    assert len(found) == 3  # gateway, moderation, inference
    return found


def test_scaling_goes_by_metrics_that_are_there(charts: Mapping[str, Rendered]) -> None:
    declared = {metric.name: metric for metric in DECLARED}
    asked = [found for query in queries(charts["everything"]) for found in re.findall(r"(\w+)\{([^}]*)\}", query)]
    assert len(asked) == 5
    for name, matchers in asked:
        labels = dict(re.findall(r'(\w+)="([^"]*)"', matchers))
        assert set(labels) <= {"job", "mesh", *declared[name].labels}, name
        assert labels["mesh"] == mesh_of(charts["everything"])


def test_history_is_scaled_by_groups_and_topics_that_are_there(helm: Path, charts: Mapping[str, Rendered]) -> None:
    chart = charts["everything"]
    triggers = [trigger["metadata"] for trigger in chart.named("ScaledObject", "history")["spec"]["triggers"]]
    assert {(one["consumerGroup"], one["topic"]) for one in triggers} == {
        (group.name, group.topic.name)
        for group in GROUPS.values()
        if group.service is Service.HISTORY and group.name != "history.usage"
    }
    assert {(one["tls"], one["sasl"], one["bootstrapServers"]) for one in triggers} == {
        ("enable", "scram_sha512", "events-kafka-bootstrap:9093")
    }
    spaced = helm_template(
        helm,
        SCENARIOS["plain"],
        *("--set", r"kafka.external.bootstrapServers=a.example.com:9092 \, b.example.com:9093"),
    )
    for trigger in Rendered("plain", spaced.stdout).named("ScaledObject", "history")["spec"]["triggers"]:
        assert trigger["metadata"]["bootstrapServers"] == "a.example.com:9092,b.example.com:9093", (
            "KEDA takes no spaces"
        )
    access = chart.named("TriggerAuthentication", "history")["spec"]
    assert access["secretTargetRef"] == [
        {"parameter": "password", "name": f"{RELEASE}-history", "key": "password"},
        {"parameter": "ca", "name": "events-cluster-ca-cert", "key": "ca.crt"},
    ]
    [username] = access["configMapTargetRef"]
    assert chart.named("ConfigMap", "history-principal")["data"][username["key"]] == f"{RELEASE}-history"


def test_alerts_and_dashboard_are_those_of_every_deployment(charts: Mapping[str, Rendered]) -> None:
    monitoring = CHART.parents[1] / "monitoring"
    [rule] = charts["everything"].of("PrometheusRule")
    groups = [
        group
        for path in sorted((monitoring / "prometheus/rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert rule["spec"]["groups"] == groups
    board = charts["everything"].named("ConfigMap", "dashboard")["data"]["chatmesh.json"]
    assert board == (monitoring / "grafana/dashboards/chatmesh.json").read_text()


# -- wrong values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("gateway.replica=3", "additional properties 'replica' not allowed"),
        ("gateway.settings.CHATMESH_MAX_INFLIGHT=3", "additional properties 'CHATMESH_MAX_INFLIGHT' not allowed"),
        ("gateway.settings.CHATMESH_API_KEYS=/elsewhere", "additional properties 'CHATMESH_API_KEYS' not allowed"),
        ("gateway.settings.CHATMESH_MAX_IN_FLIGHT=0", "minimum: got 0, want 1"),
        ("gateway.autoscaling.minReplicas=0", "minimum: got 0, want 1"),
        ("moderation.autoscaling.enabled=true,moderation.autoscaling.minReplicas=9", "minReplicas is 9, which is more"),
        ("kafka.mode=strimzi,kafka.strimzi.nodes=2", "each copy needs a node of its own"),
        ("kafka.minInsyncReplicas=4", "nothing could ever be appended"),
        ("kafka.external.securityProtocol=TLS", "value must be one of"),
        ("kafka.external.bootstrapServers=kafka", "does not match pattern"),
        ("kafka.external.bootstrapServers=", "kafka.external.bootstrapServers is needed"),
        ("kafka.external.principals.history.secretName=", "kafka.external.principals.history.secretName is needed"),
        ("gateway.apiKeys.secretName=", "gateway.apiKeys.secretName is needed"),
        ("history.mongodb.secretName=", "history keeps its store in SQLite, which one replica can"),
        ("ingress.enabled=true", "ingress.hosts is empty"),
        ("httpRoute.enabled=true", "httpRoute.parentRefs is empty"),
        ("gateway.tolerations=null", "missing property 'tolerations'"),
        ("networkPolicy.enabled=null", "missing property 'enabled'"),
        ("inference.slots=0", "minimum: got 0, want 1"),
        ("inference.gpu.count=0", "minimum: got 0, want 1"),
        ("gateway.shutdownS=0", "exclusiveMinimum: got 0, want 0"),
        ("kafka.replicationFactor=12", "maximum: got 12, want 9"),
        (r"commonLabels.app\.kubernetes\.io/name=mine", "invalid propertyName 'app.kubernetes.io/name'"),
        ("inference.extraEnv[0].name=CHATMESH_SLOTS", "inference: CHATMESH_SLOTS is set twice"),
        (
            "inference.gpu.enabled=true,inference.gpu.count=4,inference.settings.CHATMESH_ENGINE=transformers",
            "inference: CHATMESH_ENGINE is set twice",
        ),
        (
            "kafka.external.securityProtocol=SASL_PLAINTEXT",
            "kafka.external.ca.secretName is set, but securityProtocol SASL_PLAINTEXT uses none",
        ),
        ("kafka.external.clientCertificates=true", "kafka.external.clientCertificates is set, but securityProtocol"),
        (
            "kafka.external.securityProtocol=SSL",
            ".secretName is set, but securityProtocol SSL uses none",
        ),
        (
            r"kafka.mode=strimzi,kafka.strimzi.config.auto\.create\.topics\.enable=true",
            "kafka.strimzi.config: auto.create.topics.enable is the chart's to set",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Path, option: str, said: str) -> None:
    done = helm_template(helm, SCENARIOS["external"], "--set", option)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_name_that_no_service_may_have_is_refused(helm: Path) -> None:
    done = helm_template(helm, SCENARIOS["minimal"], release="1chat")
    assert done.returncode != 0
    assert "the release's name, 1chat, begins with a digit" in done.stderr
