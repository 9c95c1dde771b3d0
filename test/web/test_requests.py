"""What a page may ask for, and everything that is no request."""

from __future__ import annotations

import json

import pytest

from vln_ros.web.requests import (
    Ask,
    Begin,
    Drive,
    Instruct,
    Leave,
    Put,
    Release,
    Request,
    RequestError,
    Shown,
    Stop,
    View,
    parse,
)


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ('{"kind": "stop"}', Stop()),
        ('{"kind": "release"}', Release()),
        ('{"kind": "leave"}', Leave()),
        (
            '{"kind": "instruct", "text": "go to the \\u0926\\u0930\\u0935\\u093e\\u091c\\u093e"}',
            Instruct("go to the दरवाजा"),
        ),
        ('{"text": "what is it?", "kind": "ask"}', Ask("what is it?")),
        ('{"kind": "drive", "take_over": true}', Drive(True)),
        ('{"kind": "view", "name": "none"}', View("none")),
        ('{"kind": "view", "name": "reuse"}', View("reuse")),
        ('{"kind": "shown", "number": 3}', Shown(3)),
        ('{"kind": "put", "x_m": 1, "y_m": -2.5, "yaw_rad": 0}', Put(1.0, -2.5, 0.0)),
        ('{"kind": "put", "x_m": 1e4, "y_m": -0.0, "yaw_rad": -3.14}', Put(10_000.0, 0.0, -3.14)),
        ('{"kind": "begin", "start": "embedded/x"}', Begin("embedded/x")),
    ],
)
def test_requests(text: str, request_: Request) -> None:
    assert parse(text) == request_


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stop",
        "null",
        "[]",
        '"stop"',
        "{}",
        "[" * 4000,
        '{"kind": "stop"',
        '{"kind": "STOP"}',
        '{"kind": 1}',
        '{"kind": null}',
        '{"kind": ["stop"]}',
        '{"kind": {"kind": "stop"}}',
        '{"kind": "stop", "text": ""}',
        '{"kind": "instruct"}',
        '{"kind": "instruct", "text": 5}',
        '{"kind": "instruct", "text": null}',
        '{"kind": "instruct", "text": ["go"]}',
        '{"kind": "drive"}',
        '{"kind": "drive", "take_over": 1}',
        '{"kind": "drive", "take_over": "true"}',
        '{"kind": "view", "name": "depth"}',
        '{"kind": "shown", "number": true}',
        '{"kind": "shown", "number": 1.0}',
        '{"kind": "shown", "number": NaN}',
        '{"kind": "shown", "number": Infinity}',
        '{"kind": "shown", "number": ' + "9" * 5000 + "}",
        '{"kind": "put"}',
        '{"kind": "put", "x_m": 1, "y_m": 2}',
        '{"kind": "put", "x_m": NaN, "y_m": 2, "yaw_rad": 0}',
        '{"kind": "put", "x_m": 1, "y_m": -Infinity, "yaw_rad": 0}',
        '{"kind": "put", "x_m": 1, "y_m": 1e999, "yaw_rad": 0}',
        '{"kind": "put", "x_m": 1' + "0" * 400 + ', "y_m": 2, "yaw_rad": 0}',
        '{"kind": "put", "x_m": 10001, "y_m": 2, "yaw_rad": 0}',
        '{"kind": "put", "x_m": 1, "y_m": 2, "yaw_rad": 7}',
        '{"kind": "put", "x_m": true, "y_m": 2, "yaw_rad": 0}',
        '{"kind": "put", "x_m": "1", "y_m": 2, "yaw_rad": 0}',
        '{"kind": "put", "x_m": null, "y_m": 2, "yaw_rad": 0}',
        '{"kind": "put", "x_m": [1], "y_m": 2, "yaw_rad": 0}',
        '{"kind": "put", "x_m": 1, "y_m": 2, "yaw_rad": 0, "z_m": 0}',
        '{"kind": "begin"}',
        '{"kind": "begin", "start": 3}',
        '{"kind": "begin", "start": null}',
        '{"kind": "begin", "start": "\\ud83d"}',
        '{"kind": "begin", "start": "1\\u0000"}',
        '{"kind": "begin", "start": "1", "x_m": 0}',
        '{"kind": "__class__"}',
        '\ufeff{"kind": "stop"}',
    ],
)
def test_everything_else_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(text)
    assert len(str(refused.value)) > 10


def test_the_sentence_names_what_would_do() -> None:
    with pytest.raises(
        RequestError, match=r"stop, release, instruct, ask, drive, leave, view, shown, put, begin"
    ):
        parse('{"kind": "go"}')
    with pytest.raises(RequestError, match=r"camera, reuse, none"):
        parse(json.dumps({"kind": "view", "name": "x"}))
