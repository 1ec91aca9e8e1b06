"""Every operation of every service: handlers get what botocore sends, and botocore reads what handlers answer."""

from __future__ import annotations

import pytest

from clary.wire import routing
from clary.wire.operations import operation
from clary.wire.services import SERVICES, model

PROTOCOLS = [(service.name, service.protocol) for service in SERVICES] + [("cloudwatch", "query")]


def _operations(service):
    for name in model(service).operation_names:
        described = model(service).operation_model(name)
        if described.has_event_stream_input or described.has_event_stream_output:
            continue
        yield name, described


def _without_empty(value):
    """A value as the Query protocol can tell it: lists and maps that are empty are not sent."""
    if isinstance(value, dict):
        kept = {name: _without_empty(item) for name, item in value.items()}
        return {name: item for name, item in kept.items() if item not in ([], {}, None)}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("service", "protocol"), PROTOCOLS)
def test_handlers_get_what_botocore_sends(service, protocol, wire, sampler):
    checked = 0
    for name, described in _operations(service):
        if described.input_shape is None:
            continue
        params = sampler.structure(described.input_shape)
        request = wire.request(service, name, params, protocol)
        route = routing.find(request)
        received = operation(service, name, protocol).read(request, route)
        assert (route.service.name, route.operation) == (service, name)
        if protocol == "query":
            received, params = _without_empty(received), _without_empty(params)
        assert received == params, name
        checked += 1
    assert checked >= 2


@pytest.mark.parametrize(("service", "protocol"), PROTOCOLS)
def test_botocore_reads_what_handlers_answer(service, protocol, wire, sampler):
    checked = 0
    for name, described in _operations(service):
        answer = {} if described.output_shape is None else sampler.structure(described.output_shape)
        response = operation(service, name, protocol).write(answer, "the-request", "application/x-amz-json-1.1")
        read = wire.reply(service, name, response, protocol)
        assert read.pop("ResponseMetadata")["RequestId"] == "the-request"
        if protocol == "query":
            read, answer = _without_empty(read), _without_empty(answer)
        assert read == answer, name
        checked += 1
    assert checked >= 2
