"""Find the error that ended vLLM in its log. Prefixes and wording are those of vLLM 0.32; older ones are read too.

A log is several processes talking at once, so it is first taken apart into one stream a process. A line that only
warns, an error that was handled, and an error that only says that another one came before it never end a start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["STARTED", "Error", "ending", "errors"]

STARTED = "Application startup complete"  # whatever was said before did no harm
MESSAGE_LINES, CHAIN, ABOVE = 60, 5, 4

ANSI = re.compile(r"\x1b\[[\d;]*m")
OUTER = re.compile(  # docker compose, systemd, kubernetes, torch
    r"\S{1,60} +\| |\w{3} +\d+ \d\d:\d\d:\d\d \S+ \S+\[\d+\]: |\d{4}-\d\d-\d\d[T ][\d:.,]+\S* (?:std\w+ [FP] )?|"
    r"\[rank\d+\]: "
)
PROCESS = re.compile(r"\((?P<name>[^()]*?) ?pid=\d+[^()]*\) ?")
LEVELS = "DEBUG|INFO|WARNING|ERROR|CRITICAL"
STAMP = re.compile(
    rf"(?P<level>{LEVELS})(?:: {{1,5}}|\b(?: \d\d-\d\d \d\d:\d\d:\d\d)(?: \[[^\]]*\]| [\w.]+\.py:\d+\])? ?)|"
    r"(?:\[rank\d+\]:)?\[?(?P<glog>[IWEF])\d{4} [\d:.]+[^\]]*\] ?"
)
GLOG = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "ERROR"}
QUIET = ("DEBUG", "INFO", "WARNING")

RAISED = re.compile(
    r"(?:(?:[A-Za-z_]\w*\.)*(?=[A-Z])\w*(?:Error(?:_\w+)?|Exception|Exit|Interrupt|Expired|Exceeded|Failed|"
    r"OutOfResources|Unsupported\w*)|"
    r"(?:[a-z_]\w*\.)+\w*error)\b(?::|$|\()"
)
LAST_OF_TRACEBACK = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:\(\w+\))?(?:: |$)")  # a class of any name
PLAIN = re.compile(  # what is no exception of Python
    r"CUDA error \(|Exception: |\s*Value error, |[\w./ -]+: error: |\S*python[\d.]*: No module named|"
    r"\S+: (?:(?:line )?\d+: )?\S+: (?:command )?not found|Fatal Python error|terminate called|Killed\b|Aborted\b|"
    r"Segmentation fault|Illegal instruction|Bus error|!+ Segfault|\*\*\* SIG|LLVM ERROR|double free|"
    r"(?:free|(?:re|m|c)alloc)\(\)|corrupted|.*[Cc]heck failed: "
)
CHAINED = "The above exception was the direct cause", "During handling of the above exception"
NEXT = re.compile(r"Process \S+:$|\[rank\d+\]:|Loading .*%|Exception ignored|nanobind:|.*resource_tracker")
FATAL = re.compile(r"failed to start|fatal error|WorkerProc failed|hit an exception|Exception in worker")
HANDLED = re.compile(
    r"[Ff]ail(?:ed|ure) to (?:load|import|register|find)\b.*(?:plugin|_C\b|kernels|tri?ton|extension)|[Ff]alling back|"
    r"unavailable|[Ss]kipp|[Ii]gnor|Logging error|never retrieved|atexit"
)
ECHO = re.compile(
    r"See root cause above|See stack trace|initialization failed due to an exception in a background|"
    r"RuntimeError: Engine core initialization failed|"
    r"Engine process failed to start|EngineDeadError|EngineCore encountered an issue|Executor failed\.|"
    r"died with exit code|Engine core process \S+ died|cancelled|CancelledError|KeyboardInterrupt|SystemExit"
)
CONSEQUENCE = re.compile(  # what a process says when another one has gone; the cause only where nobody says more
    r"(?:closed|reset) by peer|Broken ?[Pp]ipe|DistStoreError|failed to recv|TCPStore|remote process exited|EOFError|"
    r"ConnectionResetError|RPC call to|ProcessLookupError|ZMQError: (?!Address)|/psm_|resource_tracker|"
    r"heartbeat|Watchdog|Killed\b|ncclRemoteError|failed to be inspected|RayTaskError|Child failed|ChildFailedError"
)


@dataclass(frozen=True)
class Error:
    """An error as its process wrote it.

    Attributes:
        line: where it stands in the log.
        text: its message, without prefixes, with the lines that belong to it.
        above: a few lines that stand before it.
        causes: what it was raised from, nearest first: (text, whether the code says so with `raise … from`).
        fatal: its process said that it ends with it.
        weak: rather a consequence than a cause.
    """

    line: int
    text: str
    above: tuple[str, ...] = ()
    causes: tuple[tuple[str, bool], ...] = ()
    fatal: bool = False
    weak: bool = False


@dataclass(frozen=True)
class _Line:
    number: int
    stamp: str
    level: str
    text: str


@dataclass
class _Stream:
    lines: list[_Line] = field(default_factory=list)

    def errors(self) -> list[Error]:
        """All that may have ended this process, oldest first; not what another of them was raised from."""
        found: list[Error] = []
        header, indented, inside, told = "", False, False, 0
        last: Error | None = None
        causes: tuple[tuple[str, bool], ...] = ()
        for at, line in enumerate(self.lines):
            text = line.text
            if text.startswith(CHAINED) and last:
                causes = ((last.text, text.startswith(CHAINED[0])), *last.causes)[:CHAIN]
                found = [error for error in found if error is not last]
            elif text.startswith("Traceback "):
                header = header if causes else self._before(at)
                indented = at + 1 < len(self.lines) and self.lines[at + 1].text.startswith(" ")
                inside = True
            elif line.level in QUIET or at < told:
                continue
            elif RAISED.match(text) or PLAIN.match(text) or (inside and indented and LAST_OF_TRACEBACK.match(text)):
                message = self._message(at)
                told = at + len(message)
                last = Error(
                    line.number,
                    "\n".join(message).strip(),
                    tuple(one.text for one in self.lines[max(0, at - ABOVE) : at] if one.stamp == line.stamp),
                    causes,
                    fatal=bool(FATAL.search(header)),
                    weak=bool(CONSEQUENCE.search("\n".join(message[:2])) or CONSEQUENCE.search(header)),
                )
                if not ECHO.search(text) and not HANDLED.search(header):
                    found.append(last)
                told_on = told < len(self.lines) and self._same(told) and RAISED.match(self.lines[told].text)
                causes = ((last.text, False), *causes)[:CHAIN] if told_on else ()
                inside = False
        return found

    def remarks(self) -> Iterator[Error]:
        """Messages at the level ERROR that are no traceback."""
        record: list[_Line] = []
        for line in [*self.lines, _Line(-1, "", "", "")]:
            if record and line.stamp != record[0].stamp:
                text = "\n".join(one.text for one in record).strip()
                told = any(one.text.startswith("Traceback ") or RAISED.match(one.text) for one in record)
                if (
                    record[0].level in ("ERROR", "CRITICAL")
                    and not told
                    and not re.search(f"{HANDLED.pattern}|{ECHO.pattern}|{FATAL.pattern}", text)
                ):
                    yield Error(record[0].number, text, weak=True)
                record = []
            record.append(line)

    def _same(self, at: int) -> bool:
        """Whether this line and the one before it were written together."""
        one, other = self.lines[at - 1], self.lines[at]
        return one.stamp == other.stamp and (bool(one.stamp) or other.number == one.number + 1)

    def _before(self, at: int) -> str:
        text = self.lines[at - 1].text if at and self._same(at) else ""
        return "" if text.startswith(" ") else text  # a line of code that a warning quotes says nothing

    def _message(self, at: int) -> list[str]:
        message = [self.lines[at].text]
        for number in range(at + 1, min(at + MESSAGE_LINES, len(self.lines))):
            text = self.lines[number].text
            ends = text.startswith(("Traceback ", *CHAINED)) or RAISED.match(text) or NEXT.match(text)
            if ends or not self._same(number):
                break
            message.append(text)
        return message


def errors(log: str) -> list[Error]:
    """Every error of the log that may have ended it, oldest first; the remarks last."""
    streams: dict[tuple[str, bool], _Stream] = {}
    for number, raw in enumerate(ANSI.sub("", log[log.rfind(STARTED) + 1 :]).splitlines()):
        process, line = _read(number, raw)
        streams.setdefault((process, bool(line.stamp)), _Stream()).lines.append(line)
    found = [error for stream in streams.values() for error in stream.errors()]
    remarks = [error for (_, stamped), stream in streams.items() if stamped for error in stream.remarks()]
    return sorted(found, key=lambda error: error.line) + remarks


def ending(log: str) -> Error | None:
    """The error that ended the start: the first with which a process says that it ends, else the last one."""
    found = errors(log)
    strong = [error for error in found if not error.weak]
    fatal = [error for error in strong if error.fatal]
    return fatal[0] if fatal else strong[-1] if strong else found[-1] if found else None


def _read(number: int, raw: str) -> tuple[str, _Line]:
    """The name of the process and the line without its prefixes."""
    at, name = 0, ""
    while found := OUTER.match(raw, at) or PROCESS.match(raw, at):
        at, name = found.end(), found.groupdict().get("name") or name
    if stamp := STAMP.match(raw, at):
        level = stamp["level"] or GLOG[stamp["glog"]]
        return name, _Line(number, raw[at : stamp.end()], level, raw[stamp.end() :].rstrip())
    return name, _Line(number, "", "", raw[at:].rstrip())
