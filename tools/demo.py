"""`make demo`: a real scan goes through the language model and comes back, the same bytes, in separate processes."""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCAN = ROOT / "sample_data" / "mr_head_6_slices.nii"

NEXT = """\
What to try next
  medzip compress SCAN                      your own NIfTI or DICOM file or folder, default preset: SCAN.mdz
  medzip verify SCAN.mdz --against SCAN     prove it again, any time
  medzip decompress SCAN.mdz -o FOLDER      get it back, byte for byte
  medzip bench SCAN                         the table above for your scans
  medzip doctor                             check this installation
The command is .venv/bin/medzip; README.md and docs/ tell the rest."""


def medzip(*arguments: str | Path) -> str:
    """Run a command in a process of its own, show what is run, and return what it printed; exit where it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ medzip {' '.join(words)}", flush=True)
    result = subprocess.run([sys.executable, "-m", "medzip", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        sys.exit(result.returncode)
    return result.stdout.rstrip()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="medzip-demo-") as folder:
        scan, archive, restored = SCAN.relative_to(ROOT), Path(folder, f"{SCAN.name}.mdz"), Path(folder, "restored")
        print(f"{SCAN.name}: a real MR scan of a head, {SCAN.stat().st_size:,} bytes")
        print(medzip("compress", scan, "-o", archive, "--preset", "llm"))
        share = json.loads(medzip("info", archive, "--json"))["model_share"]
        print(f"{share:.1%} of the voxels were coded by the language model")
        if not share:
            sys.exit("the language model coded nothing: every chunk fell back to another codec")
        print(medzip("verify", archive, "--against", scan))
        print(medzip("decompress", archive, "-o", restored))
        if not filecmp.cmp(SCAN, restored / SCAN.name, shallow=False):
            sys.exit(f"{SCAN.name}: the restored file differs from the original")
        print(f"cmp {SCAN.name}: the same bytes")
        print(medzip("bench", scan, "--preset", "default", "--preset", "llm"))
    print(f"\n{NEXT}")


if __name__ == "__main__":
    main()
