"""IAM shows the execution role, and allows what is simulated."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest

from clary.services import iam
from clary.services.registry import Context
from clary.settings import Settings
from clary.wire.errors import AwsError


@pytest.fixture
def context(tmp_path):
    return Context(Settings(home=tmp_path), None, None, None, "a-request")


def test_the_execution_role_trusts_sagemaker(context):
    role = iam.get_role(context, {"RoleName": "ClaryExecutionRole"})["Role"]
    assert role["Arn"] == "arn:aws:iam::000000000000:role/ClaryExecutionRole"
    policy = json.loads(unquote(role["AssumeRolePolicyDocument"]))
    assert policy["Statement"][0]["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert "{" not in role["AssumeRolePolicyDocument"]


def test_a_role_of_any_name_is_there_for_scripts_that_name_their_authors(context):
    role = iam.get_role(context, {"RoleName": "SageMakerRole"})["Role"]
    assert (role["RoleName"], role["Arn"]) == ("SageMakerRole", "arn:aws:iam::000000000000:role/SageMakerRole")
    assert role["RoleId"] != iam.get_role(context, {"RoleName": "ClaryExecutionRole"})["Role"]["RoleId"]


def test_roles_are_listed_under_their_path(context):
    assert [role["RoleName"] for role in iam.list_roles(context, {})["Roles"]] == ["ClaryExecutionRole"]
    assert iam.list_roles(context, {"PathPrefix": "/team/"})["Roles"] == []


def test_each_action_is_allowed_on_each_resource(context):
    params = {"PolicySourceArn": "arn:aws:iam::1:role/r", "ActionNames": ["a:x", "a:y"], "ResourceArns": ["1", "2"]}
    results = iam.simulate_principal_policy(context, params)["EvaluationResults"]
    assert {(result["EvalActionName"], result["EvalResourceName"]) for result in results} == {
        ("a:x", "1"),
        ("a:x", "2"),
        ("a:y", "1"),
        ("a:y", "2"),
    }
    assert {result["EvalDecision"] for result in results} == {"allowed"}


def test_a_simulation_comes_in_pages(context):
    params = {"PolicySourceArn": "r", "ActionNames": [f"a:{n}" for n in range(1000)], "ResourceArns": ["1"] * 1000}
    seen = 0
    page = iam.simulate_principal_policy(context, {**params, "MaxItems": 1000})
    for _ in range(3):
        seen += len(page["EvaluationResults"])
        assert page["IsTruncated"]
        page = iam.simulate_principal_policy(context, {**params, "MaxItems": 1000, "Marker": page["Marker"]})
    assert seen == 3000


def test_a_made_up_marker_is_refused(context):
    with pytest.raises(AwsError, match="token"):
        iam.list_roles(context, {"Marker": "nonsense"})
