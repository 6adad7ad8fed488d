"""What the Prefect server is told: the forms of the deployments, deployments/prefect.yaml and the job templates."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import is_valid_schema, validate
from prefect.utilities.templating import apply_values, find_placeholders

from flows.commands.deploy import SHIPPED
from flows.commands.options import PoolType
from flows.server import template

ROOT = Path(__file__).parents[2]
DEMO = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())


@pytest.fixture(scope="module")
def form() -> dict[str, Any]:
    """The schema from which the Prefect UI makes the form of ``fem``, and by which the server checks parameters."""
    return parameter_schema(load_flow_from_entrypoint("flows.fem.fem")).model_dump_for_openapi()


def told(form: dict[str, Any], config: dict[str, Any]) -> list[str]:
    return [error.message for error in validate({"config": config}, form)]


def test_the_form_takes_the_shipped_configurations(form: dict[str, Any]) -> None:
    is_valid_schema(form)
    files = [ROOT / "configs" / "demo.yaml", *sorted((ROOT / "configs" / "paper").glob("*.yaml"))]
    assert len(files) > 3
    for file in files:
        assert told(form, yaml.safe_load(file.read_text())) == [], file


@pytest.mark.parametrize(
    ("section", "field", "value", "said"),
    [
        ("sample", "max_tokens", 0, "0 is less than the minimum of 1"),
        ("sample", "temperature", 0, "0 is less than or equal to the minimum of 0"),
        ("scheme", "name", "best", "'best' is not one of ['rs', 'star', 'pps', 'answer_only', 'human', 'none']"),
        ("train", "epoch", 1, "Additional properties are not allowed ('epoch' was unexpected)"),
        ("problems", "source", "elsewhere", "is not valid under any of the given schemas"),
    ],
)
def test_the_form_refuses_a_wrong_value(form: dict[str, Any], section: str, field: str, value: Any, said: str) -> None:
    config = copy.deepcopy(DEMO)
    config.setdefault(section, {})[field] = value
    (message,) = told(form, config)
    assert said in message


def test_the_form_describes_every_field_and_offers_every_source(form: dict[str, Any]) -> None:
    sections = form["definitions"]
    for name, section in sections.items():
        assert section.get("description"), name
        for field, schema in section["properties"].items():
            inner = sections.get(str(schema.get("$ref", "")).rpartition("/")[2], {})
            assert schema.get("description") or inner.get("description"), f"{name}.{field}"
    problems = sections["RunConfig"]["properties"]["problems"]
    assert "oneOf" not in problems and len(problems["anyOf"]) == 11, "the UI shows nothing of a oneOf"
    for one in problems["anyOf"]:
        source = sections[one["$ref"].rpartition("/")[2]]["properties"]["source"]
        assert source["default"] == source["const"], "the UI lets nobody fill in a constant"


def test_the_form_says_the_limits_of_each_number(form: dict[str, Any]) -> None:
    sections = form["definitions"]
    for section, field, said in (
        ("SampleConfig", "max_tokens", "Longest completion, tokens. At least 1."),
        ("LoraConfig", "dropout", "Dropout on the adapters' input. At least 0, less than 1."),
        ("EngineConfig", "gpu_memory_utilization", " More than 0, at most 1."),
        ("EvaluateConfig", "draws", " null draws none. At least 2."),
    ):
        assert sections[section]["properties"][field]["description"].endswith(said)


def test_the_shipped_deployments_name_flows_with_parameters_that_they_take() -> None:
    for said in shipped():
        flow = load_flow_from_entrypoint(said["entrypoint"])
        assert flow.name == said["name"]
        schema = parameter_schema(flow).model_dump_for_openapi()
        for parameters in (
            said.get("parameters", {}),
            *(one.get("parameters", {}) for one in said.get("schedules", [])),
        ):
            assert validate(parameters, schema, ignore_required=True) == []


def shipped() -> Iterator[dict[str, Any]]:
    deployments = yaml.safe_load(SHIPPED.read_text())["deployments"]
    assert [one["name"] for one in deployments] == ["fem", "compare", "audit"]
    yield from deployments


def test_runs_of_a_process_pool_work_in_the_folder_that_was_named(tmp_path: Path) -> None:
    assert template("process", tmp_path)["variables"]["properties"]["working_dir"]["default"] == str(tmp_path)


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_job_template_uses_its_variables_and_asks_for_gpus_volumes_and_secrets(
    kind: PoolType, tmp_path: Path
) -> None:
    held = template(kind, tmp_path)
    variables = held["variables"]["properties"]
    is_valid_schema(held["variables"])
    said = find_placeholders(held["job_configuration"])
    assert {one.name for one in said} == set(variables)
    assert all(one.get("description") for one in variables.values())
    values = {name: one["default"] for name, one in variables.items() if "default" in one}
    assert validate(values, held["variables"]) == []
    filled = apply_values(held["job_configuration"], values)
    if kind == "docker":
        assert filled["container_create_kwargs"]["device_requests"][0]["count"] == -1
        assert "/etc/fem/aws:/run/secrets/aws:ro" in filled["volumes"]
        assert filled["env"] == {"AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/aws"}
    else:
        pod = filled["job_manifest"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert container["envFrom"] == [{"secretRef": {"name": "fem-secrets"}}]
        assert {one["name"] for one in pod["volumes"]} == {one["name"] for one in container["volumeMounts"]}
        assert pod["securityContext"]["runAsNonRoot"]
