"""Who is asked how: no proxy for this machine, and the authorities that the environment names wherever it is."""

import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from deploy.local.access import http_options
from shared.errors import SettingsError

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """One of nobody but us, which the environment names."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


def known(context: ssl.SSLContext) -> list[bytes]:
    return [bytes(each) for each in context.get_ca_certs(binary_form=True)]


@pytest.mark.parametrize("host", ["127.0.0.1:8443", "localhost", "[::1]:1", "gateway.example"])
def test_the_authorities_that_the_environment_names_count_everywhere(authority: trustme.CA, host: str) -> None:
    context = http_options(f"https://{host}/v1")["verify"]
    assert known(context) == [ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())]


@pytest.mark.parametrize(("url", "by_proxy"), [("http://127.0.0.1:1/v1", False), ("http://gateway.example", True)])
def test_no_proxy_is_asked_for_this_machine(url: str, by_proxy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "ftp://127.0.0.1:1")
    if by_proxy:
        with pytest.raises(ValueError, match="ftp"):
            httpx.Client(**http_options(url))
    else:
        httpx.Client(**http_options(url)).close()


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "http://gateway.example"])
def test_authorities_that_are_none_are_named_where_they_are_looked_at(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "nowhere.pem")
    with pytest.raises(SettingsError, match=r"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: .*No such file"):
        http_options(url)
    assert http_options("http://127.0.0.1:1") == {"trust_env": False}
