"""What stands between this machine and the site: address, proxy, certificate, network. For `explain_download_error`."""

from __future__ import annotations

import errno
import os
import re
import socket

from helpers.models.address import asked_proxy, masked, odd_address, socks_variables
from helpers.models.failure import AGAIN, ENDPOINT, Failure, endpoint

__all__ = ["certificate", "dropped", "malformed", "network", "proxy", "slow"]

OFFLINE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}


def malformed(failure: Failure) -> str | None:
    """An address that cannot be used: a proxy's, or the hub's."""
    if "SOCKS" in failure.text:
        names = " ".join(socks_variables()) or "all_proxy ALL_PROXY"
        return (
            f"环境变量里设了 SOCKS 代理，下载程序用不了它。下一步：执行 unset {names}（或换成 http:// 的代"
            "理），再重新启动 JupyterLab。"
        )
    network = failure.of("InvalidURL", "InvalidSchema", "LocationParseError", "MissingSchema", "gaierror")
    if network is None or (failure.of("gaierror") and failure.of("ProxyError") is None and not odd_address(endpoint())):
        return None
    asked = asked_proxy(failure.url, raw=True)
    if asked and odd_address(asked[1]):
        return (
            f"代理的地址写错了：{asked[0]}={masked(asked[1])}。下一步：改成 http://主机:端口，或执行 unset"
            f" {asked[0]}，再重新启动 JupyterLab。"
        )
    if odd_address(endpoint()):
        return (
            f"站点的地址写错了：{ENDPOINT}={endpoint()!r}。下一步：改成 http://主机:端口 或 https://主机 "
            f"这样（不用它就 unset {ENDPOINT}），再重启内核。"
        )
    return None


def proxy(failure: Failure) -> str | None:
    if not failure.of("ProxyError") and failure.attribute("status_code") != 407:
        return None
    variable, address = asked_proxy(failure.url) or ("https_proxy", "")
    who = f"代理 {address}（环境变量 {variable}）" if address else "路上的一个代理"
    drop = f"不需要代理就执行 unset {variable}，再重新启动 JupyterLab"
    refused = re.search(r"Tunnel connection failed: (\d+)", failure.text)
    status = refused[1] if refused else str(failure.attribute("status_code") or "")
    if status == "407":
        return f"{who}要用户名和密码（407）。下一步：写成 http://用户名:密码@主机:端口；{drop}。"
    if status:
        return f"{who}不肯转到 {failure.site}（{status}）。下一步：换一个代理；{drop}。"
    if "HTTP and not HTTPS" in failure.text:
        return f"{who}只会 http。下一步：把它的地址改成 http:// 开头；{drop}。"
    return f"连不上{who}：不是站点的问题。下一步：看代理程序开着没有、端口对不对；{drop}。"


def certificate(failure: Failure) -> str | None:
    ca = next((name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name)), "REQUESTS_CA_BUNDLE")
    if "TLS CA certificate bundle" in failure.text or "NO_CERTIFICATE_OR_CRL" in failure.text:
        return (
            f"{ca}={os.environ.get(ca, '')} 里没有能用的 CA 证书。下一步：改成正确的文件，或执行 unset "
            f"{ca}，再重新启动 JupyterLab。"
        )
    if not failure.of("SSLError"):
        return None
    if "WRONG_VERSION_NUMBER" in failure.text or "HTTP_REQUEST" in failure.text:
        return f"{failure.site} 用的不是 https。下一步：核对 {ENDPOINT}，老师的镜像站是 http:// 开头的。{failure.via}"
    if "CERTIFICATE_VERIFY_FAILED" not in failure.text:
        return None
    if "expired" in failure.text or "not yet valid" in failure.text:
        return (
            f"{failure.site} 的证书不在有效期里。下一步：先用 date 看本机的时间对不对；对，就是站点或代理"
            f"的证书过期了，告诉管理它的人。{failure.via}"
        )
    if "mismatch" in failure.text or "doesn't match" in failure.text:
        return (
            f"{failure.site} 的证书是给别的名字的。下一步：核对 {ENDPOINT} 的主机名；名字对，就是中间的代"
            f"理或登录页在冒充它。{failure.via}"
        )
    if os.environ.get(ca):
        return (
            f"{failure.site} 的证书不是 {ca}={os.environ[ca]} 里的 CA 签发的。下一步：向管理员要对的 CA 证书，"
            f"或执行 unset {ca}，再重新启动 JupyterLab。{failure.via}"
        )
    return (
        f"{failure.site} 的证书没有人担保（常见于公司、学校的代理拆开 https）。下一步：向管理员要 CA 证书，"
        f"export REQUESTS_CA_BUNDLE=/证书.pem，再重新启动 JupyterLab。{failure.via}"
    )


def network(failure: Failure) -> str | None:
    for error in failure.errors:
        if isinstance(error, socket.gaierror):
            return (
                f"找不到主机 {failure.site}：名字写错了，或者这台机器没有联网（DNS）。下一步：核对 "
                f"{ENDPOINT} 和网络，{AGAIN}"
            )
        if isinstance(error, ConnectionRefusedError):
            if re.match(r"(127\.|localhost|\[?::1)", failure.site):
                return (
                    f"连不上 {failure.site}：本机这个端口上没有站点。下一步：用的是课程的镜像站，就重新运"
                    f"行第 1 节里 classroom_hub 那一格；不是，就核对 {ENDPOINT}。"
                )
            return (
                f"连不上 {failure.site}：那台机器上没有程序在等连接。下一步：核对 {ENDPOINT}，问管理它的人"
                f"站点开着没有，{AGAIN}"
            )
        if isinstance(error, OSError) and error.errno in OFFLINE:
            return (
                f"去不了 {failure.site}：这台机器没有联网，或者和它不在一个网里。下一步：检查网络，核对 "
                f"{ENDPOINT}，{AGAIN}"
            )
    return None


def slow(failure: Failure) -> str | None:
    if type(failure.errors[0]).__name__ == "_DownloadDeadlineError":
        return (
            f"{failure.file or '下载'} 用完了时限。下好的部分都在。下一步：{AGAIN}网太慢，就把 "
            "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT 调大（秒），再重启内核。"
        )
    if failure.of("_DownloadTooSlowError"):
        return f"从 {failure.site} 下载太慢，程序停下了。下一步：换一个网络，或过一会儿{AGAIN}{failure.via}"
    if failure.of("TimeoutError", "Timeout", "RequestTimeoutError", "ReadTimeoutError", "ConnectTimeoutError"):
        return f"{failure.site} 没有回答（超时）。下一步：看网络通不通，核对 {ENDPOINT}，{AGAIN}{failure.via}"
    return None


def dropped(failure: Failure) -> str | None:
    if failure.of(
        "ConnectionResetError", "RemoteDisconnected", "IncompleteRead", "ProtocolError", "_IncompleteBodyError"
    ):
        return f"和 {failure.site} 的连接断了。下好的部分都在。下一步：{AGAIN}总是断，就换一个网络。{failure.via}"
    if isinstance(failure.errors[0], ConnectionError) or failure.of("SSLError", "ConnectionError", "NetworkError"):
        return f"连不上 {failure.site}。下一步：检查网络、代理和 {ENDPOINT}，{AGAIN}{failure.via}"
    return None
