"""Whole commands, timed from outside: start to exit, with the kernel's own account of each.

Programs that are compared run in turn (A B A B ...), so that a machine which gets slower or faster
does so for all of them; medians and ratios are made from the raw runs by `benchmarks/report.py`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"


@dataclass(frozen=True)
class Program:
    """A command to be timed.

    Attributes:
        name: as tables call it.
        command: argument vector; paths relative to `folder`.
        folder: where it runs.
        before: called before each run, outside the clock.
        rounds: the first so many are enough for it; None for all. For programs that take minutes
            and are far from what they are compared with.
    """

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None
    rounds: int | None = None


@dataclass(frozen=True)
class Run:
    """One run; seconds are wall clock and processor time, memory is that of the largest process."""

    name: str
    round: int
    wall_s: float
    cpu_s: float
    peak_mb: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# A child's peak memory counts from what its parent held when it was started, so programs are
# started by a process that holds next to nothing.
_STARTER = """
import json, os, sys, time
folder, output, *command = sys.argv[1:]
os.chdir(folder)
sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
files += [(os.POSIX_SPAWN_DUP2, sink, stream) for stream in (1, 2)]
started = time.perf_counter()
child = os.posix_spawnp(command[0], command, os.environ, file_actions=files)
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - started
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), wall, cpu, usage.ru_maxrss / 1024]))
"""


def clean_environment(home: Path) -> dict[str, str]:
    """What a program sees: nothing of whoever runs the benchmark but the search path."""
    home.mkdir(parents=True, exist_ok=True)
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}


def time_once(program: Program, round_: int, home: Path) -> Run:
    """Run it once.

    Raises:
        SystemExit: it failed; its output is shown.
    """
    if program.before is not None:
        program.before()
    output = home / "output.txt"
    environment = {**clean_environment(home), **program.environment}
    starter = subprocess.run(
        [sys.executable, "-c", _STARTER, str(program.folder), str(output), *program.command],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    code, wall, cpu, peak_mb = json.loads(starter.stdout)
    if code:
        sys.stderr.write(output.read_text(errors="replace")[-3000:])
        raise SystemExit(f"{program.name} failed with status {code}")
    run = Run(program.name, round_, round(wall, 4), round(cpu, 4), round(peak_mb, 1))
    print(
        f"{run.name:34} {run.wall_s:8.3f} s  {run.cpu_s:8.3f} s cpu  {run.peak_mb:7.0f} MB",
        flush=True,
    )
    return run


def in_turn(programs: Sequence[Program], *, rounds: int, home: Path, warm_up: int = 1) -> list[Run]:
    """Each program once a round; the first `warm_up` rounds are not counted."""
    runs = [
        time_once(program, round_, home)
        for round_ in range(-warm_up, rounds)
        for program in programs
        if program.rounds is None or round_ < program.rounds
    ]
    return [run for run in runs if run.round >= 0]


def anonymous_mb() -> float | None:
    """What this process holds besides mapped files; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


def clipsearch_command() -> str:
    """The console script of the environment that runs this."""
    script = Path(sysconfig.get_path("scripts")) / "clipsearch"
    if not script.exists():
        raise SystemExit("install clipsearch into this environment first: pip install .")
    return str(script)


def machine() -> dict[str, Any]:
    """What the figures depend on, and nothing that names the machine."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in info.splitlines() if ":" in line
    )
    flags = set(fields.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    return {
        "processor": fields.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instructions": [flag for flag in wanted if flag in flags],
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def versions(python: str, names: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are installed in the environment of a Python."""
    script = (
        "import json, platform, sys\n"
        "from importlib.metadata import PackageNotFoundError, version\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        found[name] = version(name)\n"
        "    except PackageNotFoundError:\n"
        "        pass\n"
        "print(json.dumps({'python': platform.python_version(), **found}))"
    )
    found = subprocess.run(
        [python, "-c", script, *names], capture_output=True, text=True, check=True
    )
    result: dict[str, str] = json.loads(found.stdout)
    return result


OURS = ("clipsearch", "numpy", "pillow", "openvino", "faiss-cpu", "torch")


def read_json(path: Path) -> Any:
    """What a JSON file says; None where there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def write(
    name: str,
    content: dict[str, Any],
    runs: Sequence[Mapping[str, Any]] = (),
    *,
    output: Path | None = None,
) -> None:
    """Keep raw results under benchmarks/results, or in the file `output`."""
    load = os.getloadavg()[0]
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "load_at_end": round(load, 2),
        "machine": machine(),
        "versions": versions(sys.executable, OURS),
        **content,
        "runs": list(runs),
    }
    file = output or RESULTS / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def fresh(*folders: Path) -> Callable[[], None]:
    """Remove these folders before each run."""

    def remove() -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    return remove
