"""Where the twin's instructions go: callgrind's counts, summed by the source file they belong to.

python benches/instructions.py [NAME]      one run of the bench's scenario NAME; needs valgrind

Counts of code that the compiler has inlined go to the innermost line of the twin's own sources, so
that a bounds check or an iterator counts where it is used.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

OWN = re.compile(r"rust/twin/src/([^:]*)")
TOP = 16


def main() -> None:
    """Prints instructions a request, by source file."""
    name = sys.argv[1] if len(sys.argv) > 1 else "overloaded"
    binary = built()
    with tempfile.TemporaryDirectory() as folder:
        counts_file = Path(folder) / "counts"
        output = f"--callgrind-out-file={counts_file}"
        command = ["valgrind", "-q", "--tool=callgrind", "--dump-instr=yes", output]
        said = subprocess.run(
            [*command, binary, "--once", name], check=True, capture_output=True, text=True
        )
        counts = by_address(counts_file, Path(binary).name)
    requests = int(said.stdout.split()[-2])
    files = by_file(binary, counts)
    print(f"{name}: {requests} requests, {sum(counts.values()) / requests:.0f} instructions each")
    for file, count in files.most_common(TOP):
        print(f"{count / requests:10.1f}  {file}")


def built() -> str:
    """The bench's program."""
    command = ["cargo", "bench", "-q", "-p", "lorapack-twin", "--bench", "engine", "--no-run"]
    made = subprocess.run(
        [*command, "--message-format=json"], check=True, capture_output=True, text=True
    )
    parts = [json.loads(line) for line in made.stdout.splitlines()]
    (program,) = [p["executable"] for p in parts if p.get("target", {}).get("name") == "engine"]
    return str(program)


def by_address(file: Path, program: str) -> Counter[int]:
    """Instructions executed at each address of the program; other objects' at 0."""
    counts: Counter[int] = Counter()
    names: dict[str, str] = {}
    here, address, is_call = "", 0, False
    for line in file.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"c?ob=(\(\d+\))(?: (.*))?", line):
            names.setdefault(found[1], found[2] or "")
            here = names[found[1]] if line.startswith("ob=") else here
        elif line.startswith("calls="):
            is_call = True
        elif found := re.match(r"(0x[0-9a-f]+|[+-]\d+|\*) \S+ (\d+)", line):
            step = found[1]
            if step.startswith("0x"):
                address = int(step, 16)
            elif step != "*":
                address += int(step)
            if not is_call:  # the line after a call counts what was called
                counts[address if here.endswith(program) else 0] += int(found[2])
            is_call = False
    return counts


def by_file(binary: str, counts: Counter[int]) -> Counter[str]:
    """Instructions by source file of the twin."""
    addresses = [address for address in counts if address]
    told = subprocess.run(
        ["addr2line", "-e", binary, "-i", "-a"],
        input="\n".join(map(hex, addresses)),
        capture_output=True,
        text=True,
        check=True,
    )
    files: Counter[str] = Counter({"system libraries": counts[0]})
    for block in re.split(r"^0x", told.stdout, flags=re.MULTILINE)[1:]:
        address, *frames = block.splitlines()
        own = next((found[1] for frame in frames if (found := OWN.search(frame))), "set-up, other")
        files[own] += counts[int(address, 16)]
    return files


if __name__ == "__main__":
    main()
