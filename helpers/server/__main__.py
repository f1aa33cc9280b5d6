"""`python -m helpers.server status|stop`: the servers that this course started."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from helpers.server.state import living, state_files


def main(argv: Sequence[str] | None = None) -> int:
    """`status`: list the servers that this course started; `stop`: end them all, whoever uses them."""
    parser = argparse.ArgumentParser(prog="python -m helpers.server", description="查看或停掉本课程启动的 vLLM 服务器")
    parser.add_argument("action", choices=["status", "stop"])
    action = parser.parse_args(argv).action
    found = [(file, state) for file in state_files() if (state := file.read())]
    if not found:
        print("没有本课程启动的服务器。")
    for file, state in found:
        if action == "stop":
            file.end()
            print(f"已停止：端口 {state.port}，模型 {state.model}")
        elif file.living():
            users = [pid for pid, born in state.users if living((pid, born))]
            key = "，要密钥" if state.keyed else ""
            print(f"端口 {state.port}：pid {state.pid}，模型 {state.model}{key}，使用者 pid {users}，日志 {state.log}")
        else:
            print(state.ending())
    return 0


if __name__ == "__main__":
    sys.exit(main())
