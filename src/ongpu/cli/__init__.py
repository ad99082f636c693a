"""The command line: parse, call, print, exit status."""

from __future__ import annotations


def main() -> None:
    """Run the command of ``sys.argv`` and leave with its exit status.

    Ctrl-C, a request to end and a terminal that closes are one thing from the first import to the last line.
    """
    import contextlib
    import errno
    import signal
    import sys

    from ongpu.cli.streams import leave, open_closed_ones

    open_closed_ones()
    try:
        from ongpu.machine.interrupts import Interrupts

        with Interrupts():
            from ongpu.cli.ahead import asked_ahead

            with asked_ahead(sys.argv[1:]):
                from ongpu.cli.app import run

                status = run(sys.argv[1:])
                sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("ongpu: Interrupted.\nNext: Nothing was left running; run it again.\n")
        status = 130
    except BrokenPipeError:  # `| head` has left; what is still held back must not fail once more at the end
        leave(sys.stdout)
        status = 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EFBIG) or error.filename is not None:
            raise
        leave(sys.stdout)
        told = f"ongpu: what it has to say cannot be written: {error.strerror}.\nNext: Send it where there is room.\n"
        with contextlib.suppress(OSError):
            sys.stderr.write(told)
        status = 1
    if status == 130:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses it twice: it is leaving already
        # An interrupt within exec(), where dataclasses are made, is remembered by CPython until the next exec():
        # the interpreter would then end itself by SIGINT whatever status it is told.
        exec("")  # noqa: S102 - a constant
    sys.exit(status)
