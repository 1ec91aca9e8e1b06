"""STS tells callers who they are and lets them be roles."""

from __future__ import annotations

import datetime as dt

import pytest

from clary.front.credentials import CredentialStore
from clary.services import sts
from clary.services.registry import Context
from clary.settings import Settings
from clary.wire.errors import AwsError


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return CredentialStore(home, Settings(home=home))


@pytest.fixture
def context(credentials):
    settings = credentials._settings
    return Context(settings, None, None, credentials.root_caller, "a-request", credentials)


def test_the_caller_is_an_assumed_role(context):
    identity = sts.get_caller_identity(context, {})
    assert identity["Arn"] == "arn:aws:sts::000000000000:assumed-role/ClaryExecutionRole/clary"
    assert identity["Account"] == "000000000000"
    assert identity["UserId"].endswith(":clary")


def test_an_assumed_role_has_keys_that_end(context, credentials):
    role = "arn:aws:iam::123456789012:role/team/Trainer"
    answer = sts.assume_role(context, {"RoleArn": role, "RoleSessionName": "me", "DurationSeconds": 900})
    assert answer["AssumedRoleUser"]["Arn"] == "arn:aws:sts::123456789012:assumed-role/Trainer/me"
    keys = answer["Credentials"]
    secret, caller = credentials.lookup(keys["AccessKeyId"], keys["SessionToken"])
    assert secret == keys["SecretAccessKey"]
    assert caller.user_id == answer["AssumedRoleUser"]["AssumedRoleId"]
    assert dt.timedelta(seconds=890) < keys["Expiration"] - dt.datetime.now(dt.UTC) <= dt.timedelta(seconds=900)


@pytest.mark.parametrize("arn", ["arn:aws:iam::123456789012:user/me", "arn:aws:iam::1:role/x-y-z-a-b-c", "a" * 30])
def test_only_roles_can_be_assumed(context, arn):
    with pytest.raises(AwsError, match="is invalid"):
        sts.assume_role(context, {"RoleArn": arn, "RoleSessionName": "me"})


def test_a_session_token_speaks_as_the_caller(context, credentials):
    keys = sts.get_session_token(context, {})["Credentials"]
    _, caller = credentials.lookup(keys["AccessKeyId"], keys["SessionToken"])
    assert caller.arn == context.caller.arn
