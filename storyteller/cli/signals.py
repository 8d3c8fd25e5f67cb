"""Ctrl-C and SIGTERM."""
from __future__ import annotations

import signal
import threading
from types import FrameType

_AGAIN = 0.02       # seconds


class Signals:
    """Raises KeyboardInterrupt in the main thread at Ctrl-C and at SIGTERM.

    What a caller, or nohup, has decided about a signal stays as it is.

    Attributes
    ----------
    number : int
        The first signal that came; 0: none.

    Notes
    -----
    An import that is interrupted in the midst of C code may print a traceback or raise anything.  So the first
    signal waits until no import is under way; a second one does not wait.
    """

    def __init__(self) -> None:
        self.number = 0
        self._waiting = self._again = False
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        self._before = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}

    def catch(self) -> None:
        """Begin; does nothing in other threads than the main one."""
        if threading.current_thread() is threading.main_thread():
            for number in self._before:
                signal.signal(number, self._stop)
        else:
            self._before = {}

    def restore(self, at_end: bool = False) -> None:
        """End; at the end of a process a signal ends it in silence."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if at_end else handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        second = self._waiting and not self._again
        self.number, self._again = self.number or number, False
        self._waiting = not second and _importing(frame)
        if not self._waiting:
            raise KeyboardInterrupt
        timer = threading.Timer(_AGAIN, self._raise_again, [number])
        timer.daemon = True
        timer.start()

    def _raise_again(self, number: int) -> None:
        self._again = True
        signal.raise_signal(signal.Signals(number))


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
