"""Proxies in the environment: what must not go through one, and which ones httpx cannot use."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

__all__ = ["PROXIES", "no_proxy_for", "private_host", "unusable_proxies"]

PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # what httpx reads, in either case


def no_proxy_for(environ: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """`NO_PROXY` with `hosts` added to what stands there: a proxy of the reader's own must not swallow them."""
    there = re.split(r"[,\s]+", f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}")
    plain = [entry.strip("[]") for entry in there if not re.search(r"[^!-~]|::.*/|\]:", entry)]  # what httpx can read
    value = ",".join(dict.fromkeys(filter(None, [*plain, *hosts])))
    return {"NO_PROXY": value, "no_proxy": value}


def private_host(base_url: str) -> list[str]:
    """The host of a server in the same building, which is reached directly; none where it is a public one."""
    host = urlsplit(base_url).hostname or ""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_private:
            return [host]
    return []


def unusable_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables with which httpx makes no client at all, not even for localhost: name → what is wrong."""
    found = {name: _proxy_problem(value) for name, value in environ.items() if name.lower() in PROXIES and value}
    return {name: problem for name, problem in found.items() if problem}


def _proxy_problem(value: str) -> str:
    scheme, mark, rest = value.partition("://")
    if mark and scheme.lower().startswith("socks"):
        return f"是 SOCKS 代理（{scheme.lower()}://）"
    if re.search(r"[^!-~]|['\"]", value):
        return "里有空格、引号或全角字符"
    with suppress(ValueError):
        url = urlsplit(value if mark else f"http://{value}")
        if url.scheme in ("http", "https") and url.hostname and url.port != 0 and not (mark and not rest):
            return ""
    return "写得不对：应像 http://主机:端口，端口是数字"
