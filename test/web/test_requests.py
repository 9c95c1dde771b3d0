"""What a page may ask for, and everything that is no request."""

from __future__ import annotations

import json

import pytest

from vln_ros.web.requests import (
    Ask,
    Drive,
    Instruct,
    Leave,
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
        '{"kind": "__class__"}',
        '\ufeff{"kind": "stop"}',
    ],
)
def test_everything_else_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(text)
    assert len(str(refused.value)) > 10


def test_the_sentence_names_what_would_do() -> None:
    with pytest.raises(RequestError, match=r"stop, release, instruct, ask, drive, leave, view, shown"):
        parse('{"kind": "go"}')
    with pytest.raises(RequestError, match=r"camera, reuse, none"):
        parse(json.dumps({"kind": "view", "name": "x"}))
