"""Processes that may die: a function for which a crash, a hang or a memory bomb costs one call and nothing else.

Each process is a fresh interpreter at the other end of a socket: no fork of the caller's threads, no copy of its main
module. It imports what the function needs and nothing more. Its own alarm ends it when a call takes too long, and
the end of the socket when the caller is gone, even if the caller was killed.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from filters.errors import HeadwaterError

T = TypeVar("T")
_LENGTH = struct.Struct("<Q")
# A process may die of what an earlier call did to it, or be killed from outside: only a call during which several
# fresh processes died is to blame. A hang is believed at once.
_TRIES = 3
# Processes that may die before they have even started on a call.
_STARTS = 10
_BUFFER = 1 << 20
_LAST_SECONDS = 5.0
ENVIRONMENT = {
    # One call uses one core: threads of numerical libraries would only fight over the others.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Pixels of one picture go where those of the last were: fresh pages for each cost up to a millisecond.
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


class Crashed(HeadwaterError):
    """The process died, hung or ran out of memory in this call, or the function failed in a way of its own."""


class Sandbox(Generic[T]):
    """Up to `processes` processes that call `function`, which must be importable by its name (or a partial of one).

    Each starts when it is first needed and stays until `close`. `timeout` is in seconds a call, `memory` in bytes of
    address space a process (None: no limit). Arguments, results and exceptions are pickled. One sandbox serves one
    thread at a time.
    """

    def __init__(
        self, function: Callable[..., T], processes: int = 1, timeout: float = 30.0, memory: int | None = 4 << 30
    ) -> None:
        self._setup = pickle.dumps((function, timeout, memory))
        self._idle: list[_Process] = []
        self._free = asyncio.Semaphore(processes)
        self._runner: asyncio.Runner | None = None

    async def call(self, *arguments: object) -> T:
        """What the function returns for `arguments`, or the HeadwaterError that it raises.

        Crashed for any other exception and if the process did not survive the call, HeadwaterError if it cannot even
        start.
        """
        async with self._free:
            # Not before: a copy for each call that waits would double what they hold.
            message, tries = pickle.dumps(arguments, protocol=5), 0
            for _ in range(_STARTS):
                process = self._idle.pop() if self._idle else _Process(self._setup)
                try:
                    returned, answer = await process.exchange(message)
                except (EOFError, OSError):
                    code = process.ended()
                    tries += process.has_started
                    if code == -signal.SIGALRM or tries == _TRIES:
                        break
                except BaseException:
                    process.stop()
                    raise
                else:
                    self._idle.append(process)
                    if returned:
                        return cast(T, answer)
                    raise answer
        raise Crashed(_cause(code))

    def call_sync(self, *arguments: object) -> T:
        """`call` for code that runs no event loop."""
        self._runner = self._runner or asyncio.Runner()
        return self._runner.run(self.call(*arguments))

    def close(self) -> None:
        """End the processes. The sandbox can still be used; it then starts new ones."""
        while self._idle:
            self._idle.pop().stop()
        if self._runner is not None:
            self._runner.close()
            self._runner = None


class _Process:
    """One process and our end of its socket."""

    def __init__(self, setup: bytes) -> None:
        self._setup: bytes | None = setup
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        environment = {**os.environ, "PYTHONPATH": path, **ENVIRONMENT}
        code = f"from pipelines.sandbox import serve; serve({theirs.fileno()})"
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
            )

    async def exchange(self, message: bytes) -> tuple[bool, Any]:
        """Send a call and wait for its answer; EOFError or OSError when the process is gone."""
        if self._setup is not None:
            started, error = await self._exchange(self._setup)
            if not started:
                raise error
            self._setup = None
        return await self._exchange(message)

    async def _exchange(self, message: bytes) -> tuple[bool, Any]:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, _LENGTH.pack(len(message)))
        await loop.sock_sendall(self._socket, message)
        (length,) = _LENGTH.unpack(await self._receive(_LENGTH.size))
        returned, answer = pickle.loads(await self._receive(length))
        return returned, answer

    async def _receive(self, length: int) -> bytearray:
        loop, body, got = asyncio.get_running_loop(), bytearray(length), 0
        while got < length:
            count = await loop.sock_recv_into(self._socket, memoryview(body)[got:])
            if not count:
                raise EOFError
            got += count
        return body

    @property
    def has_started(self) -> bool:
        """Whether the process has taken its setup, so that its death is that of a call."""
        return self._setup is None

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._socket.close()
        self._popen.kill()
        self._popen.wait()

    def ended(self) -> int:
        """Exit code of a process that closed its end of the socket (negative: the signal that ended it)."""
        self._socket.close()
        try:
            return self._popen.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
            return self._popen.returncode


def _cause(code: int) -> str:
    if code == -signal.SIGALRM:
        return "the process took too long"
    return f"the process died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def serve(descriptor: int) -> None:
    """The life of a sandbox process: read calls from the socket `descriptor`, answer them, end with the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the caller, who closes the socket
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=descriptor) as ours:
        setup = _read(ours)
        if setup is None:
            return
        try:
            function, timeout, memory = pickle.loads(setup)
        except (ImportError, AttributeError) as error:
            _write(ours, (False, HeadwaterError(f"a sandbox process could not start: {error}")))
            return
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
        _write(ours, (True, None))
        with Path(os.devnull).open("w") as silence:
            os.dup2(silence.fileno(), sys.stderr.fileno())  # libtiff has much to say about damaged pictures
        while (message := _read(ours)) is not None:
            signal.setitimer(signal.ITIMER_REAL, timeout)
            answer = _answer(function, message)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _write(ours, answer)


def _answer(function: Callable[..., object], message: bytearray) -> tuple[bool, object]:
    try:
        return True, function(*pickle.loads(message))
    except MemoryError:
        return False, Crashed("out of memory")
    except HeadwaterError as error:
        return False, error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - what a library raises must not cost more than a crash in it would
        return False, Crashed(f"{type(error).__name__}: {error}")


def _read(ours: socket.socket) -> bytearray | None:
    """The next message; None when the caller is gone."""
    header = ours.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(header) < _LENGTH.size:
        return None
    body = bytearray(_LENGTH.unpack(header)[0])
    return body if ours.recv_into(body, flags=socket.MSG_WAITALL) == len(body) else None


def _write(ours: socket.socket, answer: tuple[bool, object]) -> None:
    body = pickle.dumps(answer, protocol=5)
    try:
        ours.sendall(_LENGTH.pack(len(body)) + body)
    except BrokenPipeError:
        sys.exit()
