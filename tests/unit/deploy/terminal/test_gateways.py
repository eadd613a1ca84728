"""Where gateways are looked for."""

import pytest

from deploy.terminal.chat.gateways import ChatError, base_urls

RUN = "http://127.0.0.1:8123"


@pytest.mark.parametrize(
    ("given", "environment", "of_run", "found"),
    [
        (["http://a:1"], {"OPENAI_BASE_URL": "http://b:1/v1"}, RUN, ["http://a:1/v1"]),
        (
            ["http://a:1/v1/,http://b:2", "https://c/mesh/v1"],
            {},
            None,
            ["http://a:1/v1", "http://b:2/v1", "https://c/mesh/v1"],
        ),
        ([], {"OPENAI_BASE_URL": "http://b:1/v1"}, RUN, ["http://b:1/v1"]),
        ([], {"PORT": "9"}, RUN, [f"{RUN}/v1"]),
        ([], {"PORT": "9"}, None, ["http://127.0.0.1:9/v1"]),
        ([], {}, None, ["http://127.0.0.1:8080/v1"]),
    ],
)
def test_the_user_comes_first_then_the_run_then_this_machine(
    given: list[str], environment: dict[str, str], of_run: str | None, found: list[str]
) -> None:
    assert base_urls(given, environment, of_run) == found


@pytest.mark.parametrize("wrong", ["localhost:8080", "ftp://a", "http://", "somewhere"])
def test_what_is_no_address_is_said_to_be_none(wrong: str) -> None:
    with pytest.raises(ChatError, match="write http://host:port"):
        base_urls([wrong], {}, None)
