"""Parts of steps that end in all the ways in which parts end; run by benchmarks.cuda.part in a process of their own."""

from __future__ import annotations

import os
import signal
import time

from benchmarks.cuda.recording import Recorder


class BrokenDeviceError(Exception):
    """Goes by its name, as the real one does: what defines that needs PyTorch."""


def run(recorder: Recorder) -> None:
    recorder.figures["left out"] = list(recorder.settings.left_out)
    recorder.figures["before"] = 1
    recorder.save()
    match recorder.part:
        case "sound":
            print("printed by a sound part")
        case "fails":
            raise ValueError("what went wrong")
        case "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hangs":
            time.sleep(600)
        case "skips":
            assert not recorder.has_time_for("something long", 1e6)
        case "breaks the device":
            for form in ("good", "bad", "best"):
                if form in recorder.settings.left_out or form in recorder.figures:
                    continue
                with recorder.first_try(form):
                    if form == "bad":
                        raise BrokenDeviceError("illegal access")
                    recorder.figures[form] = 1
