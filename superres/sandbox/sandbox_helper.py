"""The helper process: keeps sandboxed children ready for each image.

    python -m superres.sandbox.sandbox_helper DESCRIPTOR

It is executed, not forked from the service, so that no child inherits the service's threads and
images; it has one thread and imports only decoders and encoders. Two children are forked ahead, so
that an image does not wait the 5 ms until a child is ready. A request on its socket is one message
with file descriptors: the child's end of a socket pair, the child's standard error, and what the
task needs (`sandbox_tasks`). When the other end of the pair closes, the child is killed; when a
child ends, its exit status is sent there. A child that takes long gets a lower priority than the
lanes. When the service ends, so does the helper.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from superres.sandbox.confinement import Confinement, SystemCallFilter, end_with_parent
from superres.sandbox.sandbox_tasks import perform, rehearse, warm_up

MAX_MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 8
# An image is decoded right after its header check, sooner than a child can be forked.
CHILDREN_READY = 2
STANDARD_ERROR = 2
# Checking a header, or decoding or encoding a small image, takes less CPU time. A child that takes
# more gets about a third of a lane's share from then on (`lanes.LANE_NICENESS`): at a niceness of 0
# each took as much as ten lanes, and files crafted to waste time held everyone up.
URGENT_SECONDS = 0.05
PATIENT_NICENESS = 15
GREATEST_NICENESS = 19
LOOK_SECONDS = 0.03
STACK_BYTES = 1024**2


def is_slow(process: int) -> bool:
    """Tell whether a process has used much CPU time."""
    # Its CPU clock, computed as in clock_getcpuclockid(3), which Python lacks.
    return time.clock_gettime((~process << 3) | 2) > URGENT_SECONDS


def be_patient(process: int) -> None:
    """Lower a process's priority; thread by thread, since on Linux each has its own."""
    # The service may have been started with a niceness other than 0.
    niceness = min(os.nice(0) + PATIENT_NICENESS, GREATEST_NICENESS)
    with suppress(OSError):  # it may have ended, or a sandbox may forbid it
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), niceness)


def hand_over(orders: socket.socket, message: bytes, descriptors: list[int]) -> bool:
    """Give a task to a waiting child; False if the child is gone."""
    with orders:
        try:
            socket.send_fds(orders, [message], descriptors)
        except OSError:
            return False
    return True


class Helper:
    """Forks children, and watches them until they have ended.

    Parameters
    ----------
    service : socket on which requests arrive
    """

    def __init__(self, service: socket.socket) -> None:
        self._service = service
        self._system_calls = SystemCallFilter()
        self._poll = select.poll()
        self._poll.register(service, select.POLLIN)
        # By polled file descriptor: a child's process ID and its socket.
        self._ended: dict[int, tuple[int, socket.socket]] = {}
        self._given_up: dict[int, int] = {}
        self._urgent: set[int] = set()
        self._ready: list[tuple[int, socket.socket]] = []
        for _ in range(CHILDREN_READY):
            self._ready.append(self._fork())

    def run(self) -> None:
        """Serve until the service closes its end."""
        while True:
            for descriptor, _ in self._poll.poll(LOOK_SECONDS * 1000 if self._urgent else None):
                if descriptor == self._service.fileno():
                    message, descriptors, _, _ = socket.recv_fds(
                        self._service, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS
                    )
                    if not message:
                        return
                    self._start(message, descriptors)
                elif descriptor in self._ended:
                    self._reap(descriptor)
                elif descriptor in self._given_up:
                    # Nobody waits for the child any more. It is not reaped yet, so its process ID
                    # cannot have been reused.
                    self._poll.unregister(descriptor)
                    os.kill(self._given_up[descriptor], signal.SIGKILL)
            for process in [each for each in self._urgent if is_slow(each)]:
                be_patient(process)
                self._urgent.discard(process)

    def _fork(self) -> tuple[int, socket.socket]:
        """Return a child that waits for its task, and the socket to send it on."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = os.fork()
        if process == 0:
            ours.close()
            self._be_child(theirs)
        theirs.close()
        return process, ours

    def _start(self, message: bytes, descriptors: list[int]) -> None:
        """Give a task to the child that has waited longest, and fork another."""
        process, orders = self._ready.pop(0)
        connection = socket.socket(fileno=descriptors[0])
        if not hand_over(orders, message, descriptors):
            # The OOM killer may also take a child that is only waiting: replace it.
            os.waitpid(process, 0)
            process, orders = self._fork()
            hand_over(orders, message, descriptors)
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        watched = os.pidfd_open(process)
        self._ended[watched] = (process, connection)
        self._given_up[connection.fileno()] = process
        self._urgent.add(process)
        self._poll.register(watched, select.POLLIN)
        # POLLHUP is always reported, and nothing else is needed.
        self._poll.register(connection, 0)
        self._ready.append(self._fork())

    def _be_child(self, orders: socket.socket) -> NoReturn:
        """Do one task and exit."""
        status = 1
        try:
            end_with_parent()
            for inherited in (self._service.fileno(), *self._ended, *self._given_up):
                os.close(inherited)
            # A child that an image has taken over must not give another one its orders.
            for _, orders_of_other in self._ready:
                orders_of_other.close()
            own_status = os.open("/proc/self/status", os.O_RDONLY)  # later, no file can be opened
            confinement = Confinement(self._system_calls)
            rehearse()
            message, descriptors, _, _ = socket.recv_fds(orders, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
            if message:
                end, standard_error, *others = descriptors
                os.dup2(standard_error, STANDARD_ERROR)
                os.close(standard_error)
                connection = socket.socket(fileno=end)
                perform(json.loads(message), connection, others, confinement, own_status)
                status = 0
        except BaseException:
            # The service logs it as one line.
            traceback.print_exc()
        finally:
            os._exit(status)

    def _reap(self, watched: int) -> None:
        process, connection = self._ended.pop(watched)
        self._urgent.discard(process)
        _, status = os.waitpid(process, 0)
        self._poll.unregister(watched)
        os.close(watched)
        del self._given_up[connection.fileno()]
        with suppress(KeyError):  # it may have hung up
            self._poll.unregister(connection)
        ended = {"ended": os.waitstatus_to_exitcode(status)}
        with suppress(OSError):  # perhaps nobody waits for it
            connection.send(json.dumps(ended).encode(), socket.MSG_DONTWAIT)
        connection.close()


def main() -> None:
    """Run until the service ends."""
    # Ctrl-C in a terminal reaches all processes, but the service still answers waiting requests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    service = socket.socket(fileno=int(sys.argv[1]))
    # Of address space, which is limited, each thread would reserve 8 MB.
    threading.stack_size(STACK_BYTES)
    warm_up()
    helper = Helper(service)
    # The children share these pages as long as nothing writes to them.
    gc.collect()
    gc.freeze()
    helper.run()


if __name__ == "__main__":
    main()
