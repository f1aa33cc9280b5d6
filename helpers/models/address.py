"""Addresses of sites and proxies: is one well formed, which proxy is asked. For `explain_download_error`."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

__all__ = ["asked_proxy", "masked", "odd_address", "place_of", "socks_variables"]


def place_of(url: str) -> str:
    """`host` or `host:port` of a URL: what a reader compares."""
    return masked(url).split("://", 1)[-1].split("/", 1)[0].rpartition("@")[2] or url


def masked(address: str) -> str:
    """The address without user and password."""
    return re.sub(r"//[^/]*@", "//***@", address)


def odd_address(address: str) -> bool:
    """Whether no program could connect to this address; `host:port` alone is read as http, as requests does."""
    try:
        url = urlsplit(address if "://" in address else f"http://{address}")
        port_is_fine = url.port is None or url.port > 0
    except ValueError:
        return True
    host = url.hostname or ""
    named = re.fullmatch(r"[0-9a-zA-Z_.:-]+", host) and not re.search(r"\.\.|^\.|[^.]{64}", host)
    scheme = "://" not in address or url.scheme in ("http", "https")
    return not (port_is_fine and named and scheme) or host in ("http", "https") or address != address.strip()


def asked_proxy(url: str, *, raw: bool = False) -> tuple[str, str] | None:
    """The variable and the address of the proxy that requests takes for this URL; None: it goes there directly.

    `raw`: the value as it stands, with its password, for `odd_address`; else only `host:port`.
    """
    parts = urlsplit(url) if not odd_address(url) else urlsplit("https://modelscope.cn")
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    for kind in (parts.scheme, "all"):
        for variable in (f"{kind}_proxy", f"{kind}_proxy".upper()):
            if value := os.environ.get(variable):
                return variable, value if raw else place_of(value)
    return None


def socks_variables() -> list[str]:
    """Names of the proxy variables that hold a SOCKS address."""
    return [n for n, value in os.environ.items() if n.lower().endswith("_proxy") and value.lower().startswith("socks")]
