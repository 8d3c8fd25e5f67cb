"""``storyteller check``: is every configured file there, whole and of the right shape."""
from __future__ import annotations

import argparse

from .arguments import new_parser
from .terminal import say, say_json


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("storyteller check", "List every configured file as found, missing, damaged or of the "
                     "wrong shape, and what to do, below the versions and the platform: paste it into a report of a "
                     "fault.  Exit status 0 if all are found, else 1.")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.set_defaults(run=run)
    return made


def run(options: argparse.Namespace) -> int:
    """Look at the files and say what was found."""
    from .. import config as configs
    from ..check import FOUND, check, devices, versions
    config = configs.load(options.config)
    findings = check(config, verbose=not options.quiet)
    wrong = sum(finding.status != FOUND for finding in findings)
    if options.json:
        say_json([{"key": f.file.key, "path": f.file.path, "status": f.status, "message": f.message}
                  for f in findings], indent=1)
        return 1 if wrong else 0
    for name, value in versions().items():
        say(f"{name}: {value}")
    say(f"settings: {config.source}; FLAG_CPU_MODE = {config.cpu_mode}")
    for name, value in devices(config.cpu_mode).items():
        say(f"{name}: {value}")
    for finding in findings:
        say(f"{finding.status:12s} {finding.file.shown}\n{'':13s}{finding.message}")
    say(f"{len(findings) - wrong} of {len(findings)} files are all right"
        + ("" if wrong else ": `storyteller IMAGE` will work"))
    return 1 if wrong else 0
