"""A server that somebody else runs, for example the class server. Introduced in notebook 05."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

import httpx

from helpers.config import Profile
from helpers.errors import ServerError
from helpers.models.address import asked_proxy
from helpers.server.base import HEALTHY, Server

__all__ = ["RemoteServer"]

TIMEOUT_S = 10.0
PROXYS_OWN = (502, 503, 504)  # what a proxy answers itself when it cannot reach the address


class RemoteServer(Server):
    """The server at `profile.base_url`."""

    remote = True

    def __init__(self, profile: Profile) -> None:
        self.base_url = profile.base_url
        self.api_key = profile.api_key or "sk-xxx"
        self._key_is_set = bool(profile.api_key)
        self._model = profile.served_model_name

    def __repr__(self) -> str:
        return f"RemoteServer({self.base_url})"

    def start(self) -> Self:
        """Check that the server answers, takes the key and has the model.

        Raises:
            ServerError: it does not; the message says which of the three, and what to do.
        """
        health = self._get("/health")
        proxy = asked_proxy(self.base_url)
        if health.status_code in PROXYS_OWN and proxy:
            raise ServerError(
                f"{self.base_url} 返回 {health.status_code}，多半是代理 {proxy[1]}（环境变量 {proxy[0]}）回答的。"
                f"请把 {urlsplit(self.base_url).hostname} 加进 NO_PROXY，再重启内核；还是这样，请告诉老师。"
            )
        if health.status_code not in HEALTHY:
            raise ServerError(f"{self.base_url} 有回应，但还不能用（/health 返回 {health.status_code}）。请告诉老师。")
        answer = self._get("/v1/models")
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            why = "不认识这个密钥：请核对 TUTORIAL_API_KEY" if self._key_is_set else "要密钥：请设 TUTORIAL_API_KEY"
            raise ServerError(f"{self.base_url} {why}，设好以后重启内核。")
        try:
            names = [card["id"] for card in answer.raise_for_status().json()["data"]]
        except (httpx.HTTPStatusError, ValueError, TypeError, LookupError):
            raise ServerError(
                f"{self.base_url}/v1/models 返回的不是模型列表（HTTP {answer.status_code}）。"
                "请核对 TUTORIAL_BASE_URL，它要指向 vLLM 的服务器。"
            ) from None
        if self._model not in names:
            raise ServerError(
                f"{self.base_url} 上没有叫 {self._model} 的模型，只有：{'、'.join(map(str, names)) or '（空）'}。"
                f"请告诉老师：启动时要加 --served-model-name {self._model}。"
            )
        print(f"使用别人运行的服务器：{self.base_url}")
        return self

    def stop(self) -> None:
        """Leave the server alone, and say so."""
        print(f"{self.base_url} 是别人运行的服务器，没有停它。")

    def _get(self, path: str) -> httpx.Response:
        try:
            return httpx.get(self.base_url + path, headers=self.headers, timeout=TIMEOUT_S)
        except (httpx.InvalidURL, ValueError, ImportError) as error:  # the base URL has been checked by the profile
            raise ServerError(
                f"代理变量的写法用不了（{error}）。请在启动 JupyterLab 的终端里执行 "
                "unset ALL_PROXY all_proxy HTTP_PROXY http_proxy HTTPS_PROXY https_proxy，再重新启动。"
            ) from None
        except httpx.HTTPError as error:
            wrong = "0.0.0.0 只是监听时的写法，访问要写那台机器的地址（本机写 127.0.0.1）。"
            raise ServerError(
                f"连不上 {self.base_url}（{type(error).__name__}）。{wrong if '//0.0.0.0' in self.base_url else ''}"
                "请核对 TUTORIAL_BASE_URL，确认和老师的机器在同一个网络里；设了代理的话，把这个地址加进 NO_PROXY。"
            ) from None
