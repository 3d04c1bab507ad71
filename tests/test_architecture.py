"""What the tree promises as a whole: who imports whom, what a module may be, and that no connector is forgotten."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, SecretStr

import airflow_provider_connect
from airflow_provider_connect.engine import registry
from airflow_provider_connect.engine.config import Config
from airflow_provider_connect.engine.connector import IdempotentSink, TransactionalSink
from airflow_provider_connect.testing import (
    IdempotentSinkContract,
    SinkContract,
    SourceContract,
    TransactionalSinkContract,
)

PACKAGE = "airflow_provider_connect"
ROOT = Path(airflow_provider_connect.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LINES = 400

WITHOUT_AIRFLOW = ("engine", "connectors", "transforms", "codecs", "testing", "cli")
"""What a worker pod runs, and what tests a connector."""

MAY_IMPORT = {
    "engine": {"engine"},
    "connectors": {"engine", "codecs"},
    "transforms": {"engine"},
    "codecs": {"engine"},
    "testing": {"engine"},
}
"""Part of the package to the other parts that it may import; itself always. Parts that are not named are free."""

NOT_FOR_CONNECTORS = {"registry", "worker", "flow", "lane", "session", "delivery", "reader", "lint", "handoff"}
"""The engine's modules that act on connectors; a connector knows the contracts only."""

BAD_WORDS = re.compile(r"utils?|helpers?|misc|common", re.IGNORECASE)
BAD_CLASSES = re.compile(r"^(Base|Abstract)[A-Z]|(Manager|Helper|Utils?)$")
SECRETS = re.compile(r"(^|_)(password|passphrase|token|secret|private_key|access_key|api_key|credentials?)($|_)")
SECRET_EXEMPT = re.compile(r"_(url|uri|endpoint|path|ref|timeout\w*|seconds)$")


def dotted(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """(line, absolute name) of everything a file imports, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def part(name):
    """The part of the package that a dotted name lies in, or None."""
    head, _, rest = name.partition(".")
    return rest.split(".")[0] if head == PACKAGE else None


def violations(rule):
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        for line, name in imports(path)
        if rule(dotted(path), name)
    ]


def own_package(name):
    """What a connector (transform, codec) may call its own: `connectors.kafka` for all modules below it."""
    return ".".join(name.split(".")[:3])


def test_the_engine_and_the_connectors_never_import_airflow():
    assert (
        violations(
            lambda module, name: part(module) in WITHOUT_AIRFLOW and name.split(".")[0] in {"airflow", "kubernetes"}
        )
        == []
    )


def test_imports_point_one_way():
    def wrong(module, name):
        allowed = MAY_IMPORT.get(part(module) or "")
        target = part(name)
        return allowed is not None and target not in {None, "", "__version__", part(module), *allowed}

    assert violations(wrong) == []


def test_connectors_transforms_and_codecs_never_import_each_other():
    def wrong(module, name):
        if part(module) not in {"connectors", "transforms", "codecs"} or part(name) != part(module):
            return False
        neighbour = name.split(".")[2] if name.count(".") > 1 else ""
        return own_package(name) != own_package(module) and not neighbour.startswith("_")

    assert violations(wrong) == []


def test_connectors_know_the_contracts_only():
    def wrong(module, name):
        return part(module) == "connectors" and part(name) == "engine" and name.split(".")[2] in NOT_FOR_CONNECTORS

    assert violations(wrong) == []


def test_drivers_are_imported_by_their_connector_only():
    """Elsewhere only inside a function, so that nothing needs a driver whose connector is not used."""
    drivers = {
        "clickhouse_connect": "clickhouse",
        "clickhouse_driver": "clickhouse",
        "confluent_kafka": "kafka",
        "psycopg": "postgresql",
    }
    found = []
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            owners = [drivers[name.split(".")[0]] for name in names if name.split(".")[0] in drivers]
            if any(
                not dotted(path).startswith(
                    (f"{PACKAGE}.connectors.{owner}", f"{PACKAGE}.connectors._{owner}", f"{PACKAGE}.hooks.{owner}")
                )
                for owner in owners
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_no_module_is_longer_than_it_should_be():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_every_module_says_what_it_is():
    silent = [str(path.relative_to(ROOT)) for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_names_tell_the_purpose():
    modules = [str(path.relative_to(ROOT)) for path in FILES if any(map(BAD_WORDS.fullmatch, path.stem.split("_")))]
    classes = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and BAD_CLASSES.search(node.name)
    ]
    assert modules + classes == []


def test_exported_names_exist():
    for path in FILES:
        tree = ast.parse(path.read_text())
        exported = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__all__"]
        ]
        if not exported or part(dotted(path)) not in {*WITHOUT_AIRFLOW, ""}:
            continue
        module = importlib.import_module(dotted(path))
        assert [name for name in exported[0] if not hasattr(module, name)] == [], path
        assert sorted(exported[0], key=str) == sorted(set(exported[0])), f"{path}: a name twice"


# --- configuration


def models(model, seen):
    """A model and the models within its fields."""
    if model in seen:
        return seen
    seen.add(model)
    for field in model.model_fields.values():
        for inner in flat(field.annotation):
            if inspect.isclass(inner) and issubclass(inner, BaseModel):
                models(inner, seen)
    return seen


def flat(annotation):
    arguments = get_args(annotation)
    return [annotation] + [inner for argument in arguments for inner in flat(argument)]


def configurations(kind, name):
    """Every configuration model of a registered connector or transform."""
    found = set()
    if kind == "transforms":
        return models(registry.transform(name).config_type, found)
    for role in ("source", "sink"):
        if hasattr(registry.module(kind, name), role):
            models(getattr(registry, role)(name).config_type, found)
    return found


CONFIGURED = [(kind, name) for kind in ("connectors", "transforms") for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), CONFIGURED)
def test_every_field_of_a_configuration_is_documented(kind, name):
    for model in configurations(kind, name):
        bare = [field for field, told in model.model_fields.items() if not (told.description or "").strip()]
        assert bare == [], model
        assert (model.__doc__ or "").strip(), f"{model.__name__} has no docstring"
        if issubclass(model, Config):
            assert model.model_config["extra"] == "forbid"
            assert model.model_config["frozen"]


@pytest.mark.parametrize(("kind", "name"), CONFIGURED)
def test_secrets_are_secret(kind, name):
    for model in configurations(kind, name):
        secret = [field for field in model.model_fields if SECRETS.search(field) and not SECRET_EXEMPT.search(field)]
        bare = [field for field in secret if SecretStr not in flat(model.model_fields[field].annotation)]
        assert bare == [], model


def test_the_rule_about_secrets_finds_them():
    names = ["password", "sasl_password", "ssl_key_password", "token", "client_secret", "access_key"]
    assert [name for name in names if not SECRETS.search(name) or SECRET_EXEMPT.search(name)] == []
    assert not SECRETS.search("key") and not SECRETS.search("conflict_key")
    assert SECRET_EXEMPT.search("token_endpoint_url")


# --- no connector is forgotten


def joined(connector):
    """The contracts that the Test classes in a connector's test modules subclass."""
    folder = Path(__file__).parent / "connectors"
    own = re.compile(rf"test_{connector.replace('-', '_')}(_|$)")
    found = set()
    for module in pkgutil.iter_modules([str(folder)]):
        if own.match(module.name):
            loaded = importlib.import_module(f"{__name__.rpartition('.')[0]}.connectors.{module.name}")
            for name, member in vars(loaded).items():
                if name.startswith("Test") and inspect.isclass(member):
                    found |= set(inspect.getmro(member))
    return found


def contracts(connector):
    """The contracts that a registered connector must join: one per role and guarantee."""
    module = registry.module("connectors", connector)
    found = {SourceContract} if hasattr(module, "source") else set()
    for kind in sinks(module):
        contract = SinkContract
        if issubclass(kind, IdempotentSink):
            contract = IdempotentSinkContract
        if issubclass(kind, TransactionalSink):
            contract = TransactionalSinkContract
        found.add(contract)
    return found


def sinks(module):
    """The sink classes of a connector: the registered one, and those that `choose` may take instead."""
    registered = getattr(module, "sink", None)
    if registered is None:
        return []
    others = [member for member in vars(module).values() if inspect.isclass(member) and hasattr(member, "flush")]
    return [registered, *(other for other in others if other is not registered)]


def test_something_is_registered():
    assert {"file", "kafka", "postgresql"} <= set(registry.names("connectors"))


@pytest.mark.parametrize("connector", registry.names("connectors"))
def test_every_connector_joins_the_contracts_of_its_guarantees(connector):
    missing = [contract.__name__ for contract in contracts(connector) - joined(connector)]
    assert missing == [], f"tests/connectors/test_{connector}*.py has no Test class that subclasses them"


# --- the tree itself


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT.parent, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    files = [ROOT.parent / name for name in listed if name] or [p for p in ROOT.rglob("*") if p.suffix == ".py"]
    return [path for path in files if path.is_file() and path != Path(__file__)]


def test_nothing_names_a_registry_host_or_a_path_of_this_machine():
    home, checkout = str(Path.home()), str(ROOT.parent)
    forbidden = re.compile(
        r"(^|\s)--?(extra-)?index-url[ =]+\S|--trusted-host|--registry[ =]+http|\b(artifactory|nexus)\.[a-z]|"
        + "|".join(rf"(?<![\w.]){re.escape(path)}/" for path in {home, checkout} if path.count("/") and len(path) > 1)
    )
    found = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT.parent)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(lines, 1)
            if forbidden.search(line)
        ]
    assert found == []
